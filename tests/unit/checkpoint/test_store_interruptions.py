"""Saving is interrupted at each of its file operations, and each file of a checkpoint is damaged in turn."""

import errno
import functools
import itertools
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from gpt2dist.checkpoint import safetensors_io as tensors_module
from gpt2dist.checkpoint.manifest import require_whole_model
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError
from tests.support.stores import CPU, SMALL, ModelState, ThreadWorld, names, store_of, trainer_state

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
RANKS = 2
SAVED, FAILED, UNTOUCHED = 0, 3, 4
"""Exit codes of a saver: it saved, it raised, and it saved with fewer operations than the one to interrupt."""


class Injector:
    """Counts the file operations under a directory, and does something at one of them."""

    def __init__(self, directory, number, what):
        self.directory, self.number, self.what = str(directory), number, what
        self.lock = threading.Lock()

    @property
    def came(self):
        """Whether the operation came about."""
        return self.number <= 0

    def arm(self):
        """For good: only in a process of its own."""
        sys.addaudithook(self.event)
        fsync, pieces = os.fsync, tensors_module._pieces

        def counted_fsync(descriptor):
            self.count()
            fsync(descriptor)

        def counted_pieces(named):
            for piece in pieces(named):
                self.count()
                yield piece

        os.fsync, tensors_module._pieces = counted_fsync, counted_pieces

    def event(self, name, arguments):
        if name in EVENTS and arguments and str(arguments[0]).startswith(self.directory):
            self.count()

    def count(self):
        with self.lock:
            self.number -= 1
            now = self.number == 0
        if now:
            self.what()


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise OSError(errno.EIO, "Input/output error")


@functools.cache
def model(seed):
    """Made once: a sweep saves and loads a hundred times."""
    return ModelState(seed=seed)


def save_with_fault(directory, number, what, keep_last, best):
    """Saves step 20 on two ranks in a child process; returns its exit code, −9 where it was killed."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    injector = Injector(directory, number, what)
    injector.arm()
    board, meet = {}, threading.Barrier(RANKS)

    def save(rank):
        world = ThreadWorld(rank, rank, RANKS, CPU, board, meet)
        try:
            store_of(directory, world, keep_last, part_bytes=SMALL).save(model(2), trainer_state(20), best)
        except RunError:
            return FAILED
        return SAVED

    with ThreadPoolExecutor(RANKS) as pool:
        code = max(pool.map(save, range(RANKS)))
    os._exit(code if injector.came else UNTOUCHED)


def sweep(tmp_path, what, keep_last, best):
    """For every operation of a save, and once without a fault: its number, the saver's exit code, the store."""
    for number in itertools.count(1):
        directory = tmp_path / str(number)
        alone = store_of(directory, World(0, 0, 1, CPU), keep_last)
        alone.save(model(1), trainer_state(10), best=True)
        code = save_with_fault(directory, number, what, keep_last, best)
        yield number, code, alone
        if code == UNTOUCHED:
            return


@pytest.fixture
def small_pieces(monkeypatch):
    """Files written in several pieces, and no wait for the disk: nobody cuts the power."""
    monkeypatch.setattr(tensors_module, "PIECE", 4096)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize(("what", "keep_last", "best"), [(kill, 1, True), (kill, 1, False), (fail, 2, True)])
def test_no_interruption_of_a_save_loses_a_checkpoint(tmp_path, small_pieces, what, keep_last, best):
    outcomes = []
    for number, code, store in sweep(tmp_path, what, keep_last, best):
        found, rejected_checkpoints = store.newest()
        assert found and rejected_checkpoints == [], f"operation {number}"
        state = model(9)
        saved = store.load(found, state)
        expected = model(saved.step // 10)
        for name in expected.parameters:
            assert torch.equal(state.loaded[name]["exp_avg"], expected.gather(name)["exp_avg"])
        assert (store.directory / "latest").read_text().strip() in {"step-00000010", "step-00000020"}
        named = (store.directory / "best").read_text().strip()
        assert named in ({"step-00000010", "step-00000020"} if best else {"step-00000010"})
        assert store.fault(store.directory / named) == "", f"operation {number}"
        if code in (SAVED, UNTOUCHED):
            assert saved.step == 20
            assert best == (named == "step-00000020")
        store.remove_leftovers()
        again = store.save(model(2), trainer_state(20))
        assert store.fault(again) == ""
        assert set(names(store.directory)) <= {"best", "latest", "saved", "step-00000010", "step-00000020"}
        outcomes.append((code, saved.step))
    interrupted = -signal.SIGKILL if what is kill else FAILED
    assert outcomes.count((interrupted, 10)) > 20  # most of the way the old one is in force …
    assert (interrupted, 20) in outcomes  # … and from the rename on the new one, to the last operation


def damage(kind, path):
    content = bytearray(path.read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "link":
        elsewhere = path.parent.parent / "elsewhere"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
    elif kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("kind", ["flipped", "truncated", "missing", "link"])
def test_damage_to_any_file_is_noticed_and_the_checkpoint_before_is_taken(tmp_path, kind):
    store = store_of(tmp_path / "template", World(0, 0, 1, CPU))
    store.save(ModelState(), trainer_state(10))
    files = sorted(path.name for path in store.save(ModelState(), trainer_state(20)).iterdir())
    assert len(files) == 7
    for name in files:
        store = store_of(tmp_path / name, World(0, 0, 1, CPU))
        older = store.save(ModelState(), trainer_state(10))
        damage(kind, store.save(ModelState(), trainer_state(20)) / name)
        found, rejected_checkpoints = store.newest()
        assert found == older
        assert len(rejected_checkpoints) == 1 and rejected_checkpoints[0].startswith("step-00000020: ")
        assert name in rejected_checkpoints[0] or name == "manifest.json"


@pytest.mark.parametrize("name", ["../latest", "/etc/hostname", "..", "a/b"])
def test_a_manifest_is_confined_to_its_directory(tmp_path, name):
    store = store_of(tmp_path, World(0, 0, 1, CPU))
    path = store.save(ModelState(), trainer_state(10)) / "manifest.json"
    content = json.loads(path.read_text())
    content["files"][name] = {"bytes": 14, "sha256": "0" * 64}
    path.write_text(json.dumps(content))
    assert store.newest()[1] == [f"step-00000010: its manifest lists {name!r}, which is not a plain file name"]


def test_a_checkpoint_that_is_a_link_is_refused(tmp_path):
    store = store_of(tmp_path / "run", World(0, 0, 1, CPU))
    store.save(ModelState(), trainer_state(10)).rename(tmp_path / "elsewhere")
    (tmp_path / "run/step-00000010").symlink_to(tmp_path / "elsewhere")
    assert store.newest() == (None, ["step-00000010: is a link, and links are not followed"])


def test_the_model_of_a_damaged_checkpoint_is_not_used_but_its_optimizer_may_be_gone(tmp_path):
    path = store_of(tmp_path, World(0, 0, 1, CPU)).save(ModelState(), trainer_state(10))
    require_whole_model(path)
    (path / "optimizer-00001-of-00001.safetensors").unlink()
    require_whole_model(path)
    damage("flipped", path / "model-00001-of-00001.safetensors")
    with pytest.raises(
        UserError, match=r"step-00000010: not a complete checkpoint: model-\S+ was changed .*; name"
    ):
        require_whole_model(path)
    (path / "manifest.json").unlink()
    require_whole_model(path)  # a model directory of another make

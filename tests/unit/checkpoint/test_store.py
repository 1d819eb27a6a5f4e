import dataclasses
import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file

from gpt2dist.checkpoint import store as store_module
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.checkpoint.store import CheckpointStore
from gpt2dist.checkpoint.whole_state import EMBEDDING, Unpartitioned
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError
from tests.support.stores import ORDER

VOCAB = 5


class Memory(Unpartitioned):
    """A whole state that lies in memory: an embedding of 8 rows, 3 of them padding, and a vector."""

    def __init__(self, fill=0.0, rows=8):
        shapes = {EMBEDDING: (rows, 2), "transformer.ln_f.weight": (3,)}
        self.parameters = {
            name: {key: torch.full(shape, fill) for key in ("param", "exp_avg", "exp_avg_sq")}
            for name, shape in shapes.items()
        }
        self.updates = None

    def shape_of(self, name):
        return self.parameters[name]["param"].shape

    def state_names(self, name):
        return "exp_avg", "exp_avg_sq"

    def gather(self, name):
        return self.parameters[name]

    def restore(self, name, readers):
        shape = self.shape_of(name)
        self.parameters[name] = {key: read(0, shape.numel()).view(shape) for key, read in readers.items()}

    def materialise(self, updates, restarted=None):
        self.updates, self.restarted = updates, restarted

    def link(self):
        pass

    def refresh(self):
        pass


def trainer_state(step):
    return TrainerState(
        *(step, step * 8, step * 99, step - 1, True, 0.5),
        *({"cur_scale": 8.0}, {"losses": [1.5]}, 2.5, [], "t", ORDER, 1, 2, "fp32"),
    )


@pytest.fixture
def store(tmp_path):
    def write_model_files(directory):
        (directory / "config.json").write_text("{}")

    return CheckpointStore(
        tmp_path / "checkpoints", World(0, 0, 1, torch.device("cpu")), 2, None, VOCAB, write_model_files
    )


@pytest.fixture
def saved(store):
    return store.save(Memory(1.0), trainer_state(10))


def test_the_layout(saved):
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "manifest.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "optimizer-00001-of-00001.safetensors",
        "trainer_state.json",
    ]
    assert (saved.parent / "latest").read_text() == "step-00000010\n"
    index = json.loads((saved / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {EMBEDDING, "transformer.ln_f.weight"}
    assert index["metadata"]["total_size"] == 4 * (VOCAB * 2 + 3)


def test_padding_is_cut_off_and_weights_are_fp32(saved):
    weights = load_file(saved / "model-00001-of-00001.safetensors")
    moments = load_file(saved / "optimizer-00001-of-00001.safetensors")
    assert weights[EMBEDDING].shape == moments[f"exp_avg_sq.{EMBEDDING}"].shape == (VOCAB, 2)
    assert all(tensor.dtype == torch.float32 for tensor in (weights | moments).values())


def test_no_file_is_a_pickle(saved):
    for path in saved.iterdir():
        with path.open("rb") as file, pytest.raises(Exception):  # noqa: B017 - which one depends on the bytes
            pickle.load(file)


def test_a_load_gives_all_back_into_another_padding(store, saved):
    memory = Memory(7.0, rows=11)
    state = store.load(saved, memory)
    assert state == trainer_state(10)
    assert memory.updates == 9
    for tensor in memory.parameters[EMBEDDING].values():
        assert torch.equal(tensor[:VOCAB], torch.ones(VOCAB, 2))
        assert torch.equal(tensor[VOCAB:], torch.zeros(11 - VOCAB, 2))
    assert torch.equal(memory.parameters["transformer.ln_f.weight"]["exp_avg"], torch.ones(3))


def test_a_model_of_another_shape_is_refused(store, saved):
    narrow = Memory(rows=3)
    with pytest.raises(UserError, match=r"shape \[5, 2\], but \[3, 2\] in the model; use the model section"):
        store.load(saved, narrow)
    other = Memory()
    other.parameters["transformer.h.0.ln_1.weight"] = other.parameters["transformer.ln_f.weight"]
    with pytest.raises(UserError, match=r"no tensor transformer\.h\.0\.ln_1\.weight; was it saved by a model of"):
        store.load(saved, other)


def test_another_set_of_state_tensors_is_refused(store, saved):
    way_out = (
        r"; set the section optimizer back to that of the run that wrote it, continue this run with "
        r"'checkpoint\.accept_changes=\[optimizer\]', or start a new run from its weights"
    )
    for names, message in (
        (("exp_avg",), r"has exp_avg_sq\.transformer\.ln_f\.weight, unlike the optimizer of this run"),
        (
            ("exp_avg", "exp_avg_sq", "max"),
            r"lacks max\.transformer\.ln_f\.weight, unlike the optimizer of this run",
        ),
    ):
        memory = Memory()
        memory.state_names = lambda name, names=names: names
        with pytest.raises(UserError, match=message + way_out):
            store.load(saved, memory)


@pytest.mark.parametrize(("grouped", "kept"), [(False, True), (True, False)])
def test_of_another_optimizer_the_groups_whose_state_is_whole_are_kept(store, saved, grouped, kept):
    """The embedding has a momentum now, the vector its two moments as before."""
    memory, vector = Memory(), "transformer.ln_f.weight"
    memory.state_names = lambda name: ("momentum",) if name == EMBEDDING else ("exp_avg", "exp_avg_sq")
    memory.groups = [[EMBEDDING, vector]] if grouped else [[EMBEDDING], [vector]]
    state = store.load(saved, memory, other_optimizer=True)
    assert state.restarted == dict.fromkeys([EMBEDDING] if kept else [EMBEDDING, vector], 9)
    assert (memory.updates, memory.restarted) == (9, state.restarted)
    assert memory.parameters[EMBEDDING]["param"].sum() == 2 * VOCAB
    assert memory.parameters[EMBEDDING]["momentum"].tolist() == [[0, 0]] * 8
    assert memory.parameters[vector]["exp_avg_sq"].tolist() == [float(kept)] * 3


def test_a_group_of_parameters_with_other_counts_of_updates_starts_from_zero(store):
    restarted = {EMBEDDING: 4}
    path = store.save(Memory(1.0), dataclasses.replace(trainer_state(10), restarted=restarted))
    memory, vector = Memory(), "transformer.ln_f.weight"
    assert store.load(path, memory).restarted == memory.restarted == restarted
    memory.groups = [[EMBEDDING], [vector]]
    assert store.load(path, memory, other_optimizer=True).restarted == restarted
    memory.groups = [[EMBEDDING, vector]]
    assert store.load(path, memory, other_optimizer=True).restarted == {EMBEDDING: 9, vector: 9}


def test_an_optimizer_without_state_is_saved_and_loaded(store):
    memory = Memory(1.0)
    memory.parameters = {name: {"param": each["param"]} for name, each in memory.parameters.items()}
    memory.state_names = lambda name: ()
    path = store.save(memory, dataclasses.replace(trainer_state(10), optimizer="sgd"))
    assert store.newest() == (path, [])
    assert store.load(path, memory).optimizer == "sgd"


def test_the_optimizer_is_named_unless_it_is_that_of_version_0_1(saved):
    assert "optimizer" not in json.loads((saved / "trainer_state.json").read_text())
    assert TrainerState.read(saved).optimizer == "adamw"


def test_only_the_newest_stay(store):
    for step in (10, 20, 30):
        store.save(Memory(), trainer_state(step))
    assert sorted(path.name for path in store.directory.iterdir()) == [
        "latest",
        "saved",
        "step-00000020",
        "step-00000030",
    ]


def test_what_a_killed_save_left_is_no_checkpoint_and_in_nobodys_way(store, saved):
    leftover = store.directory / "step-00000020.tmp"
    leftover.mkdir()
    (leftover / "junk").write_text("x")
    assert store.newest() == (saved, [])
    store.remove_leftovers()
    assert not leftover.exists()
    path = store.save(Memory(), trainer_state(20))
    assert store.newest() == (path, [])


def test_a_full_disk_costs_the_new_checkpoint_only(store, saved, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "write_tensors", full)
    with pytest.raises(RunError, match=r"saving step-00000020 failed: rank 0: OSError: .*No space left"):
        store.save(Memory(), trainer_state(20))
    assert sorted(path.name for path in store.directory.iterdir()) == ["latest", "saved", "step-00000010"]
    assert store.newest() == (saved, [])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def rewrite_manifest(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def link_elsewhere(path):
    copy = path.parent / "elsewhere"
    shutil.move(path / "config.json", copy)
    (path / "config.json").symlink_to(copy)


DAMAGE = {
    "has no manifest.json": lambda path: (path / "manifest.json").unlink(),
    "its manifest.json cannot be read": lambda path: (path / "manifest.json").write_text("{"),
    "has format version 99; this program reads 3 and 4": lambda path: rewrite_manifest(
        path, lambda m: m.update(format_version=99)
    ),
    "config.json is missing": lambda path: (path / "config.json").unlink(),
    "config.json is a link, and links are not followed": link_elsewhere,
    "config.json has 5 bytes instead of 2": lambda path: (path / "config.json").write_text("{   }"),
    "optimizer-00001-of-00001.safetensors was changed after it was written": lambda path: flip(
        path / "optimizer-00001-of-00001.safetensors"
    ),
    "its manifest lists '../x', which is not a plain file name": lambda path: rewrite_manifest(
        path, lambda m: m["files"].update({"../x": {"bytes": 1, "sha256": ""}})
    ),
}


@pytest.mark.parametrize("reason", list(DAMAGE))
def test_damage_is_noticed_named_and_passed_over(store, saved, reason):
    newer = store.save(Memory(), trainer_state(20))
    assert store.fault(newer) == ""
    DAMAGE[reason](newer)
    assert reason.strip() in store.fault(newer)
    path, rejected_checkpoints = store.newest()
    assert path == saved
    assert len(rejected_checkpoints) == 1 and rejected_checkpoints[0].startswith(
        f"step-00000020: {reason.strip()}"
    )

import gc
import importlib
import sys

import pytest
import torch

import gpt2dist
from gpt2dist.commands import train
from gpt2dist.errors import UserError
from gpt2dist.model import numerics
from gpt2dist.training import watchdog
from tests.support.runs import write_run


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_ends_with_its_launcher_from_the_first_moment(monkeypatch, tmp_path, ranks):
    asked = []
    monkeypatch.setattr(watchdog, "exit_with_parent", lambda: asked.append(True))
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    with pytest.raises(UserError, match=r"nowhere\.yaml"):
        train.start(tmp_path / "nowhere.yaml", [])
    assert len(asked) == (ranks > 1)  # alone it may outlive the shell that started it


def test_the_collector_of_garbage_leaves_libraries_alone(monkeypatch):
    seen = []
    monkeypatch.delitem(sys.modules, "gpt2dist.training.setup", raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: seen.append((name, gc.isenabled())))
    frozen = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    train.import_libraries()
    assert seen == [("gpt2dist.training.setup", False)]
    assert gc.isenabled() and gc.get_freeze_count() >= frozen + len(kept)


def test_what_is_imported_already_is_not_looked_at(monkeypatch):
    monkeypatch.setitem(sys.modules, "gpt2dist.training.setup", object())
    frozen = gc.get_freeze_count()
    train.import_libraries()
    assert gc.get_freeze_count() <= frozen  # less where a frozen object was freed


def start(path, words):
    train.start(path, words)


def call(path, words):
    gpt2dist.train(gpt2dist.Config.read(path, *words))


@pytest.mark.parametrize("begin", [start, call])
def test_a_deterministic_run_prepares_before_it_starts_cuda(monkeypatch, tiny_dataset, tmp_path, begin):
    def prepare(wanted):
        assert not torch.distributed.is_initialized()  # which would have chosen the GPU of this rank
        raise UserError(f"prepared: {wanted}")

    monkeypatch.setattr(numerics, "prepare_deterministic", prepare)
    path = write_run(tmp_path, tiny_dataset)
    for words, wanted in ((["run.deterministic=true"], True), ([], False)):
        with pytest.raises(UserError, match=f"prepared: {wanted}"):
            begin(path, words)

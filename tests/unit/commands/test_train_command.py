import gc
import importlib
import sys

from gpt2dist.commands import train


def test_the_collector_of_garbage_leaves_libraries_alone(monkeypatch):
    seen = []
    monkeypatch.delitem(sys.modules, "gpt2dist.training.setup")
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
    assert gc.get_freeze_count() == frozen

import shutil

from gpt2dist.checkpoint import store
from gpt2dist.checkpoint.naming import finished
from gpt2dist.checkpoint.retention import outdated


def test_the_newest_stay():
    assert outdated([10, 20, 30, 40], 40, keep_last=2, keep_every=None) == [10, 20]


def test_multiples_stay_for_ever_and_do_not_count():
    assert outdated([5, 10, 15, 20, 25, 30], 30, keep_last=2, keep_every=20) == [5, 10, 15]


def test_checkpoints_of_another_past_neither_go_nor_count():
    assert outdated([10, 15, 30, 40], 15, keep_last=2, keep_every=None) == []


def test_nothing_goes_while_there_are_few():
    assert outdated([10], 10, keep_last=3, keep_every=None) == []


def test_a_checkpoint_loses_its_name_before_its_files(tmp_path, monkeypatch):
    """So that an evaluation that finds one by its name finds all of its files."""
    checkpoint = tmp_path / "step-00000010"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    (tmp_path / "step-00000010.old.tmp").mkdir()
    (tmp_path / "step-00000010.old.tmp/left").write_text("by a job that was killed here")
    remove, seen = shutil.rmtree, []

    def look_and_remove(path, **options):
        seen.append((finished(tmp_path), sorted(path.iterdir())))
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look_and_remove)
    store._remove(checkpoint)
    leftover = tmp_path / "step-00000010.old.tmp"
    assert seen == [([checkpoint], [leftover / "left"]), ([], [leftover / "manifest.json"])]
    assert list(tmp_path.iterdir()) == []


def test_the_best_is_kept_besides_the_newest_and_counted_among_them():
    assert outdated([10, 20, 30, 40], 40, 2, None, best=10) == [20]
    assert outdated([10, 20, 30, 40], 40, 2, None, best=30) == [10, 20]

"""The checkpoint that `checkpoint.resume` names."""

import pytest

from gpt2dist.errors import UserError
from gpt2dist.run.latest import best_checkpoint, named_checkpoint, write_best, write_latest

WAYS_OUT = "; set auto, latest, never, or the path of a checkpoint or a run directory"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run/checkpoints/step-00000004").mkdir(parents=True)
    (tmp_path / "run/config.yaml").touch()
    return tmp_path / "run"


@pytest.mark.parametrize("word", ["auto", "latest", "never"])
def test_a_word_is_no_path(run, monkeypatch, word):
    (run / word).mkdir()
    monkeypatch.chdir(run)
    assert named_checkpoint(word) is None


def test_a_run_directory_stands_for_its_latest_checkpoint(run):
    with pytest.raises(UserError) as refused:
        named_checkpoint(str(run))
    assert str(refused.value) == f"{run} is a run that has no checkpoint yet{WAYS_OUT}"
    checkpoint = run / "checkpoints/step-00000004"
    write_latest(run / "checkpoints", checkpoint.name)
    assert named_checkpoint(str(run)) == checkpoint
    (checkpoint / "manifest.json").touch()
    assert named_checkpoint(str(checkpoint)) == checkpoint


def test_what_is_neither_is_refused(run):
    with pytest.raises(UserError) as refused:
        named_checkpoint(str(run.parent))
    missing = "neither a checkpoint nor a run directory: it has no manifest.json"
    assert str(refused.value) == f"{run.parent} is {missing}{WAYS_OUT}"
    (run / "checkpoints/latest").write_text("../..")
    with pytest.raises(
        UserError, match=r"is a path that cannot be read \('\.\./\.\.' is not the name of a check"
    ):
        named_checkpoint(str(run))


def test_best_and_latest_stand_for_the_checkpoint_that_they_name(run):
    checkpoints = run / "checkpoints"
    with pytest.raises(UserError, match=r"checkpoints/best is a path that cannot be read \(No such file"):
        named_checkpoint(f"{checkpoints}/best")
    write_latest(checkpoints, "step-00000008")
    write_best(checkpoints, "step-00000004")
    assert named_checkpoint(f"{checkpoints}/best") == checkpoints / "step-00000004"
    assert named_checkpoint(f"{checkpoints}/latest") == checkpoints / "step-00000008"


def test_the_best_checkpoint_by_name(run):
    assert best_checkpoint(run) is None
    write_best(run / "checkpoints", "step-00000004")
    assert best_checkpoint(run) == "step-00000004"
    (run / "checkpoints/best").write_text("../step-00000004\n")
    assert best_checkpoint(run) is None

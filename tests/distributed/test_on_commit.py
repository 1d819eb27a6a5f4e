"""`checkpoint.on_commit` beside a training: it changes no number, holds no step, and each failure is repeated."""

import json

import pytest

from gpt2dist.errors import RunError
from gpt2dist.run import commit_calls
from gpt2dist.status.status import read_status
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import metrics, train, train_here, train_with_signal, write_run
from tests.support.uploads import called

SAVING = ["batch.micro_batch_size=2", "model.dropout=0.1", "checkpoint.every_steps=5", "checkpoint.keep_last=1"]


def with_function(name):
    return [*SAVING, f"checkpoint.on_commit=tests.support.uploads:{name}"]


def states(run, name):
    """The last states of the calls by step."""
    found = commit_calls.states(run, f"tests.support.uploads:{name}")
    return {step: state for (step, _), state in found.items()}


def checkpoints(run):
    return sorted(path.name for path in (run / "checkpoints").glob("step-*"))


def names(*steps):
    return [(f"step-{step:08d}", step) for step in steps]


def test_a_slow_upload_holds_no_step_changes_no_number_and_keeps_its_checkpoint(tiny_dataset, tmp_path, capfd):
    """The first call ends after 15 further steps and 3 further checkpoints, though `keep_last` is 1."""
    config = write_run(tmp_path, tiny_dataset)
    without = train(config, *SAVING, f"run.output_dir={tmp_path}/without", world_size=2)
    run = train(config, *with_function("upload_slowly"), world_size=2)
    for tag in ("train/loss", "train/grad_norm"):
        assert metrics(run, tag) == metrics(without, tag)
    files = [each / "checkpoints/step-00000020/manifest.json" for each in (run, without)]
    hashes = [json.loads(file.read_text())["files"] for file in files]
    assert hashes[0]["model-00001-of-00001.safetensors"] == hashes[1]["model-00001-of-00001.safetensors"]
    assert called(run) == names(5, 15, 20)
    assert states(run, "upload_slowly") == {5: "done", 10: "lost", 15: "done", 20: "done"}
    assert (
        "step-00000010 is deleted before tests.support.uploads:upload_slowly succeeded" in capfd.readouterr().err
    )
    assert checkpoints(run) == ["step-00000020"]  # what was kept for a call is deleted at the end
    assert set(metrics(run, "checkpoint/failed_calls")) == {0}
    assert "checkpoint/failed_calls" not in (without / "metrics.jsonl").read_text()


def test_a_stopped_run_writes_stopped_json_and_then_waits_for_the_last_upload(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run_ranks(train_with_signal, 2, config, with_function("upload_after_stop"), 1, 2 * 7)
    run = tmp_path / "run"
    step = json.loads((run / "stopped.json").read_text())["step"]
    assert step in (7, 8)
    assert called(run) == names(5, step)
    train(config, *with_function("upload"), world_size=2)
    assert called(run) == names(5, step, step, 10, 15, 20)  # another function has not seen the resumed checkpoint


def test_a_run_killed_in_an_upload_uploads_again_when_it_is_resumed(tiny_dataset, tmp_path):
    config, words = write_run(tmp_path, tiny_dataset), [*with_function("upload_or_die"), "run.stop_after_steps=5"]
    with pytest.raises(RankFailedError, match="died without a word"):
        run_ranks(train_here, 1, config, words)
    run = tmp_path / "run"
    assert called(run) == [] and states(run, "upload_or_die") == {5: "waiting"}
    train(config, *words)  # all steps are done: only the call is made
    assert called(run) == names(5) and states(run, "upload_or_die") == {5: "done"}
    train(config, *words)
    assert called(run) == names(5)


def train_and_come_back(config, overrides):
    """Train while the store is down, and start again once it is up; return the message of the failure."""
    with pytest.raises(RunError) as raised:
        train_here(config, overrides)
    (config.parent / "run/offline").unlink(missing_ok=True)
    return str(raised.value)


def test_failed_uploads_are_told_at_the_end_on_all_ranks_and_repeated_by_the_next_start(
    tiny_dataset, tmp_path, capfd
):
    config, run = write_run(tmp_path, tiny_dataset), tmp_path / "run"
    run.mkdir()
    (run / "offline").touch()
    words = [*with_function("upload_or_fail"), "checkpoint.keep_last=2", "schedule.total_steps=10"]
    said = run_ranks(train_and_come_back, 2, config, words)
    function, error = "tests.support.uploads:upload_or_fail", "ConnectionError: the store is down"
    failed = f"{function} failed with step-00000005 ({error}), step-00000010 ({error})"
    assert set(said) == {f"{failed}; all checkpoints are complete, and the next start makes these calls again"}
    assert f"{function} failed with step-00000005 ({error}); the run continues" in capfd.readouterr().err
    assert metrics(run, "step") == list(range(1, 11))  # it did not end the training
    assert f"{function} failed at step 10: {error}" in read_status(run).reason
    assert states(run, "upload_or_fail") == {5: "failed", 10: "failed"}
    train(config, *words, world_size=2)
    assert called(run) == names(5, 10)
    assert read_status(run).reason == "" and read_status(run).state == "finished"


def test_a_function_that_ends_its_thread_is_a_failure_and_repeated_with_the_next_checkpoint(
    tiny_dataset, tmp_path
):
    run = train(write_run(tmp_path, tiny_dataset), *with_function("upload_or_exit"), "schedule.total_steps=10")
    assert called(run) == names(5, 10)
    lines = [json.loads(line) for line in (run / "on_commit.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines if line["state"] == "failed"] == ["SystemExit: 3"]

"""Signals, hangs and steps that diverge, with real ranks; what is cut off goes on bit by bit."""

import json
import math
import os
import shutil
import signal

import pytest

from gpt2dist.errors import RunError
from tests.support.counting_hook import calls_of_hook
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import metrics, train, train_here, train_with_bad_steps, train_with_signal, write_run

COMMON = ["batch.micro_batch_size=1", "model.dropout=0.1"]  # 8 / 2 / 1: four micro-batches a step


@pytest.mark.parametrize(
    ("stage", "number"),  # in the first step, and in the middle of the sixth
    [(1, 0), (2, 1), (0, 21), (1, 21), (2, 21), (3, 21)],
)
def test_a_signal_to_one_rank_stops_all_within_a_micro_batch(tiny_dataset, tmp_path, stage, number):
    config = write_run(tmp_path, tiny_dataset)
    common = [*COMMON, f"zero.stage={stage}", "schedule.total_steps=8"]
    whole = train(config, *common, f"run.output_dir={tmp_path}/whole", world_size=2)
    parts = [*common, f"run.output_dir={tmp_path}/parts"]
    run_ranks(train_with_signal, 2, config, parts, 1, number)
    word = json.loads((tmp_path / "parts/stopped.json").read_text())
    # Sent at one number, heard at the next: the steps that were whole by then are done.
    assert word == word | {"reason": "SIGTERM", "step": (number + 1) // 4, "total_steps": 8}
    resumed = train(config, *parts, world_size=2)
    assert metrics(resumed, "train/loss") == metrics(whole, "train/loss")
    assert not (resumed / "stopped.json").exists()


def test_a_signal_in_an_evaluation_stops_there_and_the_evaluation_is_made_again(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    common = [*COMMON, "zero.stage=3", "schedule.total_steps=10", "evaluation.every_steps=5"]
    common += ["monitoring.samples={prompts: [abc, de], every_steps: 5, max_new_tokens: 3}"]
    whole = train(config, *common, f"run.output_dir={tmp_path}/whole", world_size=2)
    parts = [*common, f"run.output_dir={tmp_path}/parts"]
    parts.append("run.hooks=[tests.support.counting_hook:EvaluatingHook]")
    run_ranks(train_with_signal, 2, config, parts, 0, 4 * 5 + 2)  # the third batch of the first evaluation
    stopped = tmp_path / "parts"
    assert json.loads((stopped / "stopped.json").read_text())["step"] == 5
    assert metrics(stopped, "eval/val/loss") == []
    resumed = train(config, *parts, world_size=2)
    for tag in ("train/loss", "train/grad_norm", "eval/val/loss", "samples/1"):
        assert metrics(resumed, tag) == metrics(whole, tag)
    steps = [1, 2, 3, 4, 5, 5, 5, 5, 6, 7, 8, 9, 10, 10, 10, 10]  # training, validation, samples, the hook's own
    assert metrics(resumed, "step") == steps
    assert metrics(resumed, "own/step") == [5, 10]
    evaluations = [["evaluation", 5]] * 3, [["evaluation", 10]] * 3
    trained = [
        [[kind, step] for step in range(1, 11) for kind in ("step", "log")][part]
        for part in (slice(10), slice(10, 20))
    ]
    for rank in range(2):
        assert [call[:2] for call in calls_of_hook(resumed, rank)] == [
            *(["start", 0], *trained[0], ["save", "step-00000005"], ["close", False]),
            *(["start", 5], *evaluations[0], *trained[1], *evaluations[1]),
            *(["save", "step-00000010"], ["close", False]),
        ]


def test_the_clock_of_rank_0_saves_for_all(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run = train(config, *COMMON, "checkpoint.every_minutes=0.0001", "checkpoint.keep_last=100", world_size=2)
    saved = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert len(saved) > 3 and saved[-1] == "step-00000020"
    assert not list((run / "checkpoints").glob("*.tmp"))


def exit_code_after_ctrl_c(*words):
    """Return the exit code of a verb that is interrupted in its third step."""
    from gpt2dist import cli
    from gpt2dist.training.engine import Engine

    step, count = Engine.train_step, iter(range(100))

    def train_step(self, *args):
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    Engine.train_step = train_step
    return cli.main(list(words))


@pytest.mark.parametrize(("ranks", "code"), [(1, 130), (2, 0)])  # launchers take any other code for a failure
def test_ctrl_c_saves_everything_and_stops(tiny_dataset, tmp_path, ranks, code):
    config = write_run(tmp_path, tiny_dataset)
    assert run_ranks(exit_code_after_ctrl_c, ranks, "train", str(config), *COMMON) == [code] * ranks
    word = json.loads((tmp_path / "run/stopped.json").read_text())
    assert word["reason"] == "SIGINT" and word["step"] in (2, 3)
    assert (tmp_path / "run/checkpoints/latest").read_text() == f"step-{word['step']:08d}\n"


def test_a_stopped_verify_resume_does_not_go_on_to_its_next_training(tiny_dataset, tmp_path, capfd):
    config = write_run(tmp_path, tiny_dataset)
    assert run_ranks(exit_code_after_ctrl_c, 1, "verify-resume", str(config), "--steps", "5", *COMMON) == [1]
    assert "stopped by Ctrl-C (SIGINT) before the comparison; start it again" in capfd.readouterr().err
    assert not (tmp_path / "run/verify-resume/halves/metrics.jsonl").exists()


def train_without_a_directory(config, overrides):
    """Delete the run directory after the third step."""
    from gpt2dist.training.engine import Engine

    step, count = Engine.train_step, iter(range(100))

    def train_step(self, *args):
        if next(count) == 3 and os.environ["RANK"] == "0":
            shutil.rmtree(self.config.output_dir)
        return step(self, *args)

    Engine.train_step = train_step
    try:
        train_here(config, overrides)
    except RunError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_deleted_run_directory_ends_all_ranks_with_one_reason(tiny_dataset, tmp_path, ranks):
    reasons = run_ranks(train_without_a_directory, ranks, write_run(tmp_path, tiny_dataset), COMMON)
    assert len(set(reasons)) == 1
    assert reasons[0].startswith(f"{tmp_path}/run: was deleted or moved while the run trained")
    assert not (tmp_path / "run").exists()


def train_with_a_hang(config, overrides):
    """Rank 1 sleeps in its third step."""
    import time

    from gpt2dist import cli
    from gpt2dist.training.engine import Engine

    step, count = Engine.train_step, iter(range(100))

    def train_step(self, *args):
        if next(count) == 2 and os.environ["RANK"] == "1":
            time.sleep(100)
        return step(self, *args)

    Engine.train_step = train_step
    cli.main(["train", str(config), *overrides])


def test_a_hung_rank_is_told_by_all_and_ends_with_the_stacks_of_all_in_their_logs(tiny_dataset, tmp_path, capfd):
    config = write_run(tmp_path, tiny_dataset)
    with pytest.raises(RankFailedError, match="died without a word"):
        run_ranks(train_with_a_hang, 2, config, [*COMMON, "run.timeout_seconds=5"], timeout=60)
    logs = [(tmp_path / f"run/logs/rank-{rank:05d}.log").read_text() for rank in range(2)]
    assert all("no progress for 5 seconds, in " in log for log in logs)
    assert "\nTimeout (" in logs[1] and "test_stopping.py" in logs[1] and "in train_step" in logs[1]
    # Rank 0 waits for the other: until its own patience ends, or the connection with the other's life.
    assert "distributed" in logs[0]
    said = capfd.readouterr().err
    assert "rank 0: HungError: no progress" in said and "rank 1: HungError: no progress" in said
    word = json.loads((tmp_path / "run/failed.json").read_text())
    assert word["kind"] == "HungError" and word["reason"].startswith("no progress for 5 seconds, in ")


@pytest.mark.parametrize(
    ("precision", "stage"),
    [("fp32", 0), ("fp32", 1), ("fp32", 3), ("bf16", 1), ("bf16", 2), ("bf16", 3)],
)
def test_a_step_that_is_not_finite_on_one_rank_is_left_out_by_all(tiny_dataset, tmp_path, precision, stage):
    config = write_run(tmp_path, tiny_dataset)
    common = [
        "batch.micro_batch_size=2",
        f"zero.stage={stage}",
        f"precision={precision}",
        "schedule.kind=constant",
    ]
    common += ["schedule.warmup_steps=0", "schedule.total_steps=10"]
    run_ranks(train_with_bad_steps, 2, config, common, (4, 5), math.nan)
    run = tmp_path / "run"
    losses, lines = metrics(run, "train/loss"), metrics(run, "train/skipped_steps")
    assert losses[3:5] == [None, None] and None not in losses[:3] + losses[5:]
    assert lines == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]
    assert losses[-1] < losses[0]
    state = json.loads((run / "checkpoints/step-00000010/trainer_state.json").read_text())
    assert (state["step"], state["updates"]) == (10, 8)


def test_a_skipped_step_leaves_no_trace_in_the_weights(tiny_dataset, tmp_path):
    """Steps 3 … 5 without update, then resumed without fault: as if their batches had not been."""
    config = write_run(tmp_path, tiny_dataset)
    common = ["batch.micro_batch_size=2", "zero.stage=2", "checkpoint.every_steps=1", "checkpoint.keep_last=9"]
    run_ranks(train_with_bad_steps, 2, config, [*common, "run.stop_after_steps=5"], (3, 4, 5), math.inf)
    files = [
        json.loads((tmp_path / f"run/checkpoints/step-{step:08d}/manifest.json").read_text())["files"]
        for step in (2, 5)
    ]
    tensors = [{name: f[name]["sha256"] for name in f if name.endswith(".safetensors")} for f in files]
    assert tensors[0] == tensors[1]


def test_spikes_are_left_out_alike_after_a_resume(tiny_dataset, tmp_path, capfd):
    config = write_run(tmp_path, tiny_dataset)
    common = ["batch.micro_batch_size=2", "schedule.total_steps=60", "stability.spike_sigma=8"]
    common += ["monitoring.log_every_steps=7"]
    bad = (45, 50)
    run_ranks(train_with_bad_steps, 2, config, [*common, f"run.output_dir={tmp_path}/whole"], bad, 50.0)
    said = capfd.readouterr().err
    for step in bad:
        assert f"step {step} was skipped: loss " in said
        assert f"its documents: gpt2dist trace {tmp_path}/whole --step {step}" in said
    parts = [*common, f"run.output_dir={tmp_path}/parts"]
    run_ranks(train_with_bad_steps, 2, config, [*parts, "run.stop_after_steps=42"], bad, 50.0)
    run_ranks(train_with_bad_steps, 2, config, parts, tuple(step - 42 for step in bad), 50.0)
    assert metrics(tmp_path / "whole", "train/skipped_steps")[-1] == 2
    assert metrics(tmp_path / "parts", "train/skipped_steps")[-1] == 2
    assert metrics(tmp_path / "parts", "train/loss")[-1] == metrics(tmp_path / "whole", "train/loss")[-1]


def test_too_many_skipped_steps_in_a_row_stop_with_everything_saved(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    overrides = ["batch.micro_batch_size=2", "stability.max_skipped_steps=3"]
    with pytest.raises(
        RankFailedError, match=r"RunError: 4 steps in a row were skipped, up to step 9.* start a new run"
    ):
        run_ranks(train_with_bad_steps, 2, config, overrides, range(6, 20), math.nan)
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-00000009\n"

"""What is recorded of a run is whole after every ending, told once over every resume, and free of charge."""

import contextlib
import gzip
import json
import math
import os
import signal
import threading
from collections import Counter

import pytest

from gpt2dist.errors import UserError
from tests.support.counting_hook import calls_of_hook
from tests.support.events import events, points, scalar_tags, session, texts
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.recording_tracker import calls_of
from tests.support.runs import metrics, train, train_here, train_with_bad_steps, train_with_signal, write_run
from tests.support.tensor_reads import READS

COLLECTIVES = (
    *(
        "all_reduce",
        "all_gather",
        "all_gather_object",
        "all_gather_into_tensor",
        "broadcast",
        "reduce",
        "barrier",
    ),
    *("broadcast_object_list", "reduce_scatter", "reduce_scatter_tensor", "send", "recv"),
)

HOOK = "tests.support.counting_hook:CountingHook"
TRACKER = "tests.support.recording_tracker:FileTracker"
WITH_TRACKER = f"monitoring.trackers=[{TRACKER}]"


def waits_in_the_loop(config, overrides):
    """Collectives and reads of tensors in the loop that are not a step's, an evaluation's or a save's."""
    import torch
    import torch.distributed as dist

    from gpt2dist.checkpoint.store import CheckpointStore
    from gpt2dist.training.engine import Engine
    from gpt2dist.training.hooks import Hooks
    from gpt2dist.training.stop import StopCoordinator
    from gpt2dist.training.trainer import Trainer

    where, found, main = ["outside"], Counter(), threading.get_ident()

    def named(owner, name, place):
        call = getattr(owner, name)

        def inside(*args, **options):
            where.append(place)
            try:
                return call(*args, **options)
            finally:
                where.pop()

        setattr(owner, name, inside)

    def counted(owner, name):
        call = getattr(owner, name)

        def counting(*args, **options):
            if threading.get_ident() == main and where[-1] in ("loop", "log"):
                found[where[-1], name] += 1
            return call(*args, **options)

        setattr(owner, name, counting)

    for owner, name, place in (
        *((Trainer, "fit", "loop"), (Trainer, "_log", "log"), (Trainer, "_evaluate", "evaluate")),
        *((Trainer, "_save_if_due", "save"), (Engine, "train_step", "step"), (Hooks, "_start", "begin")),
        *((CheckpointStore, "finish", "save"), (StopCoordinator, "close", "end")),
    ):
        named(owner, name, place)
    for name in READS:
        counted(torch.Tensor, name)
    for name in COLLECTIVES:
        counted(dist, name)
    train_here(config, overrides)
    return found


def test_a_log_interval_costs_one_reduction_and_one_read(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    words = ["monitoring.log_every_steps=5", "monitoring.tensorboard=true"]
    for found in run_ranks(waits_in_the_loop, 2, config, words):
        assert found == {("log", "all_reduce"): 4, ("log", "tolist"): 4}  # 20 steps


def train_with_an_error(config, overrides, step):
    """Something unheard of happens in a step."""
    from gpt2dist.training.engine import Engine

    whole, count = Engine.train_step, iter(range(1, 100))

    def train_step(self, *args):
        if next(count) == step:
            raise ZeroDivisionError("in the step")
        return whole(self, *args)

    Engine.train_step = train_step
    train_here(config, overrides)


ENDINGS = {
    "done": (train_here, (), None),
    "asked to stop": (train_with_signal, (0, 8 * 4 * 2), None),
    "diverged": (train_with_bad_steps, (range(6, 20), float("nan")), "RunError"),
    "an error": (train_with_an_error, (7,), "ZeroDivisionError"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_ends_the_run_the_event_file_is_whole(tiny_dataset, tmp_path, ending):
    function, more, error = ENDINGS[ending]
    config = write_run(tmp_path, tiny_dataset)
    words = [
        "monitoring.tensorboard=true",
        "stability.max_skipped_steps=3",
        WITH_TRACKER,
    ]
    expected = pytest.raises(RankFailedError, match=error) if error else contextlib.nullcontext()
    with expected:
        run_ranks(function, 2, config, words, *more)
    run = tmp_path / "run"
    known = events(run / "tensorboard")
    recorded = [(step, loss) for step, loss in enumerate(metrics(run, "train/loss"), 1) if loss is not None]
    shown = [(step, loss) for step, loss in points(known, "train/loss") if math.isfinite(loss)]
    assert [step for step, _ in shown] == [step for step, _ in recorded] and len(shown) >= 5
    assert [loss for _, loss in shown] == pytest.approx([loss for _, loss in recorded])
    assert len(points(known, "train/lr")) == len(metrics(run, "train/lr"))
    values, ended_well = session(known)
    assert values["optimizer.lr"] == 2e-3 and values["run.world_size"] == 2
    assert ended_well == (error is None)
    assert calls_of(run)[-1] == ["close", error is not None]


def train_and_die(config, overrides, step):
    """Killed, as by the kernel, in a step; a resumed run is not."""
    from gpt2dist.training.engine import Engine
    from gpt2dist.training.trainer import Trainer

    whole, trained = Engine.train_step, Trainer._train_step

    def noting(self, batch):
        Engine.train_step = die if self.step + 1 == step else whole
        trained(self, batch)

    def die(self, *args):
        os.kill(os.getpid(), signal.SIGKILL)

    Trainer._train_step = noting
    train_here(config, overrides)


WATCHED = [
    *("monitoring.tensorboard=true", "checkpoint.asynchronous=false", "checkpoint.every_steps=6"),
    *("evaluation.every_steps=4", "monitoring.samples={prompts: [abc, de], every_steps: 4, max_new_tokens: 9}"),
    "model.dropout=0.1",
]


@pytest.fixture(scope="module")
def whole(tiny_dataset, tmp_path_factory):
    """A run that nothing interrupted."""
    return train(write_run(tmp_path_factory.mktemp("whole"), tiny_dataset, validation=True), *WATCHED)


# Saved at 6, 12 and 18 and where it stops; what was recorded after a save is dropped and recorded again.
@pytest.mark.parametrize(
    ("stopped", "killed", "starts"),
    [
        ([9], [], [(0, 9), (9, 20)]),
        ([], [5], [(0, 4), (0, 20)]),
        ([9], [15, 19], [(0, 9), (9, 14), (12, 18), (18, 20)]),
    ],
)
def test_curves_and_texts_go_on_without_overlap_or_gap(tiny_dataset, tmp_path, whole, stopped, killed, starts):
    """And a hook is called once per step that is done, without changing a bit of them."""
    config, words = write_run(tmp_path, tiny_dataset, validation=True), [*WATCHED, f"run.hooks=[{HOOK}]"]
    for step in stopped:
        train(config, *words, f"run.stop_after_steps={step}")
    for step in killed:
        with pytest.raises(RankFailedError, match="died without a word"):
            run_ranks(train_and_die, 1, config, words, step)
    run = train(config, *words)
    calls = calls_of_hook(run)
    assert [call[1] for call in calls if call[0] == "start"] == [done for done, _ in starts]
    for kind in ("step", "log"):
        steps = [step for done, last in starts for step in range(done + 1, last + 1)]
        assert [call[1] for call in calls if call[0] == kind] == steps
    known, expected = events(run / "tensorboard"), events(whole / "tensorboard")
    assert scalar_tags(known) == scalar_tags(expected) >= {"eval/val/loss_vs_tokens", "train/loss_vs_tokens"}
    firsts = {done + 1 for done, _ in starts}  # steps that the speed leaves out
    for tag in scalar_tags(expected):
        if tag.startswith(("time/", "throughput/")):
            assert {step for step, _ in points(known, tag)} == set(range(1, 21)) - firsts, tag
            continue
        compared = slice(1 if tag.startswith("memory/") else 2)  # which is measured
        mine, theirs = ([point[compared] for point in points(each, tag)] for each in (known, expected))
        assert mine == theirs, tag
    assert [step for step, _ in points(known, "train/loss")] == list(range(1, 21))
    assert [step for step, _ in points(known, "eval/val/loss")] == [4, 8, 12, 16, 20]
    for sample in ("samples/0", "samples/1"):
        assert texts(known, sample) == texts(expected, sample) != []


def trace(path):
    """How often a trace holds what, by name."""
    with gzip.open(path) as file:
        return Counter(event.get("name") for event in json.load(file)["traceEvents"])


def steps_in(names):
    return sum(count for name, count in names.items() if str(name).startswith("ProfilerStep#"))


@pytest.mark.parametrize("start", [1, 6])
def test_a_trace_of_every_rank_changes_nothing(tiny_dataset, tmp_path, start):
    config = write_run(tmp_path, tiny_dataset)
    common = ["schedule.total_steps=9", "model.dropout=0.1", "zero.stage=2"]
    plain = train(config, *common, f"run.output_dir={tmp_path}/plain", world_size=2)
    run = train(config, *common, f"monitoring.profile={{start: {start}, steps: 2}}", world_size=2)
    assert metrics(run, "train/loss") == metrics(plain, "train/loss")
    assert metrics(run, "train/grad_norm") == metrics(plain, "train/grad_norm")
    traces = sorted((run / "profile").rglob("*.*"))
    directory = run / f"profile/step-{start:08d}"
    assert traces == [directory / f"rank-{rank:05d}.pt.trace.json.gz" for rank in range(2)]
    for path in traces:
        names = trace(path)
        assert steps_in(names) == 2 and names["aten::embedding"] == 2 * 4 * 2  # steps, micro-batches, tables
        assert any("gloo" in str(name) for name in names)
    assert not (plain / "profile").exists()


def test_a_run_that_ends_within_the_steps_leaves_those_that_it_did(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    words = ["monitoring.profile={start: 3, steps: 10}", "batch.micro_batch_size=8"]
    run = train(config, *words, "run.stop_after_steps=5")
    path = run / "profile/step-00000003/rank-00000.pt.trace.json.gz"
    assert steps_in(trace(path)) == 3
    before = path.read_bytes()
    train(config, *words, "run.stop_after_steps=8")  # goes on within them
    assert path.read_bytes() == before


def test_a_run_that_goes_on_behind_the_steps_says_that_it_traces_none(tiny_dataset, tmp_path, capfd):
    config = write_run(tmp_path, tiny_dataset)
    run = train(config, "monitoring.profile={start: 6}", "run.stop_after_steps=4")
    assert "monitoring.profile" not in capfd.readouterr().err
    train(config, "monitoring.profile={start: 4}", "run.stop_after_steps=7")
    assert not (run / "profile").exists()
    said = "monitoring.profile: step 4 was done before this start, so it is not traced; set start to more than 4"
    assert said in capfd.readouterr().err


def test_a_trace_that_cannot_be_written_ends_no_run(tiny_dataset, tmp_path, capfd):
    config = write_run(tmp_path, tiny_dataset)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/profile").touch()
    run = train(config, "monitoring.profile={start: 2}", "schedule.total_steps=7")
    assert len(metrics(run, "train/loss")) == 7
    assert "the trace could not be written: " in capfd.readouterr().err


def test_a_tracker_is_told_on_rank_0_and_after_a_resume_of_new_steps_only(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    common = [WITH_TRACKER, "schedule.total_steps=8", "monitoring.samples={prompts: [abc], every_steps: 4}"]
    train(config, *common, "run.stop_after_steps=5", world_size=2)
    run = train(config, *common, world_size=2)
    told = calls_of(run)
    starts = [number for number, entry in enumerate(told) if entry[0] == "start"]
    assert len(starts) == 2 and starts[0] == 0 and told[starts[1] - 1] == told[-1] == ["close", False]
    assert [told[number][3] for number in starts] == [0, 6]  # lines before: of five steps, and a sample
    assert all(told[number][2] == str(run) and told[number][1]["model.n_layer"] == 2 for number in starts)
    logged = [(entry[1], entry[3]) for entry in told if entry[0] == "log"]
    losses = [(step, values["train/loss"]) for step, values in logged if "train/loss" in values]
    assert losses == list(enumerate(metrics(run, "train/loss"), 1))
    assert [step for step, values in logged if "eval/val/loss" in values] == [8]
    samples = [(entry[1], *entry[3:]) for entry in told if entry[0] == "text"]
    assert samples == [(4 * n, "samples/0", text) for n, text in enumerate(metrics(run, "samples/0"), 1)]


def test_a_tracker_that_fails_on_the_way_ends_no_run(tiny_dataset, tmp_path, monkeypatch, capfd):
    config = write_run(tmp_path, tiny_dataset)
    monkeypatch.setenv("TRACKER_FAILS_IN", "log")
    run = train(config, WITH_TRACKER, "monitoring.tensorboard=true", "schedule.total_steps=8", world_size=2)
    assert len(metrics(run, "train/loss")) == len(points(events(run / "tensorboard"), "train/loss")) == 8
    assert [entry[0] for entry in calls_of(run)] == ["start", "log"]
    said = capfd.readouterr().err
    assert (
        said.count(f"{TRACKER} failed (ConnectionError: the server is gone) and is disabled until the next start")
        == 1
    )
    assert "Traceback" not in said and "Traceback" in (run / "logs/rank-00000.log").read_text()


def refusal(config, overrides):
    """What a run is refused with."""
    with pytest.raises(UserError) as raised:
        train_here(config, overrides)
    return str(raised.value)


def test_a_tracker_that_cannot_start_refuses_the_run_on_all_ranks(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKER_FAILS_IN", "start")
    message = (
        f"{TRACKER} could not start (ConnectionError: the server is gone); fix it, or remove it from the "
        "section monitoring"
    )
    assert run_ranks(refusal, 2, write_run(tmp_path, tiny_dataset), [WITH_TRACKER]) == [message] * 2
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_hook_that_cannot_start_on_one_rank_refuses_the_run_on_all(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOOK_FAILS_IN", "1:start")
    config = write_run(tmp_path, tiny_dataset)
    message = f"{HOOK} could not start (ConnectionError: the server is gone); fix it, or remove it from run.hooks"
    assert run_ranks(refusal, 2, config, [WITH_TRACKER, f"run.hooks=[{HOOK}]"]) == [message] * 2
    assert metrics(tmp_path / "run", "train/loss") == []
    assert calls_of(tmp_path / "run")[-1] == ["close", True]
    assert [call[0] for call in calls_of_hook(tmp_path / "run", rank=0)] == ["start", "close"]


def train_by_command(config, overrides):
    from gpt2dist import cli

    cli.main(["train", str(config), *overrides])


def test_a_hook_that_fails_on_one_rank_ends_the_run_with_its_name(tiny_dataset, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOOK_FAILS_IN", "1:log")
    config = write_run(tmp_path, tiny_dataset)
    with pytest.raises(RankFailedError, match="died without a word"):
        run_ranks(train_by_command, 2, config, [WITH_TRACKER, f"run.hooks=[{HOOK}]"])
    run = tmp_path / "run"
    message = (
        f"{HOOK} failed (ConnectionError: the server is gone); fix it, or remove it from run.hooks, and start "
        "again: the run resumes from its newest checkpoint"
    )
    failed = json.loads((run / "failed.json").read_text())
    assert failed == failed | {"rank": 1, "kind": "HookError", "reason": message}
    assert f"rank 1: HookError: {message}" in capfd.readouterr().err
    assert "in _note" in (run / "logs/rank-00001.log").read_text()
    assert [call[0] for call in calls_of_hook(run, rank=1)] == ["start", "step", "log", "close"]
    assert calls_of(run)[-1] == calls_of_hook(run)[-1] == ["close", True]

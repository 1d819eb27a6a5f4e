import math

import pytest
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard import SummaryWriter

from gpt2dist.monitoring.tensorboard import FIRST, TensorBoard
from gpt2dist.monitoring.trackers import Trackers
from tests.support.events import events, points, runs, scalar_tags, session, texts
from tests.support.histories import bytes_read, history_of


def line(step, loss, **more):
    return {"step": step, "time": 100.0 + step, "train/loss": loss, "progress/tokens": step * 1000} | more


def write(directory, *lines, history=(), hyperparameters=(), failed=False):
    """A start of a run that keeps some lines and writes others."""
    boards = Trackers({"TensorBoard": lambda: TensorBoard(directory)})
    boards.start(dict(hyperparameters), directory.parent, history_of(directory.parent, history))
    for each in lines:
        boards.send(each)
    boards.close(failed)


def test_every_tag_is_there_by_step_and_losses_by_tokens_too(tmp_path):
    evaluated = {"step": 10, "time": 1.0, "eval/val/loss": 3.0, "eval/val/bits_per_byte": 1.5}
    write(tmp_path / "b", line(10, 2.5), evaluated, line(20, 2.0))
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [(10, 2.5), (20, 2.0)]
    assert points(known, "train/loss_vs_tokens") == [(10_000, 2.5), (20_000, 2.0)]
    assert points(known, "eval/val/loss_vs_tokens") == [(10_000, 3.0)]
    assert points(known, "progress/tokens") == [(10, 10_000), (20, 20_000)]
    assert scalar_tags(known) == {
        *("train/loss", "train/loss_vs_tokens", "progress/tokens"),
        *("eval/val/loss", "eval/val/loss_vs_tokens", "eval/val/bits_per_byte"),
    }
    assert known.Tensors("train/loss")[0].wall_time == pytest.approx(110.0)


def test_a_sample_is_text_as_it_is(tmp_path):
    write(tmp_path / "b", {"step": 5, "time": 1.0, "samples/0": "def f():\n  *pass*"})
    assert texts(events(tmp_path / "b"), "samples/0") == [(5, "    def f():\n      *pass*")]


def test_there_is_one_chart_for_training_and_validation_loss(tmp_path):
    write(tmp_path / "b")
    (event,) = events(tmp_path / "b").Tensors("custom_scalars__config__")
    assert b"train/loss$" in event.tensor_proto.string_val[0]
    assert b"eval/.*/loss$" in event.tensor_proto.string_val[0]


def test_a_start_drops_what_comes_after_the_history_on_both_axes(tmp_path):
    write(tmp_path / "b", *(line(step, float(step)) for step in (10, 20, 30)))
    write(tmp_path / "b", line(20, 21.0), history=[line(10, 10.0)])
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [(10, 10.0), (20, 21.0)]
    assert points(known, "train/loss_vs_tokens") == [(10_000, 10.0), (20_000, 21.0)]


def test_what_was_written_stays_where_it_is(tmp_path):
    lines = [line(step, float(step), **{"eval/val/loss": 1.0}) for step in range(1, 40)]
    write(tmp_path / "b", *lines[:20])
    (first,) = event_files_of(tmp_path / "b")
    before = first.read_bytes()
    for begin in range(20, 35, 5):
        write(tmp_path / "b", *lines[begin : begin + 5], history=lines[:begin])
    kept = first.read_bytes()
    assert before.startswith(kept) and len(kept) > 0.8 * len(before)
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [(step, float(step)) for step in range(1, 36)]
    assert points(known, "eval/val/loss_vs_tokens") == [(1000 * step, 1.0) for step in range(1, 36)]


@pytest.mark.parametrize("lost", [1, 5, 20, 100, 300, 2000])
def test_what_a_crash_lost_comes_from_the_history(tmp_path, lost):
    lines = [line(step, float(step), **{"samples/0": f"text {step}"}) for step in range(1, 10)]
    write(tmp_path / "b", *lines)
    (path,) = event_files_of(tmp_path / "b")
    path.write_bytes(path.read_bytes()[:-lost] + b"\0" * (lost % 7))  # perhaps with an empty page
    write(tmp_path / "b", line(10, 10.0), history=lines)
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [(step, float(step)) for step in range(1, 11)]
    assert texts(known, "samples/0") == [(step, f"    text {step}") for step in range(1, 10)]


def test_what_an_abandoned_continuation_left_is_dropped_though_its_steps_are_those_of_the_history(tmp_path):
    write(tmp_path / "b", *(line(step, 1.0) for step in range(1, 9)))
    # TensorBoard was off when steps 4 to 12 went another way
    history = [line(step, 1.0) if step < 4 else line(step, 2.0, time=500.0 + step) for step in range(1, 13)]
    write(tmp_path / "b", line(13, 3.0), history=history)
    expected = [(step, 1.0 if step < 4 else 2.0) for step in range(1, 13)]
    assert points(events(tmp_path / "b"), "train/loss") == [*expected, (13, 3.0)]


def test_an_evaluation_that_was_cut_short_is_replaced_and_its_step_is_not(tmp_path):
    evaluated = {"step": 2, "time": 200.0, "eval/first/loss": 9.0}
    write(tmp_path / "b", line(1, 1.0), line(2, 2.0), evaluated)
    write(
        tmp_path / "b", evaluated | {"time": 300.0, "eval/first/loss": 8.0}, history=[line(1, 1.0), line(2, 2.0)]
    )
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [(1, 1.0), (2, 2.0)]
    assert points(known, "eval/first/loss") == [(2, 8.0)]
    assert points(known, "eval/first/loss_vs_tokens") == [(2000, 8.0)]


def test_the_event_files_of_earlier_versions_are_continued(tmp_path):
    """They have an event for each tag."""
    lines = [line(step, float(step)) for step in range(1, 8)]
    with SummaryWriter(str(tmp_path / "b"), purge_step=0) as writer:
        for each in lines:
            for tag in ("train/loss", "progress/tokens"):
                writer.add_scalar(tag, each[tag], each["step"], walltime=each["time"])
            writer.add_scalar("train/loss_vs_tokens", each["train/loss"], each["progress/tokens"], each["time"])
    (path,) = event_files_of(tmp_path / "b")
    size = path.stat().st_size
    write(tmp_path / "b", line(6, 60.0), history=lines[:5])
    assert 0.5 * size < path.stat().st_size < size
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [*((step, float(step)) for step in range(1, 6)), (6, 60.0)]
    assert points(known, "train/loss_vs_tokens")[-2:] == [(5000, 5.0), (6000, 60.0)]


def test_a_host_whose_clock_is_behind_continues_after_the_others(tmp_path, monkeypatch):
    write(tmp_path / "b", line(1, 1.0), line(2, 2.0))
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    write(tmp_path / "b", line(3, 3.0), history=[line(1, 1.0), line(2, 2.0)])
    assert points(events(tmp_path / "b"), "train/loss") == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_tensorboard_that_looks_on_forgets_all_when_all_is_written_again(tmp_path):
    write(tmp_path / "b", line(1, 1.0), line(2, 2.0))
    known = events(tmp_path / "b")
    write(tmp_path / "b", line(3, 3.0), history=[line(2, 5.0, time=7.0)])
    known.Reload()
    for each in (known, events(tmp_path / "b")):
        assert points(each, "train/loss") == [(2, 5.0), (3, 3.0)]
        assert points(each, "train/loss_vs_tokens") == [(2000, 5.0), (3000, 3.0)]


@pytest.mark.parametrize("what", ["nothing", "another run's", "none of the history"])
def test_without_events_of_the_history_all_of_it_is_written(tmp_path, what):
    lines = [line(step, float(step)) for step in range(1, 1300)]
    if what != "nothing":
        write(tmp_path / "b", *(line(step, 0.0, time=1.0) for step in range(1, 7)))
    write(tmp_path / "b", line(1300, 0.5), history=lines)
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [*((each["step"], each["train/loss"]) for each in lines), (1300, 0.5)]
    assert b"train/loss$" in known.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]


@pytest.mark.parametrize("tokens", [5_000_000, None])
def test_a_start_reads_as_much_of_a_long_run_as_of_a_short_one(tmp_path, monkeypatch, tokens):
    found = {}
    monkeypatch.setattr("gpt2dist.monitoring.tensorboard.LINES_WITH_TOKENS", 300)
    for count in (1000, 20_000):
        directory = tmp_path / str(count)
        directory.mkdir()
        lines = [line(step, 1.0) | {"progress/tokens": tokens} for step in range(1_000_000 - count, 1_000_000)]
        write(directory / "b", *lines)
        history = history_of(directory, lines)
        board = TensorBoard(directory / "b")
        with bytes_read(monkeypatch) as read:
            kept = history.up_to(999_900, True)
            missing = board.start({}, directory, kept)
        assert [each["step"] for each in missing] == [999_900]
        board.close(failed=False)
        found[count] = read.total
    assert found[1000] == found[20_000] < 2**21


def event_files_of(directory):
    """The event files without the one that TensorBoard reads first."""
    return sorted(path for path in directory.glob("events*") if path.name != FIRST)


def test_what_was_replaced_long_ago_is_gone(tmp_path):
    for step in range(5):
        write(tmp_path / "b", history=[line(step, 1.0)])
    assert sorted(path.stat().st_size > 0 for path in event_files_of(tmp_path / "b")) == [False, True]


def test_a_tensorboard_that_looks_on_meanwhile_forgets_with_it(tmp_path):
    evaluated = {"step": 20, "time": 1.0, "samples/0": "a", "eval/val/loss": 1.0}
    write(tmp_path / "b", line(10, 10.0), line(20, 20.0), evaluated)
    known = events(tmp_path / "b")
    assert len(points(known, "train/loss")) == 2
    write(tmp_path / "b", line(20, 21.0), history=[line(10, 10.0)])
    known.Reload()
    assert points(known, "train/loss") == [(10, 10.0), (20, 21.0)]
    assert points(known, "train/loss_vs_tokens") == [(10_000, 10.0), (20_000, 21.0)]
    # until they come again, those of other tags stay where somebody looks
    assert points(known, "eval/val/loss") == [(20, 1.0)] and "eval/val/loss" not in scalar_tags(
        events(tmp_path / "b")
    )
    again = {"step": 20, "time": 2.0, "samples/0": "b", "eval/val/loss": 2.0}
    write(tmp_path / "b", again, history=[line(10, 10.0), line(20, 21.0)])
    known.Reload()
    assert points(known, "eval/val/loss") == [(20, 2.0)] and points(known, "eval/val/loss_vs_tokens") == [
        (20_000, 2.0)
    ]
    assert texts(known, "samples/0") == [(20, "    b")]
    assert points(known, "train/loss") == [(10, 10.0), (20, 21.0)]


def test_what_is_not_finite_is_shown_live_and_left_out_of_the_history(tmp_path):
    write(tmp_path / "b", line(30, math.inf), history=[line(10, None), line(20, 2.0)])
    assert points(events(tmp_path / "b"), "train/loss") == [(20, 2.0), (30, math.inf)]


CHOSEN = {"optimizer.lr": 1e-3, "model.n_layer": 2, "schedule.kind": "cosine", "model.compile": False}


def test_hyperparameters_are_a_session_of_the_run_itself(tmp_path):
    write(tmp_path / "b", line(10, 1.0), hyperparameters=CHOSEN)
    assert session(events(tmp_path / "b")) == (CHOSEN | {"model.compile": "false"}, True)
    assert list(runs(tmp_path / "b")) == ["."]
    # TensorBoard would take the experiment of one run for that of all.
    assert metadata.EXPERIMENT_TAG not in events(tmp_path / "b").PluginTagToContent("hparams")


def test_hyperparameters_and_success_are_those_of_the_last_start(tmp_path):
    write(tmp_path / "b", line(10, 1.0), line(20, 1.0), hyperparameters=CHOSEN)
    later = CHOSEN | {"optimizer.lr": 1e-4}
    write(tmp_path / "b", history=[line(10, 1.0), line(20, 1.0)], hyperparameters=later, failed=True)
    assert session(events(tmp_path / "b")) == (later | {"model.compile": "false"}, False)


def test_a_run_that_failed_did_not_succeed(tmp_path):
    write(tmp_path / "b", line(10, 1.0), hyperparameters=CHOSEN, failed=True)
    assert session(events(tmp_path / "b")) == (CHOSEN | {"model.compile": "false"}, False)
    assert points(events(tmp_path / "b"), "train/loss") == [(10, 1.0)]


def test_an_evaluation_beside_the_run_is_no_session(tmp_path):
    write(tmp_path / "b", history=[line(10, 1.0)])
    known = events(tmp_path / "b")
    assert scalar_tags(known)
    with pytest.raises(KeyError, match="hparams"):
        known.PluginTagToContent("hparams")

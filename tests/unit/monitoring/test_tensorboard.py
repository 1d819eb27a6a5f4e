import math

import pytest
from tensorboard.plugins.hparams import metadata

from gpt2dist.monitoring.tensorboard import TensorBoard
from gpt2dist.monitoring.trackers import Trackers
from tests.support.events import events, points, runs, scalar_tags, session, texts
from tests.support.histories import history_of


def line(step, loss, **more):
    return {"step": step, "time": 100.0 + step, "train/loss": loss, "progress/tokens": step * 1000, **more}


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


def test_a_start_drops_what_was_there_and_takes_the_history_instead_on_both_axes(tmp_path):
    write(tmp_path / "b", *(line(step, float(step)) for step in (10, 20, 30)))
    write(tmp_path / "b", line(20, 21.0), history=[line(10, 10.0)])
    known = events(tmp_path / "b")
    assert points(known, "train/loss") == [(10, 10.0), (20, 21.0)]
    assert points(known, "train/loss_vs_tokens") == [(10_000, 10.0), (20_000, 21.0)]


def test_what_was_replaced_long_ago_is_gone(tmp_path):
    for step in range(5):
        write(tmp_path / "b", history=[line(step, 1.0)])
    assert sorted(path.stat().st_size > 0 for path in tmp_path.iterdir()) == [False, True]


def test_a_tensorboard_that_looks_on_meanwhile_forgets_with_it(tmp_path):
    write(
        tmp_path / "b",
        line(10, 10.0),
        line(20, 20.0),
        {"step": 20, "time": 1.0, "samples/0": "a", "eval/val/loss": 1.0},
    )
    known = events(tmp_path / "b")
    assert len(points(known, "train/loss")) == 2
    write(tmp_path / "b", line(20, 21.0), history=[line(10, 10.0)])
    known.Reload()
    assert points(known, "train/loss") == [(10, 10.0), (20, 21.0)]
    assert points(known, "train/loss_vs_tokens") == [(10_000, 10.0), (20_000, 21.0)]
    assert known.Tensors("samples/0/text_summary") == [] and known.Tensors("eval/val/loss_vs_tokens") == []


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

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt2dist.monitoring.tensorboard import TensorBoard


def line(step, loss, **more):
    return {"step": step, "time": 100.0 + step, "train/loss": loss, "progress/tokens": step * 1000, **more}


def events(directory):
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


def points(directory, tag):
    return [(event.step, event.value) for event in events(directory).Scalars(tag)]


def test_every_tag_is_there_by_step_and_losses_by_tokens_too(tmp_path):
    board = TensorBoard(tmp_path)
    board.write(line(10, 2.5))
    board.write({"step": 10, "time": 1.0, "eval/val/loss": 3.0, "eval/val/bits_per_byte": 1.5})
    board.write(line(20, 2.0))
    board.close()
    assert points(tmp_path, "train/loss") == [(10, 2.5), (20, 2.0)]
    assert points(tmp_path, "train/loss_vs_tokens") == [(10_000, 2.5), (20_000, 2.0)]
    assert points(tmp_path, "eval/val/loss_vs_tokens") == [(10_000, 3.0)]
    assert points(tmp_path, "progress/tokens") == [(10, 10_000), (20, 20_000)]
    tags = set(events(tmp_path).Tags()["scalars"])
    assert tags == {
        *("train/loss", "train/loss_vs_tokens", "progress/tokens"),
        *("eval/val/loss", "eval/val/loss_vs_tokens", "eval/val/bits_per_byte"),
    }
    assert events(tmp_path).Scalars("train/loss")[0].wall_time == pytest.approx(110.0)


def test_a_sample_is_text(tmp_path):
    board = TensorBoard(tmp_path)
    board.write({"step": 5, "time": 1.0, "samples/0": "def f():\n  pass"})
    board.close()
    (event,) = events(tmp_path).Tensors("samples/0/text_summary")
    assert event.tensor_proto.string_val[0].decode() == "    def f():\n      pass"


def test_there_is_one_chart_for_training_and_validation_loss(tmp_path):
    TensorBoard(tmp_path).close()
    assert "custom_scalars__config__" in events(tmp_path).Tags()["tensors"]


def test_rebuilding_drops_later_points_and_keeps_earlier_ones_on_both_axes(tmp_path):
    board = TensorBoard(tmp_path)
    for step in (10, 20, 30):
        board.write(line(step, float(step)))
    board.rebuild([line(10, 10.0)])
    board.write(line(20, 21.0))
    board.close()
    assert points(tmp_path, "train/loss") == [(10, 10.0), (20, 21.0)]
    assert points(tmp_path, "train/loss_vs_tokens") == [(10_000, 10.0), (20_000, 21.0)]


def test_a_number_that_was_not_finite_is_left_out_when_it_is_read_back(tmp_path):
    board = TensorBoard(tmp_path)
    board.rebuild([line(10, None), line(20, 2.0)])
    board.close()
    assert points(tmp_path, "train/loss") == [(20, 2.0)]

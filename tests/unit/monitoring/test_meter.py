import math

import pytest
import torch

from gpt2dist.distributed.world import World
from gpt2dist.monitoring import meter as meter_module
from gpt2dist.monitoring.meter import Meter

WORLD = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test turns."""

    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(meter_module, "time", clock)
    return clock


def add(meter, nll, targets, tokens, norm=1.0, skipped=0.0):
    meter.add(*(torch.tensor(value, dtype=torch.float64) for value in (nll, norm, skipped)), targets, tokens)


def test_the_loss_of_an_interval_is_weighted_by_targets(clock):
    meter = Meter(WORLD, flops_per_token=10, peak_flops=None)
    add(meter, 30.0, 10, 100)
    add(meter, 10.0, 30, 100)
    clock.now += 4
    values, _ = meter.take()
    assert values["train/loss"] == 1.0
    assert values["train/perplexity"] == pytest.approx(math.e)
    assert values["throughput/tokens_per_second"] == 50.0
    assert values["time/step"] == 2.0
    assert "throughput/mfu" not in values
    assert values["memory/peak_gib"] > 0


def test_pauses_do_not_count_and_waiting_is_told_apart(clock):
    meter = Meter(WORLD, flops_per_token=10, peak_flops=1000)
    with meter.waiting():
        clock.now += 1
    with meter.paused():
        clock.now += 60
    clock.now += 1
    add(meter, 1.0, 1, 100)
    values, _ = meter.take()
    assert values["time/data_wait"] == 1.0
    assert values["throughput/tokens_per_second"] == 50.0
    assert values["throughput/mfu"] == 50.0 * 10 / 1000


def test_an_interval_starts_anew(clock):
    meter = Meter(WORLD, 1, None)
    add(meter, 100.0, 1, 1)
    clock.now += 1
    meter.take()
    add(meter, 3.0, 1, 8)
    clock.now += 2
    values, _ = meter.take()
    assert (values["train/loss"], values["throughput/tokens_per_second"]) == (3.0, 4.0)


def test_a_loss_beyond_all_measure_has_infinite_perplexity(clock):
    meter = Meter(WORLD, 1, None)
    add(meter, 1e4, 1, 1)
    values, _ = meter.take()
    assert values["train/perplexity"] == math.inf


def test_skipped_steps_are_left_out_of_the_loss_and_told(clock):
    meter = Meter(WORLD, 1, None)
    add(meter, 8.0, 4, 1, norm=0.5)
    add(meter, math.nan, 4, 1, norm=math.inf, skipped=1.0)
    values, steps = meter.take()
    assert values["train/loss"] == 2.0
    assert [(each.grad_norm, each.skipped) for each in steps] == [(0.5, False), (math.inf, True)]
    assert steps[0].loss == 2.0 and math.isnan(steps[1].loss)


def test_an_interval_without_an_update_has_no_loss(clock):
    meter = Meter(WORLD, 1, None)
    add(meter, 8.0, 4, 1, skipped=1.0)
    values, _ = meter.take()
    assert math.isnan(values["train/loss"]) and math.isnan(values["train/perplexity"])

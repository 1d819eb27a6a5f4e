import math

import pytest
import torch

from gpt2dist.distributed.world import World
from gpt2dist.monitoring import meter as meter_module
from gpt2dist.monitoring.meter import GpuClock, Meter
from tests.support.fake_device import FakeDevice

WORLD = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture
def clock(monkeypatch):
    """The clock of the host, which the test turns."""
    device = FakeDevice()
    monkeypatch.setattr(meter_module, "time", device)
    return device


def add(meter, nll, targets, tokens, norm=1.0, skipped=0.0):
    meter.add(*(torch.tensor(value, dtype=torch.float64) for value in (nll, norm, skipped)), targets, tokens)


def begun(flops_per_token=1, peak_flops=None, clock=None):
    """A meter after the first interval, which has only the first step."""
    meter = Meter(WORLD, flops_per_token, peak_flops, clock)
    add(meter, 1.0, 1, 1)
    meter.take()
    return meter


def test_the_loss_of_an_interval_is_weighted_by_targets(clock):
    meter = begun(flops_per_token=10)
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
    meter = begun(flops_per_token=10, peak_flops=1000)
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
    meter = begun()
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


SPEED = {"throughput/tokens_per_second", "throughput/mfu", "time/step", "time/data_wait"}


def test_the_first_step_of_a_start_is_left_out_of_the_speed(clock):
    meter = Meter(WORLD, 1, 1000)
    clock.host(1000)  # loading
    with meter.paused(), meter.waiting():
        clock.host(500)
    clock.host(300)  # compiling
    add(meter, 1.0, 1, 7000)
    for _ in range(2):
        with meter.waiting():
            clock.host(0.5)
        clock.host(1.5)
        add(meter, 1.0, 1, 100)
    values, steps = meter.take()
    assert len(steps) == 3
    assert [values[name] for name in sorted(SPEED)] == [50 / 1000, 50, 0.5, 2.0]


def test_an_interval_of_only_the_first_step_has_no_speed(clock):
    meter = Meter(WORLD, 1, 1000)
    clock.host(300)
    add(meter, 2.0, 1, 100)
    values, _ = meter.take()
    assert values["train/loss"] == 2.0 and not SPEED & set(values)
    clock.host(4)
    add(meter, 1.0, 1, 100)
    values, _ = meter.take()
    assert values["throughput/tokens_per_second"] == 25 and set(values) >= SPEED


def evaluate(device):
    """Queues 20 seconds of work and reads its result."""
    device.queue(20)
    device.synchronize()


PAUSES = {
    "none": lambda device: None,
    "evaluation": evaluate,
    "saving": lambda device: (device.synchronize(), device.host(30)),
    "a short one of the host, while the device trains": lambda device: device.host(0.5),
    "a long one of the host, in which the device becomes idle": lambda device: device.host(40),
    "work that is still queued at its end": lambda device: device.queue(10),
}


@pytest.mark.parametrize("pause", PAUSES.values(), ids=PAUSES)
@pytest.mark.parametrize("at", [1, 2, 3, 6])
def test_tokens_per_second_are_those_of_the_device_whatever_pauses_it(clock, pause, at):
    """The host needs 0.1 s to queue a step of 2 s, so it is up to 10 s ahead when a pause begins."""
    meter = begun(clock=clock)
    for _ in range(2):  # intervals
        for step in range(1, 7):
            with meter.waiting():
                clock.host(0.05)
            clock.host(0.05)
            clock.queue(2)
            add(meter, 1.0, 1, 100)
            with meter.paused():
                if step == at:
                    pause(clock)
        waited = clock.waits
        values, _ = meter.take()
        clock.synchronize()
        # After an idle moment, the device waits for the host to queue a step.
        assert values["time/step"] == pytest.approx(2.0, abs=0.04)
        assert values["throughput/tokens_per_second"] == pytest.approx(100 / values["time/step"])
        assert values["time/data_wait"] == pytest.approx(0.05)
        assert clock.waits > waited


def test_steps_and_pauses_do_not_wait_for_the_device(clock):
    meter = begun(clock=clock)
    clock.waits = 0
    for _ in range(5):
        clock.queue(2)
        add(meter, 1.0, 1, 100)
        with meter.paused(), meter.waiting():
            pass
    assert clock.waits == 0


def test_a_gpu_is_timed_by_events_in_its_queue(monkeypatch):
    calls = []

    class Event:
        def __init__(self, enable_timing=False):
            calls.append(("new", enable_timing))

        def record(self):
            calls.append("record")

        def synchronize(self):
            calls.append("synchronize")

        def elapsed_time(self, end):
            calls.append("elapsed_time")
            return 1500.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    meter = Meter(World(0, 0, 1, torch.device("cuda")), 1, None)
    assert isinstance(meter._clock, GpuClock)
    begin, end = meter._clock.mark(), meter._clock.mark()
    assert calls == [("new", True), "record"] * 2
    assert meter._clock.seconds(begin, end) == 1.5
    assert calls[4:] == ["synchronize", "elapsed_time"]


def test_the_forward_passes_of_a_rank_are_measured_up_to_a_number(clock):
    meter = begun(clock=clock)
    for _ in range(meter_module.TIMED_FORWARDS + 1):
        with meter.forward():
            clock.queue(0.5)
        clock.queue(1.5)
    add(meter, 1.0, 1, 100)
    assert len(meter._forwards) == meter_module.TIMED_FORWARDS
    values, _ = meter.take()
    assert meter.own_times == {
        "step": values["time/step"],
        "data_wait": 0.0,
        "forward": pytest.approx(0.5),
    }
    add(meter, 1.0, 1, 100)
    meter.take()
    assert meter.own_times["forward"] == 0

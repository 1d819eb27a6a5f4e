import math

import pytest

from gpt2dist.config.schema import ScheduleSection
from gpt2dist.training.lr_schedule import learning_rate

PEAK, WARMUP, TOTAL, LEAST = 0.8, 4, 12, 0.25
DECAYING = ["cosine", "linear", "wsd"]
ALL = [*DECAYING, "constant", "inverse_sqrt"]


def lr(kind: str, step: int, warmup: int = WARMUP, least: float = LEAST, total: int = TOTAL, **more) -> float:
    schedule = ScheduleSection(kind=kind, min_lr_ratio=least, **more)
    return learning_rate(schedule, PEAK, warmup, total, step)


@pytest.mark.parametrize("kind", ALL)
def test_warmup_rises_from_the_first_step_to_the_peak(kind):
    assert [lr(kind, step) for step in range(WARMUP)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("kind", "at_warmup", "half_way", "last", "beyond"),
    [
        # Step 4 is the first of 8 steps of decay, step 7 the fourth, step 11 the eighth.
        ("cosine", 0.2 + 0.6 * (1 + math.cos(math.pi / 8)) / 2, 0.5, 0.2, 0.2),
        ("linear", 0.2 + 0.6 * 7 / 8, 0.5, 0.2, 0.2),
        ("constant", 0.8, 0.8, 0.8, 0.8),
        # The last 2 of 12 steps are the decay.
        ("wsd", 0.8, 0.8, 0.2, 0.2),
        (
            "inverse_sqrt",
            0.8 * math.sqrt(4 / 5),
            0.8 * math.sqrt(4 / 8),
            0.8 * math.sqrt(4 / 12),
            0.8 * 2 / 13**0.5,
        ),
    ],
)
def test_values_after_the_warmup(kind, at_warmup, half_way, last, beyond):
    assert lr(kind, WARMUP) == pytest.approx(at_warmup)
    assert lr(kind, 7) == pytest.approx(half_way)
    assert lr(kind, TOTAL - 1) == pytest.approx(last)
    assert lr(kind, TOTAL) == pytest.approx(beyond)


@pytest.mark.parametrize("kind", ALL)
def test_what_lies_beyond_the_last_step_is_not_below_the_least(kind):
    assert lr(kind, 10**9) == pytest.approx(0.8 if kind == "constant" else 0.2)


@pytest.mark.parametrize(
    ("shape", "decay"),
    [
        ({"decay_shape": "linear"}, [0.75, 0.5, 0.25, 0.0]),
        ({"decay_shape": "sqrt"}, [0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0.0]),
        ({}, [0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0.0]),
    ],
)
def test_wsd_is_at_the_peak_until_its_decay(shape, decay):
    rates = [lr("wsd", step, total=20, **shape) for step in range(WARMUP - 1, 21)]
    assert rates[:13] == [0.8] * 13  # the steps 3 … 15: the last 0.2 × 20 steps fall
    assert rates[13:17] == pytest.approx([0.2 + 0.6 * height for height in decay])
    assert rates[17] == pytest.approx(0.2)


def test_the_fraction_of_the_decay_is_of_all_steps():
    assert lr("wsd", 5, decay_fraction=0.5) == 0.8
    assert lr("wsd", 6, decay_fraction=0.5, decay_shape="linear") == pytest.approx(0.2 + 0.6 * 5 / 6)
    # The whole of a run without warmup, and one step where the fraction is less than that.
    assert lr("wsd", 0, warmup=0, decay_fraction=1.0, decay_shape="linear") == pytest.approx(0.2 + 0.6 * 11 / 12)
    assert [lr("wsd", step, decay_fraction=1e-9) for step in (10, 11)] == pytest.approx([0.8, 0.2])


@pytest.mark.parametrize("kind", [*DECAYING, "inverse_sqrt"])
def test_decay_never_rises_and_never_goes_below_the_least(kind):
    rates = [lr(kind, step) for step in range(WARMUP - 1, 10 * TOTAL)]
    assert rates == sorted(rates, reverse=True)
    assert min(rates) == pytest.approx(LEAST * PEAK)


@pytest.mark.parametrize("kind", DECAYING)
def test_a_least_rate_of_zero_is_reached(kind):
    assert lr(kind, TOTAL - 1, least=0.0) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("kind", "first"), [("linear", 0.8 - 0.6 / 12), ("constant", 0.8), ("wsd", 0.8)])
def test_without_warmup_the_decay_begins_at_once(kind, first):
    assert lr(kind, 0, warmup=0) == pytest.approx(first)


def test_no_step_has_a_rate_of_zero():
    assert all(lr(kind, step) > 0 for kind in ALL for step in range(TOTAL))

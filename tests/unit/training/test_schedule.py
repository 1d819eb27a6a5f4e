import math

import pytest

from gpt2dist.config import ScheduleSection
from gpt2dist.training.schedule import learning_rate

PEAK, WARMUP, TOTAL, LEAST = 0.8, 4, 12, 0.25


def lr(kind: str, step: int, warmup: int = WARMUP, least: float = LEAST) -> float:
    schedule = ScheduleSection(kind=kind, warmup_steps=warmup, total_steps=TOTAL, min_lr_ratio=least)
    return learning_rate(schedule, PEAK, TOTAL, step)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_warmup_rises_from_the_first_step_to_the_peak(kind):
    assert [lr(kind, step) for step in range(WARMUP)] == pytest.approx([0.2, 0.4, 0.6, 0.8])


@pytest.mark.parametrize(
    ("kind", "at_warmup", "half_way", "last"),
    [
        # Step 4 is the first of 8 steps of decay, step 7 the fourth, step 11 the eighth.
        ("cosine", 0.2 + 0.6 * (1 + math.cos(math.pi / 8)) / 2, 0.5, 0.2),
        ("linear", 0.2 + 0.6 * 7 / 8, 0.5, 0.2),
        ("constant", 0.8, 0.8, 0.8),
    ],
)
def test_values_after_the_warmup(kind, at_warmup, half_way, last):
    assert lr(kind, WARMUP) == pytest.approx(at_warmup)
    assert lr(kind, 7) == pytest.approx(half_way)
    assert lr(kind, TOTAL - 1) == pytest.approx(last)
    assert lr(kind, TOTAL) == pytest.approx(last)  # and it stays there
    assert lr(kind, TOTAL + 1000) == pytest.approx(last)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_decay_never_rises_and_never_goes_below_the_least(kind):
    rates = [lr(kind, step) for step in range(WARMUP - 1, TOTAL + 3)]
    assert rates == sorted(rates, reverse=True)
    assert min(rates) == pytest.approx(LEAST * PEAK)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_least_rate_of_zero_is_reached(kind):
    assert lr(kind, TOTAL - 1, least=0.0) == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize(("kind", "first"), [("linear", 0.8 - 0.6 / 12), ("constant", 0.8)])
def test_without_warmup_the_decay_begins_at_once(kind, first):
    assert lr(kind, 0, warmup=0) == pytest.approx(first)


def test_no_step_has_a_rate_of_zero():
    assert all(lr(kind, step) > 0 for kind in ("cosine", "linear", "constant") for step in range(TOTAL))

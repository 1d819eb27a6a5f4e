from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2dist.loading.batch_ramp import MOST_SIZES, BatchSizes, Origin, Ramp, Stage


def megatron(ramp: Ramp, full: int, consumed: int) -> int:
    """Megatron-LM's RampupBatchsizeNumMicroBatchesCalculator, in exact arithmetic.

    Its floats can round down where a size starts: int(9 / (9 / 7)) is 6.
    """
    increments = (full - ramp.start) // ramp.increment
    samples_per_increment = Fraction(ramp.samples, increments)
    if consumed > ramp.samples:
        return full
    return ramp.start + int(consumed / samples_per_increment) * ramp.increment


@st.composite
def ramps(draw: st.DrawFn) -> BatchSizes:
    increment, count = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    start, samples = draw(st.integers(1, 20)), draw(st.integers(1, 400))
    return BatchSizes(start + increment * count, Ramp(start, increment, samples))


def walked(sizes: BatchSizes, steps: int) -> list[int]:
    """The samples before each of the first steps, one after the other."""
    cursors = [0]
    for _ in range(steps):
        cursors.append(cursors[-1] + sizes.at(cursors[-1]))
    return cursors


def test_a_constant_size():
    sizes = BatchSizes(8)
    assert sizes.stages == (Stage(0, 0, 8),)
    assert [sizes.at(samples) for samples in (0, 8, 10**18)] == [8, 8, 8]
    assert (sizes.samples(10**18), sizes.steps(8 * 10**18)) == (8 * 10**18, 10**18)
    assert [sizes.steps(samples) for samples in (0, 1, 8, 9)] == [0, 1, 1, 2]


def test_a_ramp_by_hand():
    # Three sizes before the full one, each for 10 of 30 samples, but steps are whole.
    sizes = BatchSizes(16, Ramp(start=4, increment=4, samples=30))
    assert sizes.stages == (Stage(0, 0, 4), Stage(3, 12, 8), Stage(4, 20, 12), Stage(5, 32, 16))
    assert walked(sizes, 7) == [0, 4, 8, 12, 20, 32, 48, 64]


def test_a_step_may_be_longer_than_sizes_last():
    sizes = BatchSizes(40, Ramp(start=10, increment=10, samples=3))
    assert sizes.stages == (Stage(0, 0, 10), Stage(1, 10, 40))


@given(ramps(), st.integers(0, 500))
@example(BatchSizes(8, Ramp(1, 1, 9)), 9)
def test_the_size_is_megatrons(sizes, consumed):
    assert sizes.at(consumed) == megatron(sizes.ramp, sizes.full, consumed)


@given(ramps())
def test_steps_and_samples_agree_with_a_walk_through_the_run(sizes):
    cursors = walked(sizes, 80)
    assert [sizes.samples(step) for step in range(81)] == cursors
    assert [sizes.steps(cursor) for cursor in cursors] == list(range(81))
    for step, cursor in enumerate(cursors[:-1]):
        assert sizes.steps(cursor + 1) == step + 1
    begins = {stage.step: stage for stage in sizes.stages if stage.step < 80}
    changes = [s for s in range(80) if s == 0 or sizes.at(cursors[s]) != sizes.at(cursors[s - 1])]
    assert sorted(begins) == changes
    assert all((each.sample, each.size) == (cursors[s], sizes.at(cursors[s])) for s, each in begins.items())


def test_numbers_beyond_the_precision_of_floats():
    ramp = Ramp(start=1, increment=1, samples=3 * 10**18 + 1)
    sizes = BatchSizes(4, ramp)
    assert [sizes.at(10**18 + more) for more in (0, 1)] == [1, 2]
    assert sizes.steps(sizes.samples(10**17 + 1)) == 10**17 + 1


@pytest.mark.parametrize(
    ("full", "start", "increment"), [(8, 8, 1), (8, 9, 1), (8, 2, 4), (MOST_SIZES + 1, 1, 1)]
)
def test_ramps_that_lead_nowhere(full, start, increment):
    with pytest.raises(ValueError, match=f"does not lead to {full}"):
        BatchSizes(full, Ramp(start, increment, 100))


@given(ramps(), st.integers(0, 50), st.integers(0, 500))
def test_sizes_that_begin_on_the_way_go_on_from_the_samples_before(sizes, step, samples):
    later = BatchSizes(sizes.full, sizes.ramp, Origin(step, samples))
    cursor = samples
    for number in range(step, step + 30):
        assert later.samples(number) == cursor and later.steps(cursor) == number
        assert later.at(cursor) == sizes.at(cursor)
        cursor += later.at(cursor)

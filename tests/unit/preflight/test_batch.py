import pytest

from gpt2dist.preflight import resolve
from tests.support.mistakes import mistakes


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["batch.micro_batch_size=3"],
            "batch.global_batch_size: 16 is not a multiple of micro_batch_size 3 × world size 1 = 3; "
            "these fit: global_batch_size 15 or 18, or micro_batch_size 1, 2, 4, 8 or 16",
        ),
        (
            ["batch.micro_batch_size=32"],
            "batch.global_batch_size: 16 is not a multiple of micro_batch_size 32 × world size 1 = 32; "
            "these fit: global_batch_size 32, or micro_batch_size 1, 2, 4, 8 or 16",
        ),
        (
            ["batch.ramp={start: 16, increment: 4, samples: 100}"],
            "batch.ramp.start: 16 is not below batch.global_batch_size 16; lower it, or remove batch.ramp",
        ),
        (
            ["batch.ramp={start: 4, increment: 5, samples: 100}"],
            "batch.ramp.increment: increments of 5 from 4 do not reach batch.global_batch_size 16; these do: 3, "
            "4 or 6",
        ),
        (
            ["batch={global_batch_size: 20000, ramp: {start: 1, increment: 1, samples: 100}}"],
            "batch.ramp.increment: 1 gives 20,000 sizes, but at most 10,000 are supported; raise it to 3 or more",
        ),
        (
            ["batch.ramp={start: 3, increment: 1, samples: 100}"],
            "batch.ramp: its sizes 3, 5, 7, 9, 11, 13, 15 are not multiples of micro_batch_size 2 × world size "
            "1 = 2; set start 2 and increment 2 or 14, or lower micro_batch_size",
        ),
        (
            ["batch={global_batch_size: 32, ramp: {start: 8, increment: 1, samples: 9}, micro_batch_size: 4}"],
            "batch.ramp: its sizes 9, 10, 11, 13, 14, 15, 17, 18, … are not multiples of micro_batch_size 4 × "
            "world size 1 = 4; set start 8 and increment 4, 8 or 12, or lower micro_batch_size",
        ),
        (
            ["batch={global_batch_size: 6, micro_batch_size: 6, ramp: {start: 2, increment: 2, samples: 9}}"],
            "batch.ramp: its sizes 2, 4 are not multiples of micro_batch_size 6 × world size 1 = 6; "
            "lower micro_batch_size, or remove batch.ramp",
        ),
        (["batch.ramp={start: 4, increment: 4}"], "batch.ramp.samples: missing; add it, since it has no default"),
    ],
)
def test_each_mistake_of_the_batch_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


def test_a_world_size_that_does_not_divide_the_batch_leaves_only_other_batches(run_file):
    assert mistakes(run_file, [], world_size=3) == [
        "batch.global_batch_size: 16 is not a multiple of micro_batch_size 2 × world size 3 = 6; "
        "these fit: global_batch_size 12 or 18"
    ]


def test_the_plan_of_a_ramp_by_hand(run_file):
    ramp = "batch.ramp={start: 4, increment: 4, samples: 30}"
    _, plan = resolve(run_file, [ramp], world_size=2)
    # Steps of 4, 4, 4, 8, 12 windows, then of 16.
    assert [plan.batch_sizes.samples(step) for step in range(8)] == [0, 4, 8, 12, 20, 32, 48, 64]
    assert (plan.global_batch_size, plan.accumulation) == (16, 4)
    assert plan.total_samples == 32 + 95 * 16
    (training,) = plan.datasets
    assert plan.epochs(training) == plan.total_samples / 100


@pytest.mark.parametrize(("tokens", "steps"), [(20 * 32, 4), (20 * 32 + 1, 5), (48 * 32, 6), (48 * 32 + 1, 7)])
def test_tokens_become_steps_through_the_ramp(run_file, tokens, steps):
    ramp = "batch.ramp={start: 4, increment: 4, samples: 30}"
    total = ["schedule.total_steps=", f"schedule.total_tokens={tokens}", "schedule.warmup_steps=0"]
    assert resolve(run_file, [ramp, *total], 1)[1].total_steps == steps
    warmup = ["schedule.warmup_steps=0", f"schedule.warmup_tokens={tokens}"]
    assert resolve(run_file, [ramp, *warmup], 1)[1].warmup_steps == steps

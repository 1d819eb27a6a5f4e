import pytest

from gpt2dist.preflight import resolve
from tests.support.mistakes import mistakes


@pytest.mark.parametrize(
    ("loss_on", "tokens", "steps"),
    [("all", 16 * 32 * 30, 30), ("all", 16 * 32 * 30 + 1, 31), ("new", 320 * 30, 30), ("new", 320 * 30 + 1, 31)],
)
def test_total_tokens_are_reached_and_not_by_a_step_too_many(run_file, loss_on, tokens, steps):
    overrides = ["schedule.total_steps=null", f"schedule.total_tokens={tokens}", f"data.loss_on={loss_on}"]
    assert resolve(run_file, overrides, 1)[1].total_steps == steps


def test_a_warmup_in_tokens(run_file):
    tokens = ["schedule.warmup_steps=null", f"schedule.warmup_tokens={16 * 32 * 7 + 1}"]
    assert resolve(run_file, tokens, 1)[1].warmup_steps == 8
    assert resolve(run_file, [], 1)[1].warmup_steps == 10


@pytest.mark.parametrize(
    "overrides",
    [
        ["schedule.kind=wsd", "schedule.decay_fraction=0.9", "schedule.decay_shape=linear"],
        ["schedule.kind=wsd", "schedule.warmup_steps=0", "schedule.decay_fraction=1"],
        ["schedule.kind=inverse_sqrt"],
    ],
)
def test_schedules_that_just_fit(run_file, overrides):
    resolve(run_file, overrides, 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["schedule.total_steps="], "schedule.total_steps: missing; set it, or schedule.total_tokens"),
        (
            ["schedule.total_tokens=9"],
            "schedule.total_steps: schedule.total_tokens is set as well; keep one of the two",
        ),
        (
            ["schedule.warmup_steps=100"],
            "schedule.warmup_steps: a warmup of 100 leaves none of the 100 steps after it; lower "
            "it, or raise schedule.total_steps",
        ),
        (
            ["schedule.total_steps=", "schedule.total_tokens=5120"],
            "schedule.warmup_steps: a warmup of 10 leaves none of the 10 steps after it; lower it, "
            "or raise schedule.total_tokens",
        ),
        (
            ["schedule.warmup_tokens=9"],
            "schedule.warmup_steps: schedule.warmup_tokens is set as well; keep one of the two",
        ),
        (
            ["schedule.warmup_steps=", "schedule.warmup_tokens=50689"],  # 99 × 16 × 32 + 1
            "schedule.warmup_tokens: a warmup of 50689 (100 steps) leaves none of the 100 steps after it; "
            "lower it, or raise schedule.total_steps",
        ),
        (
            ["schedule.kind=inverse_sqrt", "schedule.warmup_steps="],
            "schedule.warmup_steps: missing; inverse_sqrt needs a warmup, since it falls as √(warmup / step); "
            "set it, or "
            "schedule.warmup_tokens",
        ),
        (
            ["schedule.decay_fraction=0.1"],
            "schedule.decay_fraction: schedule.kind cosine does not use it; remove it, or set schedule.kind to "
            "wsd",
        ),
        (
            ["schedule.decay_shape=sqrt", "schedule.kind=linear"],
            "schedule.decay_shape: schedule.kind linear does not use it; remove it, or set schedule.kind to wsd",
        ),
        (
            ["schedule.kind=wsd", "schedule.decay_fraction=0.91"],
            "schedule.decay_fraction: the decay of 91 of 100 steps begins before the warmup of 10 ends; lower "
            "schedule.warmup_steps, or set it to at most 0.9",
        ),
    ],
)
def test_each_mistake_of_the_schedule_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


@pytest.mark.parametrize(("tokens", "steps"), [(3230, 40), (3231, 41)])
def test_the_steps_of_a_blend_are_counted_in_whole_numbers(run_file, make_dataset, tokens, steps):
    # A step is 3 samples of 20 targets on average and 1 of 332 / 16: 80.75 targets.
    other = make_dataset("other", train=[333])
    wide = make_dataset("wide", train=[20 * 100 + 1])
    train = f"data.train=[{{path: {wide}, weight: 3}}, {{path: {other}, weight: 1}}]"
    overrides = ["data.loss_on=new", "batch.global_batch_size=4", "schedule.total_steps=", "data.validation="]
    _, plan = resolve(run_file, [train, *overrides, f"schedule.total_tokens={tokens}"], 1)
    assert plan.total_steps == steps

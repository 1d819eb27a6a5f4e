"""A batch that grows: the same losses at any world size and stage, and bitwise the same after a resume."""

import pytest

from gpt2dist.preflight import resolve
from tests.support.runs import metrics, train, write_run

RAMP = "batch.ramp={start: 4, increment: 2, samples: 24}"  # 4 4 4, 6 6, 8 8 8 8
STEPS = 9


@pytest.fixture(scope="module")
def uninterrupted(tiny_dataset, tmp_path_factory):
    """The run on one process."""
    config = write_run(tmp_path_factory.mktemp("ramp"), tiny_dataset)
    return train(config, RAMP, f"schedule.total_steps={STEPS}")


def test_each_step_trains_on_as_many_windows_as_planned(uninterrupted):
    _, plan = resolve(uninterrupted / "config.yaml", [], 1)
    samples = [plan.batch_sizes.samples(step) for step in range(1, STEPS + 1)]
    assert samples == [4, 8, 12, 18, 24, 32, 40, 48, 56]
    # Each window counts a stride of targets, but for the first and last of the dataset.
    tokens = metrics(uninterrupted, "progress/tokens")
    assert all(
        abs(total - plan.stride * count) <= plan.sequence_length
        for total, count in zip(tokens, samples, strict=True)
    )


@pytest.mark.parametrize(("stage", "world_size", "micro"), [(0, 1, 2), (1, 2, 1), (2, 2, 1), (3, 2, 1)])
def test_losses_do_not_depend_on_how_a_step_is_shared_out(
    tiny_dataset, tmp_path, uninterrupted, stage, world_size, micro
):
    config = write_run(tmp_path, tiny_dataset)
    overrides = [RAMP, f"schedule.total_steps={STEPS}", f"zero.stage={stage}", f"batch.micro_batch_size={micro}"]
    run = train(config, *overrides, world_size=world_size)
    assert metrics(run, "train/loss") == pytest.approx(metrics(uninterrupted, "train/loss"), rel=1e-5)
    assert metrics(run, "progress/tokens") == metrics(uninterrupted, "progress/tokens")


@pytest.mark.parametrize("done", [2, 4])  # within a size, and within the next
def test_a_resume_within_the_ramp_is_bitwise(tiny_dataset, tmp_path, uninterrupted, done):
    config = write_run(tmp_path, tiny_dataset)
    overrides = [RAMP, f"schedule.total_steps={STEPS}"]
    train(config, *overrides, f"run.stop_after_steps={done}")
    run = train(config, *overrides)
    assert metrics(run, "train/loss") == metrics(uninterrupted, "train/loss")

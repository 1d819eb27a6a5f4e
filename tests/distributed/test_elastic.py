"""A run goes on at any other world size and ZeRO stage, with and without offload."""

import itertools

import pytest
from runs import metrics, train, write_run

SAVED, LAST = 5, 25  # compared over the 20 steps after the save
COMMON = ["batch.global_batch_size=12", f"schedule.total_steps={LAST}"]  # twelve windows: for 1, 2, 3 and 4 ranks
WORLDS = list(itertools.permutations([1, 2, 3, 4], 2))
STAGES = list(itertools.permutations([0, 1, 2, 3], 2))
# Every change of world size with a change of the stage, so that each ordered pair of either appears once.
CHANGES = list(zip(WORLDS, STAGES, strict=True))


def at(world_size, stage, offload):
    words = [f"zero.stage={stage}", f"batch.micro_batch_size={12 // world_size}"]
    return [*words, *(["zero.offload_optimizer=cpu"] if offload and stage else [])]


def stop_and_go_on(config, common, worlds, stages, offloads):
    """Trains to the save at one shape and from it to the end at another."""
    first, second = zip(worlds, stages, offloads, strict=True)
    train(config, *common, *at(*first), f"run.stop_after_steps={SAVED}", world_size=first[0])
    return train(config, *common, *at(*second), world_size=second[0])


@pytest.fixture(scope="module")
def whole(tiny_dataset, tmp_path_factory):
    """The losses of an uninterrupted run on one process."""
    run = train(write_run(tmp_path_factory.mktemp("whole"), tiny_dataset), *COMMON, *at(1, 1, False))
    return metrics(run, "train/loss")


@pytest.mark.parametrize(("worlds", "stages"), CHANGES)
def test_fp32(tiny_dataset, tmp_path, whole, worlds, stages):
    number = CHANGES.index((worlds, stages))
    offloads = (number % 2 == 0, number % 3 == 0)
    run = stop_and_go_on(write_run(tmp_path, tiny_dataset), COMMON, worlds, stages, offloads)
    assert metrics(run, "train/loss") == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    ("worlds", "stages", "offloads"),
    [
        ((1, 2), (1, 2), (False, False)),
        ((2, 4), (2, 3), (False, True)),
        ((4, 3), (3, 1), (True, False)),
        ((3, 1), (1, 3), (True, True)),
    ],
)
def test_bf16(tiny_dataset, tmp_path, worlds, stages, offloads):
    """Against the run that stays as it began: bf16 rounds differently on another number of ranks."""
    config, common = write_run(tmp_path, tiny_dataset), [*COMMON, "precision=bf16"]
    first = at(worlds[0], stages[0], offloads[0])
    whole = train(config, *common, *first, f"run.output_dir={tmp_path}/whole", world_size=worlds[0])
    run = stop_and_go_on(config, common, worlds, stages, offloads)
    assert metrics(run, "train/loss") == pytest.approx(metrics(whole, "train/loss"), abs=1e-3)


@pytest.mark.parametrize(
    ("precision", "stage", "parameters"),
    [("fp32", 1, "none"), ("bf16", 2, "none"), ("bf16", 3, "none"), ("fp32", 3, "cpu")],
)
def test_the_same_shape_with_offload_is_bitwise(tiny_dataset, tmp_path, precision, stage, parameters):
    config = write_run(tmp_path, tiny_dataset)
    common = [*COMMON, f"precision={precision}", f"zero.offload_parameters={parameters}", "model.dropout=0.1"]
    common += at(2, stage, True)
    uninterrupted = train(config, *common, f"run.output_dir={tmp_path}/whole", world_size=2)
    parts = f"run.output_dir={tmp_path}/parts"
    train(config, *common, parts, f"run.stop_after_steps={SAVED}", world_size=2)
    halves = train(config, *common, parts, world_size=2)
    assert metrics(halves, "train/loss") == metrics(uninterrupted, "train/loss")

"""A run goes on at any other world size and ZeRO stage, with and without offload."""

import itertools

import pytest

from tests.support.ranks import run_ranks
from tests.support.runs import LARGE_MODEL, metrics, train, train_in_chunks, write_run

SAVED, LAST = 5, 25  # compared over the 20 steps after the save
COMMON = ["batch.global_batch_size=12", f"schedule.total_steps={LAST}"]  # twelve windows: for 1, 2, 3 and 4 ranks
WORLDS = list(itertools.permutations([1, 2, 3, 4], 2))
STAGES = list(itertools.permutations([0, 1, 2, 3], 2))
# Every change of world size with a change of the stage, so that each ordered pair of either appears once.
CHANGES = list(zip(WORLDS, STAGES, strict=True))

# Shapes that few numbers of ranks divide, with the vocabulary of 515, and a batch that 1 to 5 ranks can share.
ODD = ["batch.global_batch_size=60", "schedule.total_steps=10", "data.sequence_length=32"]
EMBD_40 = ["model.n_embd=40", *ODD]
EMBD_25 = ["model.n_embd=25", "model.n_head=5", "model.context_length=63", *ODD]


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


def resume_through(config, common, shapes):
    """Trains two steps at each of the shapes (world size, stage, offload), resuming from one to the next."""
    for number, (world_size, stage, offload) in enumerate(shapes, 1):
        words = [*common, f"zero.stage={stage}", f"batch.micro_batch_size={60 // world_size}"]
        words += [f"zero.offload_{what}=cpu" for what in offload.split()]
        run_ranks(train_in_chunks, world_size, config, [*words, f"run.stop_after_steps={2 * number}"])
    return metrics(config.parent / "run", "train/loss")


@pytest.fixture(scope="module")
def odd_whole(odd_dataset, tmp_path_factory):
    """The losses of uninterrupted runs on one process."""

    def losses(sizes):
        config = write_run(tmp_path_factory.mktemp("odd"), odd_dataset)
        run = train(config, *sizes, "zero.stage=0", "batch.micro_batch_size=60")
        return metrics(run, "train/loss")

    return {"40": losses(EMBD_40), "25": losses(EMBD_25)}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_odd_shapes_at_every_world_size(odd_dataset, tmp_path, odd_whole, stage):
    """The second start at 3 and at 5 ranks is at the world size of the first: no change of shape is needed."""
    offload = "optimizer parameters" if stage == 3 else "optimizer" if stage else ""
    shapes = [(3, stage, ""), (3, stage, offload), (5, stage, ""), (2, stage, offload), (4, stage, "")]
    found = resume_through(write_run(tmp_path, odd_dataset), EMBD_40, shapes)
    assert found == pytest.approx(odd_whole["40"], abs=1e-5)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 2, ""), (2, 3, ""), (5, 1, "optimizer"), (3, 3, "optimizer"), (2, 0, "")],
        [(5, 3, ""), (5, 3, ""), (4, 2, "optimizer"), (3, 3, "optimizer parameters"), (1, 3, "")],
    ],
)
@pytest.mark.parametrize("regime", [[], LARGE_MODEL], ids=["small", "large"])
def test_odd_shapes_from_stage_to_stage(odd_dataset, tmp_path, odd_whole, shapes, regime):
    found = resume_through(write_run(tmp_path, odd_dataset), [*EMBD_25, *regime], shapes)
    assert found == pytest.approx(odd_whole["25"], abs=1e-5)


def test_the_same_odd_shape_is_bitwise(odd_dataset, tmp_path):
    config = write_run(tmp_path, odd_dataset)
    common = [*EMBD_25, *LARGE_MODEL, "zero.stage=3", "batch.micro_batch_size=20", "model.dropout=0.1"]
    whole = train(config, *common, f"run.output_dir={tmp_path}/whole", world_size=3)
    train(config, *common, "run.stop_after_steps=4", world_size=3)
    halves = train(config, *common, world_size=3)
    assert metrics(halves, "train/loss") == metrics(whole, "train/loss")

import threading
from collections.abc import Callable
from itertools import chain, islice
from typing import Any

import numpy as np
import pytest

from gpt2dist.loading import loader as loader_module
from gpt2dist.loading.batch_ramp import BatchSizes, Ramp
from gpt2dist.loading.loader import Loader, MicroBatch, MicroBatcher, MixtureBatcher, StepBatch
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.loading.windows import Windows

TOKENS, LENGTH, STRIDE, SEED = 100, 8, 5, 3
WINDOWS = Windows(TOKENS, LENGTH, STRIDE)  # 20 of them
GLOBAL = 12
SIZES = BatchSizes(GLOBAL)


def batcher(loss_on: str = "all", tokens: int = TOKENS, windows: Windows = WINDOWS) -> MicroBatcher:
    # Token = position, so that a batch tells where it was read.
    return MicroBatcher(TokenStream([np.arange(tokens, dtype=np.uint16)]), windows, loss_on)


def loader_of(
    make: MicroBatcher | None = None,
    rank: int = 0,
    world: int = 1,
    micro: int = GLOBAL,
    cursor: int = 0,
    stage: Callable[[MicroBatch], Any] = lambda micro_batch: micro_batch,
    prefetch: int = 2,
    sizes: BatchSizes = SIZES,
) -> Loader:
    whole = MixtureBatcher([make or batcher()])
    return Loader(Mixture([len(WINDOWS)], [1], SEED), whole, stage, sizes, micro, rank, world, cursor, prefetch)


def steps(
    count: int,
    rank: int = 0,
    world: int = 1,
    micro: int = GLOBAL,
    cursor: int = 0,
    sizes: BatchSizes = SIZES,
    **kind: str,
) -> list[StepBatch]:
    loader = loader_of(batcher(**kind), rank, world, micro, cursor, sizes=sizes)
    try:
        return list(islice(loader, count))
    finally:
        loader.close()


def first_tokens(batches: list[StepBatch]) -> list[list[int]]:
    """Per step the starts of this rank's windows, in the order of training."""
    return [[int(row[0]) for micro in step.micro_batches for row in micro.tokens] for step in batches]


@pytest.mark.parametrize(("world", "micro"), [(1, 12), (1, 1), (2, 3), (3, 2), (4, 3), (12, 1)])
def test_the_ranks_together_train_on_the_global_order(world, micro):
    whole = first_tokens(steps(4))
    ranks = [steps(4, rank, world, micro) for rank in range(world)]
    for number in range(4):
        accumulation = len(ranks[0][number].micro_batches)
        # Micro-batch j of all ranks, side by side, is the j-th piece of the global batch.
        merged = [
            int(row[0])
            for j in range(accumulation)
            for rank in ranks
            for row in rank[number].micro_batches[j].tokens
        ]
        assert merged == whole[number]
        assert accumulation * micro * world == GLOBAL
        assert len({rank[number].targets for rank in ranks}) == 1


@pytest.mark.parametrize("done", [1, 2, 5])
def test_a_resumed_run_sees_what_the_uninterrupted_one_would(done):
    whole, resumed = steps(8), steps(8 - done, cursor=done * GLOBAL)
    assert first_tokens(resumed) == first_tokens(whole)[done:]


def test_a_run_resumes_at_another_world_size():
    whole = first_tokens(steps(6))
    resumed = [first_tokens(steps(3, rank, 4, 3, cursor=3 * GLOBAL)) for rank in range(4)]
    assert [list(chain(*(rank[number] for rank in resumed))) for number in range(3)] == whole[3:]


def test_windows_are_whole_slices_of_the_stream():
    for step in steps(2):
        for micro in step.micro_batches:
            assert micro.tokens.shape[1] == LENGTH + 1
            assert micro.tokens.dtype == np.uint16
            assert (np.diff(micro.tokens.astype(int)) == 1).all()


def counted(step: StepBatch) -> list[int]:
    """Stream positions of the targets in the loss, read off the tokens one by one."""
    return [
        int(row[1:][offset])
        for micro in step.micro_batches
        for row, start, end in zip(micro.tokens, micro.counted_from, micro.counted_to, strict=True)
        for offset in range(start, end)
    ]


@pytest.mark.parametrize("loss_on", ["all", "new"])
def test_the_count_of_targets_is_that_of_all_ranks(loss_on):
    ranks = [steps(4, rank, 2, 3, loss_on=loss_on) for rank in range(2)]
    for number in range(4):
        assert ranks[0][number].targets == sum(len(counted(rank[number])) for rank in ranks)


def test_new_trains_each_target_once_per_epoch_and_all_trains_every_target_of_a_window():
    # 5 steps of 12 windows are 3 epochs of 20.
    new = [position for step in steps(5, loss_on="new") for position in counted(step)]
    assert sorted(new) == sorted(3 * list(range(1, TOKENS)))
    every = [position for step in steps(5, loss_on="all") for position in counted(step)]
    assert len(every) == 3 * len(WINDOWS) * LENGTH
    assert set(every) == set(range(1, TOKENS))


def test_a_short_stream_counts_only_targets_that_exist():
    short = Windows(4, LENGTH, STRIDE)
    for loss_on in ("all", "new"):
        make = batcher(loss_on, 4, short)
        micro = make(np.array([0]))
        assert micro.tokens.tolist() == [[0, 1, 2, 3, 0, 0, 0, 0, 0]]
        assert (micro.counted_from.tolist(), micro.counted_to.tolist()) == ([0], [3])
        assert make.counted(np.array([0])).tolist() == [3]


def test_prefetching_changes_nothing():
    for prefetch in (1, 7):
        loader = loader_of(prefetch=prefetch)
        assert first_tokens(list(islice(loader, 3))) == first_tokens(steps(3))
        loader.close()


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gpt2dist-loader"]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_close_ends_the_thread_wherever_it_stands(taken):
    loader = loader_of()
    list(islice(loader, taken))
    assert len(loader_threads()) == 1
    loader.close()
    assert loader_threads() == []
    loader.close()  # again is no error


def test_close_does_not_wait_for_the_steps_that_were_drawn_together():
    made = []
    loader = loader_of(stage=made.append)
    next(loader)
    loader.close()
    assert len(made) < 10 < loader_module.DRAWN_TOGETHER // GLOBAL


def test_an_error_in_the_background_is_raised_where_the_batch_is_asked_for():
    class Broken(MicroBatcher):
        def __call__(self, indices):
            raise OSError("the disk is gone")

    broken = Broken(TokenStream([np.arange(TOKENS)]), WINDOWS, "all")
    loader = loader_of(broken)
    for _ in range(3):  # again and again, never an endless wait
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader)
    loader.close()
    assert loader_threads() == []


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="must divide"):
        loader_of(micro=5)
    assert loader_threads() == []


def test_batches_are_staged_in_the_background():
    def stage(micro_batch: MicroBatch) -> tuple[str, int]:
        return threading.current_thread().name, len(micro_batch.tokens)

    loader = loader_of(micro=3, stage=stage)
    assert next(loader).micro_batches == 4 * [("gpt2dist-loader", 3)]
    loader.close()


def test_samples_are_drawn_for_many_steps_and_for_less_than_a_large_one(monkeypatch):
    expected = first_tokens(steps(9))
    for drawn in (1, GLOBAL, 4 * GLOBAL + 1):
        monkeypatch.setattr(loader_module, "DRAWN_TOGETHER", drawn)
        assert first_tokens(steps(9)) == expected


# A batch that grows

RAMPED = BatchSizes(GLOBAL, Ramp(start=4, increment=4, samples=30))  # 4 4 4 4, 8 8, 12 …


def merged(ranks: list[list[StepBatch]], number: int) -> list[int]:
    """The starts of the windows of a step, in the order of the global batch."""
    pieces = zip(*(rank[number].micro_batches for rank in ranks), strict=True)
    return [int(row[0]) for group in pieces for micro in group for row in micro.tokens]


@pytest.mark.parametrize(("world", "micro"), [(1, 4), (1, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("done", range(8))
def test_a_ramp_takes_the_samples_in_order_at_any_world_size_and_from_any_step(world, micro, done):
    order = list(chain(*first_tokens(steps(6))))
    sizes = [4, 4, 4, 4, 8, 8, 12, 12, 12][done:]
    cursor = RAMPED.samples(done)
    ranks = [steps(len(sizes), rank, world, micro, cursor, RAMPED) for rank in range(world)]
    for number, size in enumerate(sizes):
        assert {rank[number].samples for rank in ranks} == {size}
        assert len(ranks[0][number].micro_batches) * micro * world == size
        assert merged(ranks, number) == order[cursor : cursor + size]
        assert {rank[number].targets for rank in ranks} == {sum(len(counted(rank[number])) for rank in ranks)}
        cursor += size


@pytest.mark.parametrize("drawn", [1, 4, 13, 50])
def test_a_ramp_does_not_depend_on_how_many_samples_are_drawn_together(monkeypatch, drawn):
    expected = first_tokens(steps(12, micro=2, sizes=RAMPED))
    monkeypatch.setattr(loader_module, "DRAWN_TOGETHER", drawn)
    assert first_tokens(steps(12, micro=2, sizes=RAMPED)) == expected


def test_a_size_of_a_ramp_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="must divide"):
        loader_of(micro=3, sizes=RAMPED)


# Several datasets: the tokens of each tell it apart

TOKENS_EACH, SHARES = (100, 37, 60), (3, 1, 2)


def blend(dtypes: tuple[type, ...] = (np.uint16, np.int32, np.uint16)) -> tuple[Mixture, MixtureBatcher]:
    tokens = [
        np.arange(size, dtype=dtype) + 1000 * d
        for d, (size, dtype) in enumerate(zip(TOKENS_EACH, dtypes, strict=True))
    ]
    windows = [Windows(size, LENGTH, STRIDE) for size in TOKENS_EACH]
    batchers = [MicroBatcher(TokenStream([part]), w, "new") for part, w in zip(tokens, windows, strict=True)]
    return Mixture([len(w) for w in windows], SHARES, SEED), MixtureBatcher(batchers)


def blended_steps(count: int, rank: int = 0, world: int = 1, micro: int = GLOBAL, cursor: int = 0):
    loader = Loader(*blend(), lambda micro_batch: micro_batch, SIZES, micro, rank, world, cursor)
    try:
        return list(islice(loader, count))
    finally:
        loader.close()


def test_a_blended_batch_holds_the_windows_that_its_datasets_make():
    mixture, batcher = blend()
    datasets, windows = mixture(np.arange(40))
    batch = batcher(datasets, windows)
    assert batch.tokens.dtype == np.int32  # the widest in it
    for row, (dataset, window) in enumerate(zip(datasets.tolist(), windows.tolist(), strict=True)):
        alone = batcher.batchers[dataset](np.array([window]))
        assert batch.tokens[row].tolist() == alone.tokens[0].tolist()
        assert batch.tokens[row, 0] // 1000 == dataset
        assert (batch.counted_from[row], batch.counted_to[row]) == (alone.counted_from[0], alone.counted_to[0])
    narrow = np.flatnonzero(datasets != 1)
    assert batcher(datasets[narrow], windows[narrow]).tokens.dtype == np.uint16


def test_a_batch_asks_each_dataset_that_it_has_windows_of_once():
    _, batcher = blend()
    asked = []

    class Asked(MicroBatcher):
        def __init__(self, number, other):
            super().__init__(other.stream, other.windows, "new")
            self.number = number

        def counted(self, indices):
            asked.append((self.number, indices.tolist()))
            return super().counted(indices)

    many = MixtureBatcher([Asked(number, batcher.batchers[number % 3]) for number in range(300)])
    datasets, windows = np.array([7, 299, 7, 0, 299, 7]), np.array([1, 2, 0, 3, 0, 1])
    assert many.counted(datasets, windows).tolist() == [
        int(many.batchers[d].counted(np.array([w]))[0]) for d, w in zip(datasets, windows, strict=True)
    ]
    assert asked[:3] == [(0, [3]), (7, [1, 0, 1]), (299, [2, 0])]
    asked.clear()
    many(datasets, windows)
    assert asked == [(0, [3]), (7, [1, 0, 1]), (299, [2, 0])]


@pytest.mark.parametrize(("world", "micro"), [(1, 4), (2, 3), (4, 3)])
def test_a_blend_is_the_same_at_any_world_size_and_from_any_step(world, micro):
    whole = blended_steps(6)
    ranks = [blended_steps(4, rank, world, micro, 2 * GLOBAL) for rank in range(world)]
    for number in range(4):
        pieces = zip(*(rank[number].micro_batches for rank in ranks), strict=True)
        merged = np.concatenate([part.tokens for group in pieces for part in group])
        assert merged.tolist() == whole[2 + number].micro_batches[0].tokens.tolist()
        assert {rank[number].targets for rank in ranks} == {whole[2 + number].targets}
        assert sum(len(counted(rank[number])) for rank in ranks) == whole[2 + number].targets

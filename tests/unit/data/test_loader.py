import threading
from itertools import chain, islice

import numpy as np
import pytest

from gpt2dist.data.loader import Loader, MicroBatcher, SampleOrder, StepBatch
from gpt2dist.data.stream import TokenStream
from gpt2dist.data.windows import Windows

TOKENS, LENGTH, STRIDE, SEED = 100, 8, 5, 3
WINDOWS = Windows(TOKENS, LENGTH, STRIDE)  # 20 of them
GLOBAL = 12


def batcher(loss_on: str = "all", tokens: int = TOKENS, windows: Windows = WINDOWS) -> MicroBatcher:
    # Token = position, so that a batch tells where it was read.
    return MicroBatcher(TokenStream([np.arange(tokens, dtype=np.uint16)]), windows, loss_on)


def steps(
    count: int, rank: int = 0, world: int = 1, micro: int = GLOBAL, cursor: int = 0, **kind: str
) -> list[StepBatch]:
    loader = Loader(batcher(**kind), SampleOrder(len(WINDOWS), SEED), GLOBAL, micro, rank, world, cursor)
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


def test_each_epoch_is_another_permutation_of_all_windows():
    order = SampleOrder(len(WINDOWS), SEED)
    epochs = order(np.arange(5 * len(WINDOWS))).reshape(5, -1)
    assert all(sorted(epoch) == list(range(len(WINDOWS))) for epoch in epochs)
    assert len({epoch.tobytes() for epoch in epochs}) == 5
    assert not np.array_equal(SampleOrder(len(WINDOWS), SEED + 1)(np.arange(20)), epochs[0])


def test_a_batch_may_span_epochs_and_more():
    order = SampleOrder(3, SEED)
    one_by_one = [int(order(np.array([sample]))[0]) for sample in range(14)]
    assert order(np.arange(14)).tolist() == one_by_one
    assert order(np.arange(13, -1, -1)).tolist() == one_by_one[::-1]


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
        assert make.counted(np.array([0])) == 3


def test_prefetching_changes_nothing():
    order = SampleOrder(len(WINDOWS), SEED)
    for prefetch in (1, 7):
        loader = Loader(batcher(), order, GLOBAL, GLOBAL, 0, 1, prefetch=prefetch)
        assert first_tokens(list(islice(loader, 3))) == first_tokens(steps(3))
        loader.close()


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "gpt2dist-loader"]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_close_ends_the_thread_wherever_it_stands(taken):
    loader = Loader(batcher(), SampleOrder(len(WINDOWS), SEED), GLOBAL, GLOBAL, 0, 1)
    list(islice(loader, taken))
    assert len(loader_threads()) == 1
    loader.close()
    assert loader_threads() == []
    loader.close()  # again is no error


def test_an_error_in_the_background_is_raised_where_the_batch_is_asked_for():
    class Broken(MicroBatcher):
        def __call__(self, indices):
            raise OSError("the disk is gone")

    broken = Broken(TokenStream([np.arange(TOKENS)]), WINDOWS, "all")
    loader = Loader(broken, SampleOrder(len(WINDOWS), SEED), GLOBAL, GLOBAL, 0, 1)
    for _ in range(3):  # again and again, never an endless wait
        with pytest.raises(OSError, match="the disk is gone"):
            next(loader)
    loader.close()
    assert loader_threads() == []


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="must divide"):
        Loader(batcher(), SampleOrder(len(WINDOWS), SEED), 12, 5, 0, 1)
    assert loader_threads() == []

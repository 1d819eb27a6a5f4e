"""The loss of every step equals plain PyTorch's, at every ZeRO stage, world size and accumulation."""

import pytest

from tests.support.plain_pytorch import GLOBAL, differences, plain_pytorch
from tests.support.ranks import run_ranks
from tests.support.runs import train, train_in_chunks, train_with_varlen, write_run


@pytest.fixture(scope="module")
def reference(tiny_dataset):
    return run_ranks(plain_pytorch, 1, [tiny_dataset], [1])[0]


def test_the_reference_learns_and_is_clipped(reference):
    losses, norms = reference
    assert losses[-1] < losses[0] - 0.5
    assert max(norms) > 1.0


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_one_process_equals_plain_pytorch(tiny_dataset, tmp_path, reference, stage, accumulation):
    """Two processes: see test_exactness."""
    config = write_run(tmp_path, tiny_dataset)
    run = train(config, f"zero.stage={stage}", f"batch.micro_batch_size={GLOBAL // accumulation}")
    loss, norm = differences(run, reference)
    assert loss < 1e-5
    assert norm < 1e-4


@pytest.mark.parametrize(("stage", "world_size"), [(0, 1), (1, 2), (2, 2), (3, 2)])
def test_the_chunked_loss_trains_the_same(tiny_dataset, tmp_path, reference, stage, world_size):
    config = write_run(tmp_path, tiny_dataset)
    overrides = [f"zero.stage={stage}", "batch.micro_batch_size=2"]
    run_ranks(train_in_chunks, world_size, config, overrides)
    loss, norm = differences(tmp_path / "run", reference)
    assert loss < 1e-5
    assert norm < 1e-4


@pytest.mark.parametrize(
    ("precision", "stage"), [("bf16", 1), ("bf16", 2), ("bf16", 3), ("autocast_bf16", 0), ("autocast_bf16", 2)]
)
def test_the_chunked_loss_in_16_bits_stays_close(tiny_dataset, tmp_path, reference, precision, stage):
    config = write_run(tmp_path, tiny_dataset)
    overrides = [f"precision={precision}", f"zero.stage={stage}", "batch.micro_batch_size=2"]
    run_ranks(train_in_chunks, 2, config, [*overrides, "model.activation_checkpointing=true"])
    loss, _ = differences(tmp_path / "run", reference)
    assert loss < 1e-2


@pytest.fixture(scope="module")
def isolated(tiny_dataset):
    return run_ranks(plain_pytorch, 1, [tiny_dataset], [1], True)[0]


@pytest.mark.parametrize(("stage", "world_size"), [(0, 1), (1, 2), (3, 2)])
def test_isolated_documents_equal_documents_run_apart(
    tiny_dataset, tmp_path, reference, isolated, stage, world_size
):
    assert abs(isolated[0][-1] - reference[0][-1]) > 1e-3  # it makes a difference
    config = write_run(tmp_path, tiny_dataset)
    overrides = ["data.document_boundaries=isolate", f"zero.stage={stage}", "batch.micro_batch_size=2"]
    loss, norm = differences(train(config, *overrides, world_size=world_size), isolated)
    assert loss < 1e-5
    assert norm < 1e-4


def test_isolated_documents_without_a_mask(tiny_dataset, tmp_path, isolated):
    config = write_run(tmp_path, tiny_dataset)
    overrides = ["data.document_boundaries=isolate", "batch.micro_batch_size=2"]
    (calls,) = run_ranks(train_with_varlen, 1, config, overrides)
    assert calls == 20 * 4 * 2  # steps, micro-batches, layers
    loss, norm = differences(tmp_path / "run", isolated)
    assert loss < 1e-5
    assert norm < 1e-4


@pytest.mark.parametrize(("world_size", "micro"), [(1, 8), (2, 2)])
def test_a_blend_equals_plain_pytorch(tiny_dataset, second_dataset, tmp_path, world_size, micro):
    reference = run_ranks(plain_pytorch, 1, [tiny_dataset, second_dataset], [2, 3])[0]
    config = write_run(tmp_path, tiny_dataset, blend={tiny_dataset: 0.4, second_dataset: 0.6})
    run = train(config, f"batch.micro_batch_size={micro}", world_size=world_size)
    loss, norm = differences(run, reference)
    assert loss < 1e-5
    assert norm < 1e-4

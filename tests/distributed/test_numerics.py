"""`run.deterministic` keeps the bits on a CPU and uses nothing that a GPU would refuse; where TF32 is used."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, train_here, write_run

REFUSED_ON_CUDA = (
    *("avg_pool3d_backward", "_adaptive_avg_pool", "adaptive_max_pool2d_backward", "fractional_max_pool"),
    *("max_unpool", "upsample_", "reflection_pad", "nll_loss2d", "_ctc_loss", "_embedding_bag", "put", "histc"),
    *("bincount", "median", "kthvalue", "grid_sampler", "scatter_reduce", "max_pool3d_with_indices_backward"),
)
"""Starts of the names of operations that raise on a GPU under `torch.use_deterministic_algorithms` (see there).
Of `cumsum` only that of floats does."""
ALL_OF_IT = [
    *("schedule.total_steps=2", "schedule.warmup_steps=1", "batch.micro_batch_size=2", "model.dropout=0.1"),
    *("data.document_boundaries=isolate", "evaluation.every_steps=2", "stability.spike_sigma=6"),
]
SAMPLES = "monitoring.samples={prompts: [abc], every_steps: 2, max_new_tokens: 3}"


class Operations(TorchDispatchMode):
    """Records those that a GPU would refuse, and whether deterministic algorithms were on throughout."""

    def __init__(self):
        super().__init__()
        self.refused, self.count, self.deterministic = set(), 0, True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::")
        if name.startswith(REFUSED_ON_CUDA) or (name.startswith("cumsum") and args[0].is_floating_point()):
            self.refused.add(name)
        self.count += 1
        self.deterministic &= torch.are_deterministic_algorithms_enabled()
        return func(*args, **(kwargs or {}))


def train_deterministically(config, overrides):
    """On a CPU that poses as a GPU, and with NaN in all memory that was not written yet."""
    from deepspeed.accelerator import get_accelerator

    from gpt2dist.training import setup
    from tests.support.mock_device import mock_device

    type(get_accelerator()).is_fp16_supported = lambda self: True
    mock_device()
    algorithms, operations = setup.deterministic_algorithms, Operations()

    @contextlib.contextmanager
    def filled(wanted):
        with algorithms(wanted), operations:
            torch.utils.deterministic.fill_uninitialized_memory = True
            yield

    setup.deterministic_algorithms = filled
    train_here(config, [*overrides, "run.deterministic=true"])
    assert not torch.are_deterministic_algorithms_enabled()
    return sorted(operations.refused), operations.count > 1000, operations.deterministic


@pytest.mark.parametrize(
    ("stage", "ranks", "precision", "more"),
    [
        (0, 1, "autocast_bf16", ["model.loss=plain", SAMPLES]),
        (1, 1, "bf16", ["model.attention=eager"]),
        (2, 2, "fp32", ["model.activation_checkpointing=true"]),
        (3, 2, "bf16", ["model.loss=chunked"]),
    ],
)
def test_it_has_the_bits_of_a_run_without_it(tiny_dataset, tmp_path, stage, ranks, precision, more):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    words = [*ALL_OF_IT, f"zero.stage={stage}", f"precision={precision}", *more]
    plain = train(config, *words, f"run.output_dir={tmp_path}/plain", world_size=ranks)
    found = run_ranks(train_deterministically, ranks, config, words)
    assert found == [([], True, True)] * ranks
    for tag in ("train/loss", "train/grad_norm", "eval/val/loss", *["samples/0"] * (SAMPLES in more)):
        assert metrics(tmp_path / "run", tag) == metrics(plain, tag) != []


def train_with_tf32(config, overrides):
    """On a CPU that is taken for a GPU; returns the settings of torch's products in each kind of pass."""
    from gpt2dist.training import setup, trainer
    from gpt2dist.training.engine import Engine

    products, seen = setup.fp32_products, {"step": set(), "score": set(), "probe": set()}

    def noting(kind, function):
        def noted(*args):
            seen[kind].add(torch.get_float32_matmul_precision())
            return function(*args)

        return noted

    setup.fp32_products = lambda allowed, device: products(allowed, torch.device("cuda"))
    trainer.probe_loss = noting("probe", trainer.probe_loss)
    Engine.train_step, Engine.score = noting("step", Engine.train_step), noting("score", Engine.score)
    train_here(config, overrides)
    return seen, torch.get_float32_matmul_precision()


@pytest.mark.parametrize(("allowed", "products"), [("true", "high"), ("false", "highest")])
def test_tf32_is_for_steps_and_validation_and_not_for_the_loss_that_a_resume_compares(
    tiny_dataset, tmp_path, allowed, products
):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    words = ["schedule.total_steps=2", "schedule.warmup_steps=1", f"run.allow_tf32={allowed}"]
    ((seen, after),) = run_ranks(train_with_tf32, 1, config, words)
    assert seen["step"] == {products} and products in seen["score"] and seen["probe"] == {"highest"}
    assert after == "highest"

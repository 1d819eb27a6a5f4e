"""model.compile: the same losses, validation, checkpoints and resume as without it."""

import warnings

import pytest
from transformers import GPT2LMHeadModel

from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import metrics, train, train_here, write_run


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The directory of compiled kernels, each of which is compiled once. The ranks inherit the compiler."""
    with warnings.catch_warnings(action="ignore"):  # torch uses what torch deprecates
        import torch._inductor.compile_fx  # noqa: F401

    return tmp_path_factory.mktemp("kernels")


def use(kernels):
    import os

    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(kernels)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no processes beside the rank


def train_compiled(config, overrides, kernels):
    use(kernels)
    train_here(config, [*overrides, "model.compile=true"])


def read_by_transformers(checkpoint):
    _, found = GPT2LMHeadModel.from_pretrained(checkpoint, output_loading_info=True)
    assert not any(found.values())


def test_a_compiled_run_stopped_and_resumed_is_the_run_as_written(tiny_dataset, tmp_path, kernels):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    common = ["zero.stage=2", "batch.micro_batch_size=2", "evaluation.every_steps=5"]
    plain = train(config, *common, f"run.output_dir={tmp_path}/plain", world_size=2)
    # One rank compiles for both.
    run_ranks(train_compiled, 1, config, [*common, "run.stop_after_steps=9"], kernels, timeout=300)
    run_ranks(train_compiled, 2, config, common, kernels, timeout=300)
    run = tmp_path / "run"
    for tag in ("train/loss", "train/grad_norm", "eval/val/loss"):
        assert metrics(run, tag) == pytest.approx(metrics(plain, tag), abs=1e-5), tag
    run_ranks(read_by_transformers, 1, run / "checkpoints/step-00000020")


def test_with_all_that_changes_the_graph(tiny_dataset, tmp_path, kernels):
    config = write_run(tmp_path, tiny_dataset)
    common = ["zero.stage=0", "batch.micro_batch_size=4", "run.stop_after_steps=2", "model.loss=chunked"]
    common += ["model.activation_checkpointing=true", "data.document_boundaries=isolate"]
    plain = train(config, *common, f"run.output_dir={tmp_path}/plain")
    run_ranks(train_compiled, 1, config, common, kernels, timeout=300)
    assert metrics(tmp_path / "run", "train/loss") == pytest.approx(metrics(plain, "train/loss"), abs=1e-5)


def gradients(loss, compile):
    import torch

    from gpt2dist.model.gpt2 import LanguageModel, named_parameters
    from gpt2dist.model.shape import Shape

    # The model and micro-batch of the first test: it compiled most kernels.
    model = LanguageModel(Shape(2, 4, 32, 32, 300), 0, seed=1, loss=loss, compile=compile).train()
    tokens = torch.randint(0, 300, (2, 33), generator=torch.Generator().manual_seed(1))
    model.nll_sum(tokens, torch.tensor([0, 5]), torch.tensor([32, 32])).backward()
    return {name: parameter.grad.flatten().tolist() for name, parameter in named_parameters(model)}


def both_gradients(loss, kernels):
    use(kernels)
    return gradients(loss, compile=False), gradients(loss, compile=True)


@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_gradients_are_those_as_written(loss, kernels):
    """Compiled by torch 2.11, an autograd function whose output was changed in place had none."""
    ((plain, compiled),) = run_ranks(both_gradients, 1, loss, kernels, timeout=300)
    for name, expected in plain.items():
        assert any(expected) and compiled[name] == pytest.approx(expected, abs=1e-4), name


def isolated_losses(compile, attention):
    """The losses of three batches, their numbers of borders, and the gradients of them all."""
    import torch

    from gpt2dist.model.gpt2 import LanguageModel, named_parameters
    from gpt2dist.model.shape import Shape

    shape, draw = Shape(2, 4, 32, 32, 300), torch.Generator().manual_seed(1)
    model = LanguageModel(shape, 0, seed=1, isolate=True, attention=attention, compile=compile).train()
    losses, sizes = [], []
    for share in (0.0, 0.1, 0.1):
        tokens = torch.randint(1, 300, (3, 33), generator=draw)
        tokens[torch.rand(3, 33, generator=draw) < share] = 0
        borders = model.borders(tokens)
        sizes.append(0 if borders is None else len(borders))
        loss = model.nll_sum(tokens, torch.zeros(3).long(), torch.full((3,), 32), borders)
        loss.backward()
        losses.append(loss.item())
    gradients = {name: parameter.grad.flatten().tolist() for name, parameter in named_parameters(model)}
    return losses, sizes, gradients


def both_isolated_losses(kernels):
    import torch

    from tests.support.varlen_on_cpu import varlen_on_cpu

    use(kernels)
    with varlen_on_cpu() as calls:
        results = isolated_losses(False, "sdpa"), isolated_losses(True, "varlen")
        return *results, len(calls), torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_documents_without_a_mask_are_compiled_for_few_of_their_numbers(kernels):
    ((plain, compiled, calls, graphs),) = run_ranks(both_isolated_losses, 1, kernels, timeout=300)
    assert calls == 3 * 2 and compiled[1] == [5, 17, 17] and graphs == 2
    assert compiled[0] == pytest.approx(plain[0], rel=1e-6)
    for name, expected in plain[2].items():
        assert any(expected) and compiled[2][name] == pytest.approx(expected, abs=1e-4), name


def train_without_compiler(config, overrides):
    from gpt2dist.model import requirements

    requirements.shutil.which = lambda name: None
    train_here(config, [*overrides, "model.compile=true"])


def test_no_compiler_is_told_before_the_first_step(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    with pytest.raises(RankFailedError, match=r"UserError: model\.compile: needs a C\+\+ compiler"):
        run_ranks(train_without_compiler, 1, config, [])
    assert not (tmp_path / "run/metrics.jsonl").exists()

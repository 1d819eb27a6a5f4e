"""A checkpoint that DeepSpeed wrote itself, of a plain transformers model, is taken over whole."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file

from gpt2dist.config import Config
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, write_run

STEPS = 3


@pytest.fixture(scope="module")
def tool(repository):
    path = repository / "tools/import_deepspeed_checkpoint.py"
    spec = importlib.util.spec_from_file_location("import_deepspeed_checkpoint", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def train_natively(directory, stage, vocab_size, n_embd=32):
    """Trains as DeepSpeed's documentation does; returns sums of the whole state, by parameter."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
    from transformers import GPT2Config, GPT2LMHeadModel

    from gpt2dist.distributed.deepspeed_import import deepspeed, start_quietly
    from gpt2dist.distributed.world import join

    world = join()
    start_quietly(world)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocab_size, n_positions=32, n_embd=n_embd, n_layer=2, n_head=4)
    model = GPT2LMHeadModel(config)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settings = {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": stage}}
    engine, *_ = deepspeed.initialize(model=model, optimizer=adam, config=settings, dist_init_required=False)
    draw = torch.Generator().manual_seed(world.rank)
    for _ in range(STEPS):
        tokens = torch.randint(0, vocab_size, (2, 32), generator=draw)
        engine.backward(engine(input_ids=tokens, labels=tokens).loss)
        engine.step()
    engine.save_checkpoint(str(directory))
    state = {}
    for name, parameter in engine.module.named_parameters():
        state[name] = safe_get_full_fp32_param(parameter).flatten().tolist()
        state[f"exp_avg.{name}"] = safe_get_full_optimizer_state(parameter, "exp_avg").flatten().tolist()
        state[f"exp_avg_sq.{name}"] = safe_get_full_optimizer_state(parameter, "exp_avg_sq").flatten().tolist()
    return state


def run_file(tiny_dataset, tmp_path):
    return write_run(tmp_path, tiny_dataset)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_moments_and_steps_are_taken_over_and_the_run_goes_on(tool, tiny_dataset, tmp_path, stage):
    native = tmp_path / "native"
    vocab_size = Manifest.load(tiny_dataset).vocab_size
    expected, _ = run_ranks(train_natively, 2, native, stage, vocab_size)
    config = run_file(tiny_dataset, tmp_path)
    assert run_ranks(tool.main, 1, [str(native), str(config), "--trust"]) == [0]
    checkpoint = tmp_path / f"run/checkpoints/step-{STEPS:08d}"
    found = {}
    for file in checkpoint.glob("*.safetensors"):
        found |= {name: tensor.flatten().tolist() for name, tensor in load_file(file).items()}
    assert found == expected
    run = train(config, "batch.micro_batch_size=2", world_size=2)
    assert [int(step) for step in metrics(run, "step")] == list(range(STEPS + 1, 21))


@pytest.mark.parametrize(("world_size", "stage"), [(3, 1), (3, 2), (3, 3), (5, 3)])
def test_shapes_that_the_ranks_do_not_divide_are_taken_over(tool, odd_dataset, tmp_path, world_size, stage):
    native, config = tmp_path / "native", write_run(tmp_path, odd_dataset)
    expected = run_ranks(train_natively, world_size, native, stage, 515, 40)[0]
    words = ["model.n_embd=40", "batch.global_batch_size=15"]
    assert run_ranks(tool.main, 1, [str(native), str(config), "--trust", *words]) == [0]
    found = {}
    for file in (tmp_path / f"run/checkpoints/step-{STEPS:08d}").glob("*.safetensors"):
        found |= {name: tensor.flatten().tolist() for name, tensor in load_file(file).items()}
    assert found == expected
    run = train(config, *words, "zero.stage=3", world_size=3)
    assert [int(step) for step in metrics(run, "step")] == list(range(STEPS + 1, 21))


def test_what_cannot_be_imported_is_refused(tool, tiny_dataset, tmp_path, capsys):
    config = run_file(tiny_dataset, tmp_path)
    assert tool.main([str(tmp_path), str(config)]) == 2
    assert "reading a pickle runs its writer's code; say --trust" in capsys.readouterr().err
    assert tool.main([str(tmp_path), str(config), "--trust"]) == 2
    assert f"{tmp_path}: not a checkpoint of DeepSpeed at ZeRO stage 1, 2 or 3" in capsys.readouterr().err
    with pytest.raises(
        UserError, match=r"optimizer\.kind: lion cannot use the moments of Adam that are imported; set"
    ):
        tool.import_checkpoint(tmp_path, Config(optimizer={"kind": "lion"}), None)


def test_another_model_a_damaged_file_and_a_run_that_has_begun_are_refused(tool, tiny_dataset, tmp_path, capfd):
    native = tmp_path / "native"
    run_ranks(train_natively, 1, native, 1, Manifest.load(tiny_dataset).vocab_size)
    config = run_file(tiny_dataset, tmp_path)
    words = [str(native), str(config), "--trust"]
    for change, message in (
        ("model.n_layer=1", "model: parameter transformer.h.1.attn.c_attn.bias is not in both models"),
        ("model.n_embd=64", "model: transformer.wte.weight has the shape [384, 64], [300, 32] in the checkpoint"),
        (
            "schedule.total_steps=2 schedule.warmup_steps=0",
            "the checkpoint has done 3 steps, the run has 2; add",
        ),
    ):
        assert run_ranks(tool.main, 1, [*words, *change.split()]) == [2]
        assert message in capfd.readouterr().err
    damaged = next(native.glob("*/*optim_states.pt"))
    damaged.write_bytes(b"damaged")
    assert run_ranks(tool.main, 1, words) == [1]
    assert f"{damaged.parent}: DeepSpeed cannot read it (UnpicklingError: " in capfd.readouterr().err
    (tmp_path / "run/checkpoints/step-00000001").mkdir(parents=True)
    assert run_ranks(tool.main, 1, words) == [2]
    assert "the run has checkpoints; set run.output_dir to a new directory" in capfd.readouterr().err


def import_output_layer(tool, directory, change, has_moments):
    """Imports what DeepSpeed's converter writes of a model, with an output layer; returns the refusal."""
    from gpt2dist.errors import UserError
    from gpt2dist.model.gpt2 import LanguageModel, named_parameters
    from gpt2dist.model.shape import Shape

    model = LanguageModel(Shape(1, 2, 8, 16, 300), 299)
    weights = {name: parameter.detach().clone() for name, parameter in named_parameters(model)}
    head = weights["transformer.wte.weight"].bfloat16().float()
    head[7, 3] += change
    for name, weight in (weights | {"lm_head.weight": head}).items():
        (directory / name).mkdir(parents=True)
        for file in ("fp32", "exp_avg", "exp_avg_sq") if has_moments or name in weights else ("fp32",):
            torch.save({"param": weight}, directory / name / f"{file}.pt")
    try:
        tool.ImportedState(directory, model)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("change", "has_moments"), [(0, False), (0.01, False), (0, True)])
def test_an_output_layer_of_its_own_is_not_dropped(tool, tmp_path, change, has_moments):
    (refusal,) = run_ranks(import_output_layer, 1, tool, tmp_path / "zero", change, has_moments)
    expected = "model: lm_head.weight in the checkpoint is not its embedding (tie_word_embeddings was false), and"
    assert refusal[: len(expected)] == (expected if change or has_moments else "")

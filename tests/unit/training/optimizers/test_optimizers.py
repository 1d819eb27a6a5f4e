import sys

import pytest
import torch

from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.model.gpt2 import LanguageModel, named_parameters
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import Shape
from gpt2dist.training.optimizers import build_optimizer, optimizer_kind
from gpt2dist.training.optimizers.base import state_bytes
from tests.support.markdown import blocks
from tests.support.sgd_and_adamw import SgdAndAdamW

SHAPE = Shape(2, 4, 32, 16, 128)  # a vocabulary without padding


@pytest.fixture(scope="module")
def model():
    return LanguageModel(SHAPE, 0)


def test_the_shapes_that_estimates_count_are_those_of_the_model(model):
    assert parameter_shapes(SHAPE) == {name: tuple(each.shape) for name, each in named_parameters(model)}
    assert state_bytes(optimizer_kind(Config()), parameter_shapes(SHAPE)) == 8 * SHAPE.parameters


def muon(**options):
    return optimizer_kind(Config.model_validate({"optimizer": {"kind": "muon", "options": options}}))


def test_muon_has_one_state_tensor_for_each_matrix_of_a_block(model):
    in_blocks = 12 * SHAPE.n_embd**2 * SHAPE.n_layer
    assert state_bytes(muon(), parameter_shapes(SHAPE)) == 8 * SHAPE.parameters - 4 * in_blocks
    built = build_optimizer(Config.model_validate({"optimizer": {"kind": "muon"}}), named_parameters(model))
    assert sum(each.numel() for each in built.param_groups[0]["params"]) == in_blocks
    assert [matrix.parts for matrix in built.param_groups[0]["matrices"]] == [3, 1, 1, 1] * SHAPE.n_layer


def test_muon_has_defaults_that_follow_from_the_section():
    kind = muon()
    section = Config().optimizer
    assert (kind.lr, kind.weight_decay, kind.ns_dtype) == (section.lr, section.weight_decay, "fp32")
    kind = muon(lr=0.02, weight_decay=0.0, ns_dtype="bf16", scaling="original", split_qkv=False)
    assert (kind.lr, kind.weight_decay, kind.ns_dtype) == (0.02, 0.0, "bf16")
    settings = {"precision": "autocast_bf16", "optimizer": {"kind": "muon"}}
    assert optimizer_kind(Config.model_validate(settings)).ns_dtype == "bf16"


def test_muon_describes_itself():
    assert muon(lr=0.02).describe() == (
        "Muon on the matrices of the blocks: learning rate 0.02, momentum 0.95 (Nesterov), weight decay 0.1, "
        "5 Newton–Schulz steps in fp32, scaling match_rms_adamw, q, k and v apart; AdamW elsewhere: β 0.9 and "
        "0.95, ε 1e-08, weight decay 0.1"
    )


class Forgetful(SgdAndAdamW):
    def build(self, parameters):
        return super().build(list(parameters)[1:])


class Mixed(SgdAndAdamW):
    def build(self, parameters):
        groups = [{"params": [parameter for _, parameter in parameters]}]
        return torch.optim.SGD(groups, lr=0.1)


class Reserved(SgdAndAdamW):
    def state_names(self, name, shape):
        return ("step",)

    def build(self, parameters):
        return torch.optim.SGD([parameter for _, parameter in parameters], lr=0.1)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Forgetful, "does not put each parameter of the model into exactly one group; correct its build()"),
        (
            Mixed,
            "has parameters with different state tensors in parameter group 0; correct its build() or "
            "state_names()",
        ),
        (Reserved, "has a state tensor named step, which is reserved; rename it in its state_names()"),
    ],
)
def test_what_an_optimizer_from_elsewhere_builds_is_checked(model, monkeypatch, kind, message):
    monkeypatch.setattr("tests.support.sgd_and_adamw.Tried", kind, raising=False)
    config = Config(optimizer={"kind": "tests.support.sgd_and_adamw:Tried"})
    with pytest.raises(UserError) as refused:
        build_optimizer(config, named_parameters(model))
    assert str(refused.value) == f"optimizer.kind: {config.optimizer.kind} {message}"


def test_the_example_of_the_guide_is_lion(model, repository, tmp_path, monkeypatch):
    guide = (repository / "docs/guides/optimizers.md").read_text(encoding="utf-8")
    for name, block in zip(("lion", "lion_step"), blocks(guide, "python"), strict=True):
        (tmp_path / f"{name}.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    config = Config(optimizer={"kind": "lion:Lion", "lr": 0.1, "betas": (0.9, 0.5), "weight_decay": 0.2})
    assert optimizer_kind(config).state_names("", ()) == ("exp_avg",) and "lion_step" not in sys.modules
    optimizer = build_optimizer(config, named_parameters(model))
    parameter = dict(named_parameters(model))["transformer.h.0.mlp.c_fc.weight"]
    before, gradient = parameter.detach().clone(), torch.randn_like(parameter)
    optimizer.state[parameter] = {"exp_avg": torch.zeros_like(parameter)}
    parameter.grad = gradient
    optimizer.step()
    assert torch.allclose(parameter, before * (1 - 0.1 * 0.2) - 0.1 * gradient.sign())
    assert torch.allclose(optimizer.state[parameter]["exp_avg"], 0.5 * gradient)
    stepped, optimizer.should_skip = parameter.detach().clone(), lambda: torch.ones(())
    optimizer.step()
    assert torch.equal(parameter, stepped)

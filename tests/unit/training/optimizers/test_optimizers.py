import pytest
import torch

from gpt2dist.config.schema import OptimizerSection
from gpt2dist.errors import UserError
from gpt2dist.model.gpt2 import LanguageModel, named_parameters
from gpt2dist.model.huggingface import parameter_shapes
from gpt2dist.model.shape import Shape
from gpt2dist.training.optimizers import build_optimizer, optimizer_kind
from gpt2dist.training.optimizers.base import state_bytes
from tests.support.sgd_and_adamw import SgdAndAdamW

SHAPE = Shape(2, 4, 32, 16, 128)  # a vocabulary without padding


@pytest.fixture(scope="module")
def model():
    return LanguageModel(SHAPE, 0)


def test_the_shapes_that_estimates_count_are_those_of_the_model(model):
    assert parameter_shapes(SHAPE) == {name: tuple(each.shape) for name, each in named_parameters(model)}
    assert state_bytes(optimizer_kind(OptimizerSection()), parameter_shapes(SHAPE)) == 8 * SHAPE.parameters


class Forgetful(SgdAndAdamW):
    def build(self, parameters):
        return super().build(list(parameters)[1:])


class Mixed(SgdAndAdamW):
    def build(self, parameters):
        groups = [{"params": [parameter for _, parameter in parameters]}]
        return torch.optim.SGD(groups, lr=0.1)


class Taken(SgdAndAdamW):
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
        (Taken, "has a state tensor step, a name that checkpoints need; rename it in its state_names()"),
    ],
)
def test_what_an_optimizer_from_elsewhere_builds_is_checked(model, monkeypatch, kind, message):
    monkeypatch.setattr("tests.support.sgd_and_adamw.Tried", kind, raising=False)
    section = OptimizerSection(kind="tests.support.sgd_and_adamw:Tried")
    with pytest.raises(UserError) as refused:
        build_optimizer(section, named_parameters(model))
    assert str(refused.value) == f"optimizer.kind: {section.kind} {message}"

import sys

import pytest

from gpt2dist.memory import GIB
from gpt2dist.preflight import resolve
from gpt2dist.preflight.memory import estimate, memory_inputs
from gpt2dist.preflight.resources import _first_fit
from tests.support.mistakes import mistakes
from tests.support.packages import installed

HOME = "tests.support.sgd_and_adamw"
TOY, AT_STAGE_1 = f"optimizer.kind={HOME}:SgdAndAdamW", f"optimizer.kind={HOME}:SgdAtStage1"
WAY_OUT = "or optimizer.kind to adamw"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["optimizer.kind=adamv"],
            "optimizer.kind: unknown optimizer 'adamv' (known: adamw, muon); write one of these, or "
            "package.module:attribute",
        ),
        (
            ["optimizer.kind=no_such_module:Lion"],
            "optimizer.kind: no_such_module:Lion cannot be imported (ModuleNotFoundError: No module named "
            "'no_such_module'); install it, put its folder on PYTHONPATH, or omit it",
        ),
        (
            [f"optimizer.kind={HOME}:SgdOptions"],
            f"optimizer.kind: the optimizer {HOME}:SgdOptions lacks Options, supported, "
            "state_names, build, describe (needed: Options, supported, state_names, build, describe)",
        ),
        (
            ["optimizer.options={momentum: 0.9}"],
            "optimizer.options.momentum: unknown key; none is known here; remove it",
        ),
        (
            [TOY, "optimizer.options={momentun: 0.9}"],
            "optimizer.options.momentun: unknown key; did you mean optimizer.options.momentum?",
        ),
        ([TOY, "optimizer.options.momentum=1"], "optimizer.options.momentum: should be below 1, not 1"),
        ([TOY, "optimizer.options.lr=fast"], "optimizer.options.lr: should be a number, not 'fast'"),
        (
            ["optimizer.kind=3", "optimizer.options.momentum=0.9"],
            "optimizer.kind: should be a string, not 3; quote it if it is meant as text",
        ),
        (
            ["optimizer.kind=muon", "optimizer.options.scaling=original"],
            "optimizer: options.scaling: original does not suit the learning rate of AdamW; set options.lr, for "
            "example to 0.02, or options.scaling to match_rms_adamw (muon)",
        ),
        (
            [TOY, "optimizer.decay=independent"],
            f"optimizer.decay: independent is not supported by the optimizer {HOME}:SgdAndAdamW; set it to "
            f"coupled, {WAY_OUT}",
        ),
        (
            [TOY, "optimizer.cautious=true"],
            f"optimizer.cautious: true is not supported by the optimizer {HOME}:SgdAndAdamW; set it to false, "
            f"{WAY_OUT}",
        ),
        (
            ["optimizer.kind=muon", "zero.stage=3"],
            f"zero.stage: 3 is not supported by the optimizer muon; set it to 0, 1 or 2, {WAY_OUT}",
        ),
        (
            ["optimizer.kind=muon", "zero.offload_optimizer=cpu"],
            "zero.offload_optimizer: cpu is not supported by the optimizer muon; set it to none, "
            "or optimizer.kind to adamw",
        ),
        (
            ["optimizer.kind=muon", "optimizer.options.momentum=1"],
            "optimizer.options.momentum: should be below 1, not 1",
        ),
        ([TOY, "optimizer.options=3"], "optimizer.options: should be a mapping, not 3"),
        (
            [TOY, "optimizer.betas=[0.9, 0.8]"],
            f"optimizer: betas.0 is above betas.1; exchange them ({HOME}:SgdAndAdamW)",
        ),
        (
            [AT_STAGE_1, "zero.stage=2"],
            f"zero.stage: 2 is not supported by the optimizer {HOME}:SgdAtStage1; set it to 1, {WAY_OUT}",
        ),
        (
            [AT_STAGE_1, "precision=fp16"],
            f"precision: fp16 is not supported by the optimizer {HOME}:SgdAtStage1; set it to "
            f"fp32 or bf16, {WAY_OUT}",
        ),
        (
            [AT_STAGE_1, "zero.offload_optimizer=cpu"],
            "zero.offload_optimizer: cpu is not supported by the optimizer "
            f"{HOME}:SgdAtStage1; set it to none, {WAY_OUT}",
        ),
        (
            [TOY, "zero.stage=3", "zero.offload_parameters=cpu"],
            "zero.offload_parameters: cpu is not supported by the optimizer "
            f"{HOME}:SgdAndAdamW; set it to none, {WAY_OUT}",
        ),
    ],
)
def test_each_mistake_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


def test_memory_and_checkpoints_are_estimated_from_its_state_tensors(run_file):
    overrides = ["model.n_embd=64", "zero.stage=0"]
    (adamw, toy) = (resolve(run_file, [*overrides, *more], 2) for more in ([], [TOY]))
    shape = toy[1].shape
    matrices = shape.n_layer * 12 * shape.n_embd**2  # which have one state tensor instead of two
    assert adamw[1].checkpoint_bytes == 12 * shape.parameters
    assert toy[1].checkpoint_bytes == 12 * shape.parameters - 4 * matrices
    (expected,) = (part for part in estimate(memory_inputs(*toy)) if part.name == "optimizer")
    assert expected.device == 8 * shape.padded_parameters - 4 * matrices
    partitioned = resolve(run_file, [*overrides, "zero.stage=1", TOY], 2)
    (part,) = (part for part in estimate(memory_inputs(*partitioned)) if part.name == "optimizer")
    assert part.device == pytest.approx((12 * shape.padded_parameters - 4 * matrices) / 2, abs=12)


def test_what_is_proposed_is_what_it_supports(run_file):
    overrides = ["model={preset: gpt2-1558m}", "batch.micro_batch_size=1"]
    proposed = [_first_fit(*resolve(run_file, [*overrides, *more], 8), 26 * GIB) for more in ([], [AT_STAGE_1])]
    assert proposed[0].startswith("with zero.stage=2 it needs ")
    assert "zero." not in proposed[1]


@pytest.fixture
def package(tmp_path):
    """An installed package that offers an optimizer."""
    (tmp_path / "lions_of_tests.py").write_text(
        "from tests.support.sgd_and_adamw import SgdAndAdamW\n\n\nclass Lion(SgdAndAdamW):\n    pass\n"
    )
    with installed(tmp_path, "lions", "gpt2dist.optimizers", lion="lions_of_tests:Lion"):
        yield
    sys.modules.pop("lions_of_tests", None)


def test_a_package_offers_one_by_name(run_file, package):
    config, _ = resolve(run_file, ["optimizer.kind=lion", "optimizer.options.momentum=0.5"], 1)
    assert config.optimizer.options == {"momentum": 0.5}
    assert "(known: adamw, muon, lion)" in mistakes(run_file, ["optimizer.kind=tiger"])[0]

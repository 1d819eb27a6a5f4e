"""What is said of a DeepSpeed that lacks what gpt2dist uses, or whose version is not a tested one."""

import logging
import re
import tomllib
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gpt2dist.distributed import deepspeed_probe
from gpt2dist.distributed.deepspeed_probe import (
    ENGINE,
    FRAGMENT,
    LOSS_SCALER,
    MAPPED_PARAMETER,
    MAPPING,
    OPTIMIZERS,
    PARTITIONED_PARAMETER,
    TESTED,
)
from gpt2dist.errors import UserError
from tests.support import REPOSITORY

DYNAMIC = ("DynamicLossScaler", ("dynamic", *LOSS_SCALER))


def fake(kind, names, **values):
    """An object of a class of this name, with these attributes."""
    return type(kind, (), dict.fromkeys(names, True) | values)()


def fake_engine(optimizer, without="", **options):
    """An engine with everything that its optimizer's class needs, except one attribute `Class.name`."""

    def some(kind, names, **values):
        kept = [name for name in names if f"{kind}.{name}" != without]
        return fake(kind, kept, **{name: value for name, value in values.items() if name in kept})

    scaler = some(*DYNAMIC)
    address = some("fragment_address", FRAGMENT)
    mapping = some("tensor_fragment", MAPPING, **dict.fromkeys(MAPPING, address))
    parameter = some("Parameter", PARTITIONED_PARAMETER + MAPPED_PARAMETER, _hp_mapping=mapping)
    return some(
        "DeepSpeedEngine",
        ENGINE,
        optimizer=some(optimizer, OPTIMIZERS.get(optimizer, ()), loss_scaler=scaler, **options),
        module=SimpleNamespace(parameters=lambda: iter([parameter])),
        zero_optimization=lambda self: True,
    )


NEEDED = [
    *(("DeepSpeedZeroOptimizer", f"DeepSpeedEngine.{name}") for name in ENGINE),
    *((kind, f"{kind}.{name}") for kind, names in OPTIMIZERS.items() for name in names),
    *(("DeepSpeedZeroOptimizer", f"DynamicLossScaler.{name}") for name in DYNAMIC[1]),
    *(("DeepSpeedZeroOptimizer_Stage3", f"Parameter.{name}") for name in PARTITIONED_PARAMETER),
    *(("DeepSpeedZeroOptimizer", f"Parameter.{name}") for name in MAPPED_PARAMETER),
    *(("DeepSpeedZeroOptimizer", f"tensor_fragment.{name}") for name in MAPPING),
    *(("DeepSpeedZeroOptimizer", f"fragment_address.{name}") for name in FRAGMENT),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_deepspeed_with_everything_is_fine(optimizer, caplog):
    deepspeed_probe.check_deepspeed(fake_engine(optimizer), "0.19.8")
    assert caplog.records == []


@pytest.mark.parametrize(("optimizer", "name"), NEEDED, ids=[name for _, name in NEEDED])
def test_each_missing_attribute_is_named(optimizer, name):
    with pytest.raises(UserError) as refused:
        deepspeed_probe.check_deepspeed(fake_engine(optimizer, without=name), "0.20.1")
    assert str(refused.value) == (
        f"DeepSpeed 0.20.1 lacks {name}, which gpt2dist uses; install a version with which gpt2dist is tested: "
        "pip install 'deepspeed>=0.19.8,<0.20'"
    )


def test_one_message_names_all_that_is_missing():
    engine = fake_engine("DeepSpeedZeroOptimizer", without="DeepSpeedEngine.step")
    del type(engine.optimizer).update_lp_params, type(engine.optimizer)._global_grad_norm
    with pytest.raises(
        UserError, match=r"lacks DeepSpeedEngine\.step, DeepSpeedZeroOptimizer\.update_lp_params, Deep"
    ):
        deepspeed_probe.check_deepspeed(engine, "0.20.1")


def test_a_static_loss_scaler_has_no_state():
    engine = fake_engine("DeepSpeedZeroOptimizer")
    type(engine.optimizer).loss_scaler = SimpleNamespace(dynamic=False)
    deepspeed_probe.check_deepspeed(engine, "0.19.8")


def test_an_optimizer_of_an_unknown_class():
    expected = (
        r"lacks DeepSpeedZeroOptimizer or .* \(unsupported DeepSpeed optimizer NewOptimizer\), which gpt2dist"
    )
    with pytest.raises(UserError, match=expected):
        deepspeed_probe.check_deepspeed(fake_engine("NewOptimizer"), "0.20.1")


def test_subclasses_of_a_known_optimizer_are_fine():
    engine = fake_engine("DeepSpeedZeroOptimizer")
    engine.optimizer.__class__ = type("ZenFlowZeroOptimizer", (type(engine.optimizer),), {})
    deepspeed_probe.check_deepspeed(engine, "0.19.8")


def test_stage_0_needs_no_optimizer_of_deepspeed():
    engine = fake_engine("AdamW")
    type(engine).zero_optimization = lambda self: False
    deepspeed_probe.check_deepspeed(engine, "0.19.8")


@pytest.mark.parametrize("version", ["0.20", "0.20.1", "1.0"])
def test_an_untested_version_with_everything_is_warned_of(version, caplog):
    deepspeed_probe.check_deepspeed(fake_engine("DeepSpeedZeroOptimizer"), version)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.WARNING,
            f"DeepSpeed {version}: gpt2dist is tested with deepspeed{TESTED} only; check the first losses of "
            "this run, or install a tested version",
        )
    ]


@pytest.mark.parametrize("version", ["0.18.9", "0.19.7"])
def test_a_version_that_is_known_to_be_wrong_is_refused(version):
    expected = (
        rf"DeepSpeed {version} is silently wrong \(.*\); install .* pip install 'deepspeed>=0\.19\.8,<0\.20'"
    )
    with pytest.raises(UserError, match=expected):
        deepspeed_probe.check_deepspeed(fake_engine("DeepSpeedZeroOptimizer"), version)


def test_the_tested_range_is_that_of_the_package_and_of_the_constraints():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    required = {Requirement(text).name: Requirement(text).specifier for text in project["dependencies"]}
    assert required["deepspeed"] == SpecifierSet(TESTED)
    lowest, pinned = (
        re.search(r"^deepspeed==(\S+)$", (REPOSITORY / name).read_text("utf-8"), re.M)[1]
        for name in ("constraints-lowest.txt", "constraints.txt")
    )
    assert f">={lowest}" in TESTED.split(",")
    assert SpecifierSet(TESTED).contains(pinned)

"""The engine uses only what its probe of DeepSpeed has looked for, and the tables hold nothing else."""

import re
import sys

import pytest

from gpt2dist.distributed import deepspeed_probe, launch_environment
from gpt2dist.distributed.world import join
from gpt2dist.preflight import resolve
from tests.support import REPOSITORY
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import train_here, write_run

PACKAGE = str(REPOSITORY / "gpt2dist")


def note_attributes(owner, names):
    """Add to `names` the attributes of a class's instances that our code reads or sets and that exist."""
    read, write = owner.__getattribute__, owner.__setattr__

    def ours():
        file = sys._getframe(2).f_code.co_filename
        return file.startswith(PACKAGE) and file != deepspeed_probe.__file__

    def noting_read(self, name):
        value = read(self, name)
        if not name.startswith("__") and ours():
            names.add(name)
        return value

    def noting_write(self, name, value):
        if ours():
            names.add(name)
        write(self, name, value)

    owner.__getattribute__, owner.__setattr__ = noting_read, noting_write


def used_attributes(config, overrides):
    """Train, save, resume and evaluate; return what was used of the engine, the optimizer and the scaler."""
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.base_optimizer import DeepSpeedOptimizer
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.fp16.loss_scaler import LossScalerBase

    from gpt2dist.training.verify_resume import verify_resume

    type(get_accelerator()).is_fp16_supported = lambda self: True
    used = {owner: set() for owner in (DeepSpeedEngine, DeepSpeedOptimizer, LossScalerBase)}
    for owner, names in used.items():
        note_attributes(owner, names)
    config, plan = resolve(config, overrides, launch_environment.world_size())
    assert verify_resume(config, plan, join(), 1) == []
    return list(used.values())


@pytest.mark.parametrize(
    ("stage", "precision", "optimizer", "unused", "unchecked"),
    [
        (1, "bf16", "BF16_Optimizer", set(), {"_global_grad_norm"}),  # its first step adds it
        (2, "fp16", "DeepSpeedZeroOptimizer", set(), set()),
        (3, "bf16", "DeepSpeedZeroOptimizer_Stage3", {"loss_scale"}, set()),  # used in fp16
    ],
)
def test_the_tables_hold_what_is_used(tiny_dataset, tmp_path, stage, precision, optimizer, unused, unchecked):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    overrides = [f"zero.stage={stage}", f"precision={precision}", "evaluation.every_steps=1"]
    ((engine, zero, scaler),) = run_ranks(used_attributes, 1, config, overrides)
    assert engine == set(deepspeed_probe.ENGINE)
    assert zero == set(deepspeed_probe.OPTIMIZERS[optimizer]) - unused | unchecked
    assert scaler == ({"dynamic", *deepspeed_probe.LOSS_SCALER} if precision == "fp16" else scaler & {"dynamic"})


def train_without_an_attribute(config, overrides):
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    del DeepSpeedZeroOptimizer.update_lp_params
    train_here(config, overrides)


def test_a_run_with_an_unfit_deepspeed_does_not_begin(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    expected = (
        r"UserError: DeepSpeed \S+ lacks DeepSpeedZeroOptimizer\.update_lp_params, which gpt2dist uses; install"
    )
    with pytest.raises(RankFailedError, match=expected):
        run_ranks(train_without_an_attribute, 1, config, ["zero.stage=1"])
    assert not (tmp_path / "run/metrics.jsonl").exists() and not (tmp_path / "run/starts").exists()


def test_parameters_have_no_other_attributes_of_deepspeed():
    text = (REPOSITORY / "gpt2dist/training/zero_state.py").read_text("utf-8")
    assert set(re.findall(r"\bds_\w+", text)) == set(deepspeed_probe.PARTITIONED_PARAMETER)
    assert set(re.findall(r"parameter\.(_\w+)", text)) == set(deepspeed_probe.MAPPED_PARAMETER)
    assert set(re.findall(r"\b\w+_fragment_address\b|\bget_hp_fragment\b", text)) == set(deepspeed_probe.MAPPING)

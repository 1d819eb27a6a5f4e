"""An optimizer from outside the package: exact at every stage, resumed bit by bit, with skipped steps."""

import json
import math

import pytest
import torch

from gpt2dist.errors import UserError
from tests.support.plain_pytorch import differences, plain_pytorch
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train_here, train_with_bad_steps, write_run

KIND = "tests.support.sgd_and_adamw:SgdAndAdamW"
TOY = [
    f"optimizer.kind={KIND}",
    "optimizer.options={momentum: 0.8, lr: 0.02}",
    "batch.micro_batch_size=2",
]
SUB_GROUPS = ["zero.deepspeed.zero_optimization.sub_group_size=9000"]
"""At stage 3, makes several vectors of a parameter group."""
SKIPPED = 3


def sgd_and_adamw(model):
    blocks = [p for name, p in model.named_parameters() if name.startswith("transformer.h.") and p.dim() == 2]
    embeddings = [p for name, p in model.named_parameters() if p.dim() == 2 and "transformer.h." not in name]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    sgd = torch.optim.SGD([{"params": blocks, "lr_ratio": 10}], lr=0, momentum=0.8, weight_decay=0.1)
    groups = [{"params": embeddings, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return [sgd, torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)]


@pytest.fixture(scope="module")
def reference(tiny_dataset):
    return run_ranks(plain_pytorch, 1, [tiny_dataset], [1], build_optimizers=sgd_and_adamw)[0]


def train_in_parts(config, words, home):
    """A run, and the same in two parts."""
    train_here(config, [*words, f"run.output_dir={home}/whole"])
    parts = [*words, f"run.output_dir={home}/parts", "checkpoint.keep_last=9"]
    train_here(config, [*parts, "run.stop_after_steps=9"])
    train_here(config, parts)


def train_in_parts_and_otherwise(config, words, home, other_stage):
    """Also its second part at another stage and with another optimizer, and a run with a bad step."""
    train_in_parts(config, words, home)
    middle = [f"run.output_dir={home}/other", f"checkpoint.resume={home}/parts/checkpoints/step-00000009"]
    train_here(config, [*words, *middle, f"zero.stage={other_stage}"])
    try:
        train_here(config, [f"run.output_dir={home}/whole"])
        refusal = ""
    except UserError as error:
        refusal = str(error)
    skipping = [f"run.output_dir={home}/skipped", "run.stop_after_steps=4", "checkpoint.every_steps=1"]
    train_with_bad_steps(config, [*words, *skipping, "checkpoint.keep_last=9"], (SKIPPED,), math.nan)
    return refusal


def tensors(run, step):
    files = json.loads((run / f"checkpoints/step-{step:08d}/manifest.json").read_text())["files"]
    return {name: record["sha256"] for name, record in files.items() if name.endswith(".safetensors")}


def state(run, step):
    return json.loads((run / f"checkpoints/step-{step:08d}/trainer_state.json").read_text())


def require_exact(home, reference):
    whole, parts = home / "whole", home / "parts"
    loss, norm = differences(whole, reference)
    assert loss < 1e-5 and norm < 1e-4
    assert metrics(parts, "train/loss") == metrics(whole, "train/loss")
    assert tensors(parts, 20) == tensors(whole, 20)
    assert (state(whole, 20)["optimizer"], state(whole, 20)["updates"]) == (KIND, 20)


@pytest.mark.parametrize("stage", [0, 2])
def test_is_exact_and_resumes_bit_by_bit(tiny_dataset, tmp_path, reference, stage):
    config = write_run(tmp_path, tiny_dataset)
    run_ranks(train_in_parts, 2, config, [*TOY, f"zero.stage={stage}"], tmp_path)
    require_exact(tmp_path, reference)


@pytest.mark.parametrize(("stage", "other_stage", "words"), [(1, 0, []), (3, 2, SUB_GROUPS)])
def test_resumes_at_another_stage_skips_steps_and_refuses_another_optimizer(
    tiny_dataset, tmp_path, reference, stage, other_stage, words
):
    config = write_run(tmp_path, tiny_dataset)
    words = [*TOY, *words, f"zero.stage={stage}"]
    refusal, _ = run_ranks(train_in_parts_and_otherwise, 2, config, words, tmp_path, other_stage)
    require_exact(tmp_path, reference)
    assert metrics(tmp_path / "other", "train/loss") == pytest.approx(reference[0][9:], abs=1e-5)
    skipped = tmp_path / "skipped"
    assert tensors(skipped, SKIPPED) == tensors(skipped, SKIPPED - 1) != tensors(skipped, SKIPPED + 1)
    assert state(skipped, 4)["updates"] == 3
    assert refusal.startswith(f"optimizer.kind: adamw cannot use all of the optimizer state in {tmp_path}/whole/")

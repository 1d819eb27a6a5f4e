"""Muon against torch's own at every stage and precision that it supports; resumed, skipped and refused."""

import itertools
import json
import math
import os
import re

import pytest

from gpt2dist.errors import UserError
from gpt2dist.preflight import resolve
from tests.distributed.test_exactness import PRECISIONS, STAGES, train_on_any_cpu
from tests.support.plain_muon import muon
from tests.support.plain_pytorch import STEPS, differences, plain_pytorch
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train_here, train_with_bad_steps, write_run

BATCH = 12  # windows of a step, which 1, 2 and 3 ranks divide
SKIPPED = 7
BOUND = {"fp32": 1e-5, "bf16": 2e-3, "autocast_bf16": 1e-3, "fp16": 1e-3}
"""Largest |Δloss| over 20 steps. In 16 bits, Newton–Schulz runs in bf16."""
ODD = {"n_embd": 25, "n_head": 5}
"""With three ranks, their borders are inside of matrices."""
MUON = [
    "optimizer.kind=muon",
    "optimizer.options={lr: 0.02, weight_decay: 0.05}",
    f"batch.global_batch_size={BATCH}",
    "batch.micro_batch_size=2",
]
WAYS_ODD = ["model.n_embd=25", "model.n_head=5"]
WAYS = {
    "plain": (["optimizer.clip_grad_norm=0"], {"clip": float("inf")}),
    "clipped, odd": (WAYS_ODD, ODD),
    "c_attn whole": (["optimizer.options.split_qkv=false"], {"split": False}),
    "original": (["optimizer.options.scaling=original"], {"adjust_lr_fn": "original"}),
    "aligned": (["zero.deepspeed.zero_optimization.parameter_alignment=true", *WAYS_ODD], ODD),
    "no Nesterov": (["optimizer.options.nesterov=false"], {"nesterov": False}),
}
CASES = list(itertools.product(STAGES, PRECISIONS))


def refusal(run_file, stage, precision):
    """What the preflight says against a combination; empty if nothing."""
    try:
        resolve(run_file, [*MUON, f"zero.stage={stage}", f"precision={precision}"], 2)
    except UserError as refused:
        return str(refused)
    return ""


def reference(dataset, **options):
    """Losses and gradient norms of torch's Muon."""
    of_loop = {key: options.pop(key) for key in ("clip", "n_embd", "n_head") if key in options}

    def build(model):
        return muon(model, **options)

    return run_ranks(plain_pytorch, 1, [dataset], [1], batch=BATCH, build_optimizers=build, **of_loop)[0]


@pytest.fixture(scope="module")
def references(tiny_dataset):
    return {way: reference(tiny_dataset, **options) for way, (_, options) in WAYS.items()}


@pytest.fixture
def run_file(tiny_dataset, tmp_path):
    return write_run(tmp_path, tiny_dataset)


def require_exact(run_file, words, reference, world_size, bound):
    run_ranks(train_on_any_cpu, world_size, run_file, [*MUON, *words])
    loss, norm = differences(run_file.parent / "run", reference)
    assert loss < bound
    assert norm < 1e-4 or bound > 1e-5


def test_the_ways_differ(references):
    # DeepSpeed's alignment of parameters moves them, but changes no number.
    finals = [losses[-1] for way, (losses, _) in references.items() if way != "aligned"]
    assert all(abs(a - b) > 1e-4 for a, b in itertools.combinations(finals, 2))


@pytest.mark.parametrize(
    ("stage", "world_size"),
    [
        (0, 3),
        (1, 3),
        (2, 2),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in ((0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 3))
        ),
    ],
)
def test_is_torchs_muon(run_file, references, stage, world_size):
    words = [*WAYS["clipped, odd"][0], f"zero.stage={stage}"]
    require_exact(run_file, words, references["clipped, odd"], world_size, BOUND["fp32"])


@pytest.mark.parametrize("way", [way for way in WAYS if way != "clipped, odd"])
def test_each_option_is_torchs(run_file, references, way):
    require_exact(run_file, [*WAYS[way][0], "zero.stage=1"], references[way], 2, BOUND["fp32"])


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        pytest.param(*case, marks=() if case == (1, "bf16") else pytest.mark.slow)
        for case in CASES
        if case[1] != "fp32"
    ],
)
def test_16_bits_are_near_or_refused(run_file, references, stage, precision):
    if refusal(run_file, stage, precision):
        return
    words = [*WAYS["clipped, odd"][0], f"zero.stage={stage}", f"precision={precision}"]
    require_exact(run_file, words, references["clipped, odd"], 2, BOUND[precision])


def files(run, step):
    found = json.loads((run / f"checkpoints/step-{step:08d}/manifest.json").read_text())["files"]
    return {name: record["sha256"] for name, record in found.items() if name.endswith(".safetensors")}


def train_in_parts(config, words, home):
    """A run, and the same in two parts."""
    train_here(config, [*words, f"run.output_dir={home}/whole"])
    parts = [*words, f"run.output_dir={home}/parts", "checkpoint.keep_last=9"]
    train_here(config, [*parts, "run.stop_after_steps=9"])
    train_here(config, parts)


@pytest.mark.parametrize(
    ("stage", "precision"),
    [(0, "fp32"), (1, "bf16"), pytest.param(2, "fp32", marks=pytest.mark.slow)],
)
def test_resumes_bit_by_bit_and_at_other_world_sizes(run_file, tmp_path, stage, precision):
    words = [*MUON, f"zero.stage={stage}", f"precision={precision}"]
    run_ranks(train_in_parts, 2, run_file, words, tmp_path)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert metrics(parts, "train/loss") == metrics(whole, "train/loss")
    assert files(parts, STEPS) == files(whole, STEPS)
    assert metrics(whole, "train/lr_muon") == pytest.approx([10 * lr for lr in metrics(whole, "train/lr")])
    bound = 1e-5 if precision == "fp32" else BOUND[precision]
    for world_size, other in ((1, 2), (3, 1)):
        out = [f"run.output_dir={tmp_path}/{world_size}", f"checkpoint.resume={parts}/checkpoints/step-00000009"]
        run_ranks(train_here, world_size, run_file, [*words, *out, f"zero.stage={other}"])
        ours = metrics(tmp_path / str(world_size), "train/loss")
        assert ours == pytest.approx(metrics(whole, "train/loss")[9:], abs=bound)


@pytest.mark.parametrize(
    "stage", [1, pytest.param(0, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_a_skipped_step_changes_nothing(run_file, tiny_dataset, tmp_path, stage):
    words = [*MUON, f"zero.stage={stage}", "checkpoint.every_steps=1", "checkpoint.keep_last=99"]
    run_ranks(train_with_bad_steps, 2, run_file, words, (SKIPPED,), math.nan)
    run = tmp_path / "run"
    assert files(run, SKIPPED) == files(run, SKIPPED - 1) != files(run, SKIPPED + 1)
    expected, _ = reference(tiny_dataset, skipped=SKIPPED)
    ours = metrics(run, "train/loss")
    good = [step for step in range(STEPS) if step != SKIPPED - 1]
    assert [ours[step] for step in good] == pytest.approx([expected[step] for step in good], abs=1e-5)


def train_as_adamw(config, words):
    """Train a step with AdamW, and the rest with Muon; return the refusal without `accept_changes`."""
    train_here(config, [*words, "run.stop_after_steps=1"])
    with pytest.raises(UserError) as refused:
        train_here(config, [*MUON, *words])
    train_here(config, [*MUON, *words, "checkpoint.accept_changes=[optimizer]"])
    return str(refused.value)


def test_a_run_of_adamw_becomes_one_of_muon_only_if_that_is_accepted(run_file, tmp_path):
    words = [f"batch.global_batch_size={BATCH}", "zero.stage=1"]
    (message,) = run_ranks(train_as_adamw, 1, run_file, words)
    assert message.startswith(
        f"optimizer.kind: muon cannot use all of the optimizer state in {tmp_path}/run/checkpoints/"
    )
    run = tmp_path / "run"
    assert len(metrics(run, "train/lr_muon")) == STEPS - 1
    losses = metrics(run, "train/loss")
    assert len(losses) == STEPS and losses[-1] < losses[0] - 0.1


def table(run_file):
    """The table: what is refused, and how far the rest may be from torch's Muon."""
    lines = ["| precision | stage 0 | stage 1 | stage 2 | stage 3 |", "|---|---|---|---|---|"]
    for precision in PRECISIONS:
        cells = [
            "refused" if refusal(run_file, stage, precision) else f"{BOUND[precision]:g}" for stage in STAGES
        ]
        lines.append(f"| {precision} | {' | '.join(cells)} |")
    return "\n".join(lines)


def test_the_table_in_the_documentation_is_this_one(run_file, repository):
    page = repository / "docs/design/exactness.md"
    pattern = r"(?<=<!-- muon -->\n).*?(?=\n<!-- end -->)"
    if os.environ.get("GPT2DIST_UPDATE_DOCS"):
        page.write_text(re.sub(pattern, lambda _: table(run_file), page.read_text(), flags=re.S))
    found = re.search(pattern, page.read_text(), flags=re.S)
    assert found and found[0] == table(run_file)

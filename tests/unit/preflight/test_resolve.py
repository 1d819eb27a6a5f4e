import re
import subprocess
import sys

import pytest
import yaml

from gpt2dist.config import Config
from gpt2dist.memory import GIB
from gpt2dist.plan import Plan
from gpt2dist.preflight import resolve
from gpt2dist.preflight.memory import estimate, memory_inputs, total
from tests.support.mistakes import mistakes
from tests.support.model_files import write_model


def test_the_plan_by_hand(run_file):
    config, plan = resolve(run_file, [], world_size=4)
    assert isinstance(config, Config)
    assert isinstance(plan, Plan)
    # 2,000 targets, the first window has 32 of them, each later one 20 more: 1 + ceil(1968 / 20) windows
    (training,) = plan.datasets
    assert (training.name, plan.part(training)) == ("right", 1)
    assert len(training.windows) == 100
    assert training.targets_per_epoch == 100 * 32
    assert plan.targets_per_step == 16 * 32
    assert (plan.world_size, plan.global_batch_size, plan.accumulation) == (4, 16, 2)
    assert (plan.total_steps, plan.epochs(training)) == (100, 16)
    assert plan.times_seen(training) == pytest.approx(16 * 3200 / 2000)
    assert (plan.sequence_length, plan.stride, plan.evaluation_stride) == (32, 20, 20)
    assert [(each.name, each.split) for each in plan.validation] == [("held-out", "val")]
    parameters = 50257 * 32 + 64 * 32 + 2 * (12 * 32**2 + 13 * 32) + 2 * 32
    assert plan.shape.parameters == parameters
    assert plan.checkpoint_bytes == 12 * parameters
    per_token = 6 * (parameters - 64 * 32) + 12 * 2 * 32 * 32
    assert plan.total_flops == 100 * 16 * 32 * per_token


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        # A misspelt key is one mistake, though the key that was meant is missing now.
        (["schedule.total_steps=", "schedule.total_step=100"], ["schedule.total_step"]),
        (["schedule.total_steps=", "schedule.total_tokens=many"], ["schedule.total_tokens"]),
        (["model={preset: gpt2-125m}", "data.sequence_length=32"], ["model.preset"]),
        (["model={pre_set: gpt2-124m}", "data.sequence_length=2000"], ["model.pre_set"]),
        (["batch.micro_batch_size=few", "batch.global_batch_size=3"], ["batch.micro_batch_size"]),
        (["data.train.0.path=3"], ["data.train.0.path"]),
        (["data.sequence_length=long", "data.stride=50"], ["data.sequence_length"]),
        (["data.validation=3", "evaluation.every_steps=5"], ["data.validation"]),
        (["run=here"], ["run"]),
        (["monitoring.samples={prompts: [a], every_step: 5}"], ["monitoring.samples.every_step"]),
    ],
)
def test_what_only_follows_from_a_mistake_is_not_told(run_file, overrides, keys):
    assert [line.split(":")[0] for line in mistakes(run_file, overrides, world_size=2)] == keys


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.stride=50", "schedule.total_steps=", "schedule.total_tokens=100"],
        ["model.context_length=", "data.sequence_length=", "schedule.total_steps=", "schedule.total_tokens=100"],
        ["batch={global_batch_size: 9000000000000000, micro_batch_size: 7}"],
        ["model={n_layer: 1, n_head: 9223372036854775807, n_embd: 9000000000000000, context_length: 64}"],
    ],
)
def test_mistakes_do_not_trip_the_checks_behind_them(run_file, overrides):
    mistakes(run_file, overrides)


def test_the_largest_numbers_make_an_enormous_plan(run_file):
    largest = {
        "model.n_layer": 10**4,
        "model.context_length": 10**7,
        "schedule.total_steps": 10**9,
        "batch.global_batch_size": 10**8,
    }
    overrides = [f"{key}={number}" for key, number in largest.items()]
    _, plan = resolve(run_file, [*overrides, "batch.micro_batch_size=1"], 1)
    assert plan.total_steps == 10**9
    assert plan.total_flops > 2**64  # no number wraps around


def test_five_mistakes_are_told_in_one_go_and_quickly(run_file):
    overrides = [
        "optimiser.lr=1e-3",
        "precision=bf16",
        "zero.stage=0",
        "batch.micro_batch_size=3",
        "data.train.0.path=nowhere",
        "schedule.warmup_steps=-1",
    ]
    command = [sys.executable, "-m", "gpt2dist", "validate", str(run_file), *overrides, "--world-size", "2"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"gpt2dist validate: {run_file}: 5 mistakes in the configuration",
        "  schedule.warmup_steps: should be at least 0, not -1",
        "  optimiser: unknown key; did you mean optimizer? `gpt2dist config` lists the keys",
        "  data.train.0.path: nowhere: no such directory; `gpt2dist preprocess` makes a dataset directory",
        "  batch.global_batch_size: 16 is not a multiple of micro_batch_size 3 × world size 2 = 6; "
        "these fit: global_batch_size 12 or 18, or micro_batch_size 1, 2, 4 or 8",
        "  precision: DeepSpeed computes bf16 at ZeRO stage 0 wrongly (an extra optimizer step "
        "at the start); "
        "set zero.stage to 1, 2 or 3, or precision to autocast_bf16",
    ]


# The recipes that come with the project


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-124m-muon", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
    ],
)
def test_the_recipes_resolve_for_eight_gpus(repository, make_dataset, tmp_path, name, parameters):
    dataset = make_dataset(train=[5000], val=[2000])
    paths = [f"data.train.0.path={dataset}", f"data.validation.0.path={dataset}", f"run.output_dir={tmp_path}"]
    config, plan = resolve(repository / "configs" / f"{name}.yaml", paths, world_size=8)
    assert plan.shape.parameters == parameters
    assert plan.accumulation * config.batch.micro_batch_size * 8 == plan.global_batch_size
    assert 450_000 < plan.targets_per_step < 600_000
    assert config.schedule.warmup_steps < plan.total_steps


@pytest.mark.parametrize(
    ("muon", "adamw", "also"),
    [
        ("gpt2-124m-muon", "gpt2-124m", set()),
        ("shakespeare-char", "shakespeare-char-nanogpt", {"schedule", "run"}),
    ],
)
def test_the_recipes_with_muon_change_nothing_else(repository, muon, adamw, also):
    ours, theirs = (
        yaml.safe_load((repository / "configs" / f"{name}.yaml").read_text()) for name in (muon, adamw)
    )
    assert ours["optimizer"].pop("kind") == "muon" and "kind" not in theirs["optimizer"]
    assert {key for key in ours if ours[key] != theirs[key]} <= {"optimizer"} | also
    assert ours.keys() == theirs.keys()


def test_the_recipe_for_finetuning_resolves_with_gpt2s_sizes(repository, make_dataset, tmp_path):
    sizes = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
    write_model(tmp_path / "gpt2", **sizes)
    dataset = make_dataset(train=[1_000_000], val=[50_000])
    overrides = [
        f"data.train.0.path={dataset}",
        f"data.validation.0.path={dataset}",
        f"run.output_dir={tmp_path}",
    ]
    recipe = repository / "configs" / "finetune-gpt2.yaml"
    config, plan = resolve(recipe, [*overrides, f"model.init_from={tmp_path / 'gpt2'}"], world_size=1)
    assert plan.shape.parameters == 124_439_808
    (epochs,) = (plan.epochs(each) for each in plan.datasets)
    assert epochs == pytest.approx(3, rel=0.02)  # what the comment says of a million tokens
    assert plan.times_seen(plan.datasets[0]) == pytest.approx(3, rel=0.02)
    assert config.schedule.warmup_steps < plan.total_steps / 10
    said = re.search(r"about (\d+) GiB", recipe.read_text()).group(1)
    assert f"{total(estimate(memory_inputs(config, plan))) / GIB:.0f}" == said

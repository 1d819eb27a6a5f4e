import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.plan import Plan
from gpt2dist.preflight import resolve

RIGHT = """
model: {n_layer: 2, n_head: 4, n_embd: 32, context_length: 64}
data:
  train: [{path: DATASET}]
  validation: [{name: held-out, path: DATASET}]
  sequence_length: 32
  stride: 20
batch: {global_batch_size: 16, micro_batch_size: 2}
schedule: {total_steps: 100, warmup_steps: 10}
run: {output_dir: OUTPUT}
"""


@pytest.fixture
def run_file(tmp_path, make_dataset) -> Path:
    """A right configuration: 2,001 training tokens, 300 for validation."""
    dataset = make_dataset("right", train=[1500, 501], val=[300])
    path = tmp_path / "run.yaml"
    path.write_text(RIGHT.replace("DATASET", str(dataset)).replace("OUTPUT", str(tmp_path / "out")))
    return path


def refusal(path: Path, overrides: list[str], world_size: int = 1) -> UserError:
    with pytest.raises(UserError) as raised:
        resolve(path, overrides, world_size)
    return raised.value


def mistakes(path: Path, overrides: list[str], world_size: int = 1) -> list[str]:
    head, *lines = str(refusal(path, overrides, world_size)).split("\n  ")
    assert head == f"{path}: {len(lines)} mistake{'s' if len(lines) > 1 else ''} in the configuration"
    return lines


# The plan


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


def test_the_plan_of_new_targets(run_file):
    _, plan = resolve(run_file, ["data.loss_on=new"], 1)
    (training,) = plan.datasets
    assert training.targets_per_epoch == 2000
    assert plan.targets_per_step == pytest.approx(16 * 2000 / 100)
    assert plan.times_seen(training) == pytest.approx(16)


@pytest.mark.parametrize(
    ("loss_on", "tokens", "steps"),
    [("all", 16 * 32 * 30, 30), ("all", 16 * 32 * 30 + 1, 31), ("new", 320 * 30, 30), ("new", 320 * 30 + 1, 31)],
)
def test_total_tokens_are_reached_and_not_by_a_step_too_many(run_file, loss_on, tokens, steps):
    overrides = ["schedule.total_steps=null", f"schedule.total_tokens={tokens}", f"data.loss_on={loss_on}"]
    assert resolve(run_file, overrides, 1)[1].total_steps == steps


def test_lengths_and_strides_that_are_not_given(run_file):
    unset = ["data.stride=null", "data.sequence_length=null"]
    _, plan = resolve(run_file, unset, 1)
    assert (plan.sequence_length, plan.stride, plan.evaluation_stride) == (64, 32, 32)
    _, plan = resolve(run_file, ["model.context_length=null", "evaluation.stride=7"], 1)
    assert (plan.shape.context_length, plan.stride, plan.evaluation_stride) == (32, 20, 7)


def test_a_preset_gives_the_sizes_and_a_key_beside_it_overrides_one(run_file):
    preset = "model={preset: gpt2-355m, n_layer: 3}"
    _, plan = resolve(run_file, [preset], 1)
    shape = plan.shape
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.context_length) == (3, 16, 1024, 1024)


def test_a_dataset_of_one_split_can_be_validated_on_if_it_is_another(run_file, make_dataset):
    other = make_dataset("other", train=[77])
    _, plan = resolve(run_file, [f"data.validation=[{{path: {other}}}]"], 1)
    assert [(each.name, each.split, each.dataset.directory) for each in plan.validation] == [
        ("val", "train", other)
    ]


def test_raw_deepspeed_keys_that_touch_nothing_of_ours_are_fine(run_file):
    resolve(run_file, ["zero.deepspeed={zero_optimization: {reduce_bucket_size: 1000}, comms_logger: {}}"], 1)


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (0, "autocast_bf16"), (1, "bf16"), (3, "fp16")])
def test_stages_and_precisions_that_work_together(run_file, stage, precision):
    resolve(run_file, [f"zero.stage={stage}", f"precision={precision}"], 1)


# Each message


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.n_layer="],
            "model.n_layer: missing; set it, or model.preset to gpt2-124m, gpt2-355m, gpt2-774m or gpt2-1558m",
        ),
        (
            ["model={context_length: 64}"],
            "model.preset: missing; set it to gpt2-124m, gpt2-355m, gpt2-774m or gpt2-1558m, "
            "or set model.n_layer, n_head and n_embd",
        ),
        (["model.n_head=5"], "model.n_head: 5 does not divide n_embd 32; 2, 4 or 8 would"),
        (["model.n_embd=1"], "model.n_head: 4 does not divide n_embd 1; 1 would"),
        (
            ["model.context_length=", "data.sequence_length=", "data.stride="],
            "data.sequence_length: missing; set it (tokens per window)",
        ),
        (
            ["data.sequence_length=65"],
            "data.sequence_length: 65 is more than the 64 positions of the model; lower it, or raise "
            "model.context_length",
        ),
        (["data.stride=33"], "data.stride: 33 would skip tokens; it must be at most data.sequence_length 32"),
        (
            ["evaluation.stride=40"],
            "evaluation.stride: 40 would skip tokens; it must be at most data.sequence_length 32",
        ),
        (["data.train="], "data.train: must name a dataset: `train: [{path: DATASET}]`"),
        (
            ["data.train.0.path=none"],
            "data.train.0.path: none: no such directory; `gpt2dist preprocess` makes a dataset directory",
        ),
        (
            [f"data.train.0.path={'x' * 300}"],
            f"data.train.0.path: {'x' * 300}: File name too long; name a dataset directory",
        ),
        (
            ["data.validation.0.path=none"],
            "data.validation.0.path: none: no such directory; `gpt2dist preprocess` makes a dataset directory",
        ),
        (
            ["data.validation=", "evaluation.every_steps=5"],
            "evaluation.every_steps: there is nothing to evaluate on; name a dataset under "
            "data.validation, or remove it",
        ),
        (
            ["batch.micro_batch_size=3"],
            "batch.global_batch_size: 16 is not a multiple of micro_batch_size 3 × world size 1 = 3; "
            "would fit: global_batch_size 15 or 18, or micro_batch_size 1, 2, 4, 8 or 16",
        ),
        (
            ["batch.micro_batch_size=32"],
            "batch.global_batch_size: 16 is not a multiple of micro_batch_size 32 × world size 1 = 32; "
            "would fit: global_batch_size 32, or micro_batch_size 1, 2, 4, 8 or 16",
        ),
        (["schedule.total_steps="], "schedule.total_steps: missing; set it, or schedule.total_tokens"),
        (
            ["schedule.total_tokens=9"],
            "schedule.total_steps: schedule.total_tokens is set too; keep one of the two",
        ),
        (
            ["schedule.warmup_steps=100"],
            "schedule.warmup_steps: 100 leaves nothing of the 100 steps for after the warmup; lower "
            "it, or raise schedule.total_steps",
        ),
        (
            ["schedule.total_steps=", "schedule.total_tokens=5120"],
            "schedule.warmup_steps: 10 leaves nothing of the 10 steps for after the warmup; lower it, "
            "or raise schedule.total_tokens",
        ),
        (
            ["zero.stage=3", "precision=autocast_bf16"],
            "precision: autocast_bf16 at ZeRO stage 3 rounds some of the fp32 weights on their way in DeepSpeed, "
            "and differently after a resume; set zero.stage to 0, 1 or 2, or precision to bf16",
        ),
        (
            ["zero.stage=0", "precision=bf16"],
            "precision: bf16 at ZeRO stage 0 is silently wrong in DeepSpeed (an extra optimizer step "
            "at the start); "
            "set zero.stage to 1, 2 or 3, or precision to autocast_bf16",
        ),
        (
            ["zero.stage=0", "precision=fp16"],
            "precision: fp16 at ZeRO stage 0 is silently wrong in DeepSpeed (the loss is not scaled, "
            "the gradient is unscaled); "
            "set zero.stage to 1, 2 or 3",
        ),
        (
            ["zero.deepspeed={zero_optimization: {stage: 3}}"],
            "zero.deepspeed.zero_optimization.stage: is made from zero.stage; remove it here and set that",
        ),
        (
            ["zero.deepspeed={optimizer: {type: Adam}}"],
            "zero.deepspeed.optimizer: is made from the optimizer section; remove it here and set that",
        ),
        (
            ["zero.deepspeed={steps_per_print: 1}"],
            "zero.deepspeed.steps_per_print: is set by gpt2dist itself; remove it here",
        ),
        (
            ["monitoring.samples.prompts=[a]"],
            "monitoring.samples.every_steps: missing; samples need both prompts and every_steps",
        ),
        (
            ["monitoring.samples.every_steps=5"],
            "monitoring.samples.prompts: missing; samples need both prompts and every_steps",
        ),
        (
            ["checkpoint.resume=yesterday"],
            "checkpoint.resume: yesterday is no checkpoint (it has no manifest.json); set auto, never "
            "or a checkpoint's path",
        ),
        (
            [f"checkpoint.resume={'x' * 300}"],
            f"checkpoint.resume: {'x' * 300} is no checkpoint (it has no manifest.json); set auto, "
            "never or a checkpoint's path",
        ),
    ],
)
def test_each_mistake_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


def test_a_world_size_that_does_not_divide_the_batch_leaves_only_other_batches(run_file):
    assert mistakes(run_file, [], world_size=3) == [
        "batch.global_batch_size: 16 is not a multiple of micro_batch_size 2 × world size 3 = 6; "
        "would fit: global_batch_size 12 or 18"
    ]


def test_a_file_where_the_run_should_live(run_file, tmp_path):
    (tmp_path / "file").touch()
    message = f"run.output_dir: {tmp_path / 'file'} is a file; name a directory"
    assert mistakes(run_file, [f"run.output_dir={tmp_path / 'file'}"]) == [message]
    assert mistakes(run_file, [f"run.output_dir={tmp_path / 'file' / 'below'}"]) == [message]


def test_a_directory_that_is_no_dataset(run_file, tmp_path):
    (tmp_path / "empty").mkdir()
    (line,) = mistakes(run_file, [f"data.train.0.path={tmp_path / 'empty'}"])
    assert line.startswith(
        f"data.train.0.path: {tmp_path / 'empty'}: not a dataset directory, it has no manifest.json"
    )


def test_datasets_that_cannot_be_trained_on(run_file, make_dataset):
    val_only, short = make_dataset("val-only", val=[500]), make_dataset("short", train=[32])
    assert mistakes(run_file, ["data.validation=", f"data.train.0.path={val_only}"]) == [
        f"data.train.0.path: {val_only} has no train split; preprocess the corpus with a smaller --val-fraction"
    ]
    assert mistakes(run_file, ["data.validation=", f"data.train.0.path={short}"]) == [
        f"data.train.0.path: {short} has 32 training tokens, fewer than one window of 32 + 1; "
        "give it more text or lower data.sequence_length"
    ]
    just_enough = make_dataset("just-enough", train=[33])
    assert resolve(run_file, [f"data.train.0.path={just_enough}"], 1)[1].mixture.windows == (1,)


def test_datasets_that_cannot_be_validated_on(run_file, make_dataset):
    train_only, other = (
        make_dataset("train-only", train=[500]),
        make_dataset("other", tokenizer="b" * 64, val=[9]),
    )
    single, empty = make_dataset("single", val=[1]), make_dataset("empty")
    right = run_file.parent / "right"
    for dataset, message in [
        (other, f"was made with another tokenizer than {right}; preprocess both with one"),
        (single, "has no two tokens to score; give it more text"),
        (empty, "has no two tokens to score; give it more text"),
    ]:
        line = f"data.validation.0.path: {dataset} {message}"
        assert mistakes(run_file, [f"data.validation.0.path={dataset}"]) == [line]
    overrides = [f"data.train.0.path={train_only}", f"data.validation.0.path={train_only}"]
    assert mistakes(run_file, overrides) == [
        f"data.validation.0.path: {train_only} has no val split and is what the run trains on; "
        "preprocess it with --val-fraction, or name another dataset"
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_dataset_whose_files_are_not_whole(run_file, make_dataset, split):
    dataset = make_dataset("torn", train=[500, 70], val=[40])
    key = "data.train.0.path" if split == "train" else "data.validation.0.path"
    with open(dataset / f"{split}-00000.bin", "r+b") as file:
        file.truncate(6)
    message, detail, *rest = str(refusal(run_file, [f"{key}={dataset}"])).split("\n")[1:]
    assert message.startswith(f"  {key}: {dataset}: its files are not whole; copy the dataset again")
    assert detail.startswith(f"    {dataset}/{split}-00000.bin: has 6 bytes, the manifest says ")
    assert rest == []


# Several datasets


def blended(*entries: str) -> list[str]:
    return ["data.validation=", f"data.train=[{', '.join(entries)}]"]


def test_the_plan_of_a_blend_by_hand(run_file, make_dataset):
    other = make_dataset("other", train=[333])
    entries = f"{{path: {run_file.parent}/right, weight: 0.75}}", f"{{path: {other}, weight: 0.25}}"
    _, plan = resolve(run_file, [*blended(*entries), "data.loss_on=new"], 1)
    right, small = plan.datasets
    assert [each.name for each in plan.datasets] == ["right", "other"]
    # 332 targets, the first window has 32 of them, each later one 20 more: 1 + 300 / 20 windows
    assert plan.mixture.windows == (100, 16)
    assert (right.share, small.share) == plan.mixture.shares == (3, 1)
    assert (plan.part(right), plan.part(small)) == (0.75, 0.25)
    assert (plan.epochs(right), plan.epochs(small)) == (0.75 * 16, 0.25 * 1600 / 16)
    assert plan.times_seen(small) == plan.epochs(small)
    assert plan.targets_per_step == pytest.approx(16 * (0.75 * 2000 / 100 + 0.25 * 332 / 16))


@pytest.mark.parametrize(("tokens", "steps"), [(3230, 40), (3231, 41)])
def test_the_steps_of_a_blend_are_counted_in_whole_numbers(run_file, make_dataset, tokens, steps):
    # A step is 3 samples of 20 targets on average and 1 of 332 / 16: 80.75 targets.
    other = make_dataset("other", train=[333])
    wide = make_dataset("wide", train=[20 * 100 + 1])
    entries = f"{{path: {wide}, weight: 3}}", f"{{path: {other}, weight: 1}}"
    overrides = [*blended(*entries), "data.loss_on=new", "schedule.total_steps=", "batch.global_batch_size=4"]
    _, plan = resolve(run_file, [*overrides, f"schedule.total_tokens={tokens}"], 1)
    assert plan.total_steps == steps


def test_names_are_as_long_as_it_takes(run_file, make_dataset, tmp_path):
    paths = []
    for number, parent in enumerate(("a", "b")):
        (tmp_path / parent).mkdir()
        paths.append(make_dataset(f"{parent}/dataset", train=[100 + number]))
    entries = [f"{{path: {path}, weight: 1}}" for path in (*paths, tmp_path / "right")]
    _, plan = resolve(run_file, blended(*entries), 1)
    assert [each.name for each in plan.datasets] == ["a/dataset", "b/dataset", f"{tmp_path.name}/right"]


def test_blends_that_cannot_be_trained_on(run_file, make_dataset):
    right = run_file.parent / "right"
    other, foreign = make_dataset("other", train=[500]), make_dataset("foreign", tokenizer="b" * 64, train=[500])
    named = f"{{path: {right}, weight: 1}}"
    for second, *lines in [
        (
            f"{{path: {other}}}",
            "data.train.1.weight: missing; of several datasets each needs one; its part of all tokens would be "
            "0.1999",
        ),
        (
            f"{{path: {foreign}, weight: 1}}",
            f"data.train.1.path: {foreign} was made with another tokenizer than {right}; "
            "preprocess both with one",
        ),
        (
            f"{{path: {right}/../right, weight: 1}}",
            f"data.train.1.path: {right}/../right is the same data as {right}; "
            "name it once, with the sum of the weights",
        ),
        (
            f"{{path: {other}, weight: 0.123456789}}",
            "data.train: the weights 1, 0.123456789 are exact only over more than 100,000 samples; "
            "round them, such as to 0.8901, 0.1099",
        ),
        (
            f"{{path: {other}, weight: 1e-300}}",
            "data.train: the weights 1, 1e-300 are exact only over more than 100,000 samples; "
            "round them, such as to 1, 0.0001",
        ),
        (f"{{path: {other}, weight: 0}}", "data.train.1.weight: should be greater than 0, not 0"),
        (f"{{path: {other}, weight: .inf}}", "data.train.1.weight: should be a finite number, not inf"),
    ]:
        assert mistakes(run_file, blended(named, second)) == lines
    both = [f"{{path: {path}}}" for path in (right, other)]
    assert [line.split(":")[0] for line in mistakes(run_file, blended(*both))] == [
        "data.train.0.weight",
        "data.train.1.weight",
    ]


def test_two_validation_sets_of_one_name(run_file):
    path = run_file.parent / "right"
    assert mistakes(run_file, [f"data.validation=[{{path: {path}}}, {{path: {path}}}]"]) == [
        "data.validation.1.name: 'val' names two validation sets; give each its own name"
    ]


# Several mistakes


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


def test_enormous_numbers_make_an_enormous_plan(run_file):
    most = 2**63 - 1
    keys = ("model.n_layer", "model.context_length", "schedule.total_steps", "batch.global_batch_size")
    _, plan = resolve(run_file, [f"{key}={most}" for key in keys] + ["batch.micro_batch_size=1"], 1)
    assert plan.total_steps == most
    assert plan.total_flops > 1e50


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
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.monotonic() - start

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"gpt2dist validate: {run_file}: 5 mistakes in the configuration",
        "  schedule.warmup_steps: should be greater than or equal to 0, not -1",
        "  optimiser: unknown key; did you mean optimizer?",
        "  data.train.0.path: nowhere: no such directory; `gpt2dist preprocess` makes a dataset directory",
        "  batch.global_batch_size: 16 is not a multiple of micro_batch_size 3 × world size 2 = 6; "
        "would fit: global_batch_size 12 or 18, or micro_batch_size 1, 2, 4 or 8",
        "  precision: bf16 at ZeRO stage 0 is silently wrong in DeepSpeed (an extra optimizer step "
        "at the start); "
        "set zero.stage to 1, 2 or 3, or precision to autocast_bf16",
    ]
    assert seconds < 3  # the project's promise


# The recipes that come with the project


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
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

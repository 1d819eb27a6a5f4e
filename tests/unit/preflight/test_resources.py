"""Memory and disk: what does not suffice, and that the change that is named mends it."""

import re
import shutil
from collections import namedtuple

import pytest

from gpt2dist.errors import UserError
from gpt2dist.memory import GIB
from gpt2dist.preflight import resolve
from gpt2dist.preflight.memory import estimate, memory_inputs, total
from gpt2dist.preflight.resources import checkpoint_space, require_resources

LARGE = [
    *("model={preset: gpt2-1558m}", "data.sequence_length=1024", "batch.global_batch_size=512"),
    "precision=bf16",
]
WORLD = 8


@pytest.fixture
def large(run_file, make_dataset):
    dataset = make_dataset("large", train=[5000])
    return [*LARGE, f"data.train.0.path={dataset}", "data.validation="]


def needed(run_file, overrides, world_size=WORLD):
    config, plan = resolve(run_file, overrides, world_size)
    return total(estimate(memory_inputs(config, plan)))


@pytest.mark.parametrize(
    ("overrides", "gib", "key", "change"),
    [
        # States take 13.8 GiB at stage 1, 8.7 of them gradients, which stage 2 partitions.
        ([], 16, "batch.micro_batch_size", "zero.stage=2"),
        ([], 13, "zero.stage", "zero.stage=2"),
        (["model.loss=plain", "batch.micro_batch_size=16"], 55, "batch.micro_batch_size", "model.loss=chunked"),
        (["zero.stage=2", "batch.micro_batch_size=16"], 40, "batch.micro_batch_size", "batch.micro_batch_size=8"),
        (
            ["zero.stage=2", "batch.micro_batch_size=1"],
            9,
            "batch.micro_batch_size",
            "model.activation_checkpointing=true",
        ),
        (
            [],
            6,
            "zero.stage",
            "zero.stage=2 zero.offload_optimizer=cpu batch.micro_batch_size=1 "
            "model.activation_checkpointing=true",
        ),
    ],
)
def test_the_change_that_is_named_is_the_first_that_fits(run_file, large, overrides, gib, key, change):
    config, plan = resolve(run_file, [*large, *overrides], WORLD)
    with pytest.raises(UserError) as refused:
        require_resources("run.yaml", config, plan, int(gib * GIB))
    head, line = str(refused.value).splitlines()
    assert head == "run.yaml: 1 mistake in the configuration"
    assert line.startswith(f"  {key}: ")
    words, said = re.search(r"; with (.*) it needs ([\d.]+) GiB$", line).groups()
    assert words == change
    fits = needed(run_file, [*large, *overrides, *words.split()])
    assert fits <= gib * GIB
    assert said == f"{fits / GIB:.1f}"


def test_what_fits_is_not_told(run_file, large):
    config, plan = resolve(run_file, large, WORLD)
    require_resources("run.yaml", config, plan, needed(run_file, large))
    require_resources("run.yaml", config, plan, None)


def test_what_nothing_makes_fit(run_file, large):
    config, plan = resolve(run_file, large, WORLD)
    message = r"no change of batch, ZeRO stage or offload brings it below [\d.]+ GiB; use more or larger GPUs"
    with pytest.raises(UserError, match=message):
        require_resources("run.yaml", config, plan, GIB)


@pytest.mark.parametrize(
    ("checkpoint", "checkpoints"),
    [
        ("{every_steps: 10, keep_last: 3}", 4),
        ("{keep_last: 3}", 1),  # at the end only
        ("{every_steps: 40, keep_last: 5}", 3),  # 40, 80, 100
        ("{every_minutes: 30, keep_last: 5}", 6),
        ("{every_steps: 10, keep_last: 3, keep_every: 25}", 4 + 2),  # 50 and 100
        ("{every_steps: 10, keep_last: 3, keep_best: eval/held-out/loss}", 5),
        ("{every_steps: 80, keep_last: 3, keep_best: eval/held-out/loss}", 3),  # 40, 80 and 100
        ("{every_steps: 10, keep_last: 3, keep_every: 20, keep_best: eval/held-out/loss}", 5 + 5),
    ],
)
def test_the_space_of_all_checkpoints(run_file, checkpoint, checkpoints):
    config, plan = resolve(run_file, [f"checkpoint={checkpoint}", "evaluation.every_steps=40"], 1)
    assert checkpoint_space(config, plan) == checkpoints * plan.checkpoint_bytes


def test_a_disk_that_is_too_small_and_one_that_holds_a_part_already(run_file, tmp_path, monkeypatch):
    config, plan = resolve(run_file, ["checkpoint={every_steps: 10, keep_last: 3}"], 1)
    size, usage = plan.checkpoint_bytes, namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3 * size) if path == tmp_path else None)
    with pytest.raises(UserError) as refused:
        require_resources("run.yaml", config, plan)
    assert str(refused.value).splitlines()[1] == (
        f"  run.output_dir: {tmp_path} has 58.9 MB free; checkpoint.keep_last + 1 = 4 checkpoints of 19.6 MB "
        "need 78.5 MB; free some space, keep fewer, or set a directory on a larger disk"
    )
    uploaded, _ = resolve(
        run_file,
        ["checkpoint={every_steps: 10, keep_last: 3, on_commit: 'tests.support.uploads:upload'}"],
        1,
    )
    with pytest.raises(UserError, match=r"checkpoint\.keep_last \+ 3 = 6 checkpoints of 19\.6 MB need 118 MB"):
        require_resources("run.yaml", uploaded, plan)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3 * size))
    checkpoint = tmp_path / "out" / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    with open(checkpoint / "model.safetensors", "wb") as file:
        file.truncate(size)
    require_resources("run.yaml", config, plan)


def test_a_directory_where_no_file_can_be_made(run_file):
    config, plan = resolve(run_file, ["run.output_dir=/proc/here"], 1)
    with pytest.raises(
        UserError, match=r"run.output_dir: nothing can be created in /proc \(.+\); name another place"
    ):
        require_resources("run.yaml", config, plan)


def test_looking_leaves_no_trace(run_file, tmp_path):
    config, plan = resolve(run_file, [], 1)
    before = tmp_path.stat().st_mtime_ns, sorted(tmp_path.iterdir())
    require_resources("run.yaml", config, plan)
    assert (tmp_path.stat().st_mtime_ns, sorted(tmp_path.iterdir())) == before


@pytest.mark.parametrize("name", ["gpt2-124m", "gpt2-124m-muon", "gpt2-355m", "gpt2-774m", "gpt2-1558m"])
def test_the_recipes_take_what_their_comments_say(repository, make_dataset, tmp_path, name):
    dataset = make_dataset(train=[5000], val=[2000])
    recipe = repository / "configs" / f"{name}.yaml"
    paths = [f"data.train.0.path={dataset}", f"data.validation.0.path={dataset}", f"run.output_dir={tmp_path}"]
    said = re.search(r"about (\d+) GiB each", recipe.read_text()).group(1)
    assert f"{needed(recipe, paths) / GIB:.0f}" == said

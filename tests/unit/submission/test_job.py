"""What a job asks for, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.submission.job import (
    SchedulerJob,
    Work,
    parse_environment,
    require_fit_for_scripts,
    require_positive,
)
from gpt2dist.submission.options import flag
from gpt2dist.submission.schedulers.kubernetes import Kubernetes
from gpt2dist.submission.schedulers.local import Local
from gpt2dist.submission.schedulers.slurm import Slurm, seconds

HOME = Path("/runs/a")
TRAINING = Work("train", "a", (), HOME, (HOME,), config=Config.model_construct(), run=HOME)
SCORING = Work("evaluate", "a", ("a",), HOME, (HOME,))
JOB = SchedulerJob(TRAINING, HOME / "001", HOME, "python", nodes=2, gpus_per_node=8)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 5400),
        ("10:30", 630),
        ("1:00:00", 3600),
        ("2-0", 172_800),
        ("1-2:03", 93_780),
        ("1-02:03:04", 93_784),
    ],
)
def test_times_as_slurm_writes_them(time, expected):
    assert seconds(time) == expected


@pytest.mark.parametrize("time", ["", "two hours", "1:2:3:4", "1-", "-5", "1h", "1-1:2:3:4"])
def test_other_times_are_refused(time):
    with pytest.raises(UserError, match=r"^--time .*: write minutes, H:MM:SS, or D-HH:MM:SS"):
        seconds(time)


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        (Slurm(time="5"), "--time 5: must be above the 300 seconds kept for saving; give more time, or set"),
        (Slurm(save_seconds=0), "--save-seconds 0: must be at least 1"),
        (Slurm(cpus_per_node=0), "--cpus-per-node 0: must be at least 1"),
        (Slurm(mem="64GB"), "--mem 64GB: write the memory of each node, as 64G (K, M, G or T; 0 for all)"),
        (Slurm(mem=""), "--mem : write the memory of each node"),
        (Slurm(sbatch=("qos=high",)), "--sbatch qos=high: write an option of sbatch, as --sbatch=--qos=high"),
    ],
)
def test_what_slurm_would_refuse_is_refused_before(slurm, message):
    with pytest.raises(UserError) as raised:
        slurm.check(TRAINING)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--nodes=4", "nodes"),
        ("--nodes 4", "nodes"),
        ("--node=4", "nodes"),
        ("-N4", "nodes"),
        ("-N 4", "nodes"),
        ("-HN4", "nodes"),
        ("--qos=high --nodes=4", "nodes"),
        ("--'nodes'=4", "nodes"),
        ("-n 8", "ntasks"),
        ("--ntasks-per-n=8", "ntasks-per-node"),
        ("--gpus=8", "gpus"),
        ("-G8", "gpus"),
        ("-o log", "output"),
        ("--out=log", "output"),
        ("--wrap=true", "wrap"),
        ("--array=0-3", "array"),
        ("--no-requeue", "no-requeue"),
        ("--signal=TERM@60", "signal"),
        ("-D/tmp", "chdir"),
        ("-Jx", "job-name"),
        ("-t 5", "time"),
        ("-pgpu", "partition"),
        ("-A me", "account"),
        ("-c4", "cpus-per-task"),
        ("--mem=0", "mem"),
        ("--mem-per-cpu=4G", "mem-per-cpu"),
        ("--mem-per-g=4G", "mem-per-gpu"),
        ("--gres=gpu:8", "gres"),
    ],
)
def test_options_of_sbatch_that_contradict_what_was_checked_are_refused(option, name):
    with pytest.raises(UserError) as raised:
        Slurm(sbatch=(option,)).check(TRAINING)
    assert str(raised.value).startswith(f"--sbatch {option}: submit sets or relies on --{name}; omit it (")


@pytest.mark.parametrize(
    "option", ["--time-min=60", "--no-kill", "-C a100", "--gres-flags=none", "-xn7", "-w nodeN", "-H"]
)
def test_other_options_of_sbatch_are_passed_on(option):
    Slurm(sbatch=(option,)).check(TRAINING)


@pytest.mark.parametrize(
    ("gres", "message"),
    [
        ("gpu:a100:4", "--gres gpu:a100:4: 4 GPUs on each node, but --gpus-per-node is 8; give the same number"),
        ("gpu", "1 GPUs on each node, but --gpus-per-node is 8"),
        ("gpu:a100", "1 GPUs on each node, but --gpus-per-node is 8"),
        ("gpu:a100:4,gpu:h100:5", "9 GPUs on each node, but --gpus-per-node is 8"),
        ("gpu:a100:x:4", "write NAME[:TYPE]:COUNT, as gpu:a100:8; separate several by commas"),
        ("gpu:8,", "write NAME[:TYPE]:COUNT"),
        ("gpu 8", "write NAME[:TYPE]:COUNT"),
        ("", "write NAME[:TYPE]:COUNT"),
    ],
)
def test_resources_that_are_not_the_gpus_of_the_ranks_are_refused(gres, message):
    with pytest.raises(UserError) as raised:
        Slurm(gres=gres).check_resources(JOB)
    assert message in str(raised.value)


def test_preprocessing_takes_no_gpus_by_gres():
    job = dataclasses.replace(JOB, gpus_per_node=0)
    with pytest.raises(UserError, match="--gres gpu:8: 8 GPUs on each node, but the job uses none"):
        Slurm(gres="gpu:8").check_resources(job)
    Slurm(gres="lustre:1").check_resources(job)


def test_right_resources_pass():
    for gres in (None, "gpu:8", "gpu:a100:8", "gpu:a100:4,gpu:h100:4", "nvme:2", "nvme:2,gpu:8", "craynetwork"):
        Slurm(gres=gres).check_resources(JOB)
    for mem in ("0", "64G", "1t", "500"):
        Slurm(mem=mem).check(TRAINING)


@pytest.mark.parametrize("option", ["", " ", "--comment='a"])
def test_what_is_no_option_of_sbatch_is_refused(option):
    with pytest.raises(UserError, match=r": write an option of sbatch, as --sbatch=--qos=high"):
        Slurm(sbatch=(option,)).check(TRAINING)


@pytest.mark.parametrize("path", ["/data/a,b", "/data/a:b"])
def test_paths_that_a_container_cannot_mount_are_refused(path):
    work = dataclasses.replace(TRAINING, paths=(Path(path),))
    Slurm().check(work)
    with pytest.raises(
        UserError, match=rf"^{path}: a container cannot mount a path with '[,:]', which separates"
    ):
        Slurm(container_image="image").check(work)


def test_a_blank_image_is_refused():
    with pytest.raises(UserError, match=r"^--container-image: is empty; name an image, or omit it"):
        Slurm(container_image=" ").check(TRAINING)


def test_a_right_request_passes():
    Slurm(time="5:01", cpus_per_node=1, sbatch=("--qos=high", "-x n7")).check(TRAINING)


def test_work_that_is_not_asked_to_stop_may_have_any_limit():
    Slurm(time="5").check(SCORING)
    with pytest.raises(
        UserError, match=r"^--save-seconds: only training and `evaluate --watch` save before the time limit"
    ):
        Slurm(save_seconds=5).check(SCORING)


def test_the_environment_is_taken_apart():
    assert parse_environment(["A=1", "B_2=x=y", "C="]) == {"A": "1", "B_2": "x=y", "C": ""}


@pytest.mark.parametrize("word", ["A", "=1", "1A=2", "A B=1", "$(rm)=1"])
def test_a_variable_without_a_right_name_is_refused(word):
    with pytest.raises(UserError, match="write NAME=VALUE"):
        parse_environment([word])


def fit(work=TRAINING, scheduler=None, environment=None, directory="/home/me", python="/usr/bin/python3"):
    require_fit_for_scripts(work, scheduler or Slurm(), environment or {}, Path(directory), python)


def test_what_is_printable_fits():
    awkward = dataclasses.replace(
        SCORING, arguments=("it's data", "$(rm) ü 数据\u00a0"), paths=(Path("/a b/#c;d"),)
    )
    fit(awkward, Kubernetes("image:1", ("data:/a b",)), {"A": "x=y z"}, "/tmp/100%")


ODD = {"\n": "a control character", "\x1b": "a control character", "\x85": "a control character"}
ODD |= {
    "\u2028": "a line separator",
    "\u2029": "a paragraph separator",
    "\udcff": "a byte that is not UTF-8",
}


@pytest.mark.parametrize("odd", ODD)
def test_what_a_script_cannot_hold_is_refused(odd):
    text = f"a{odd}touch X"
    with pytest.raises(UserError) as refused:
        fit(environment={"NOTE": text})
    assert str(refused.value) == (
        f"--env NOTE: {text!r} has {ODD[odd]} ({odd!r}), which a job script must not contain; rename it, or "
        "write it without"
    )


def options_of(kind):
    """Each option of a scheduler that is text, with a newline in it."""
    for field in dataclasses.fields(kind):
        if "str" in str(field.type):
            yield kind, field.name, ("a\nb",) if "Sequence" in str(field.type) else "a\nb"


@pytest.mark.parametrize(
    ("kind", "name", "value"), [*options_of(Slurm), *options_of(Kubernetes), *options_of(Local)]
)
def test_no_option_of_a_scheduler_may_have_a_newline(kind, name, value):
    with pytest.raises(UserError, match=rf"^{flag(name)}: 'a\\nb' has a control character"):
        fit(scheduler=kind(**{name: value}))


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"name": "a\nb"}, "the name of the job"),
        ({"arguments": ("a\nb",)}, "train"),
        ({"submissions_directory": Path("/a\nb")}, "a path of the job"),
        ({"paths": (HOME, Path("/a\nb"))}, "a path of the job"),
        ({"run": Path("/a\nb")}, "run.output_dir"),
    ],
)
def test_nothing_of_the_work_may_have_a_newline(change, label):
    with pytest.raises(UserError, match=rf"^{label}: '/?a\\nb' has a control character"):
        fit(dataclasses.replace(TRAINING, **change))


def test_where_the_job_works_may_have_no_newline():
    with pytest.raises(UserError, match=r"^the working directory: "):
        fit(directory="/a\nb")
    with pytest.raises(UserError, match=r"^the interpreter: "):
        fit(python="/a\nb/python")


def test_a_count_is_at_least_one():
    with pytest.raises(UserError, match=r"--nodes 0: must be at least 1, the machines"):
        require_positive("--nodes", 0, "the machines")

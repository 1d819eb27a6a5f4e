"""The rendered scripts: as the golden files, right for bash and shellcheck, and safe with awkward names."""

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gpt2dist.submission.job import SchedulerJob, Work
from gpt2dist.submission.schedulers import slurm
from gpt2dist.submission.schedulers.kubernetes import Kubernetes
from gpt2dist.submission.schedulers.local import Local
from gpt2dist.submission.schedulers.slurm import Slurm
from tests.support import REPOSITORY

GOLDEN = REPOSITORY / "tests/golden/submission"


class Written:
    """A configuration as far as a job knows it."""

    def to_yaml(self) -> str:
        return "run:\n  name: gpt2-124m\n"


RUN = Path("/home/me/runs/gpt2-124m")
TRAINING = Work(
    "train",
    name="gpt2-124m",
    arguments=(),
    submissions_directory=RUN / "submission",
    paths=(RUN, Path("/data/web"), Path("/home/me/data")),
    config=Written(),
    run=RUN,
)
WATCHING = Work(
    "evaluate",
    name="evaluate-gpt2-124m",
    arguments=("runs/gpt2-124m", "--data", "it's data", "--all-checkpoints", "--watch"),
    submissions_directory=RUN / "submission",
    paths=(RUN, Path("/home/me/it's data")),
    endless=True,
)
CORPUS = Work(
    "preprocess",
    name="preprocess-web",
    arguments=("dumps/*.jsonl", "--tokenizer", "gpt2", "--output", "/data/web"),
    submissions_directory=Path("/data/web.submission"),
    paths=(Path("/home/me/dumps"), Path("/data")),
)
JOB = SchedulerJob(
    TRAINING,
    submission_directory=RUN / "submission/001",
    working_directory=Path("/home/me"),
    python="/home/me/.venv/bin/python",
    nodes=2,
    gpus_per_node=8,
    environment={"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's mine"},
)
EVALUATION = dataclasses.replace(JOB, work=WATCHING, submission_directory=RUN / "submission/002")
ARRAY = dataclasses.replace(
    JOB, work=CORPUS, submission_directory=Path("/data/web.submission/001"), nodes=1, gpus_per_node=0, tasks=64
)
FULL = Slurm(
    partition="a100",
    account="lab",
    time="1-12",
    save_seconds=120,
    cpus_per_node=64,
    container_image="nvcr.io#nvidia/pytorch:25.10-py3",
    sbatch=("--qos=high",),
)
CLUSTER = Kubernetes(
    "registry/gpt2dist:1",
    ("training:/home/me", "texts:/data"),
    namespace="lab",
    cpus_per_node=64,
    save_seconds=120,
)
IN_IMAGE = dataclasses.replace(JOB, python="python")
AWKWARD = dataclasses.replace(
    JOB, submission_directory=Path("/home/o'neil & co/$HOME/100%/{{run}}/001"), working_directory=Path("/tmp/a b")
)
ARRAY_FILES = Slurm(cpus_per_node=16).files(ARRAY)
FILES = {
    "slurm.sh": Slurm(time="24:00:00").files(JOB)["job.sh"],
    "slurm-container.sh": FULL.files(JOB)["job.sh"],
    "slurm-evaluate.sh": Slurm().files(EVALUATION)["job.sh"],
    "slurm-preprocess.sh": FULL.files(dataclasses.replace(ARRAY, tasks=1))["job.sh"],
    "slurm-array.sh": ARRAY_FILES["job.sh"],
    "slurm-finish.sh": ARRAY_FILES["finish.sh"],
    "slurm-dask.sh": Slurm().files(dataclasses.replace(ARRAY, tasks=1, dask=True, nodes=4))["job.sh"],
    "local.sh": Local().files(dataclasses.replace(JOB, nodes=1))["job.sh"],
    "local-preprocess.sh": Local().files(dataclasses.replace(ARRAY, tasks=1))["job.sh"],
    "kubernetes.yaml": CLUSTER.files(IN_IMAGE)["job.yaml"],
}


def of_pods(job: SchedulerJob) -> str:
    """What the pods of a job run."""
    return next(yaml.safe_load_all(CLUSTER.files(job)["job.yaml"]))["data"]["job.sh"]


SCRIPTS = {
    **{name: text for name, text in FILES.items() if name.endswith(".sh")},
    "kubernetes-train.sh": of_pods(IN_IMAGE),
    "kubernetes-evaluate.sh": of_pods(dataclasses.replace(EVALUATION, python="python")),
    "kubernetes-preprocess.sh": of_pods(dataclasses.replace(ARRAY, tasks=1)),
}
ALL = {
    **SCRIPTS,
    "awkward.sh": FULL.files(AWKWARD)["job.sh"],
    "awkward-local.sh": Local().files(AWKWARD)["job.sh"],
    "awkward-kubernetes.sh": of_pods(AWKWARD),
}


@pytest.mark.parametrize("name", list(FILES))
def test_a_script_is_the_golden_one(name):
    """After a change that is meant, GPT2DIST_WRITE_GOLDEN=1 writes them anew."""
    if os.environ.get("GPT2DIST_WRITE_GOLDEN"):
        (GOLDEN / name).write_text(FILES[name], encoding="utf-8")
    assert FILES[name] == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(ALL))
def test_bash_can_parse_it(name):
    done = subprocess.run(["bash", "-n"], input=ALL[name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "{{" not in ALL[name].replace("{{run}}", "")


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_shellcheck_finds_nothing(name):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-"], input=SCRIPTS[name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_awkward_paths_reach_the_commands_as_they_are():
    """bash itself says what it makes of them."""
    lines = [line for line in ALL["awkward.sh"].splitlines() if line.startswith(("record=", "export NOTE="))]
    done = subprocess.run(
        ["bash", "-euc", "\n".join([*lines, 'printf "%s\\n" "$record" "$NOTE"'])], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [str(AWKWARD.submission_directory), "it's mine"]


def test_a_percent_sign_in_the_path_of_the_log_is_none_of_slurms_patterns():
    assert slurm.log_pattern(AWKWARD, "job-%j") == "/home/o'neil & co/$HOME/100%%/{{run}}/001/job-%j.log"


def test_what_is_not_asked_for_is_left_to_slurm():
    directives = re.findall(r"^#SBATCH (--[a-z-]+)", Slurm().files(JOB)["job.sh"], re.MULTILINE)
    assert "--exclusive" in directives
    assert not {"--partition", "--account", "--time", "--cpus-per-task"} & set(directives)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["--gpus-per-node=8", "--exclusive", "--mem=0"]),
        ({"mem": "64G"}, ["--gpus-per-node=8", "--exclusive", "--mem=64G"]),
        ({"cpus_per_node": 8}, ["--gpus-per-node=8", "--cpus-per-task=8"]),
        ({"cpus_per_node": 8, "mem": "64G"}, ["--gpus-per-node=8", "--cpus-per-task=8", "--mem=64G"]),
        ({"gres": "gpu:a100:8"}, ["--gres=gpu:a100:8", "--exclusive", "--mem=0"]),
        ({"gres": "nvme:1"}, ["--gpus-per-node=8", "--gres=nvme:1", "--exclusive", "--mem=0"]),
    ],
)
def test_what_a_node_gives_to_the_job(options, expected):
    script = Slurm(**options).files(JOB)["job.sh"]
    asked = re.findall(r"^#SBATCH (--(?:gpus|gres|exclusive|cpus|mem).*)", script, re.MULTILINE)
    assert asked == expected


def test_of_nested_directories_a_container_gets_the_outermost():
    paths = [Path("/a/b"), Path("/a"), Path("/c/d"), Path("/a/b/c"), Path("/c/d"), Path("/ab")]
    assert slurm.outermost(paths) == [Path("/a"), Path("/ab"), Path("/c/d")]

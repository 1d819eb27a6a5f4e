"""The rendered scripts: as the golden files, right for bash and shellcheck, and safe with awkward names."""

import dataclasses
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gpt2dist.submission import local, slurm
from gpt2dist.submission.plan import Job
from gpt2dist.submission.slurm import Request

GOLDEN = Path(__file__).resolve().parents[2] / "golden/submission"
JOB = Job(
    name="gpt2-124m",
    run=Path("/home/me/runs/gpt2-124m"),
    record=Path("/home/me/runs/gpt2-124m/submission/001"),
    directory=Path("/home/me"),
    python="/home/me/.venv/bin/python",
    nodes=2,
    gpus_per_node=8,
    environment={"NCCL_SOCKET_IFNAME": "ib0", "NOTE": "it's mine"},
)
FULL = Request(
    partition="a100",
    account="lab",
    time="1-12",
    save_seconds=120,
    cpus_per_node=64,
    container_image="nvcr.io#nvidia/pytorch:25.10-py3",
    options=("--qos=high",),
)
AWKWARD = dataclasses.replace(JOB, record=Path("/home/o'neil & co/$HOME/100%/001"), directory=Path("/tmp/a b"))
SCRIPTS = {
    "slurm.sh": slurm.script(JOB, Request(time="24:00:00")),
    "slurm-container.sh": slurm.script(JOB, FULL, [Path("/data/web"), Path("/home/me/data")]),
    "local.sh": local.script(dataclasses.replace(JOB, nodes=1)),
}
ALL = {**SCRIPTS, "awkward.sh": slurm.script(AWKWARD, FULL), "awkward-local.sh": local.script(AWKWARD)}


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_a_script_is_the_golden_one(name):
    """After a change that is meant, GPT2DIST_WRITE_GOLDEN=1 writes them anew."""
    if os.environ.get("GPT2DIST_WRITE_GOLDEN"):
        (GOLDEN / name).write_text(SCRIPTS[name], encoding="utf-8")
    assert SCRIPTS[name] == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(ALL))
def test_bash_can_parse_it(name):
    done = subprocess.run(["bash", "-n"], input=ALL[name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "{{" not in ALL[name]


@pytest.mark.parametrize("name", list(SCRIPTS))
def test_shellcheck_finds_nothing(name):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-"], input=SCRIPTS[name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_shellcheck_finds_nothing_in_the_test_bed(repository):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", str(repository / "tools/slurm_testbed.sh")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_awkward_paths_reach_the_commands_as_they_are():
    """bash itself says what it makes of them."""
    lines = [line for line in ALL["awkward.sh"].splitlines() if line.startswith(("record=", "export NOTE="))]
    done = subprocess.run(
        ["bash", "-euc", "\n".join([*lines, 'printf "%s\\n" "$record" "$NOTE"'])], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [str(AWKWARD.record), "it's mine"]


def test_a_percent_sign_in_the_path_of_the_log_is_none_of_slurms_patterns():
    assert slurm.log_pattern(AWKWARD) == "/home/o'neil & co/$HOME/100%%/001/job-%j.log"


def test_what_is_not_asked_for_is_left_to_slurm():
    directives = re.findall(r"^#SBATCH (--[a-z-]+)", slurm.script(JOB, Request()), re.MULTILINE)
    assert "--exclusive" in directives
    assert not {"--partition", "--account", "--time", "--cpus-per-task"} & set(directives)


def test_of_nested_directories_a_container_gets_the_outermost():
    paths = [Path("/a/b"), Path("/a"), Path("/c/d"), Path("/a/b/c"), Path("/c/d"), Path("/ab")]
    assert slurm.outermost(paths) == [Path("/a"), Path("/ab"), Path("/c/d")]

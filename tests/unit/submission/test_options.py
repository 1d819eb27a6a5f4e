"""Options of schedulers, above all of one that another package has: `tests/support/pbs.py`."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys

import pytest

from gpt2dist import cli
from gpt2dist.submission.options import add_options, find_schedulers, options_of
from gpt2dist.submission.schedulers import BUILTIN
from gpt2dist.submission.schedulers.base import Scheduler, option
from tests.support.packages import installed
from tests.support.pbs import PBS
from tests.support.runs import write_run

NAME = "tests.support.pbs:PBS"
TOY = ["--scheduler", NAME, "--gpus-per-node", "4"]


@pytest.fixture
def run_file(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path, tiny_dataset)


@pytest.fixture
def qsub(tmp_path, monkeypatch):
    """A stand-in for PBS, which prints the file `answer` and appends its arguments to the file `calls`."""
    home = tmp_path / "bin"
    home.mkdir()
    (home / "qsub").write_text(f'#!/bin/sh\necho "$@" >>{home}/calls\ncat {home}/answer\n')
    (home / "qsub").chmod(0o755)
    (home / "answer").write_text("4711.pbs\n")
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return home


@pytest.fixture
def package(tmp_path):
    """An installed package that offers the scheduler as "pbs"."""
    with installed(tmp_path / "site", "mytools", "gpt2dist.schedulers", pbs=NAME):
        yield


def submit(*words: object) -> int:
    return cli.main(["submit", *map(str, words)])


def help_text(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        submit(*words, "--help")
    assert exit_.value.code == 0
    return capsys.readouterr().out


def test_help_has_the_options_of_a_scheduler_of_another_package_once_it_is_named(capsys):
    assert "--queue" not in help_text(capsys)
    text = help_text(capsys, "--scheduler", NAME)
    for group in ("slurm and kubernetes and " + NAME, "slurm and " + NAME, NAME, "slurm and kubernetes", "slurm"):
        assert f"\n{group}:\n" in text
    assert text.count("--queue NAME") == 1
    assert "--time HOURS" in text and "--time LIMIT" not in text  # its own declaration counts


def test_help_imports_neither_pydantic_nor_yaml_nor_torch():
    code = (
        "import sys; from gpt2dist.cli import build_parser; build_parser('submit').format_help(); "
        "print(sorted({'pydantic', 'yaml', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_dry_run_writes_and_prints_its_script(run_file, tmp_path, qsub, capsys):
    assert submit(run_file, *TOY, "--queue", "gpu", "--time", 3, "--dry-run") == 0
    out, err = capsys.readouterr()
    directory = tmp_path / "run/submission/001"
    assert out == (directory / "job.pbs").read_text()
    assert "#PBS -q gpu\n#PBS -l select=1:ngpus=4\n#PBS -l walltime=3:00:00\n" in out
    assert f" launch --nproc-per-node 4 train {directory}/config.yaml\n" in out
    assert f"the files are in {directory}; to submit them: qsub {directory}/job.pbs" in err
    assert not (qsub / "calls").exists()


@pytest.mark.parametrize("name", [NAME, "pbs"])
def test_a_job_is_submitted_and_status_shows_it_where_the_package_is_missing(
    run_file, tmp_path, qsub, package, capsys, monkeypatch, name
):
    assert submit(run_file, "--scheduler", name, "--gpus-per-node", 4, "--queue", "gpu") == 0
    directory = tmp_path / "run/submission/001"
    assert (qsub / "calls").read_text() == f"{directory}/job.pbs\n"
    assert capsys.readouterr().err == (
        f"qsub {directory}/job.pbs\nbatch job 4711.pbs, its files are in {directory}\n"
        "  qstat 4711.pbs\n  qdel 4711.pbs\n"
    )
    facts = json.loads((directory / "submission.json").read_text())
    assert (facts["scheduler"], facts["jobs"], facts["asked"]["queue"]) == (name, ["4711.pbs"], "gpu")
    monkeypatch.setitem(sys.modules, "tests.support.pbs", None)  # importing it fails from now on
    assert cli.main(["status", "run"]) == 0
    said = capsys.readouterr().out
    assert f"submitted: 0 s ago, {name} 4711.pbs; its output will be in" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partition", "x"], "--partition: for --scheduler slurm only; omit it"),
        (["--save-seconds", "9"], "--save-seconds: for --scheduler slurm or kubernetes only; omit it"),
        (
            ["--nodes", "2"],
            f"--nodes 2: not with --scheduler {NAME}, which has one node for each job; omit it",
        ),
        (
            ["--job", "preprocess"],
            "--job preprocess: not with --scheduler tests.support.pbs:PBS, whose nodes are kept",
        ),
        (["--tasks", "2"], f"--tasks: for --scheduler slurm only, not {NAME}, which has no arrays; omit it"),
        (["--time", "-1"], "--time -1: must be at least 1, the hours of walltime"),
        (
            ["--queue", "a\ntouch X"],
            r"--queue: 'a\ntouch X' has a control character ('\n'), which a job script must",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_and_leaves_nothing(run_file, tmp_path, qsub, capsys, words, message):
    assert submit(run_file, *TOY, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not (qsub / "calls").exists()


def test_its_options_are_unknown_to_other_schedulers(run_file, capsys):
    with pytest.raises(SystemExit) as exit_:
        submit(run_file, "--scheduler", "local", "--gpus-per-node", 1, "--queue", "gpu")
    assert exit_.value.code == 2
    assert "unrecognized arguments: --queue" in capsys.readouterr().err


def test_a_scheduler_that_returns_no_ids_is_reported(run_file, qsub, capsys):
    (qsub / "answer").write_text("")
    assert submit(run_file, *TOY) == 1
    assert (
        "submit() returned [] instead of a list of job ids, so `gpt2dist status` cannot"
        in capsys.readouterr().err
    )


@dataclasses.dataclass(frozen=True)
class Incomplete(Scheduler):
    pass


@dataclasses.dataclass(frozen=True)
class Demanding(PBS):
    queue: str = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class Clashing(PBS):
    nodes: int | None = option(type=int, help="submit has this one")


@dataclasses.dataclass(frozen=True)
class Misnamed(PBS):
    words: str | None = option(help="the command line has this attribute")


@dataclasses.dataclass(frozen=True)
class Mistyped(PBS):
    colour: str | None = option(meta="X")


not_a_class = PBS()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "pbs",
            "unknown scheduler 'pbs' (known: slurm, local, kubernetes); write one of these, or package.module:",
        ),
        (
            "nowhere:PBS",
            "nowhere:PBS cannot be imported (ModuleNotFoundError: No module named 'nowhere'); install",
        ),
        (
            "HERE:not_a_class",
            "HERE:not_a_class is not a dataclass; decorate the class with @dataclasses.dataclass(",
        ),
        (
            "HERE:Incomplete",
            "HERE:Incomplete cannot be created without options (Can't instantiate abstract class",
        ),
        ("HERE:Demanding", "missing 1 required keyword-only argument: 'queue'); give each field `= option(…)`"),
        (
            "HERE:Clashing",
            "its option --nodes cannot be added (argument --nodes: conflicting option string: --nodes)",
        ),
        ("HERE:Misnamed", "its option --words cannot be added (submit uses that name); change that field"),
        ("HERE:Mistyped", "its option --colour cannot be added ("),
    ],
)
def test_says_what_is_wrong_with_a_scheduler(capsys, monkeypatch, name, message):
    monkeypatch.setitem(sys.modules, "outside_scheduler", sys.modules[__name__])
    with pytest.raises(SystemExit) as exit_:
        submit("run.yaml", "--scheduler", name.replace("HERE", "outside_scheduler"), "--gpus-per-node", 1)
    assert exit_.value.code == 2
    said = capsys.readouterr().err
    assert f"error: --scheduler {name}: ".replace("HERE", "outside_scheduler") in said
    assert message.replace("HERE", "outside_scheduler") in said


def test_ours_can_be_created_without_options_and_have_what_they_do_not_rule_out():
    for name, scheduler in find_schedulers().items():
        assert dataclasses.astuple(scheduler()) == (None,) * len(dataclasses.fields(scheduler))
        assert ("tasks" in options_of(scheduler)) == (name == "slurm")
    assert list(find_schedulers()) == list(BUILTIN)


def test_all_that_ours_declare_has_a_help_text():
    parser = argparse.ArgumentParser()
    add_options(parser, find_schedulers())
    assert all(action.help for action in parser._actions)

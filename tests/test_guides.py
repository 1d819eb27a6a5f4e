"""The guides cannot rot: their commands parse, their files exist, and their Python runs."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from runs import train, write_run

from gpt2dist.cli import build_parser
from gpt2dist.commands.launch import split


def guides(repository):
    return sorted((repository / "docs/guides").glob("*.md"))


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def home(tiny_dataset, tmp_path_factory):
    """A directory with the run that the guides speak of."""
    home = tmp_path_factory.mktemp("guides")
    run = train(write_run(home, tiny_dataset), "schedule.total_steps=2", "schedule.warmup_steps=1")
    (home / "runs").mkdir()
    run.rename(home / "runs/quickstart")
    return home


def test_every_gpt2dist_command_parses(repository):
    commands = [
        line
        for page in guides(repository)
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("gpt2dist ")
    ]
    assert commands
    for command in commands:
        arguments = shlex.split(command)[1:]
        if arguments[0] == "launch":
            _, arguments = split(arguments[1:])
        build_parser(arguments[0]).parse_args(arguments)


def test_every_link_leads_somewhere(repository):
    for page in guides(repository):
        for name in re.findall(r"\]\(([\w./-]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / name).exists(), f"{page.name}: {name}"


def test_the_library_example_of_evaluation_runs(repository, home):
    (example,) = blocks(repository / "docs/guides/evaluation.md", "python")
    environment = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-c", example.replace("stride=64", "stride=16")],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\.\d{3} bits per byte over \d+ tokens\n", done.stdout)

"""The guides cannot rot: their commands parse, the files that they name exist, and their Python runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import train, write_run
from test_readme import blocks

from gpt2dist.cli import build_parser
from gpt2dist.commands.launch import split

GUIDES = sorted((Path(__file__).resolve().parent.parent / "docs" / "guides").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_its_commands_parse_and_its_files_exist(guide, repository):
    text = guide.read_text(encoding="utf-8")
    for block in blocks(text, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["gpt2dist"]:
                continue
            arguments = split(words[2:])[1] if words[1] == "launch" else words[1:]
            build_parser(arguments[0]).parse_args(arguments)
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (guide.parent / name).exists(), name
    for name in re.findall(r"`?((?:tests|tools|configs|gpt2dist)/[\w/.-]+\.(?:py|yaml))", text):
        assert (repository / name).is_file(), name


def test_the_library_example_of_evaluation_runs(repository, tiny_dataset, tmp_path):
    run = train(write_run(tmp_path, tiny_dataset), "schedule.total_steps=2", "schedule.warmup_steps=1")
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs/quickstart")
    (example,) = blocks((repository / "docs/guides/evaluation.md").read_text(encoding="utf-8"), "python")
    done = subprocess.run(
        [sys.executable, "-c", example.replace("stride=64", "stride=16")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\.\d{3} bits per byte over \d+ tokens\n", done.stdout)

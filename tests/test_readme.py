"""The README cannot rot: its commands parse, its files exist, its run directory is what a run leaves."""

import re
import shlex
import subprocess

import pytest
from torch.distributed import run as torchrun

from gpt2dist.cli import VERBS, build_parser
from gpt2dist.commands.launch import split, with_defaults
from tests.support import REPOSITORY
from tests.support.markdown import blocks
from tests.support.runs import train, write_run

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*/*.md"))]


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def test_every_gpt2dist_command_parses_and_every_verb_is_shown():
    verbs = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in blocks(text, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                verbs |= parse(shlex.split(line, comments=True))
    assert verbs == set(VERBS)


def parse(words):
    """Parse a command of ours and return its verbs; nothing for commands of others."""
    if words[:1] != ["gpt2dist"]:
        return set()
    arguments = words[1:]
    if words[1] == "launch":  # torchrun's options, then another of our verbs
        options, arguments = split(words[2:])
        torchrun.parse_args([*with_defaults(options, gpus=8), "-m", "gpt2dist"])
    build_parser(arguments[0]).parse_args(arguments)
    return {words[1], arguments[0]}


def test_the_make_targets_exist(readme, repository):
    targets = set(re.findall(r"\$ make (\w+)", readme)) | set(re.findall(r"`make (\w+)", readme))
    assert targets == {"quickstart", "test"}
    for target in targets:
        dry = subprocess.run(["make", "-n", target], cwd=repository, capture_output=True, text=True, timeout=30)
        assert dry.returncode == 0, dry.stderr


def test_every_file_that_is_named_exists(readme, repository):
    named = re.findall(r"(?:gpt2dist|configs|launch|docs)/[\w./-]*\w/?", readme)
    named += re.findall(r"\]\(([\w./-]+)\)", readme)
    assert len(named) > 20
    assert [name for name in named if not (repository / name).exists()] == []


def test_the_design_pages_name_tests_that_exist(repository):
    text = (repository / "docs/design/README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[\w/.]+)`", text) + [
        f"docs/design/{n}" for n in re.findall(r"\((\w+\.md)\)", text)
    ]:
        assert (repository / name).exists(), name


def test_the_tree_of_a_run_directory_is_true(repository, tiny_dataset, tmp_path):
    page = (repository / "docs/reference/run-directory.md").read_text(encoding="utf-8")
    (tree,) = [block for block in blocks(page, "") if block.startswith("runs/NAME/")]
    best = ["evaluation.every_steps=20", "checkpoint.keep_best=eval/val/loss"]
    run = train(write_run(tmp_path, tiny_dataset, validation=True), "monitoring.tensorboard=true", *best)
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    left = {re.sub(r"events\.out\.tfevents\..*", "", name) for name in left}
    assert left == set(files_of(tree))


def files_of(tree):
    """The paths that an indented tree names: words before the run of spaces that begins a remark."""
    parents = {}
    for line in tree.splitlines()[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.split(r"\s{2,}", line.strip())[0].split()
        parent = parents.get(depth - 1, "")
        for name in names:
            if name.endswith("/"):
                parents[depth] = parent + name
                if name == "tensorboard/":
                    yield parent + name
            else:
                yield parent + name

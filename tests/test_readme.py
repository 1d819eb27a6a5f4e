"""The README cannot rot: its commands parse, its files exist, its run directory is what a run leaves."""

import re
import shlex
import subprocess

import pytest
from torch.distributed import run as torchrun

from gpt2dist.cli import VERBS, build_parser
from gpt2dist.commands.launch import split, with_defaults
from tests.support.markdown import blocks
from tests.support.runs import train, write_run


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def test_every_gpt2dist_command_parses(readme):
    commands = [
        line
        for block in blocks(readme, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if "gpt2dist" in line
    ]
    commands += re.findall(r"`(gpt2dist (?:train|validate) [^`…]*)`", readme)
    verbs = set()
    for command in commands:
        words = shlex.split(command)
        if "gpt2dist" not in words:  # tensorboard --logdir runs
            continue
        arguments = words[words.index("gpt2dist") + 1 :]
        verbs.add(arguments[0])
        if arguments[0] == "launch":  # torchrun's options, then another of our verbs
            options, arguments = split(arguments[1:])
            torchrun.parse_args([*with_defaults(options, gpus=8), "-m", "gpt2dist"])
        build_parser(arguments[0]).parse_args(arguments)
        verbs.add(arguments[0])
    assert verbs == set(VERBS)


def test_the_make_targets_exist(readme, repository):
    targets = set(re.findall(r"\$ make (\w+)", readme)) | set(re.findall(r"`make (\w+)", readme))
    assert targets == {"quickstart", "test", "check", "nightly"}
    for target in targets:
        dry = subprocess.run(["make", "-n", target], cwd=repository, capture_output=True, text=True, timeout=30)
        assert dry.returncode == 0, dry.stderr


def test_every_file_that_is_named_exists(readme, repository):
    named = set(re.findall(r"(?:gpt2dist|configs|launch|docs)/[\w./-]+\.(?:py|yaml|sh|md)", readme))
    assert len(named) > 15
    missing = [name for name in named if not (repository / name).is_file()]
    assert missing == []
    for name in re.findall(r"\]\(([\w./-]+)\)", readme):
        assert (repository / name).exists(), name


def test_the_design_pages_name_tests_that_exist(repository):
    text = (repository / "docs/design/README.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[\w/.]+)`", text) + [
        f"docs/design/{n}" for n in re.findall(r"\((\w+\.md)\)", text)
    ]:
        assert (repository / name).exists(), name


def test_the_tree_of_a_run_directory_is_true(readme, tiny_dataset, tmp_path):
    (tree,) = [block for block in blocks(readme, "") if block.startswith("runs/NAME/")]
    run = train(write_run(tmp_path, tiny_dataset, validation=True), "monitoring.tensorboard=true")
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

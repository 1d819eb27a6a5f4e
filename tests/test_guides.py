"""The pages of docs/ cannot rot: the files that they name exist, and their Python runs. See also test_readme."""

import os
import re
import subprocess
import sys

import pytest

from tests.support import REPOSITORY
from tests.support.markdown import blocks
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, write_run

GUIDES = sorted((REPOSITORY / "docs").glob("*/*.md"))  # docs/log.md names what is gone


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_its_files_exist(guide, repository):
    text = guide.read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (guide.parent / name).exists(), name
    for name in re.findall(r"`?((?:tests|tools|configs|gpt2dist)/[\w/.-]+\.(?:py|yaml))", text):
        assert (repository / name).is_file(), name


def test_the_library_example_of_evaluation_runs(repository, tiny_dataset, tmp_path):
    run = train(write_run(tmp_path, tiny_dataset), "schedule.total_steps=2", "schedule.warmup_steps=1")
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs/quickstart")
    *_, example = blocks((repository / "docs/guides/evaluation.md").read_text(encoding="utf-8"), "python")
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


def run_blocks(path, home):
    """Run the code of a guide, with fewer steps."""
    os.chdir(home)
    code = "\n".join(blocks(path.read_text(encoding="utf-8"), "python")).replace(
        '"total_steps": 100', '"total_steps": 2'
    )
    exec(code, {})


def test_the_examples_of_python_run(repository, tmp_path):
    text = "\n\n".join(f"Once upon a time {number}: {'abc ' * (number % 5)}" for number in range(100))
    (tmp_path / "corpus.txt").write_text(text)
    run_ranks(run_blocks, 1, repository / "docs/guides/python.md", tmp_path)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["lr-0.001", "lr-0.003", "tiny"]
    assert (tmp_path / "model/model.safetensors").is_file() and (tmp_path / "report.html").is_file()


@pytest.fixture
def examples(repository, tmp_path, monkeypatch):
    """The examples of hooks and of a tracker as modules."""
    guides = {"my_hooks": "hooks", "my_trackers": "trackers"}
    for name, guide in guides.items():
        text = (repository / f"docs/guides/{guide}.md").read_text(encoding="utf-8")
        (tmp_path / f"{name}.py").write_text("\n".join(blocks(text, "python")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BACKUP", str(tmp_path / "backup"))
    yield ["monitoring.trackers=[my_trackers:Tables]", "run.hooks=[my_hooks:CopyCheckpoints, my_hooks:Entropy]"]
    for name in guides:
        sys.modules.pop(name, None)


def test_the_examples_of_hooks_and_trackers_follow_a_run_that_is_resumed(examples, tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    words = ["schedule.total_steps=6", *examples]
    words += ["monitoring.samples={prompts: [abc], every_steps: 4, max_new_tokens: 3}"]
    train(config, *words, "run.stop_after_steps=3")
    run = train(config, *words)
    copies = sorted(path.name for path in (tmp_path / "backup/run").iterdir())
    assert copies == ["step-00000003", "step-00000006"]
    entropies = metrics(run, "probe/entropy")
    assert len(entropies) == 6 and all(0 < entropy < 5.71 for entropy in entropies)  # log 300
    rows = [line.split(",") for line in (run / "table.csv").read_text().splitlines()]
    losses = [(int(step), float(value)) for step, tag, value in rows if tag == "train/loss"]
    assert losses == list(enumerate(metrics(run, "train/loss"), 1))

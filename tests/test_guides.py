"""The pages of docs/ cannot rot: the files that they name exist, and their Python runs. See also test_readme."""

import os
import re
import subprocess
import sys

import pytest

from gpt2dist.checkpoint import manifest
from tests.support import REPOSITORY
from tests.support.markdown import blocks
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, write_run

GUIDES = [
    REPOSITORY / "examples/README.md",
    *sorted((REPOSITORY / "docs").glob("*/*.md")),  # docs/log.md names what is gone
]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: f"{path.parent.name}/{path.stem}")
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
    """The examples of hooks, of a tracker and of uploads as modules."""
    guides = {"my_hooks": "hooks", "my_trackers": "trackers", "my_uploads": "training"}
    for name, guide in guides.items():
        text = (repository / f"docs/guides/{guide}.md").read_text(encoding="utf-8")
        (tmp_path / f"{name}.py").write_text("\n".join(blocks(text, "python")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STORE", f"file://{tmp_path}/backup")
    yield [
        "monitoring.trackers=[my_trackers:Tables]",
        "run.hooks=[my_hooks:Entropy]",
        "checkpoint.on_commit=my_uploads:upload",
    ]
    for name in guides:
        sys.modules.pop(name, None)


def test_the_examples_of_trackers_hooks_and_uploads_follow_a_run_that_is_resumed(
    examples, tiny_dataset, tmp_path
):
    config = write_run(tmp_path, tiny_dataset)
    words = ["schedule.total_steps=6", *examples]
    words += ["monitoring.samples={prompts: [abc], every_steps: 4, max_new_tokens: 3}"]
    train(config, *words, "run.stop_after_steps=3")
    run = train(config, *words)
    copies = sorted(path.name for path in (tmp_path / "backup/run").iterdir())
    assert copies == ["step-00000003", "step-00000006"]
    for copy in copies:
        manifest.check_contents(tmp_path / "backup/run" / copy, manifest.read(run / "checkpoints" / copy))
    entropies = metrics(run, "probe/entropy")
    assert len(entropies) == 6 and all(0 < entropy < 5.71 for entropy in entropies)  # log 300
    rows = [line.split(",") for line in (run / "table.csv").read_text().splitlines()]
    losses = [(int(step), float(value)) for step, tag, value in rows if tag == "train/loss"]
    assert losses == list(enumerate(metrics(run, "train/loss"), 1))


def test_the_examples_of_uploads_reach_an_object_store_and_the_command_line_of_one(
    examples, tmp_path, monkeypatch
):
    import fsspec
    import my_uploads

    checkpoint = tmp_path / "tiny/checkpoints/step-00000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    monkeypatch.setenv("STORE", "memory://bucket/runs/")
    for _ in range(2):  # a second call overwrites, and does not nest
        my_uploads.upload(checkpoint, 3)
    store = fsspec.filesystem("memory")
    assert store.find("/bucket") == ["/bucket/runs/tiny/step-00000003/manifest.json"]
    store.rm("/bucket", recursive=True)

    aws = tmp_path / "aws"
    aws.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/aws.log\ntest ! -e {tmp_path}/offline\n')
    aws.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STORE", "s3://bucket")
    my_uploads.sync(checkpoint, 3)
    said = f"s3 sync --only-show-errors {checkpoint} s3://bucket/tiny/step-00000003\n"
    assert (tmp_path / "aws.log").read_text() == said
    (tmp_path / "offline").touch()
    with pytest.raises(subprocess.CalledProcessError):
        my_uploads.sync(checkpoint, 3)

import os
from pathlib import Path

import pytest

from gpt2dist.preflight import resolve
from tests.support.mistakes import mistakes

WAYS_OUT = "; set auto, latest, never, or the path of a checkpoint or a run directory"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["checkpoint.resume=yesterday"],
            "checkpoint.resume: yesterday is neither a checkpoint nor a run directory: it has no manifest.json"
            + WAYS_OUT,
        ),
        (
            ["checkpoint.resume=latest", "run.output_dir=new"],
            "checkpoint.resume: latest, but new has no checkpoint; set auto to start a new run, or the path of "
            "another run",
        ),
    ],
)
def test_each_mistake_of_directories_names_its_key_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


def test_a_file_where_the_run_should_live(run_file, tmp_path):
    (tmp_path / "file").touch()
    message = f"run.output_dir: {tmp_path / 'file'} is a file; name a directory"
    assert mistakes(run_file, [f"run.output_dir={tmp_path / 'file'}"]) == [message]
    assert mistakes(run_file, [f"run.output_dir={tmp_path / 'file' / 'below'}"]) == [message]


def test_a_directory_that_another_rank_creates_meanwhile_is_no_file(run_file, tmp_path, monkeypatch):
    new, stat, asked = tmp_path / "new", Path.stat, []

    def stat_before_it_appears(path, **options):
        """Answer, and then let the directory appear, as if another rank had created it."""
        try:
            return stat(path, **options)
        finally:
            if os.fspath(path) == os.fspath(new):
                asked.append(1)
                new.mkdir(exist_ok=True)

    monkeypatch.setattr(Path, "stat", stat_before_it_appears)
    config, _ = resolve(run_file, [f"run.output_dir={new}"], 1)
    assert asked and config.output_dir == new


def test_a_path_to_resume_from_that_cannot_be_read(run_file):
    (found,) = mistakes(run_file, [f"checkpoint.resume={'x' * 300}"])
    assert found.startswith(f"checkpoint.resume: {'x' * 300} is ") and found.endswith(WAYS_OUT)

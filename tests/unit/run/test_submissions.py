"""The files of submissions, and reading them."""

import json
from pathlib import Path

from gpt2dist.run.submissions import make_directory, record_submission, submissions, write


def submitted(run, job, scheduler, jobs):
    directory = make_directory(run / "submission")
    write(directory, {"job.sh": "#!/bin/sh\n", "job.yaml": "{}\n"}, None, {"job": job})
    if jobs:
        record_submission(directory, scheduler, jobs)
    return directory


def test_what_was_submitted_for_a_run_is_told_oldest_first(tmp_path):
    first = submitted(tmp_path, "train", "slurm", [4711])
    submitted(tmp_path, "train", "slurm", [])  # a dry run
    third = submitted(tmp_path, "evaluate", "kubernetes", ["a-003"])
    found = submissions(tmp_path)
    assert [(each.directory, each.verb, each.scheduler, each.jobs) for each in found] == [
        (first, "train", "slurm", [4711]),
        (third, "evaluate", "kubernetes", ["a-003"]),
    ]
    assert 0 < found[0].time <= found[1].time


def test_a_run_without_submissions_has_none(tmp_path):
    assert submissions(tmp_path) == []


def test_a_record_that_is_being_written_is_passed_over(tmp_path):
    directory = submitted(tmp_path, "train", "local", [1])
    (directory / "submission.json").write_text('{"asked": {"job": "tra')
    assert submissions(tmp_path) == []


def test_scripts_can_be_run_and_other_files_not(tmp_path):
    directory = submitted(tmp_path, "train", "local", [1])
    assert (directory / "job.sh").stat().st_mode & 0o111
    assert not (directory / "job.yaml").stat().st_mode & 0o111


def test_options_of_any_type_are_recorded(tmp_path):
    write(tmp_path, {}, None, {"hosts": Path("hosts.txt"), "hours": 3})
    assert json.loads((tmp_path / "submission.json").read_text())["asked"] == {"hosts": "hosts.txt", "hours": 3}

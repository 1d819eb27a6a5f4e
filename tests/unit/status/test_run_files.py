import math

import pytest
import yaml

from gpt2dist.status import run_files
from gpt2dist.status.run_files import number, read_settings
from gpt2dist.status.status import read_status
from tests.support.histories import bytes_read


@pytest.mark.parametrize("value", [10**400, -(10**400), math.inf, math.nan, True, "7", None, [1]])
def test_what_is_no_finite_number_counts_as_none(value):
    assert number(value) is None


@pytest.mark.parametrize("value", [0, 7, -2.5, 10**300])
def test_a_number_is_itself(value):
    assert number(value) == value


def test_a_timeout_beyond_all_floats_is_none(make_run):
    run = make_run()
    run.train(1)
    (run.directory / "config.yaml").write_text(f"run: {{timeout_seconds: 1{'0' * 400}}}\n")
    assert read_status(run.directory).step == 1


@pytest.mark.parametrize(
    ("text", "quick"),
    [
        ("run: {name: a}\ncheckpoint:\n  keep_best: eval/val/loss\n", True),
        ("a: " + "[" * 600 + "]" * 600, False),
        ("\n".join(" " * depth + "a:" for depth in range(600)), False),
        ("- " * 600 + "a", False),
        ("", True),
    ],
)
def test_the_reader_in_c_gets_what_cannot_crash_it(text, quick):
    assert run_files._loader(text.encode()) is (yaml.CSafeLoader if quick else yaml.SafeLoader)


def test_files_that_did_not_change_are_not_read_again(make_run, monkeypatch):
    run = make_run()
    run.train(500)
    run.save(400)
    run.write("eval/step-00000400.json", {"val": {"loss": 3.0}})
    run.write("failed.json", {"rank": 0, "kind": "RunError", "reason": "it diverged"})
    counts = []
    for _ in range(3):
        with bytes_read(monkeypatch) as counted:
            status = read_status(run.directory)
        counts.append(counted.total)
    assert (status.step, status.evaluations[0].values["loss"]) == (500, 3.0)
    assert counts[0] > 30_000 and counts[1] == counts[2] < 1000  # the lock and the name of the newest checkpoint
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 501, "time": 1.0, "train/loss": 2.0}\n')
    run.write("failed.json", {"rank": 1, "kind": "RunError", "reason": "it diverged"})
    (run.directory / "config.yaml").write_text("run: {stop_after_steps: 501}\n")
    status = read_status(run.directory)
    assert (status.step, status.loss) == (501, 2.0)
    assert read_settings(run.directory) == {"run": {"stop_after_steps": 501}}


def test_what_is_known_of_files_has_a_limit(make_run, monkeypatch):
    monkeypatch.setattr(run_files, "MOST_KNOWN", 5)
    for name in range(9):
        run = make_run(str(name))
        run.train(name + 1)
        assert read_status(run.directory).step == name + 1
        assert len(run_files._known) <= 5

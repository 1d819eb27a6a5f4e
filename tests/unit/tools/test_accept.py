"""tools/gpu/accept.py: its driver with stages that fail, and the real stages, small, on the CPU."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

STAGES = """
import argparse, json, pathlib, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--stage"), parser.add_argument("--output", type=pathlib.Path)
parser.add_argument("--small", action="store_true")
args = parser.parse_args()
checks = {"trace": ("==", 1, "PASS"), "loss": ("<=", 0, "FAIL"), "saving": ("<=", 2, "PASS")}
comparison, limit, verdict = checks[args.stage]
check = {"stage": args.stage, "name": "n", "value": 1}
check |= {"comparison": comparison, "limit": limit, "verdict": verdict}
(args.output / "stages" / f"{args.stage}.jsonl").write_text(json.dumps(check) + "\\n")
if args.stage == "loss":
    sys.exit("it broke")
if args.stage == "saving":
    time.sleep(600)
"""


@pytest.fixture
def accept(repository, monkeypatch):
    spec = importlib.util.spec_from_file_location("accept", repository / "tools/gpu/accept.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "accept", module)
    spec.loader.exec_module(module)
    return module


def test_a_stage_that_fails_or_hangs_is_reported_and_the_rest_goes_on(accept, tmp_path, monkeypatch, capsys):
    (tmp_path / "stages.py").write_text(STAGES)
    monkeypatch.setattr(accept, "__file__", str(tmp_path / "stages.py"))
    words = ["--small", "--output", str(tmp_path / "out"), "--only", "saving", "loss", "trace"]
    assert accept.main([*words, "--minutes", "0.02"]) == 1
    results = json.loads((tmp_path / "out/results.json").read_text())
    verdicts = [(check["stage"], check["name"], check["verdict"]) for check in results["checks"]]
    assert ("loss", "n", "FAIL") in verdicts and ("loss", "the stage ends", "FAIL") in verdicts
    assert ("saving", "the stage ends", "FAIL") in verdicts
    notes = " ".join(check.get("note", "") for check in results["checks"])
    assert "it broke" in notes and "it ran past its" in notes
    assert set(results["seconds"]) == {"saving", "loss", "trace"}
    printed = capsys.readouterr().out
    assert "passes if" in printed and "FAIL" in printed


def test_without_a_gpu_it_asks_for_small(accept, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(accept, "has_gpu", lambda: False)
    assert accept.main(["--output", str(tmp_path)]) == 2
    assert "give --small" in capsys.readouterr().err


def run_small(repository, output, *words, minutes):
    command = [sys.executable, str(repository / "tools/gpu/accept.py"), "--small", "--output", str(output)]
    path = os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command += ["--minutes", str(minutes), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    results = json.loads((output / "results.json").read_text())
    failed = [check for check in results["checks"] if check["verdict"] == "FAIL"]
    assert done.returncode == 0 and not failed, done.stdout
    return results["checks"]


def test_a_stage_runs_small(repository, tmp_path):
    checks = run_small(repository, tmp_path, "--only", "parity", "saving", minutes=5)
    verdicts = {check["name"]: check["verdict"] for check in checks}
    assert verdicts["losses of the GPU against the CPU"] == "SKIPPED"
    assert verdicts["second save: seconds that training waits"] == "PASS"


@pytest.mark.slow
def test_all_stages_run_small(repository, tmp_path):
    checks = run_small(repository, tmp_path, minutes=20)
    assert {check["stage"] for check in checks} >= {"first-steps", "precisions", "resume", "trace", "speed"}
    assert all(check["note"] for check in checks if check["verdict"] == "SKIPPED")

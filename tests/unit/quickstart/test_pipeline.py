import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpt2dist import cli
from gpt2dist.config import read
from gpt2dist.quickstart import pipeline
from gpt2dist.quickstart.pipeline import Quickstart, StepFailedError
from tests.support.commands import wait_until


def with_devices(*devices, **settings):
    quickstart = Quickstart(**settings)
    quickstart.__dict__["devices"] = devices
    return quickstart


def commands_of(quickstart, monkeypatch, fails="nothing"):
    """The commands of the pipeline; the one whose verb is `fails` ends with 7."""
    seen = []

    def output(command, captures=True):
        seen.append(command[3:])
        if command[3] == fails:
            raise StepFailedError(7)
        return "a sample\n" if captures else ""

    monkeypatch.setattr(pipeline, "_output", output)
    monkeypatch.setattr(pipeline, "make_corpus", lambda path, inputs: f"{path}: {inputs}")
    monkeypatch.setattr(pipeline, "table", lambda run, dataset, evaluation, sample: (run, dataset, sample))
    quickstart.run_directory.mkdir(parents=True)
    return quickstart.run(), seen


def test_the_steps_are_commands_that_can_be_run_by_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    titles = []
    result, seen = commands_of(with_devices(4, "bf16", on_heading=titles.append), monkeypatch)
    assert [title.split()[0] for title in titles] == ["1/6", "2/6", "3/6", "4/6", "5/6", "6/6", "Done"]
    assert [words[0] for words in seen] == ["tokenizer", "preprocess", "launch", "launch", "generate"]
    assert seen[2][:4] == ["launch", "--nproc-per-node", "4", "train"]
    for words in seen:  # they parse
        verb, *rest = words[3:] if words[0] == "launch" else words
        cli.build_parser(verb).parse_args([verb, *rest])
    config, problems = read(Path(seen[2][4]), seen[2][5:])
    assert not problems and config.precision == "bf16" and config.batch.global_batch_size == 16
    assert (config.schedule.total_steps, config.schedule.warmup_steps) == (1600, 60)
    assert [str(path) for path in (config.output_dir, config.data.train[0].path)] == [
        "runs/quickstart",
        "data/quickstart",
    ]
    assert str(result[0]) == "runs/quickstart" and result[2] == "a sample\n"
    assert (tmp_path / "runs/quickstart/sample.txt").read_text() == "a sample\n"


def test_fewer_steps_warm_up_and_log_in_proportion():
    config, problems = read(pipeline.presets.path_of("quickstart"), with_devices(2, "fp32", steps=40).overrides())
    assert not problems
    assert (config.schedule.total_steps, config.schedule.warmup_steps) == (40, 2)
    assert config.monitoring.log_every_steps == 10


def test_other_inputs_have_other_names():
    names = {Quickstart(inputs).name for inputs in [(), ("a",), ("b",), ("a", "b"), ("a b",)]}
    assert len(names) == 5 and "quickstart" in names


def test_a_step_that_fails_ends_the_pipeline_with_its_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StepFailedError) as ended:
        commands_of(with_devices(2, "fp32"), monkeypatch, fails="preprocess")
    assert ended.value.code == 7


@pytest.mark.parametrize(
    ("code", "expected"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), 9)", 137), ("print('a')", None)]
)
def test_the_exit_code_of_a_command(code, expected):
    command = [sys.executable, "-c", f"import os, sys; {code}"]
    if expected is None:
        assert pipeline._output(command) == "a\n"
        return
    with pytest.raises(StepFailedError) as ended:
        pipeline._output(command)
    assert ended.value.code == expected


WAITS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({0!r}).write_text("saved"), sys.exit(0)))
pathlib.Path({1!r}).touch()
time.sleep(60)
"""


def test_a_signal_is_passed_on_and_ends_the_pipeline_although_the_step_saved_and_stopped(tmp_path):
    saved, ready = tmp_path / "saved", tmp_path / "ready"

    def terminate():
        wait_until(ready.exists)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(StepFailedError) as ended:
        pipeline._output([sys.executable, "-c", WAITS.format(str(saved), str(ready))])
    thread.join(10)
    assert ended.value.code == 128 + signal.SIGTERM and saved.read_text() == "saved"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_waits_for_the_step(tmp_path):
    """The terminal sends it to the step as well, which saves first."""
    thread = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    thread.start()
    began = time.monotonic()
    with pytest.raises(StepFailedError) as ended:
        pipeline._output(
            [sys.executable, "-c", f"import time; time.sleep(0.6); open({str(tmp_path / 'x')!r}, 'w')"]
        )
    assert ended.value.code == 130 and (tmp_path / "x").exists() and time.monotonic() > began


@pytest.mark.parametrize(("flags", "expected"), [("fpu avx512_bf16", True), ("fpu avx2", False), (None, False)])
def test_the_precision_of_a_cpu(tmp_path, monkeypatch, flags, expected):
    path = tmp_path / "cpuinfo"
    if flags:
        path.write_text(f"flags: {flags}\n")
    monkeypatch.setattr(pipeline, "CPU_FLAGS", path)
    assert pipeline.cpu_has_bf16() is expected


@pytest.mark.parametrize(
    ("printed", "devices"),
    [("[4, true]", (4, "bf16")), ("[1, false]", (1, "fp32")), ("[0, false]", (2, "fp32"))],
)
def test_all_gpus_or_two_processes(monkeypatch, printed, devices):
    monkeypatch.setattr(pipeline, "_output", lambda command: printed)
    monkeypatch.setattr(pipeline, "cpu_has_bf16", lambda: False)
    assert Quickstart().devices == devices


@pytest.mark.slow
def test_from_a_text_to_a_table(tmp_path):
    text = "".join(f"def function_{number}(a):\n    return a + {number % 7}\n" for number in range(4000))
    (tmp_path / "text.py").write_text(text)
    command = [sys.executable, "-m", "gpt2dist", "quickstart", "text.py", "--steps", "3", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "bits per byte  gpt2dist" in done.stdout and "step-00000003  (a Hugging Face model" in done.stdout
    assert "def main(" in done.stdout and "1/6" not in done.stderr
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr

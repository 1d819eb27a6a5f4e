"""What the pods of a Kubernetes job run, without Kubernetes: its exit codes are what the Job goes by."""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from gpt2dist import cli
from tests.support.commands import BIN, wait_until
from tests.support.ranks import free_port
from tests.support.runs import write_run

STOPPED = 75
CLUSTER = ["--scheduler", "kubernetes", "--container-image", "image:1", "--dry-run"]


@pytest.fixture
def home(tmp_path, tiny_dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    write_run(tmp_path, tiny_dataset)
    return tmp_path


def prepare(home: Path, dataset: Path, *words: str) -> None:
    """Submits without Kubernetes, and puts what the pods would find into `home`/pod."""
    volumes = ["--volume", f"here:{home}", "--volume", f"data:{dataset.parent}"]
    assert cli.main(["submit", *CLUSTER, *volumes, *words]) == 0
    (home / "pod").mkdir(exist_ok=True)
    manifest = max(home.glob("run/submission/*/job.yaml"))
    for name, text in next(yaml.safe_load_all(manifest.read_text()))["data"].items():
        (home / "pod" / name).write_text(text.replace("/etc/gpt2dist/", f"{home}/pod/"))
    script = home / "pod/job.sh"
    address = f"--master-addr 127.0.0.1 --master-port {free_port()}"
    script.write_text(re.sub(r"--master-addr \S+ --master-port \S+", address, script.read_text()))


@contextlib.contextmanager
def pods(home: Path, count: int) -> Iterator[list[subprocess.Popen]]:
    """Starts the pods of a job; none of them outlives the block."""
    started = []
    for index in range(count):
        with (home / f"pod/{index}.log").open("a") as log:
            path = f"{BIN}:{os.environ['PATH']}"  # the image's python has gpt2dist
            environment = os.environ | {"JOB_COMPLETION_INDEX": str(index), "PATH": path}
            command = ["bash", str(home / "pod/job.sh")]
            started.append(
                subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
            )
    try:
        yield started
    finally:
        for pod in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pod.pid, signal.SIGKILL)
            pod.wait(10)


def codes(started: list[subprocess.Popen]) -> list[int]:
    return [pod.wait(120) for pod in started]


def test_all_pods_stop_when_one_is_evicted_and_their_successors_resume(home, tiny_dataset):
    words = ["run.yaml", "schedule.total_steps=20000", "--nodes", "2", "--gpus-per-node", "1"]
    prepare(home, tiny_dataset, *words)
    metrics = home / "run/metrics.jsonl"
    with pods(home, 2) as started:
        wait_until(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 5, 90)
        started[1].send_signal(signal.SIGTERM)  # as Kubernetes does: to the first process of one pod
        assert codes(started) == [STOPPED, STOPPED]
    step = json.loads((home / "run/stopped.json").read_text())["step"]
    config = home / "pod/config.yaml"
    config.write_text(config.read_text().replace("stop_after_steps: null", f"stop_after_steps: {step + 3}"))
    with pods(home, 2) as started:
        assert codes(started) == [0, 0]  # the word of the stop before does not count
    assert f"resumed from {home}/run/checkpoints/step-{step:08d}" in (home / "pod/0.log").read_text()


def test_wrong_input_is_told_by_its_exit_code(home, tiny_dataset):
    prepare(home, tiny_dataset, "run.yaml", "--nodes", "1", "--gpus-per-node", "1")
    config = home / "pod/config.yaml"
    config.write_text(config.read_text().replace("global_batch_size: 8", "global_batch_size: -8"))
    with pods(home, 1) as started:
        assert codes(started) == [2]


@pytest.mark.slow
def test_an_evaluation_that_watches_is_started_again_after_an_eviction(home, tiny_dataset):
    (home / "run").mkdir()
    words = ["--", "run", "--data", str(tiny_dataset), "--all-checkpoints", "--watch"]
    prepare(home, tiny_dataset, "--job", "evaluate", "--gpus-per-node", "1", *words)
    with pods(home, 1) as started:
        wait_until(lambda: "waiting for run" in (home / "pod/0.log").read_text(), 90)
        started[0].send_signal(signal.SIGTERM)
        assert codes(started) == [STOPPED]

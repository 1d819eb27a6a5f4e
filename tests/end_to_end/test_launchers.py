"""The same run started alone, by torchrun and by deepspeed gives the same losses, and a clean first screen."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import free_port
from runs import metrics, write_run

BIN = Path(sys.executable).parent
TRAIN = ["-m", "gpt2dist", "train"]
LAUNCHERS = {
    "alone": [sys.executable, *TRAIN],
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2", *TRAIN],
    "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "2", "--module", "gpt2dist", "train"],
}


def launch(command: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a command in a session of its own, so that nothing outlives the test."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture(scope="module")
def losses():
    """What each launcher's run gave; the first one is what the others are compared with."""
    return {}


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_a_run_under_each_launcher(tiny_dataset, tmp_path, losses, launcher):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    command = list(LAUNCHERS[launcher])
    if launcher == "deepspeed":  # its default port is fixed
        command[1:1] = ["--master_port", str(free_port())]
    done = launch([*command, str(config), "batch.micro_batch_size=2", "zero.stage=2"])
    assert done.returncode == 0, done.stderr
    assert "20/20" in done.stderr
    if launcher != "deepspeed":  # which has much to say itself
        assert done.stdout == ""
        assert "warning" not in done.stderr.lower(), done.stderr
        assert len(done.stderr.splitlines()) < 12, done.stderr
    losses[launcher] = metrics(tmp_path / "run", "train/loss")
    assert losses[launcher] == pytest.approx(next(iter(losses.values())), abs=1e-5)
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-00000020\n"
    ranks = 1 if launcher == "alone" else 2
    assert len(list((tmp_path / "run/logs").iterdir())) == ranks


def test_a_mistake_is_told_once_and_without_a_traceback_of_ours(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    done = launch([*LAUNCHERS["torchrun"], str(config), "batch.micro_batch_size=3"])
    assert done.returncode == 1  # torchrun's code for any failure
    assert done.stderr.count("is not a multiple of micro_batch_size 3 × world size 2") == 1
    alone = launch([*LAUNCHERS["alone"], str(config), "batch.micro_batch_size=3"])
    assert alone.returncode == 2
    assert "Traceback" not in alone.stderr

"""The same run started alone, by the verb and by the scripts gives the same losses, and a clean first screen."""

import sys

import pytest

from tests.support import REPOSITORY
from tests.support.commands import launch
from tests.support.ranks import free_port
from tests.support.runs import metrics, write_run

SCRIPTS = REPOSITORY / "launch"
TRAIN = ["-m", "gpt2dist", "train"]
LAUNCHERS = {
    "alone": [sys.executable, *TRAIN],
    "launch": [sys.executable, "-m", "gpt2dist", "launch", "--nproc-per-node", "2", "train"],
    "torchrun": ["env", "GPUS=2", str(SCRIPTS / "torchrun.sh")],
    "deepspeed": ["env", "GPUS=2", f"MASTER_PORT={free_port()}", str(SCRIPTS / "deepspeed.sh")],
}


@pytest.fixture(scope="module")
def losses():
    """What each launcher's run gave; the first one is what the others are compared with."""
    return {}


@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_a_run_under_each_launcher(tiny_dataset, tmp_path, losses, launcher):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    done = launch([*LAUNCHERS[launcher], str(config), "batch.micro_batch_size=2", "zero.stage=2"])
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
    ours = launch([*LAUNCHERS["launch"], str(config), "batch.micro_batch_size=3"])
    assert ours.returncode == 2, ours.stderr
    assert len(ours.stderr.splitlines()) == 2, ours.stderr  # the count of mistakes, and the one
    alone = launch([*LAUNCHERS["alone"], str(config), "batch.micro_batch_size=3"])
    assert alone.returncode == 2
    assert "Traceback" not in alone.stderr

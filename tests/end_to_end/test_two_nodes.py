"""Runs over two hosts: trained, cut off, killed, started again. The hosts are namespaces of this machine."""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support import REPOSITORY, nodes
from tests.support.commands import PATIENCE, launch, started, wait_until
from tests.support.runs import metrics, train, write_run

SCRIPTS = REPOSITORY / "launch"
RUN = ["batch.micro_batch_size=2", "zero.stage=2", "model.dropout=0.1"]
RUN += ["schedule.total_steps=60", "checkpoint.every_steps=10", "run.timeout_seconds=10", "run.world_size=2"]
STEPS = list(range(1, 61))


@pytest.fixture(scope="module", autouse=True)
def hosts():
    with nodes.two_nodes():
        yield


@pytest.fixture(scope="module")
def losses(tiny_dataset, tmp_path_factory):
    """What the run gives on two ranks of one host, never interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    return metrics(train(write_run(directory, tiny_dataset), *RUN, world_size=2), "train/loss")


@pytest.fixture
def run_file(tiny_dataset, tmp_path):
    (tmp_path / "hosts").write_text("n1 slots=1\nn2 slots=1\n")
    return write_run(tmp_path, tiny_dataset)


def command(launcher, node, run_file, *overrides, hosts=2, **settings):
    """What is typed on one of the hosts."""
    place = settings | {"NODES": str(hosts), "NODE_RANK": str(node - 1), "MASTER_ADDR": "n1", "GPUS": "1"}
    words = [str(run_file), *RUN, *overrides]
    if launcher == "torchrun":
        return nodes.on(node, [str(SCRIPTS / "torchrun-nodes.sh"), *words], **place)
    if launcher == "deepspeed":
        return nodes.on(node, [str(SCRIPTS / "deepspeed.sh"), *words], HOSTFILE=str(run_file.parent / "hosts"))
    options = ["--nnodes", str(hosts), "--node-rank", str(node - 1), "--nproc-per-node", "1"]
    options += ["--master-addr", "n1", "--rdzv-conf", "timeout=5"]
    return nodes.on(node, [sys.executable, "-m", "gpt2dist", "launch", *options, "train", *words], **settings)


class PreprocessingJob:
    """A run that both hosts have started."""

    def __init__(self, processes, outputs):
        self._processes = processes
        self._outputs = outputs

    def end(self):
        """Waits for the end on both hosts; returns the exit codes, and what each has said."""
        codes = [process.wait(PATIENCE) for process in self._processes]
        wait_until(lambda: not nodes.processes(1) + nodes.processes(2))  # nobody stays
        return codes, [Path(output.name).read_text() for output in self._outputs]


@contextlib.contextmanager
def job(launcher, run_file, *overrides, **settings):
    """Starts a run on both hosts."""
    with contextlib.ExitStack() as held:
        outputs = [held.enter_context(tempfile.NamedTemporaryFile("w")) for _ in range(2)]
        yield PreprocessingJob(
            [
                held.enter_context(
                    started(command(launcher, node, run_file, *overrides, **settings), stderr=output)
                )
                for node, output in zip((1, 2), outputs, strict=True)
            ],
            outputs,
        )


def saved_step(run):
    path = run / "checkpoints/latest"
    return int(path.read_text().strip().removeprefix("step-")) if path.exists() else 0


@pytest.mark.parametrize(
    ("launchers", "victim"),
    [(["torchrun", "launch", "torchrun"], 1), pytest.param(["deepspeed"] * 3, 2, marks=pytest.mark.slow)],
)
def test_a_run_outlives_a_dead_host_and_a_cut_cable(losses, run_file, tmp_path, launchers, victim):
    run, survivor = tmp_path / "run", 3 - victim
    with job(launchers[0], run_file) as first:
        wait_until(lambda: saved_step(run) >= 10)
        nodes.call("kill", str(victim))
        codes, said = first.end()
    assert codes[survivor - 1] not in (0, 2)
    assert "another rank failed first: killed, perhaps out of memory, or its host" in said[survivor - 1]
    assert json.loads((run / "failed.json").read_text())["rank"] == survivor - 1

    resumed_at = saved_step(run)
    with job(launchers[1], run_file) as second:
        wait_until(lambda: saved_step(run) >= resumed_at + 10)
        nodes.call("unplug", "2")
        codes, said = second.end()
    nodes.call("plug", "2")
    assert all(code not in (0, 2) for code in codes)
    assert f"resumed from {run}/checkpoints/step-{resumed_at:08d}" in said[0]
    for rank, text in enumerate(said):
        assert f"rank {rank}: HungError: no progress for 10 seconds, in " in text
        assert "waits for a rank that hangs, or whose host or network is down" in text
        if launchers[1] == "launch":
            assert f"gpt2dist launch: rank {rank} failed first: exit code 1: HungError: no progress" in text

    with job(launchers[2], run_file) as third:
        codes, said = third.end()
    assert codes == [0, 0], said
    assert metrics(run, "step") == STEPS
    assert metrics(run, "train/loss") == pytest.approx(losses, abs=1e-5)


def test_hosts_whose_own_names_are_loopback_train_together(losses, run_file, tmp_path):
    """As Debian installs them. By itself, gloo would tell the other host to connect to 127.0.1.1."""
    with job("launch", run_file, "run.stop_after_steps=3", GPT2DIST_OWN_ADDRESS="127.0.1.1") as only:
        codes, said = only.end()
    assert codes == [0, 0], said
    assert metrics(tmp_path / "run", "train/loss") == pytest.approx(losses[:3], abs=1e-5)


@pytest.mark.parametrize(("launcher", "code"), [("torchrun", 1), ("launch", 2)])
def test_another_number_of_hosts_is_refused(run_file, tmp_path, launcher, code):
    done = launch(command(launcher, 1, run_file, hosts=1))
    assert done.returncode == code
    assert "the job was submitted for 2 ranks but started with 1; start 2, or" in done.stderr
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_host_that_does_not_come_is_told(run_file):
    done = launch(command("launch", 1, run_file))
    assert done.returncode == 1
    assert "gpt2dist launch: the 2 hosts did not meet at n1:29500" in done.stderr
    assert "Traceback" not in done.stderr

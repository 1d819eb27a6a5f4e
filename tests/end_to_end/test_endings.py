"""What becomes of a run when it is signalled, killed or left by its launcher."""

import json
import os
import signal
import sys

import pytest

from tests.support.commands import PATIENCE, is_alive, launch, ranks_of, started, wait_until
from tests.support.ranks import free_port
from tests.support.runs import metrics, train, write_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks in /proc")

LAUNCH = [sys.executable, "-m", "gpt2dist", "launch", "--nproc-per-node", "2"]
LONG = ["schedule.total_steps=3000", "batch.micro_batch_size=2", "zero.stage=2", "model.dropout=0.1"]


def steps_done(run):
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def send(launcher, number):
    """Send a signal to a launcher; Ctrl-C to its process group, as a terminal does."""
    if number == signal.SIGINT:
        os.killpg(launcher.pid, number)
    else:
        launcher.send_signal(number)


@pytest.fixture
def run_file(tiny_dataset, tmp_path):
    return write_run(tmp_path, tiny_dataset)


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGTERM, 0, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C (SIGINT)")]
)
def test_a_signal_saves_everything_and_the_run_goes_on_as_if_nothing_had_been(
    run_file, tmp_path, number, code, name
):
    run = tmp_path / "run"
    with started([*LAUNCH, "train", str(run_file), *LONG]) as launcher:
        wait_until(lambda: steps_done(run) >= 5)
        send(launcher, number)
        _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == code, err
    word = json.loads((run / "stopped.json").read_text())
    assert word["reason"] == number.name
    assert err.count(f"{name}: the run saves everything and stops; a second signal ends it immediately") == 1
    assert f"stopped by {name} at step {word['step']}, with everything saved" in err
    assert "death signal" not in err  # torchrun's own words
    assert not (run / "failed.json").exists()
    assert (run / "checkpoints/latest").read_text().strip() == f"step-{word['step']:08d}"
    further = f"run.stop_after_steps={word['step'] + 5}"
    train(run_file, *LONG, further, world_size=2)
    whole = train(run_file, *LONG, further, f"run.output_dir={tmp_path}/whole", world_size=2)
    assert metrics(run, "train/loss") == metrics(whole, "train/loss")
    assert not (run / "stopped.json").exists()


@pytest.mark.parametrize(
    ("script", "number", "code"),
    [
        ("torchrun.sh", signal.SIGUSR1, 1),
        ("deepspeed.sh", signal.SIGTERM, 0),
        ("deepspeed.sh", signal.SIGINT, 130),
    ],
)
def test_a_signal_to_a_script_of_launch_saves_everything(run_file, tmp_path, repository, script, number, code):
    run = tmp_path / "run"
    settings = ["GPUS=2", f"MASTER_PORT={free_port()}"]
    with started(["env", *settings, str(repository / "launch" / script), str(run_file), *LONG]) as launcher:
        wait_until(lambda: steps_done(run) >= 3)
        send(launcher, number)
        _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == code, err  # torchrun has 1 for all that is not done
    word = json.loads((run / "stopped.json").read_text())
    assert word["reason"] == number.name
    assert (run / "checkpoints/latest").read_text().strip() == f"step-{word['step']:08d}"


def test_a_killed_rank_is_named_with_its_signal_and_log_and_nobody_stays(run_file, tmp_path):
    run = tmp_path / "run"
    second = ["env", "SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID=1"]  # the launcher of another host under srun
    with started([*second, *LAUNCH, "train", str(run_file), *LONG]) as launcher:
        wait_until(lambda: steps_done(run) >= 3)
        ranks = ranks_of(launcher)
        os.kill(ranks[1], signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 1
    assert "rank 1 failed first: SIGKILL (-9), probably out of memory" in err
    assert f"its log: {run}/logs/rank-00001.log" in err
    assert not any(is_alive(pid) for pid in ranks.values())


def test_a_restarted_gang_goes_on_from_the_newest_checkpoint(run_file, tmp_path):
    run = tmp_path / "run"
    short = [*LONG, "schedule.total_steps=100", "checkpoint.every_steps=10"]
    with started([*LAUNCH, "--max-restarts", "1", "train", str(run_file), *short]) as launcher:
        wait_until(lambda: (run / "checkpoints/latest").exists())
        os.kill(ranks_of(launcher)[0], signal.SIGKILL)
        _, err = launcher.communicate(timeout=PATIENCE)
    assert launcher.returncode == 0, err
    assert "resumed from" in err
    assert [int(step) for step in metrics(run, "step")] == list(range(1, 101))


def test_orphans_end_with_their_launcher(run_file, tmp_path):
    run = tmp_path / "run"
    with started([*LAUNCH, "train", str(run_file), *LONG]) as launcher:
        wait_until(lambda: steps_done(run) >= 3)
        ranks = ranks_of(launcher)
        launcher.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in ranks.values()))
    assert json.loads((run / "stopped.json").read_text())["reason"] == "SIGTERM"


def test_a_second_job_in_the_run_directory_is_refused_by_the_name_of_the_first(run_file, tmp_path):
    run = tmp_path / "run"
    with started([*LAUNCH, "train", str(run_file), *LONG]) as first:
        wait_until(lambda: steps_done(run) >= 1)
        pid = ranks_of(first)[0]
        second = launch([sys.executable, "-m", "gpt2dist", "train", str(run_file), *LONG])
        assert second.returncode == 2
        assert f"{run}: another job is training here" in second.stderr and f'"pid": {pid}' in second.stderr
        assert first.poll() is None
        assert not (run / "failed.json").exists()  # nothing failed in the run


def test_verify_resume_proves_it(run_file, tmp_path):
    done = launch([*LAUNCH, "verify-resume", str(run_file), "--steps", "3", *LONG])
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 + 3 steps equal 6: same losses, same bytes\n"
    assert not (tmp_path / "run/verify-resume").exists() and not (tmp_path / "run/checkpoints").exists()

"""Jobs under a real Slurm of two nodes, where tools/slurm_testbed.sh has brought one up."""

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from commands import wait_until
from runs import metrics, train, write_run

from gpt2dist import cli

HOME = Path(os.environ.get("GPT2DIST_SLURM_TESTBED", "/tmp/gpt2dist-slurm"))
TWO_NODES = ["--scheduler", "slurm", "--nodes", "2", "--gpus-per-node", "1"]
RUN = ["batch.micro_batch_size=2", "zero.stage=2", "model.dropout=0.1"]
LONG = [*RUN, "schedule.total_steps=20000"]

pytestmark = pytest.mark.skipif(
    not (HOME / "slurmctld.pid").exists(), reason="no Slurm is up; as root: tools/slurm_testbed.sh up"
)


@pytest.fixture
def slurm(monkeypatch, tmp_path, tiny_dataset):
    """An empty queue, and a run file in the working directory."""
    monkeypatch.setenv("SLURM_CONF", str(HOME / "slurm.conf"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, tiny_dataset)
    with contextlib.ExitStack() as at_end:
        at_end.callback(wait_until, lambda: not ask("squeue", "--noheader"), 90)
        at_end.callback(ask, "scancel", "--user=root")
        yield


def ask(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def submit(*words: str) -> int:
    """Submits run.yaml on two nodes; returns the number of the job."""
    assert cli.main(["submit", "run.yaml", *words, *TWO_NODES]) == 0
    records = sorted(Path("run/submission").iterdir())
    return json.loads((records[-1] / "submission.json").read_text())["jobs"][0]


def fact(job: int, name: str) -> str:
    found = re.search(rf" {name}=(\S*)", ask("scontrol", "--oneliner", "show", "job", str(job)))
    assert found, name
    return found[1]


def log(job: int) -> str:
    """What a job has said; nothing before it has started."""
    return "".join(path.read_text() for path in Path("run/submission").glob(f"*/job-{job}.log"))


def steps_done() -> int:
    path = Path("run/metrics.jsonl")
    return len(path.read_text().splitlines()) if path.exists() else 0


def wait_for_state(job: int, state: str, seconds: float = 120) -> None:
    wait_until(lambda: fact(job, "JobState") == state, seconds)


def test_a_preempted_job_goes_back_into_the_queue_and_finishes_as_if_nothing_had_been(slurm, tmp_path):
    short = [*RUN, "schedule.total_steps=400"]
    job = submit(*short)
    wait_until(lambda: steps_done() >= 20, 90)
    ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
    wait_for_state(job, "COMPLETED", 240)
    said = log(job)
    (step,) = re.findall(r"stopped at step (\d+), with everything saved; back into the queue", said)
    assert 20 <= int(step) < 400
    assert fact(job, "Restarts") == "1"
    assert f"resumed from {tmp_path}/run/checkpoints/step-{int(step):08d}" in said
    assert said.rstrip().endswith("done")
    assert not Path("run/stopped.json").exists()
    whole = train(tmp_path / "run.yaml", *short, f"run.output_dir={tmp_path}/whole", world_size=2)
    assert metrics(tmp_path / "run", "train/loss") == pytest.approx(metrics(whole, "train/loss"), abs=1e-5)


def test_a_job_that_is_preempted_before_it_trains_is_not_lost(slurm):
    job = submit(*LONG)
    wait_until(lambda: "start 0" in log(job))
    ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: "start 1" in log(job), 120)
    assert "preempted before it had begun to train; back into the queue" in log(job)
    # What then fails by itself is no preemption any more.
    wait_until(lambda: steps_done() >= 5, 90)
    os.kill(rank_of(job), 9)
    wait_for_state(job, "FAILED", 90)


def test_near_the_time_limit_it_saves_and_goes_on_in_another_job(slurm):
    job = submit(*LONG, "--time", "2", "--save-seconds", "60")
    wait_until(lambda: "start 1" in log(job), 240)
    assert "the time limit is near: the job stops" in log(job)
    wait_until(lambda: "resumed from" in log(job), 90)


def test_a_cancelled_job_saves_and_does_not_come_back(slurm):
    job = submit(*LONG)
    wait_until(lambda: steps_done() >= 5, 90)
    ask("scancel", str(job))
    wait_until(lambda: not ask("squeue", "--noheader"), 90)
    assert fact(job, "JobState") == "CANCELLED"
    assert "cancelled, with everything saved" in log(job)
    word = json.loads(Path("run/stopped.json").read_text())
    assert Path("run/checkpoints/latest").read_text() == f"step-{word['step']:08d}\n"


def test_a_killed_rank_ends_the_job_as_a_failure_that_names_it(slurm):
    job = submit(*LONG)
    wait_until(lambda: steps_done() >= 5, 90)
    os.kill(rank_of(job), 9)
    wait_for_state(job, "FAILED", 90)
    assert "failed first: SIGKILL (-9)" in log(job)
    assert "failed with exit code 1; the reason stands above" in log(job)


def test_a_wrong_number_of_nodes_is_refused_by_the_job(slurm):
    assert cli.main(["submit", "run.yaml", *RUN, *TWO_NODES, "--dry-run"]) == 0
    job = int(ask("sbatch", "--parsable", "--nodes=1", "run/submission/001/job.sh"))
    wait_for_state(job, "FAILED", 90)
    assert "the job was submitted for 2 ranks and started with 1; start 2, or" in log(job)
    assert fact(job, "ExitCode") == "2:0"


def test_after_the_death_of_a_node_the_job_is_started_again(slurm):
    job = submit(*LONG, "checkpoint.every_steps=20")
    wait_until(lambda: Path("run/checkpoints/latest").exists(), 90)
    link("down")
    try:
        wait_until(lambda: fact(job, "JobState") == "PENDING", 120)
    finally:
        link("up")
        wait_until(
            lambda: ask("sinfo", "--noheader", "--partition=train", "--states=idle", "--format=%D") == "2", 120
        )
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_until(lambda: "start 1" in log(job) and "resumed from" in log(job), 120)


def link(state: str) -> None:
    """Cuts off the second node, or brings it back."""
    ask("ip", "link", "set", "gpt2dist-v2", state)


def rank_of(job: int) -> int:
    """The process id of a rank of a job."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            words = dict(word.partition("=")[::2] for word in path.read_text(errors="replace").split("\0"))
            if words.get("SLURM_JOB_ID") == str(job) and words.get("RANK") == "1":
                return int(path.parent.name)
    raise AssertionError("no rank was found")

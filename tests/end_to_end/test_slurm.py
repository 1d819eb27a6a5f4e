"""Jobs under a real Slurm of two nodes, where tools/slurm_testbed.sh has brought one up."""

import contextlib
import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from gpt2dist import cli
from tests.support.commands import wait_until
from tests.support.runs import metrics, train, write_run

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


def submit_job(kind: str, *words: str) -> int:
    """Submits other work; returns the number of the job."""
    assert cli.main(["submit", "--job", kind, "--scheduler", "slurm", *words]) == 0
    records = sorted(Path().glob("*/[0-9]*") if kind == "preprocess" else Path("run/submission").iterdir())
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


@pytest.mark.slow
def test_a_job_that_is_preempted_before_it_trains_is_not_lost(slurm):
    job = submit(*LONG)
    wait_until(lambda: "start 0" in log(job))
    ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: "start 1" in log(job), 120)
    assert "asked to stop before it had begun to train; back into the queue" in log(job)
    # What then fails by itself is no preemption any more.
    wait_until(lambda: steps_done() >= 5, 90)
    os.kill(rank_of(job), 9)
    wait_for_state(job, "FAILED", 90)


@pytest.mark.slow
def test_near_the_time_limit_it_saves_and_goes_on_in_another_job(slurm):
    job = submit(*LONG, "--time", "3", "--save-seconds", "60")
    wait_until(lambda: "start 1" in log(job), 300)
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


@pytest.mark.slow
def test_a_killed_rank_ends_the_job_as_a_failure_that_names_it(slurm):
    job = submit(*LONG)
    wait_until(lambda: steps_done() >= 5, 90)
    os.kill(rank_of(job), 9)
    wait_for_state(job, "FAILED", 90)
    assert "failed first: SIGKILL (-9)" in log(job)
    assert "failed with exit code 1; see the messages above" in log(job)


@pytest.mark.slow
def test_two_starts_that_do_not_finish_a_step_before_the_limit_are_the_last(slurm):
    """A step that takes longer than the time between start and limit would be begun again for ever."""
    slow = ["model.n_embd=256", "model.n_layer=4", "batch.global_batch_size=40000", "batch.micro_batch_size=2"]
    job = submit(*slow, "--time", "3", "--save-seconds", "60")
    wait_for_state(job, "FAILED", 500)
    assert "stopped at step 0, with everything saved; back into the queue" in log(job)
    assert "no step since the start before this one; submit with a longer --time" in log(job)
    assert (fact(job, "Restarts"), fact(job, "ExitCode")) == ("1", "1:0")


def test_an_evaluation_on_two_nodes_has_the_results_of_one_process(slurm, tmp_path, tiny_dataset):
    train(tmp_path / "run.yaml", "checkpoint.every_steps=10")
    words = ["evaluate", "run", "--data", str(tiny_dataset), "--all-checkpoints"]
    job = submit_job("evaluate", "--nodes", "2", "--gpus-per-node", "1", "--", *words[1:])
    wait_for_state(job, "COMPLETED")
    results = {path.name: json.loads(path.read_text()) for path in Path("run/eval/dataset").glob("*.json")}
    assert len(results) == 2 and all(each["world_size"] == 2 for each in results.values())
    assert cli.main([*words, "--name", "here"]) == 0
    for name, each in results.items():
        assert json.loads(Path("run/eval/here", name).read_text())["nll_sum"] == each["nll_sum"]


@pytest.mark.slow
def test_an_evaluation_that_watches_a_run_goes_on_after_a_preemption(slurm, tmp_path, tiny_dataset):
    train(tmp_path / "run.yaml", "run.stop_after_steps=5")  # more are to come
    words = ["run", "--data", str(tiny_dataset), "--all-checkpoints", "--watch"]
    job = submit_job("evaluate", "--nodes", "1", "--gpus-per-node", "2", "--", *words)
    wait_until(lambda: "waiting for run (step 5 of 20)" in log(job), 90)
    ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_until(lambda: log(job).count("waiting for run (step 5 of 20)") == 2, 120)
    assert "stopped; what was scored stays; back into the queue" in log(job)
    assert log(job).count("step 5: loss") == 1  # once is enough
    ask("scancel", str(job))
    wait_for_state(job, "CANCELLED")
    assert "cancelled; what was scored stays" in log(job)


@pytest.fixture
def corpus(tmp_path, tiny_dataset):
    """Words of `preprocess` for three files, each large enough to be a task of its own."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijkl", k=draw.randint(2, 7))) for _ in range(60)]
    (tmp_path / "corpus").mkdir()
    for number in range(3):
        lines = (" ".join(draw.choices(words, k=60)) + "\n" for _ in range(26_000))
        (tmp_path / f"corpus/{number}.txt").write_text("".join(lines))
    tokenizer = str(tiny_dataset.parent / "tokenizer")
    return ["corpus", "--tokenizer", tokenizer, "--document-separator", "\\n", "--val-fraction", "0.1"]


def preprocess(corpus: list[str]) -> tuple[int, int]:
    """Submits preprocessing in three parts; returns the numbers of the array and of the job that finishes."""
    array = submit_job("preprocess", "--tasks", "3", "--cpus-per-node", "1", "--", *corpus, "--output", "dataset")
    return array, array + 1


def require_the_dataset_of_one_process(corpus: list[str]) -> None:
    assert cli.main(["preprocess", *corpus, "--output", "expected", "--workers", "1"]) == 0
    expected, made = (
        {path.name: path.read_bytes() for path in Path(each).iterdir()} for each in ("expected", "dataset")
    )
    assert {name for name in expected if expected[name] != made.get(name)} == set()
    assert made.keys() == expected.keys()


@pytest.mark.slow
def test_an_array_that_is_preempted_makes_the_dataset_that_one_process_makes(slurm, corpus):
    array, finish = preprocess(corpus)
    wait_until(lambda: part(array, 1), 60)
    ask("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    wait_for_state(finish, "COMPLETED", 240)
    said = "".join(path.read_text() for path in Path("dataset.submission/001").glob(f"job-{array}-*.log"))
    assert "preempted; what is done is kept; back into the queue" in said and said.count("done\n") == 3
    require_the_dataset_of_one_process(corpus)


@pytest.mark.slow
def test_a_dask_cluster_on_two_nodes_makes_the_dataset_that_one_process_makes(slurm, corpus):
    job = submit_job("preprocess", "--dask", "--nodes", "2", "--", *corpus, "--output", "dataset")
    wait_for_state(job, "COMPLETED", 240)
    said = Path(f"dataset.submission/001/job-{job}.log").read_text()
    assert "0: 2 workers" in said and "1: 2 workers" in said and "Traceback" not in said
    require_the_dataset_of_one_process(corpus)


@pytest.mark.slow
def test_a_part_that_is_killed_is_done_when_the_same_is_submitted_again(slurm, corpus):
    array, finish = preprocess(corpus)
    wait_until(lambda: part(array, 1), 60)
    os.kill(part(array, 1), 9)
    wait_until(lambda: not ask("squeue", "--noheader"), 120)
    assert fact(finish, "JobState") == "CANCELLED" and not Path("dataset").exists()
    said = Path(f"dataset.submission/001/job-{array}-1.log").read_text()
    assert "what is done is kept. To do what is left: submit it again" in said
    array, finish = preprocess(corpus)
    wait_for_state(finish, "COMPLETED")
    done = Path(f"dataset.submission/002/job-{array}-2.log").read_text()
    assert "peak memory" not in done  # of a worker: there was no work for one
    require_the_dataset_of_one_process(corpus)


def test_a_wrong_number_of_nodes_is_refused_by_the_job(slurm):
    assert cli.main(["submit", "run.yaml", *RUN, *TWO_NODES, "--dry-run"]) == 0
    job = int(ask("sbatch", "--parsable", "--nodes=1", "run/submission/001/job.sh"))
    wait_for_state(job, "FAILED", 90)
    assert "the job was submitted for 2 ranks but started with 1; start 2, or" in log(job)
    assert fact(job, "ExitCode") == "2:0"


@pytest.mark.slow
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
    found = process(SLURM_JOB_ID=str(job), RANK="1")
    assert found, "no rank was found"
    return found


def part(array: int, index: int) -> int | None:
    """The process id of a part of preprocessing; None before it is at work."""
    return process("python", SLURM_ARRAY_JOB_ID=str(array), SLURM_ARRAY_TASK_ID=str(index), SLURM_PROCID="0")


def process(name: str = "", **environment: str) -> int | None:
    """The oldest process with such an environment, whose program has such a name."""
    for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            text = (path / "environ").read_text(errors="replace")
            words = dict(word.partition("=")[::2] for word in text.split("\0"))
            if environment.items() <= words.items() and name in (path / "comm").read_text():
                return int(path.name)
    return None

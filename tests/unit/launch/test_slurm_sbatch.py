"""launch/slurm.sbatch: what it starts, and what it does with each end. Slurm itself is played by stand-ins."""

import os
import re
import signal
import subprocess

import pytest

from tests.support import REPOSITORY
from tests.support.commands import BIN, wait_until
from tests.support.runs import write_run

GOLDEN = REPOSITORY / "tests/golden/launch/slurm.txt"
STAND_INS = {
    "srun": """
        { printf srun; printf ' %q' "$@"; echo; } >>record
        [ -z "${TRAINS:-}" ] || until [ -e told ]; do sleep 0.1; done
        [ -z "${STOPPED_AT:-}" ] || echo '{"step": '$STOPPED_AT', "total_steps": 60}' >run/stopped.json
        exit ${CODE:-0}""",
    "scontrol": """
        case $1 in
          show) echo n1; echo n2 ;;
          --oneliner) echo "JobId=7 JobState=${STATE:-RUNNING} StartTime=2026-01-01T10:00:00 ${PREEMPTED:-}" ;;
          *) echo "scontrol $*" >>record ;;
        esac""",
    "scancel": 'echo "scancel $*" >>record; touch told',
    "torchrun": "exit 99",  # only srun starts it
    "sleep": '[ "$1" = 60 ] || exec /bin/sleep "$1"',  # what Slurm would cut short
}


@pytest.fixture
def job(tiny_dataset, tmp_path):
    """Starts the script as the batch step of job 7 on two nodes with four GPUs each."""
    (tmp_path / "bin").mkdir()
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    write_run(tmp_path, tiny_dataset)
    (tmp_path / "run").mkdir()
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_CPUS_ON_NODE": "32"}

    def start(*words, **settings):
        environment = os.environ | slurm | {"SLURM_GPUS_PER_NODE": "a100:4", "PYTHONPATH": str(REPOSITORY)}
        environment["PATH"] = f"{tmp_path / 'bin'}:{BIN}:{os.environ['PATH']}"
        return subprocess.Popen(
            [REPOSITORY / "launch/slurm.sbatch", *(words or ["run.yaml", "optimizer.lr=3e-4"])],
            cwd=tmp_path,
            env={name: value for name, value in (environment | settings).items() if value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def finish(process):
    said, _ = process.communicate(timeout=60)
    return process.returncode, said


def slurm_was_told(tmp_path):
    path = tmp_path / "record"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in lines if not line.startswith("srun")]


def test_the_command_is_the_golden_one_and_a_run_to_the_end_is_done(job, tmp_path):
    (tmp_path / "run/stopped.json").write_text("{}")  # word of an earlier start
    code, said = finish(job())
    assert code == 0 and said.endswith("job 7: done\n")
    command = (tmp_path / "record").read_text()
    if os.environ.get("GPT2DIST_WRITE_GOLDEN"):
        GOLDEN.write_text(command)
    assert command == GOLDEN.read_text()


def test_a_run_that_stopped_goes_back_into_the_queue(job, tmp_path):
    code, said = finish(job(STOPPED_AT="35", CODE="1"))
    assert code == 0 and "stopped at step 35, with everything saved; back into the queue" in said
    assert slurm_was_told(tmp_path) == ["scontrol requeue 7"]


def test_a_cancelled_one_does_not(job, tmp_path):
    code, said = finish(job(STOPPED_AT="35", CODE="1", STATE="CANCELLED"))
    assert code == 0 and "cancelled, with everything saved" in said
    assert slurm_was_told(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_for_the_ranks_and_not_for_srun(job, tmp_path, number):
    process = job(TRAINS="1", STOPPED_AT="35", CODE="1")
    wait_until(lambda: (tmp_path / "record").exists())
    process.send_signal(number)
    assert finish(process)[0] == 0
    assert slurm_was_told(tmp_path) == ["scancel --signal=TERM 7.0", "scontrol requeue 7"]


def test_near_the_limit_twice_at_one_step_it_fails(job, tmp_path):
    (tmp_path / "run/stopped-at").write_text("35\n")
    process = job(TRAINS="1", STOPPED_AT="35", CODE="1")
    wait_until(lambda: (tmp_path / "record").exists())
    process.send_signal(signal.SIGUSR1)
    code, said = finish(process)
    assert code == 1 and "submit with a longer --time" in said
    assert slurm_was_told(tmp_path) == ["scancel --signal=TERM 7.0"]


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGTERM, 0, ["scontrol requeue 7"]), (signal.SIGUSR1, 1, [])]
)
def test_one_that_is_asked_before_it_trains_goes_back_unless_time_is_too_short(job, tmp_path, number, code, told):
    process = job(TRAINS="1", CODE="1")
    wait_until(lambda: (tmp_path / "record").exists())
    process.send_signal(number)
    ended, said = finish(process)
    assert ended == code and slurm_was_told(tmp_path) == ["scancel --signal=TERM 7.0", *told]
    assert ("before it had begun to train" if told else "nothing could be saved before the time limit") in said


def test_it_asks_slurm_as_the_scripts_of_submit_do():
    ours = (REPOSITORY / "launch/slurm.sbatch").read_text()
    theirs = (REPOSITORY / "gpt2dist/submission/templates/slurm/common.sh").read_text()
    shared = re.findall(r"^(?:fact\(\) \{.*\}|preempted\(\) \{\n(?:  .*\n)+\})$", theirs, re.MULTILINE)
    assert len(shared) == 2 and all(function in ours for function in shared)


@pytest.mark.parametrize(("hour", "told"), [("11", ["scontrol requeue 7"]), ("09", [])])
def test_a_failure_counts_as_a_preemption_only_if_this_start_was_preempted(job, tmp_path, hour, told):
    code, said = finish(job(CODE="1", PREEMPTED=f"PreemptTime=2026-01-01T{hour}:00:00"))
    assert slurm_was_told(tmp_path) == told
    assert code == (0 if told else 1)
    assert ("asked to stop before it had begun" if told else "failed with exit code 1") in said


@pytest.mark.parametrize(
    ("words", "settings", "message"),
    [
        ([], {"SLURM_JOB_ID": ""}, "start this with sbatch"),
        (["none.yaml"], {}, "none.yaml: no such file; write sbatch launch/slurm.sbatch CONFIG"),
        (
            [],
            {"SLURM_GPUS_PER_NODE": ""},
            "the number of processes per node is unknown; use sbatch --gpus-per-node=8, or set GPUS",
        ),
        (["run.yaml", "batch.micro_batch_size=3"], {}, "is not a multiple of micro_batch_size 3 × world size 8"),
        (["run.yaml", "run.world_size=16"], {}, "was submitted for 16 ranks but started with 8"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_started(job, tmp_path, words, settings, message):
    code, said = finish(job(*words, **settings))
    assert code == 2 and message in said
    assert not (tmp_path / "record").exists()

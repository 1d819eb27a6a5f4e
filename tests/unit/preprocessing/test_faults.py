"""Real faults: killed workers, drivers and Dask workers, a full disk. The result is that of a quiet run."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt2dist.errors import RunError, UserError
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.preprocessing.driver import prepare_part
from gpt2dist.tokenizer.tokenizer import train_bpe
from tests.support.jobs import content

LINES = 60_000
TIMEOUT = 120


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus of five tasks, a tokenizer, and the dataset that an undisturbed run makes of them."""
    home = tmp_path_factory.mktemp("faults")
    # One token, so that megabytes take no time.
    word = " " + "".join(chr(97 + i * i % 26) for i in range(99))
    train_bpe([word * 50], 360).save(home / "tokenizer")
    with open(home / "a.jsonl", "w") as file:
        for number in range(LINES):
            file.write(json.dumps({"text": str(number % 50_000) + word * 6}) + "\n")
    prepare(job(home, home / "quiet"))
    return home


def job(home, output, **options):
    options = {"val_fraction": 0.1, "deduplicate": True} | options
    return PreprocessingJob((str(home / "a.jsonl"),), str(home / "tokenizer"), Path(output), **options)


def command(home, output, *options):
    arguments = [str(home / "a.jsonl"), "--tokenizer", str(home / "tokenizer"), "--output", str(output)]
    arguments += ["--val-fraction", "0.1", "--deduplicate", *options]
    return [sys.executable, "-m", "gpt2dist", "preprocess", *arguments]


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def children(pid):
    """The processes below one, which the kernel lists by thread."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


def ends(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def at_work(output):
    """Attempts that have begun to write."""
    return [*Path(f"{output}.partial").glob("running/*/*.bin.*.tmp")]


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_killed_and_run_again(home, tmp_path, victim):
    output = tmp_path / "out"
    process = subprocess.Popen(command(home, output, "--workers", "2"), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: at_work(output) or process.poll() is not None)
    workers = children(process.pid)
    assert workers and process.poll() is None
    if victim == "driver":
        process.kill()
        process.communicate(timeout=TIMEOUT)  # ends when the last worker has closed standard error
        wait_for(lambda: all(map(ends, workers)))
    else:
        open_by = {pid for pid in workers if opens(pid, output)}
        os.kill(next(iter(open_by)), signal.SIGKILL)
        _, error = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 1 and "Traceback" not in error
        assert (
            "a worker process was killed, most likely because memory ran out. Finished work is kept in " in error
        )
        assert "run the same command again to resume, with fewer --workers or a smaller --memory-per" in error
    assert not output.exists()
    again = subprocess.run(
        command(home, output, "--workers", "2"), capture_output=True, text=True, timeout=TIMEOUT
    )
    assert again.returncode == 0, again.stderr
    assert content(output) == content(home / "quiet")


def opens(pid, output):
    """Whether a process has a file below `output` open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(output) in str(link.readlink()):
                return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False


def test_parts_of_an_array(home, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(UserError, match=r"tasks are not done \(0, 1.*run those again, then --finish"):
        prepare(job(home, output), finish=True)
    both = [
        subprocess.Popen(
            command(home, output, "--workers", "1", "--task-index", str(index), "--task-count", "3"),
            stderr=subprocess.PIPE,
        )
        for index in (0, 2)
    ]
    assert [process.communicate(timeout=TIMEOUT) and process.returncode for process in both] == [0, 0]
    with pytest.raises(UserError, match=r"tasks are not done \(1, 4\)"):
        prepare(job(home, output), finish=True)
    prepare_part(job(home, output), 1, 3)
    marker = min((tmp_path / "out.partial").rglob("done.json"))
    min(marker.parent.glob("*.bin")).unlink()
    with pytest.raises(UserError, match=r"1 of \d+ tasks are not done \(0\)"):
        prepare(job(home, output), finish=True)
    assert marker.exists(), "to look changes nothing"
    prepare_part(job(home, output), 0, 3)
    prepare_part(job(home, output), 1, 3)  # nothing is left to do
    prepare(job(home, output), finish=True)
    assert content(output) == content(home / "quiet")
    said = []
    prepare_part(job(home, output), 1, 3, on_info=said.append)
    assert "nothing to do" in said[0]


def test_a_full_disk(home, tmp_path):
    """A limit on the size of files fails where a full disk does, in write()."""
    output, limit = tmp_path / "out", 100_000

    def run(limit):
        def limited():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        arguments = command(home, output, "--workers", "2")
        return subprocess.run(arguments, capture_output=True, text=True, timeout=TIMEOUT, preexec_fn=limited)

    full = run(limit)
    assert full.returncode == 1 and "Traceback" not in full.stderr, full.stderr
    assert "cannot be written (File too large). Finished work is kept" in full.stderr
    assert f"{output}.partial/running/tasks-0000" in full.stderr
    assert run(resource.RLIM_INFINITY).returncode == 0
    assert content(output) == content(home / "quiet")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk takes root")
def test_a_really_full_disk(home, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    try:
        with pytest.raises(
            RunError, match=r"cannot be written \(No space left on device\)\. Finished work is kept"
        ):
            prepare(job(home, disk / "out"))
        remounted = ["mount", "-o", "remount,size=100m", str(disk)]
        subprocess.run(remounted, check=True)
        prepare(job(home, disk / "out"))
        assert content(disk / "out") == content(home / "quiet")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # memory maps may still be there


@pytest.fixture
def dask_cluster():
    """A scheduler and two workers in processes of their own, which nannies start again when they die."""
    distributed = pytest.importorskip("distributed", reason="Dask is an extra: pip install 'gpt2dist[dask]'")
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster:
        yield cluster


def test_dask_and_a_lost_worker(home, tmp_path, dask_cluster):
    output = tmp_path / "out"
    options = ["--scheduler", dask_cluster.scheduler_address]
    process = subprocess.Popen(command(home, output, *options), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: at_work(output) or process.poll() is not None)
    pids = [worker.process.process.pid for worker in dask_cluster.workers.values()]
    os.kill(next(pid for pid in pids if opens(pid, output)), signal.SIGKILL)
    _, error = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, error
    assert content(output) == content(home / "quiet")

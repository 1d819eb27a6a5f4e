"""Functions for `checkpoint.on_commit`. They append their calls to calls.jsonl in the run directory."""

import json
import os
import signal
import time


def called(run):
    """Return the calls that ended well, as names of checkpoints and steps."""
    path = run / "calls.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(is_true):
    """Wait for at most 60 seconds."""
    deadline = time.monotonic() + 60
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def upload(checkpoint, step):
    """Read all files, as an upload does."""
    assert checkpoint.is_absolute() and (checkpoint / "manifest.json").is_file()
    for file in checkpoint.iterdir():
        file.read_bytes()
    with (checkpoint.parents[1] / "calls.jsonl").open("a") as file:
        file.write(json.dumps([checkpoint.name, step]) + "\n")


def upload_slowly(checkpoint, step):
    """The first call takes until the last of 20 steps is saved and the next checkpoint is deleted."""
    if step == 5:
        wait_for((checkpoint.parent / "step-00000020").exists)
        wait_for(lambda: not (checkpoint.parent / "step-00000010").exists())
    upload(checkpoint, step)


def upload_after_stop(checkpoint, step):
    """The call of the checkpoint at which the run stops takes until stopped.json is written."""
    if step % 5:
        wait_for((checkpoint.parents[1] / "stopped.json").exists)
    upload(checkpoint, step)


def upload_or_fail(checkpoint, step):
    """Raise, as long as the file `offline` is in the run directory."""
    if (checkpoint.parents[1] / "offline").exists():
        raise ConnectionError("the store is down\nat line 2")
    upload(checkpoint, step)


def upload_or_exit(checkpoint, step):
    """End the thread at the checkpoint of step 5, at its first call."""
    flag = checkpoint.parents[1] / "exited"
    if not flag.exists():
        flag.touch()
        raise SystemExit(3)
    upload(checkpoint, step)


def upload_or_die(checkpoint, step):
    """Kill the process in the middle of the first call."""
    flag = checkpoint.parents[1] / "died"
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    upload(checkpoint, step)


def of_one_argument(checkpoint):
    """Not a function for this key."""

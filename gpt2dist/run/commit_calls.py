"""on_commit.jsonl, the record of the calls of `checkpoint.on_commit`. Does not import torch.

Each line has `step`, `manifest` (SHA-256 of the checkpoint's manifest.json), `function`, `state`, `time`, and
`error` after a failure. The last line of a checkpoint and a function counts. The states:

waiting     The checkpoint is complete, and the function is to be called, or its call was cut off.
done        The function returned.
failed      The function raised an exception.
lost        The checkpoint was deleted before a call succeeded.
"""

import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from gpt2dist import atomic_io, json_files
from gpt2dist.run.directory import RunDirectory

State = Literal["waiting", "done", "failed", "lost"]
LINE_BYTES = 2**16
"""Maximum length of a line that is read back."""
ERROR_CHARACTERS = 2000
"""Characters of an error that are recorded."""
TAIL_BYTES = 2**18


def identity(checkpoint: Path) -> str:
    """Return what differs if another checkpoint gets the name of this one: the SHA-256 of its manifest.

    Raises:
        OSError: The manifest cannot be read.
    """
    return atomic_io.sha256_of(checkpoint / "manifest.json")


def append(run: Path, step: int, manifest: str, function: str, state: State, error: str = "") -> None:
    """Append a line.

    Raises:
        OSError: The file cannot be written.
    """
    line = {"step": step, "manifest": manifest, "function": function, "state": state}
    line |= {"time": round(time.time(), 3)} | ({"error": error[:ERROR_CHARACTERS]} if error else {})
    with RunDirectory(run).commit_calls.open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a crash cut the last line off
                file.write(b"\n")
        file.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def states(run: Path, function: str) -> dict[tuple[int, str], str]:
    """Return the state of each checkpoint for a function, by its step and its manifest's hash."""
    lines = _lines(run, 2**40)
    return {(line["step"], line["manifest"]): line["state"] for line in lines if line["function"] == function}


def last_failure(run: Path, function: str) -> str:
    """Return what failed if the last call of a function did; empty otherwise. Reads the end of the file only."""
    ended = [line for line in _lines(run, TAIL_BYTES) if line["function"] == function]
    last = next((line for line in reversed(ended) if line["state"] in ("done", "failed")), {"state": "done"})
    if last["state"] == "done":
        return ""
    reason = next(iter(str(last.get("error")).splitlines()), "")
    return f"{function} failed at step {last['step']}: {reason}"


def _lines(run: Path, length: int) -> list[dict[str, Any]]:
    """Return the valid lines in the last `length` bytes; none if there is no file or it cannot be read."""
    path = RunDirectory(run).commit_calls
    if not json_files.is_file(path):
        return []
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - length))
            texts = file.read().split(b"\n")
    except OSError:
        return []
    return [line for text in texts if len(text) <= LINE_BYTES and (line := _parsed(text))]


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Return a line, or None if it was cut off by a crash or damaged."""
    try:
        line = json_files.parse(text)
    except ValueError:
        return None
    texts = all(isinstance(line.get(key), str) for key in ("manifest", "function", "state"))
    return line if texts and type(line.get("step")) is int else None

"""Two hosts on this machine, made by tools/nodes.sh."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.commands import is_alive

TOOL = REPOSITORY / "tools/nodes.sh"
NAME = f"t{os.getpid()}"  # several jobs of tests may run on a machine


def call(*words: str, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOOL, *words], env=os.environ | {"GPT2DIST_NODES": name}, capture_output=True, text=True, timeout=60
    )


@contextlib.contextmanager
def two_nodes() -> Iterator[None]:
    """Brings them up; skips the test with the reason where that cannot be done."""
    missing = [program for program in ("ip", "nsenter", "unshare") if not shutil.which(program)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"two hosts on one machine need root{', and ' if missing else ''}{', '.join(missing)}")
    for left in Path("/run/netns").glob("t*-n1"):  # by tests that were killed
        name = left.name.removesuffix("-n1")
        if name[1:].isdecimal() and not is_alive(int(name[1:])):
            call("down", name=name)
    made = call("up")
    if made.returncode:
        pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
    try:
        yield
    finally:
        done = call("down")
        assert done.returncode == 0, done.stderr


def on(node: int, command: list[str], **settings: str) -> list[str]:
    """The command that runs another one on a node."""
    words = [f"{name}={value}" for name, value in settings.items()]
    return ["env", f"GPT2DIST_NODES={NAME}", *words, str(TOOL), "on", str(node), *command]


def processes(node: int) -> list[str]:
    """The ids of what runs on a node."""
    listed = subprocess.run(
        ["ip", "netns", "pids", f"{NAME}-n{node}"], check=True, capture_output=True, text=True
    )
    return listed.stdout.split()

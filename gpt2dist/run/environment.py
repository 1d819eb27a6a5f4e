"""The environment of a run: versions, machine, and the git commit of the source tree of gpt2dist."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from gpt2dist import __version__

HERE = Path(__file__).resolve()
PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy", "safetensors")


def describe() -> dict[str, Any]:
    """Return the versions, host, devices and git commit of this process."""
    import torch  # imported here because `status` and `submit` must not need it

    cuda = torch.cuda.is_available()
    return {
        "gpt2dist": __version__,
        "git_commit": commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "cuda": torch.version.cuda,
        "command": sys.argv,
    }


def commit() -> str | None:
    """Return the git commit, or None if gpt2dist is installed as a package."""
    found = _git("rev-parse", "HEAD")
    return found and found.strip()


def uncommitted() -> str:
    """Return the diff of tracked files against the commit; empty without changes or without a commit."""
    return _git("diff", "HEAD") or ""


def _git(*words: str) -> str | None:
    def git(*words: str) -> str:
        command = ["git", "-C", str(HERE.parent), *words]
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True
        )
        return done.stdout

    try:
        git("ls-files", "--error-unmatch", HERE.name)  # fails if the package is installed in another repository
        return git(*words)
    except (OSError, subprocess.SubprocessError):
        return None

"""What a run ran on: versions, machine, code."""

import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from gpt2dist import __version__

PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy", "safetensors")


def describe() -> dict[str, Any]:
    """Versions, host, devices and git commit of this process."""
    cuda = torch.cuda.is_available()
    return {
        "gpt2dist": __version__,
        "git_commit": _git_commit(),
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


def _git_commit() -> str | None:
    """The commit of the working tree that gpt2dist runs from; None when it is installed as a package."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # a virtual environment may lie in another repository
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None

"""What a run ran on: versions, machine, code."""

import importlib.metadata
import os
import platform
import socket
import sys
from typing import Any

import torch

from gpt2dist import __version__
from gpt2dist.monitoring import code

PACKAGES = ("torch", "deepspeed", "transformers", "tokenizers", "numpy", "safetensors")


def describe() -> dict[str, Any]:
    """Versions, host, devices and git commit of this process."""
    cuda = torch.cuda.is_available()
    return {
        "gpt2dist": __version__,
        "git_commit": code.commit(),
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

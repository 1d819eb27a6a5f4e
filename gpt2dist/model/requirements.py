"""Check a device's requirements before the first step, which would otherwise fail with a traceback."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys

import torch

from gpt2dist.errors import UserError

MIN_FLASH_ATTENTION = (2, 3, 3)
MIN_DETERMINISTIC_FLASH_ATTENTION = (2, 4, 1)
"""First version whose backward pass can be deterministic."""


def require_compiler(device: torch.device) -> None:
    """Check that torch's Inductor has a compiler for `model.compile`.

    Raises:
        UserError: The triton package (on a GPU) or a C++ compiler is missing.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("model.compile: needs the triton package; install it, or set model.compile to false")
    given = os.environ.get("CXX")
    usual = "clang++" if sys.platform == "darwin" else "g++"
    if shutil.which(given or usual) is None:
        named = f"CXX is {given}" if given else f"{usual} is not on PATH and CXX is not set"
        raise UserError(
            f"model.compile: needs a C++ compiler ({named}); install one, or set model.compile to false"
        )


def require_varlen(device: torch.device) -> None:
    """Check that torch's kernel for `model.attention: varlen` is available.

    Raises:
        UserError: The device is not a CUDA GPU of compute capability 8.0 or above, or torch was built without
            flash attention.
    """
    way_out = "set model.attention to sdpa"
    if device.type != "cuda":
        raise UserError(f"model.attention: varlen needs a CUDA GPU, not {device.type}; {way_out}")
    if not torch.backends.cuda.is_flash_attention_available():
        raise UserError(
            f"model.attention: varlen needs a torch with flash attention, which this is not; {way_out}"
        )
    if (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        raise UserError(
            f"model.attention: varlen needs a GPU of compute capability 8.0 (Ampere) or above, this one has "
            f"{capability[0]}.{capability[1]}; {way_out}"
        )


def _flash_attention_version() -> tuple[int, ...]:
    try:
        version = importlib.metadata.version("flash_attn")
    except importlib.metadata.PackageNotFoundError:
        return ()
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def require_flash_attention(device: torch.device, deterministic: bool = False) -> None:
    """Check that the kernels for `model.attention: flash_attention_2` are available.

    Args:
        device: The device of the model.
        deterministic: Whether their backward pass must be deterministic.

    Raises:
        UserError: The device is not a CUDA GPU, or the flash-attn package is missing or too old.
    """
    way_out = "set model.attention to sdpa, which has torch's own flash kernel on GPUs"
    if device.type != "cuda":
        raise UserError(f"model.attention: flash_attention_2 needs a CUDA GPU, not {device.type}; {way_out}")
    lowest = MIN_DETERMINISTIC_FLASH_ATTENTION if deterministic else MIN_FLASH_ATTENTION
    if _flash_attention_version() < lowest:
        version = ".".join(map(str, lowest)) + " or newer" + ", for run.deterministic" * deterministic
        raise UserError(
            f"model.attention: flash_attention_2 needs the flash-attn package ({version}); install it, or "
            f"{way_out}"
        )

"""How torch computes: the precision of fp32 products, and deterministic algorithms.

Both are settings of the whole process. The context managers restore them, since a script or a notebook may have
its own.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from gpt2dist.errors import UserError

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_WORKSPACES = (":4096:8", ":16:8")
"""Values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS is deterministic (its manual, Results Reproducibility)."""
NCCL_ALGORITHMS = "^NVLS,NVLSTree"
"""Value of NCCL_ALGO that excludes sums in the switch, which Megatron-LM's --deterministic-mode excludes, too."""
_cublas_is_prepared = False


@contextlib.contextmanager
def fp32_products(tf32: bool, device: torch.device) -> Iterator[None]:
    """Compute matrix products of fp32 tensors in fp32, or in TF32 on a GPU. Restores the settings on exit.

    torch has two settings, an older one for all devices and one for each backend, and its compiler raises if they
    contradict each other (pytorch issue 166387). `set_float32_matmul_precision` sets both.

    Args:
        tf32: Whether a GPU may round the factors to TF32, with 10 bits of mantissa instead of 23.
        device: The device that computes. A CPU always computes in fp32.
    """
    mkldnn: Any = torch.backends.mkldnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [each.fp32_precision for each in backends]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # only the setting of a backend was changed
        older = "highest"
    torch.set_float32_matmul_precision("high" if tf32 and device.type == "cuda" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Use only algorithms that repeat their results bit by bit. Restores the settings on exit.

    An operation without such an algorithm raises an error. The backward passes of torch's flash and
    memory-efficient attention have one, which is slower; that of cuDNN's attention has none, so it is not used
    (checked in torch 2.11 and 2.13: attention_backward.cu and sdp_utils.cpp).

    torch would also fill all new memory with NaN. That costs time and changes nothing, because no result depends
    on memory that was never written.

    Args:
        wanted: False keeps the current settings.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill, benchmark = memory.fill_uninitialized_memory, torch.backends.cudnn.benchmark
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill
        torch.backends.cudnn.benchmark = benchmark
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)


def prepare_deterministic(wanted: bool) -> None:
    """Set the environment variables that cuBLAS and NCCL read when they start. Call it before CUDA is used.

    Args:
        wanted: False changes nothing.

    Raises:
        UserError: CUBLAS_WORKSPACE_CONFIG has another value, or is not set and CUDA has already started.
    """
    global _cublas_is_prepared
    if not wanted or not torch.cuda.is_available():
        return
    given = os.environ.get(CUBLAS)
    either = f"{CUBLAS}={' or '.join(DETERMINISTIC_WORKSPACES)}"
    # An earlier training of this process may have set it before CUDA started, and unset it at its end.
    if given is None and torch.cuda.is_initialized() and not _cublas_is_prepared:
        raise UserError(
            f"run.deterministic: CUDA has already started in this process without {either}, which cuBLAS reads "
            "at its start; set it before the process uses the GPU, or set run.deterministic to false"
        )
    if given not in (None, *DETERMINISTIC_WORKSPACES):
        raise UserError(
            f"run.deterministic: {CUBLAS} is {given}, with which cuBLAS is not deterministic; unset it, set "
            f"{either}, or set run.deterministic to false"
        )
    os.environ.setdefault(CUBLAS, DETERMINISTIC_WORKSPACES[0])
    os.environ.setdefault("NCCL_ALGO", NCCL_ALGORITHMS)
    _cublas_is_prepared = True

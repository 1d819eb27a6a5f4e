"""Import DeepSpeed without its unwanted output and compilation. Other modules import it from here."""

import importlib
import logging
import os
import warnings

import torch

from gpt2dist.distributed.gpu import supports_bf16
from gpt2dist.distributed.world import World

if not torch.cuda.is_available():
    # DeepSpeed would detect this itself, with a warning. With a GPU, setting it would make DeepSpeed ignore it.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.accelerator import get_accelerator, set_accelerator
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
from deepspeed.runtime import bf16_optimizer, compiler
from deepspeed.utils import groups

__all__ = ["deepspeed", "start_quietly"]


class Accelerator(CUDA_Accelerator):
    """DeepSpeed's view of a GPU, without its assumption that CUDA_VISIBLE_DEVICES is a list of numbers."""

    def available_memory(self, device_index: int | None = None) -> int:
        """Return the free bytes of a GPU or MIG instance.

        DeepSpeed 0.19.8 asks NVML, if it is installed, which needs a number: a UUID or the name of a MIG instance
        raises ValueError.
        """
        return torch.cuda.mem_get_info(device_index)[0]

    def is_bf16_supported(self) -> bool:
        """Return whether the current GPU computes in bf16; DeepSpeed also counts emulation."""
        return supports_bf16()


def start_quietly(world: World) -> None:
    """Prepare DeepSpeed to start without compiling unneeded extensions and without logging to standard output."""
    # Disable a shared-memory collective for CPU ranks that takes half a minute to compile on first use; gloo is
    # enough. Use vars(): attribute access would run the compiler on every extension to see which of them work.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    _import_muon()
    _forget_process_groups()
    for name, value in (("RANK", world.rank), ("LOCAL_RANK", world.local_rank), ("WORLD_SIZE", world.size)):
        os.environ.setdefault(name, str(value))  # without them DeepSpeed would look for MPI
    if world.device.type == "cuda":
        # DeepSpeed takes the local rank for the number of the GPU, here and later on.
        for name in {"LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"} & os.environ.keys():
            os.environ[name] = str(world.device.index)
    # On a CPU DeepSpeed would run numactl to count devices, at stage 3 for every bucket of gradients.
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", str(world.size)))
    logger = logging.getLogger("DeepSpeed")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)  # it writes to standard output; rank logs still receive the messages
    logger.propagate = True
    if type(get_accelerator()) is CUDA_Accelerator:
        set_accelerator(Accelerator())
    bf16_optimizer.see_memory_usage = lambda *_, **__: None  # it prints memory usage at each call
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed with gloo warns once per collective


def _forget_process_groups() -> None:
    """Drop the process groups that DeepSpeed keeps from an earlier training of this process.

    They ceased to exist when that training left the default group.
    """
    groups._WORLD_GROUP = groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None
    groups._ALL_TO_ALL_GROUP.clear()


def _import_muon() -> None:
    """Import DeepSpeed's Muon without starting torch's compiler, which would take seconds on every rank.

    DeepSpeed imports Muon only to check whether an optimizer is a Muon.
    """
    compiler.compile, compiling = lambda: lambda function: function, compiler.compile
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiling

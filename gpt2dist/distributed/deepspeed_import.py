"""Import DeepSpeed without its unwanted output and compilation. Other modules import it from here."""

import importlib
import logging
import os
import warnings

import torch

from gpt2dist.distributed.world import World

if not torch.cuda.is_available():
    # DeepSpeed would detect this itself, with a warning. With a GPU, setting it would make DeepSpeed ignore it.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.runtime import bf16_optimizer, compiler
from deepspeed.utils import groups

__all__ = ["deepspeed", "start_quietly"]


def start_quietly(world: World) -> None:
    """Prepare DeepSpeed to start without compiling unneeded extensions and without logging to standard output."""
    # Disable a shared-memory collective for CPU ranks that takes half a minute to compile on first use; gloo is
    # enough. Use vars(): attribute access would run the compiler on every extension to see which of them work.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    _import_muon()
    _forget_process_groups()
    for name, value in (("RANK", world.rank), ("LOCAL_RANK", world.local_rank), ("WORLD_SIZE", world.size)):
        os.environ.setdefault(name, str(value))  # without them DeepSpeed would look for MPI
    # On a CPU DeepSpeed would run numactl to count devices, at stage 3 for every bucket of gradients.
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", str(world.size)))
    logger = logging.getLogger("DeepSpeed")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)  # it writes to standard output; rank logs still receive the messages
    logger.propagate = True
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

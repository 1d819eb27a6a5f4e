"""DeepSpeed, imported and started without what it says and compiles unasked. Import it from here."""

import importlib
import logging
import os
import warnings

import torch

from gpt2dist.distributed.world import World

if not torch.cuda.is_available():
    # DeepSpeed would find that out itself, with a warning. Never set where there is a GPU: it would be left out.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
from deepspeed.runtime import bf16_optimizer, compiler

__all__ = ["deepspeed", "start_quietly"]


def start_quietly(world: World) -> None:
    """Lets DeepSpeed start without compiling what a run does not need and without its log on standard output."""
    # A shared-memory collective that is compiled at first use (half a minute) for CPU ranks only; gloo serves.
    # Not by attribute: that would run the compiler on every extension, to find out which of them would work.
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    _import_muon()
    for name, value in (("RANK", world.rank), ("LOCAL_RANK", world.local_rank), ("WORLD_SIZE", world.size)):
        os.environ.setdefault(name, str(value))  # without a launcher DeepSpeed would look for MPI
    logger = logging.getLogger("DeepSpeed")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)  # it writes to standard output; rank logs still get what is said
    logger.propagate = True
    bf16_optimizer.see_memory_usage = lambda *_, **__: None  # it prints the memory at each of its steps
    warnings.filterwarnings("ignore", category=FutureWarning)  # DeepSpeed over gloo, once per collective


def _import_muon() -> None:
    """Imports DeepSpeed's Muon without torch's compiler, which it would start: seconds on every rank.

    DeepSpeed imports it to find out that an optimizer is another one.
    """
    compiler.compile, compiling = lambda: lambda function: function, compiler.compile
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiling

"""Partition a model across the ranks with DeepSpeed's ZeRO stage 3, for models too large for one rank.

A parameter is whole only while its layer computes. No rank ever holds the whole model, not even during loading:
each parameter is partitioned when it is created, and then filled from the files, one parameter at a time.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.checkpoint.safetensors_io import TensorFiles
from gpt2dist.distributed.deepspeed_import import deepspeed, start_quietly
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.model.find_model import weight_files
from gpt2dist.model.huggingface import bare_name
from gpt2dist.model.lm_head import Head

SETTINGS = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}, "steps_per_print": 10**9}


def load_partitioned(directory: Path, world: World, dtype: torch.dtype) -> GPT2LMHeadModel:
    """Load a model like `load_pretrained`, but partitioned. Collective, as is each of its forward passes.

    Args:
        directory: A model directory.
        world: This rank.
        dtype: fp32 or bf16.

    Raises:
        UserError: The model's files cannot be read as a GPT-2.
    """
    start_quietly(world)
    paths = weight_files(directory)  # before a model is built of the sizes that config.json says
    config = GPT2Config.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
    settings = SETTINGS | {"bf16": {"enabled": dtype == torch.bfloat16}}
    # No `dtype`: DeepSpeed converts any value to bf16 if the accelerator has no fp16.
    with deepspeed.zero.Init(config_dict_or_path=settings):
        model = GPT2LMHeadModel(config)
    try:
        files = TensorFiles(paths)
        names = {bare_name(name): name for name in files}
        for name, parameter in model.named_parameters():
            tensor = files.read(names[bare_name(name)])
            # Every rank reads every parameter (from the page cache), but only rank 0's values are distributed.
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(tensor)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{directory}: its model cannot be loaded ({error}); give another checkpoint") from error
    model.lm_head = Head(model.lm_head.weight, config.vocab_size)
    deepspeed.initialize(model=model.eval(), config=settings, dist_init_required=False)
    return model

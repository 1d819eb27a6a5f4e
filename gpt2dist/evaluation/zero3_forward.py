"""Partition a model across the ranks with DeepSpeed's ZeRO stage 3, for models too large for one rank.

A parameter is whole only while its layer computes. No rank ever holds the whole model, not even during loading:
each parameter is partitioned when it is created, and then filled from the files, one parameter at a time.
"""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.checkpoint.tensor_files import TensorFiles
from gpt2dist.distributed.deepspeed_import import deepspeed, start_quietly
from gpt2dist.distributed.hosts import on_each_host
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
    # Before a model is built of the sizes that config.json says.
    files = on_each_host(world, lambda: TensorFiles(weight_files(directory)))
    config = GPT2Config.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
    settings = SETTINGS | {"bf16": {"enabled": dtype == torch.bfloat16}}
    # No `dtype`: DeepSpeed converts any value to bf16 if the accelerator has no fp16.
    with deepspeed.zero.Init(config_dict_or_path=settings):
        model = GPT2LMHeadModel(config)
    names = {bare_name(name): name for name in files}
    fault = ""
    for name, parameter in model.named_parameters():
        # Rank 0 reads the parameter, and DeepSpeed gives each rank its part. All ranks take part to the end.
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
            if world.is_main and not fault:
                try:
                    parameter.copy_(files.read(names[bare_name(name)]))
                except (OSError, RuntimeError) as error:
                    fault = f"{directory}: its model cannot be loaded ({error}); give another checkpoint"
    files.close()
    if fault := world.from_main(fault):
        raise UserError(fault)
    model.lm_head = Head(model.lm_head.weight, config.vocab_size)
    deepspeed.initialize(model=model.eval(), config=settings, dist_init_required=False)
    return model

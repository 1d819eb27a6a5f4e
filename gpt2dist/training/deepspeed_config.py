"""Derive DeepSpeed's configuration from the run's. Imports neither torch nor deepspeed."""

from typing import Any

from gpt2dist.config import Config
from gpt2dist.config.reading import flatten

BUCKET_ELEMENTS = 500_000_000
"""DeepSpeed's default `reduce_bucket_size`."""


def deepspeed_config(config: Config, accumulation: int, parameters: int, world_size: int = 1) -> dict[str, Any]:
    """Build DeepSpeed's configuration, a pure function of the arguments.

    Args:
        config: The run's configuration.
        accumulation: Micro-batches per optimizer step and rank.
        parameters: Number of model parameters, including the padding of the vocabulary.
        world_size: Number of ranks, on all hosts.

    Returns:
        DeepSpeed's keys, with `zero.deepspeed` merged in last. The run directory keeps them as deepspeed.json.
    """
    out = _merge(_ours(config, accumulation), config.zero.deepspeed)
    if config.zero.stage > 0:
        for key, value in _communication(config.zero.stage, parameters, world_size).items():
            out["zero_optimization"].setdefault(key, value)
    return out


def _ours(config: Config, accumulation: int) -> dict[str, Any]:
    """Return the keys that raw keys must not contradict."""
    stage, precision = config.zero.stage, config.precision
    out: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.batch.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        # At stage 0 DeepSpeed reports no gradient norm, so the engine clips with torch.
        "gradient_clipping": config.optimizer.clip_grad_norm if stage > 0 else 0.0,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        # DeepSpeed compiles its own AdamW for the CPU at the first start; torch's fused AdamW is as fast.
        "zero_force_ds_cpu_optimizer": False,
        # DeepSpeed's log line every N steps would repeat ours.
        "steps_per_print": 1_000_000_000,
        # DeepSpeed's throughput timer synchronises the device before and after each micro-batch.
        "timers": {"throughput": {"enabled": False}},
        # DeepSpeed's default is the dtype of the model, to which it also rounds sums in fp32.
        "communication_data_type": config.zero.reduce_dtype,
    }
    for key, place in (
        ("offload_optimizer", config.zero.offload_optimizer),
        ("offload_param", config.zero.offload_parameters),
    ):
        if place != "none":
            out["zero_optimization"][key] = {"device": place, "pin_memory": True}
    if precision == "bf16":
        out["bf16"] = {"enabled": True}
        # Accumulation in bf16 would lose small gradients.
        out["data_types"] = {"grad_accum_dtype": "fp32"}
    elif precision == "fp16":
        out["fp16"] = {"enabled": True, "initial_scale_power": 16, "loss_scale_window": 1000}
    elif precision == "autocast_bf16":
        out["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return out


def _communication(stage: int, parameters: int, world_size: int) -> dict[str, Any]:
    """Return how gradients are sent, unless raw keys say otherwise.

    Buckets and overlap change at most the order in which ranks are summed, and on two ranks no bit.

    The bucket follows Megatron Core's `DistributedDataParallelConfig.bucket_size`: 40 million elements, and one
    million per rank beyond 40 ranks, since collectives of more ranks need more data to hide their latency.
    DeepSpeed's 500 million would cost up to 6 bytes per element for copies at each sum, and would leave stage 3
    nothing to overlap with its backward pass. It allocates the whole bucket, however small the model is.
    """
    return {
        "reduce_bucket_size": min(parameters, BUCKET_ELEMENTS, max(40_000_000, 1_000_000 * world_size)),
        # With it, stages 1 and 2 of DeepSpeed 0.19.8 wait for the device after each micro-batch whose gradients
        # they send, need a second bucket, and have had races (DeepSpeed's issues 5545, 7188 and 8061). Without
        # it, stage 3 would wait for the whole default stream instead of its own.
        "overlap_comm": stage == 3,
        # Without it, each gradient is kept until its bucket is sent, and memory becomes fragmented. Stage 2 in
        # bf16 then divides by the number of ranks in fp32: other bits unless that is a power of two.
        "contiguous_gradients": True,
    }


def conflicts(config: Config) -> list[str]:
    """Return the dotted keys of `zero.deepspeed` that other settings of the run determine."""
    raw = config.zero.deepspeed
    bare = config.model_copy(update={"zero": config.zero.model_copy(update={"deepspeed": {}})})
    ours = _ours(bare, accumulation=1)
    # Keys reserved for other sections of the configuration, even if this run does not set them.
    owned = {"train_batch_size", "optimizer", "scheduler"}
    owned |= {"bf16", "bfloat16", "fp16", "torch_autocast", "data_types", "communication_data_type", "timers"}
    offload = {"offload_optimizer.device", "offload_param.device", "cpu_offload", "cpu_offload_param"}
    set_twice = {
        theirs
        for theirs in flatten(raw)
        for mine in flatten(ours)
        if theirs == mine or theirs.startswith(mine + ".") or mine.startswith(theirs + ".")
    }
    set_twice |= {key for key in flatten(raw) if key.removeprefix("zero_optimization.") in offload}
    set_twice = {key for key in set_twice if key.split(".")[0] not in owned}
    return sorted(set_twice | {key for key in raw if key in owned})


def _merge(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = _merge(out[key], value) if both else value
    return out

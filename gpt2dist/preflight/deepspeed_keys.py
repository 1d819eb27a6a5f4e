"""Check the raw keys under `zero.deepspeed`, without importing DeepSpeed, which takes seconds.

DeepSpeed ignores unknown top-level keys, and checks types and limits only when training starts. The tables here
repeat its own, and a test compares the two. If DeepSpeed refuses anything else, the engine reports it.
"""

import difflib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from gpt2dist.config import Config, Problem
from gpt2dist.config.reading import in_yaml_words
from gpt2dist.training.deepspeed_config import conflicts

OWNERS = {
    "train_batch_size": "batch.global_batch_size",
    "train_micro_batch_size_per_gpu": "batch.micro_batch_size",
    "gradient_accumulation_steps": "batch.global_batch_size",
    "gradient_clipping": "optimizer.clip_grad_norm",
    "zero_optimization.offload_optimizer": "zero.offload_optimizer",
    "zero_optimization.cpu_offload": "zero.offload_optimizer",
    "zero_optimization.offload_param": "zero.offload_parameters",
    "zero_optimization.cpu_offload_param": "zero.offload_parameters",
    "zero_optimization": "zero.stage",
    "communication_data_type": "zero.reduce_dtype",
    "optimizer": "the optimizer section",
    "scheduler": "the schedule section",
    **dict.fromkeys(("bf16", "bfloat16", "fp16", "torch_autocast", "data_types"), "precision"),
}
"""DeepSpeed's key → the key of ours that determines it. The first that equals or contains a raw key counts."""
OURS = "is set by gpt2dist itself; remove it"
UNSUPPORTED = {
    "gradient_allreduce_op": "it needs averaged gradients",
    "managed_gradient_accumulation": "it sets the boundaries of gradient accumulation itself",
    "tensor_parallel": "only ZeRO partitions the model",
    "expert_parallel": "a GPT-2 has no experts",
    "hybrid_engine": "it generates text with its own code",
    "zero_optimization.compute_grad_norm": "it needs the norm of the gradient at each step",
    "zero_optimization.round_robin_gradients": "DeepSpeed then mixes up the weights that a checkpoint saves",
    "zero_optimization.legacy_stage1": "DeepSpeed has removed it",
}
"""Keys of DeepSpeed that gpt2dist does not support → why."""
QUANTISED = {
    "zero_optimization.zero_quantized_weights": "it rounds the weights of each forward pass to 8 bits",
    "zero_optimization.zero_quantized_nontrainable_weights": "all weights of a run are trained",
    "zero_optimization.zero_quantized_gradients": "it rounds the gradients that the ranks sum to 8 and 4 bits",
}
"""Switches of ZeRO++ that gpt2dist does not support → why. They need CUDA code that no test of ours can run."""


ABSENT = object()


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


READ = _names("""
    activation_checkpointing aio autotuning bf16 bfloat16 checkpoint comet comms_logger communication_data_type
    compile csv_monitor data_efficiency data_types dataloader_drop_last datastates_ckpt disable_allgather
    disable_python_gc dump_state expert_parallel flops_profiler fp16 gradient_accumulation_steps
    gradient_allreduce_op gradient_clipping gradient_predivide_factor hybrid_engine log_level
    managed_gradient_accumulation memory_breakdown optimizer pipeline prescale_gradients scheduler
    seq_parallel_communication_data_type steps_per_print tensor_parallel tensorboard timers torch_autocast
    train_batch_size train_micro_batch_size_per_gpu use_data_before_expert_parallelism vocabulary_size
    wall_clock_breakdown wandb weight_quantization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
    zero_optimization
""")
"""The top-level keys that DeepSpeed reads."""
SECTIONS = _names("""
    activation_checkpointing aio autotuning checkpoint comet comms_logger compile csv_monitor data_efficiency
    datastates_ckpt flops_profiler pipeline tensorboard timers wandb weight_quantization zero_optimization
""")
"""Top-level keys whose value is a mapping."""
SWITCHES = _names("""
    dataloader_drop_last disable_allgather disable_python_gc dump_state memory_breakdown prescale_gradients
    use_data_before_expert_parallelism wall_clock_breakdown
""")
"""Top-level keys that are true or false."""
COMMUNICATION_TYPES = ("fp32", "fp16", "bf16")

ZERO_SWITCHES = _names("""
    contiguous_gradients reduce_scatter use_multi_rank_bucket_allreduce allgather_partitions overlap_comm
    compute_grad_norm load_from_fp32_weights elastic_checkpoint cpu_offload_param cpu_offload_use_pin_memory
    cpu_offload stage3_gather_16bit_weights_on_model_save stage3_use_all_reduce_for_fetch_params
    stage3_allgather_sequential stage3_gather_fp16_weights_on_model_save ignore_unused_parameters legacy_stage1
    round_robin_gradients parameter_alignment zero_quantized_weights zero_quantized_nontrainable_weights
    zero_quantized_gradients memory_efficient_linear pipeline_loading_checkpoint override_module_apply
    log_trace_cache_warnings enable_sanity_checks save_muon_momentum_buffer_in_memory
""")
"""Keys under `zero_optimization` that are true or false."""
ZERO_NUMBERS: dict[str, int | None] = {
    "reduce_bucket_size": 1,
    "stage3_module_granularity_threshold": None,
    **dict.fromkeys(
        _names("""
            allgather_bucket_size sub_group_size stage3_prefetch_bucket_size stage3_param_persistence_threshold
            stage3_model_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance
            zero_hpz_partition_size
        """),
        0,
    ),
}
"""Integers under `zero_optimization` → their minimum, or None."""
ZERO_OTHERS = _names("stage offload_param offload_optimizer zenflow leaf_module")
"""Keys under `zero_optimization` whose values only DeepSpeed checks."""


def _zero_model() -> type[BaseModel]:
    """Return a model of the keys under `zero_optimization`."""
    fields: dict[str, Any] = dict.fromkeys(ZERO_SWITCHES, (bool, False))
    fields |= {name: (Annotated[int, Field(ge=least)], 0) for name, least in ZERO_NUMBERS.items()}
    # DeepSpeed also accepts these names without the prefix.
    fields |= {name.removeprefix("stage3_"): field for name, field in fields.items()}
    fields |= dict.fromkeys(ZERO_OTHERS, (Any, None))
    return create_model("ZeroOptimization", __config__=ConfigDict(extra="forbid"), **fields)


_ZERO = _zero_model()


def check_raw_keys(config: Config) -> Iterator[Problem]:
    """Check that DeepSpeed accepts each key under `zero.deepspeed`, and that none replaces a setting of ours."""
    raw = config.zero.deepspeed
    ours = conflicts(config)
    for key in ours:
        owner = next((owner for name, owner in OWNERS.items() if _within(key, name)), None)
        yield _problem(key, f"follows from {owner}; remove it, and change {owner}" if owner else OURS)
    on = {key: why for key, why in QUANTISED.items() if _value(raw, key) is not False}
    for key, why in (UNSUPPORTED | on).items():
        if _value(raw, key) is not ABSENT:
            yield _problem(key, f"is not supported by gpt2dist: {why}; remove it")
    reported = {key.split(".")[0] for key in ours} - {"zero_optimization"} | set(UNSUPPORTED)
    for key in (key for key in raw if key not in reported):
        yield from _check_top_level(key, raw[key])
    if isinstance(zero := raw.get("zero_optimization"), dict):
        yield from _check_zero({key: value for key, value in zero.items() if value != "auto"}, config.zero.stage)


def _check_top_level(key: str, value: Any) -> Iterator[Problem]:
    if key not in READ:
        yield _unknown(key, READ)
    elif key in SECTIONS and not isinstance(value, dict):
        yield _problem(key, f"should be a mapping, not {value!r}")
    elif key in SWITCHES and not isinstance(value, bool):
        yield _problem(key, f"should be true or false, not {value!r}")
    elif key.endswith("communication_data_type") and value not in COMMUNICATION_TYPES:
        yield _problem(key, f"{value!r} is not one of {', '.join(COMMUNICATION_TYPES)}")
    elif key == "gradient_predivide_factor" and (
        isinstance(value, bool) or not isinstance(value, int | float) or not value > 0
    ):
        yield _problem(key, f"should be a number above 0, not {value!r}")


def _check_zero(zero: dict[str, Any], stage: int) -> Iterator[Problem]:
    """Check the keys under `zero_optimization`."""
    try:
        _ZERO.model_validate(zero)
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            name = str(error["loc"][0])
            if error["type"] == "extra_forbidden":
                yield _unknown(
                    f"zero_optimization.{name}", [f"zero_optimization.{each}" for each in _ZERO.model_fields]
                )
            else:
                message = f"{in_yaml_words(error['msg'])}, not {error['input']!r}"
                yield _problem(f"zero_optimization.{name}", message)
        return
    copies = "zero_hpz_partition_size"
    if int(zero.get(copies, 1)) > 1 and stage != 3:
        yield _problem(
            f"zero_optimization.{copies}",
            f"needs partitioned parameters, and stage {stage} does not partition them; set zero.stage to 3, or "
            "remove it",
        )
    size = zero.get("allgather_bucket_size", 0)
    if stage in (1, 2) and int(size) % 2:
        yield _problem(
            "zero_optimization.allgather_bucket_size",
            f"{size} is odd, and DeepSpeed needs a multiple of 2 at stages 1 and 2; set it to {int(size) + 1}",
        )


def _problem(key: str, message: str) -> Problem:
    return Problem(f"zero.deepspeed.{key}", message)


def _unknown(key: str, known: Iterable[str]) -> Problem:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    fix = f"did you mean {close[0]}?" if close else "remove it, or see DeepSpeed's documentation"
    return _problem(key, f"not a key that DeepSpeed reads; {fix}")


def _within(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")


def _value(raw: Any, key: str) -> Any:
    """Return the value of a dotted key; ABSENT without it."""
    for name in key.split("."):
        raw = raw.get(name, ABSENT) if isinstance(raw, dict) else ABSENT
    return raw

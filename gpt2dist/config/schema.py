"""Sections and keys of the run configuration, frozen and typed. `configuration.Config` has all of them.

This file is the only description of the keys. `gpt2dist config`, the JSON Schema for editors and
docs/reference/configuration.md follow from it, so to add a key is to add one field here. The first sentence of a
description stands alone in lists of keys.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


def _unit(name: str) -> Any:
    """Return the metadata of a type whose values have a unit."""
    return Field(json_schema_extra={"x-unit": name})


# The upper limits are far beyond any run, so that only a slip exceeds them.
Steps = Annotated[int, Field(gt=0, le=10**9), _unit("optimizer steps")]
WarmupSteps = Annotated[int, Field(ge=0, le=10**9), _unit("optimizer steps")]
Tokens = Annotated[int, Field(gt=0, le=10**16), _unit("tokens")]
Samples = Annotated[int, Field(gt=0, le=10**16), _unit("windows")]
Length = Annotated[int, Field(gt=0, le=10**7), _unit("tokens")]
Windows = Annotated[int, Field(gt=0, le=10**8), _unit("windows")]
Layers = Annotated[int, Field(gt=0, le=10**4)]
Count = Annotated[int, Field(gt=0, le=10**6)]
Evaluations = Annotated[int, Field(gt=0, le=10**6), _unit("evaluations")]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Deviations = Annotated[float, Field(gt=0), _unit("standard deviations")]
Minutes = Annotated[float, Field(gt=0, le=10**7), _unit("minutes")]
Seconds = Annotated[float, Field(ge=5, le=10**7), _unit("seconds")]

PresetName = Literal["gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"]
Precision = Literal["fp32", "bf16", "fp16", "autocast_bf16"]
Offload = Literal["none", "cpu", "nvme"]
Decay = Literal["coupled", "independent"]
ReduceDtype = Literal["fp32", "bf16", "fp16"]


class Section(BaseModel):
    """Base of all sections: a mapping of known keys. `strict` rejects "yes" for a number or a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSection(Section):
    """Identity and limits of the run."""

    name: str = Field("", description="Name of the run. Empty takes the name of the configuration file.")
    output_dir: Path | None = Field(
        None, description="Run directory. Not set, it is runs/NAME, where NAME is `run.name`."
    )
    seed: int = Field(
        1337, ge=0, le=2**63 - 1, description="Seed of initial weights, order of the data, dropout and samples."
    )
    stop_after_steps: Steps | None = Field(
        None, description="Stop after this step of the run. The learning rate schedule does not change."
    )
    world_size: Count | None = Field(
        None,
        description="Number of ranks that the run must have. A start with any other number is refused. "
        "Not set, any number is accepted.",
    )
    timeout_seconds: Seconds = Field(
        600.0, description="Longest time without progress. A rank that exceeds it exits, and all others with it."
    )
    hooks: tuple[str, ...] = Field(
        (),
        description="Training hooks: classes that are called after steps, logs, evaluations and saves. Each is "
        "named package.module:ClassName.",
    )
    deterministic: bool = Field(
        False,
        description="Use only algorithms that repeat their results bit by bit. A GPU needs this for a bitwise "
        "resume. It slows down training there, above all the backward pass of attention, which otherwise adds in "
        "any order. A CPU repeats its results without it.",
    )
    allow_tf32: bool = Field(
        False,
        description="Compute fp32 matrix products of a GPU in TF32. This is faster from the Ampere "
        "generation on, but rounds the factors to 10 bits of mantissa instead of 23, so losses are no longer "
        "those of fp32. It applies to validation and samples, too, and does nothing on a CPU.",
    )


class ModelSection(Section):
    """Shape of the GPT-2, and how its passes are computed. `preset`, `init_from` or single keys set the sizes."""

    preset: PresetName | None = Field(
        None, description="Published GPT-2 whose sizes to use. Sizes that are also set here override it."
    )
    n_layer: Layers | None = Field(None, description="Number of transformer blocks.")
    n_head: Layers | None = Field(None, description="Number of attention heads. It must divide `model.n_embd`.")
    n_embd: Count | None = Field(None, description="Width of the residual stream.")
    context_length: Length | None = Field(
        None,
        description="Number of positions of the model. Not set, it is 1024 with a preset, that of the model with "
        "`model.init_from`, and `data.sequence_length` otherwise.",
    )
    init_from: str | None = Field(
        None,
        min_length=1,
        description="Model with the initial weights: a directory, or a name on the Hugging Face hub. Its sizes "
        "apply. NAME@REVISION names a branch, tag or commit of the hub; the start's environment.json records the "
        "commit. Not set, the weights are initialized from `run.seed`.",
    )
    resize: bool = Field(
        False,
        description="Resize the embeddings of `model.init_from` to this run. It may then have another context "
        "length or a smaller vocabulary. New rows are initialized as in a new model.",
    )
    dropout: Fraction = Field(
        0.0, description="Dropout probability of embeddings, attention and residual branches."
    )
    attention: Literal["sdpa", "varlen", "flash_attention_2", "eager"] = Field(
        "sdpa",
        description="Attention kernel. `varlen` is `sdpa` but trains on isolated documents without a mask. It "
        "needs a CUDA GPU, a `precision` other than fp32 and no dropout. `flash_attention_2` needs the package "
        "flash-attn, a `precision` other than fp32, and `data.document_boundaries: pack`. `eager` stores the "
        "attention matrix.",
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute each block in the backward pass. This saves memory and costs time."
    )
    compile: bool = Field(
        False, description="Compile the training pass with torch.compile. Not available at `zero.stage` 3."
    )
    loss: Literal["plain", "chunked", "auto"] = Field(
        "auto",
        description="How the loss is computed. `chunked` never holds all logits of a micro-batch in memory, "
        "`plain` does. `auto` is chunked on a CPU and for large micro-batches.",
    )


class TrainingDataset(Section):
    """Dataset directory whose `train` split is trained on."""

    path: Path = Field(description="Dataset directory.")
    weight: float | None = Field(
        None,
        gt=0,
        description="Share of the samples, relative to the other weights. Several datasets need one each.",
    )


class ValidationDataset(Section):
    """Dataset directory whose `val` split is scored, or its only split."""

    name: str = Field(
        "val", pattern=r"^[A-Za-z0-9._-]+$", description="Name of the results: eval/NAME. It must be unique."
    )
    path: Path = Field(description="Dataset directory.")


class DataSection(Section):
    """Datasets, and how they are cut into windows."""

    train: tuple[TrainingDataset, ...] = Field((), description="Datasets to train on. At least one is required.")
    validation: tuple[ValidationDataset, ...] = Field((), description="Datasets to evaluate on during training.")
    sequence_length: Length | None = Field(
        None, description="Length of a window. Not set, it is `model.context_length`, which it must not exceed."
    )
    stride: Length | None = Field(
        None,
        description="Distance between the starts of two windows. Not set, it is half of `data.sequence_length`, "
        "which it must not exceed.",
    )
    loss_on: Literal["all", "new"] = Field(
        "all",
        description="Targets of a window that enter the loss. `new` excludes those that an earlier window "
        "contains too, so that an epoch trains on each token once.",
    )
    document_boundaries: Literal["pack", "isolate"] = Field(
        "pack",
        description="What attention sees in a window of several documents. `pack` sees all of them. With "
        "`isolate`, attention and positions restart after each end-of-text token.",
    )


class RampSection(Section):
    """Growth of the global batch at the start of a run. It works as Megatron-LM's --rampup-batch-size."""

    start: Windows = Field(description="Global batch size of the first step.")
    increment: Windows = Field(
        description="Growth from one size to the next. Whole increments must reach `batch.global_batch_size`."
    )
    samples: Samples = Field(description="Length of the ramp. The sizes are spread evenly over it.")


class BatchSection(Section):
    """Batch sizes. Gradient accumulation follows from global = micro × accumulation × world size."""

    global_batch_size: Windows = Field(8, description="Windows per optimizer step, of all ranks together.")
    micro_batch_size: Windows = Field(
        1,
        description="Windows per forward pass and rank. Times the world size, it must divide "
        "`batch.global_batch_size`.",
    )
    ramp: RampSection | None = None


class OptimizerSection(Section):
    """The optimizer. Weight decay acts on matrices only. All keys but `options` are those of AdamW."""

    kind: str = Field(
        "adamw",
        min_length=1,
        description="The optimizer: `adamw`, `muon`, or one of another package. The latter is a name that an "
        "installed package offers, or package.module:ClassName.",
    )
    lr: float = Field(
        6e-4, gt=0, description="Peak learning rate, which the warmup reaches. `schedule` gives its course."
    )
    betas: tuple[Fraction, Fraction] = Field(
        (0.9, 0.95), description="Decay rates of the two moments: of the gradient and of its square."
    )
    eps: float = Field(1e-8, gt=0, description="Term added to the denominator of an update.")
    weight_decay: float = Field(
        0.1,
        ge=0,
        description="Decoupled weight decay. A step shrinks a weight by the fraction lr × weight_decay, unless "
        "`decay` is independent.",
    )
    decay: Decay = Field(
        "coupled",
        description="Factor of `weight_decay` in a step. `coupled`, as in PyTorch, is the learning rate. "
        "`independent` is the learning rate divided by its peak, so that the decay does not change with the "
        "peak. It needs far smaller values, such as 1e-4.",
    )
    cautious: bool = Field(
        False,
        description="Decay only the elements that the update moves towards zero. This is cautious weight decay "
        "(Chen and others 2025, arXiv:2510.12402).",
    )
    clip_grad_norm: float = Field(
        1.0,
        ge=0,
        description="Maximum norm of the gradient. Larger ones are scaled down to it. 0 disables clipping.",
    )
    options: dict[str, Any] = Field(
        {},
        description="Hyperparameters that only this kind of optimizer has. `adamw` has none. `muon` has lr, "
        "momentum, nesterov, weight_decay, ns_steps, ns_dtype, scaling and split_qkv.",
    )


class ScheduleSection(Section):
    """Learning rate at each optimizer step. Tokens are counted as targets that enter the loss."""

    kind: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = Field(
        "cosine",
        description="Course of the learning rate after the warmup. `wsd` stays at the peak and decays at the "
        "end. `inverse_sqrt` falls as √(warmup / step) and needs a warmup.",
    )
    warmup_steps: WarmupSteps = Field(
        0, description="Length of the warmup. The learning rate rises linearly to `optimizer.lr`."
    )
    warmup_tokens: Tokens | None = Field(None, description="Length of the warmup, instead of `warmup_steps`.")
    total_steps: Steps | None = Field(
        None, description="Length of the run. Either this or `schedule.total_tokens` is required."
    )
    total_tokens: Tokens | None = Field(None, description="Length of the run, instead of `total_steps`.")
    min_lr_ratio: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Minimum learning rate as a fraction of `optimizer.lr`. Decays reach it at the last step.",
    )
    decay_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Length of the decay of `wsd`, as a fraction of all steps. Not set, it is 0.2.",
    )
    decay_shape: Literal["linear", "sqrt"] | None = Field(
        None,
        description="Shape of the decay of `wsd`. With r the completed fraction of the decay, `linear` is 1 − r "
        "and `sqrt` is 1 − √r. Not set, it is `sqrt`.",
    )


class ZeroSection(Section):
    """DeepSpeed ZeRO. It partitions the state of the training over the ranks."""

    # Not a Literal, which would take `true` for 1.
    stage: int = Field(
        1,
        ge=0,
        le=3,
        description="What is partitioned over the ranks. 0 is nothing, 1 the optimizer state, 2 the gradients "
        "too, 3 the parameters too. bf16 and fp16 need at least 1.",
    )
    offload_optimizer: Offload = Field(
        "none",
        description="Where optimizer state and fp32 weights are kept. `none` is the device. `cpu` is host memory "
        "and needs stage 1, 2 or 3. `nvme` is refused, since such a run could not be resumed.",
    )
    offload_parameters: Offload = Field(
        "none",
        description="Where the weights are kept between passes. `none` is the device. `cpu` is host memory and "
        "needs stage 3. `nvme` is refused, since such a run could not be resumed.",
    )
    reduce_dtype: ReduceDtype = Field(
        "fp32",
        description="Data type in which gradients are summed over the ranks. A 16-bit type, which must be that "
        "of `precision`, halves the traffic, but rounds each gradient before it is summed, and each sum. At "
        "stage 1 it also rounds the sum over the micro-batches, even on one rank.",
    )
    deepspeed: dict[str, Any] = Field(
        {},
        description="Keys of DeepSpeed's own configuration, merged last. Keys that gpt2dist sets itself are "
        "refused.",
    )


class CheckpointSection(Section):
    """When checkpoints are written and how many are kept. The last step is always saved."""

    every_steps: Steps | None = Field(
        None, description="Steps between checkpoints. Not set, only `every_minutes` and the end trigger one."
    )
    every_minutes: Minutes | None = Field(
        None, description="Time between checkpoints, by the clock of rank 0. Can be combined with `every_steps`."
    )
    keep_last: Count = Field(2, description="Number of checkpoints to keep, counted from the newest.")
    keep_every: Steps | None = Field(
        None, description="Never delete a checkpoint whose step is a multiple of this."
    )
    keep_best: str | None = Field(
        None,
        description="Metric whose best checkpoint is kept, such as eval/val/loss. NAME in eval/NAME/MEASURE is "
        "that of a set in `data.validation`; the measure decides whether lower or higher is better. An "
        "evaluation better than all before saves a checkpoint at its step. RUN/checkpoints/best names it, and "
        "`keep_last` does not delete it. Needs `evaluation.every_steps`.",
    )
    asynchronous: bool = Field(
        True,
        description="Write checkpoints in the background. Training waits for a copy to host memory, not for the "
        "disk.",
    )
    resume: str = Field(
        "auto",
        description="Where to start. `auto` resumes from the newest complete checkpoint, if any. `latest` does "
        "too, and refuses to start a new run. `never` starts a new run and refuses a directory with checkpoints. "
        "A path resumes from that checkpoint, or from the latest checkpoint of that run directory.",
    )
    on_commit: str | None = Field(
        None,
        min_length=1,
        description="Function to call with each complete checkpoint, such as one that uploads it. It is named "
        "package.module:function and called with the directory and the step, on rank 0, in a thread beside the "
        "training. Its failure does not end the training.",
    )
    accept_changes: tuple[Literal["data", "batch", "optimizer"], ...] = Field(
        (),
        description="Changes that a resume accepts. Step, weights and all else are kept. `data`: the new "
        "`data.train`, windows or `run.seed` start at the first sample. `batch`: the data goes on at the same "
        "sample, and `schedule` counts steps as before. `optimizer`: another `optimizer.kind` keeps the state of "
        "the parameter groups that it shares with the earlier one, and starts the others from zero.",
    )


class EvaluationSection(Section):
    """Evaluation of all of `data.validation` during training. The last step is always evaluated."""

    every_steps: Steps | None = Field(
        None, description="Steps between evaluations. Not set, only the last step is evaluated."
    )
    patience: Evaluations | None = Field(
        None,
        description="End the run after this many evaluations in a row without an improvement. Needs "
        "`checkpoint.keep_best`, whose metric it follows. The run saves everything and is finished. Started "
        "again, it goes on only if this is raised or removed. Not set, it goes to its last step.",
    )
    stride: Length | None = Field(
        None,
        description="Distance between the starts of two windows. Not set, it is that of training. A smaller "
        "stride gives each token more context and takes longer.",
    )
    batch_size: Windows = Field(8, description="Windows per forward pass and rank.")
    measures: tuple[str, ...] = Field(
        (),
        description="Further measures to compute, each named package.module:NAME. Those of installed packages "
        "are computed without being named.",
    )


class SamplesSection(Section):
    """Texts sampled during training, for TensorBoard and other trackers."""

    prompts: tuple[str, ...] = Field((), description="Texts to continue. Needs `every_steps`.")
    every_steps: Steps | None = Field(None, description="Steps between samples. Needs `prompts`.")
    max_new_tokens: Length = Field(64, description="Tokens to sample after each prompt.")
    temperature: float = Field(
        1.0, ge=0, description="Divisor of the logits. 0 takes the most likely token; else at least 0.01."
    )
    top_k: int = Field(
        50, ge=0, le=10**6, description="Sample from this many of the most likely tokens. 0 samples from all."
    )


class ProfileSection(Section):
    """Steps of each rank to trace with torch.profiler. The traces are in profile/ of the run directory."""

    start: Steps = Field(description="First step to trace. The step before it warms up the profiler.")
    steps: Steps = Field(3, description="Number of steps to trace.")


class MonitoringSection(Section):
    """What is recorded, and how often."""

    log_every_steps: Steps = Field(10, description="Steps between records of metrics.jsonl.")
    tensorboard: bool = Field(True, description="Write the metrics for TensorBoard as well.")
    trackers: tuple[str, ...] = Field(
        (), description="Trackers besides TensorBoard: `wandb`, `mlflow` or `package.module:ClassName`."
    )
    profile: ProfileSection | None = None
    samples: SamplesSection = SamplesSection()


class StabilitySection(Section):
    """When steps are skipped. A step whose loss or gradient is not finite is always skipped."""

    max_skipped_steps: Steps = Field(
        20, description="Limit of consecutive skipped steps. After more, the run saves everything and stops."
    )
    spike_sigma: Deviations | None = Field(
        None,
        description="Skip steps whose loss or gradient norm is this far above the recent mean. The mean is that "
        "of the last 128 steps. Not set, no step is skipped for a spike.",
    )

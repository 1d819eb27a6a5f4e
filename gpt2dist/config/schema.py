"""The run configuration: frozen and typed, a section for each part of a run."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

PresetName = Literal["gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"]
Precision = Literal["fp32", "bf16", "fp16", "autocast_bf16"]


class Section(BaseModel):
    """A mapping of known keys; `strict` keeps "yes" from becoming a number or a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSection(Section):
    """Where the run lives."""

    name: str = ""  # default: the name of the configuration file
    output_dir: Path | None = None  # default: runs/<name>
    seed: int = Field(1337, ge=0)
    stop_after_steps: Positive | None = None  # optimizer steps of the whole run; the schedule is untouched
    world_size: Positive | None = None  # ranks that the job was submitted for; another number is refused
    timeout_seconds: float = Field(
        600.0, ge=5
    )  # a rank without progress for so long ends, and with it all others


class ModelSection(Section):
    """GPT-2's shape. A preset gives all four sizes; a key beside it overrides one. `init_from` gives them too."""

    preset: PresetName | None = None
    n_layer: Positive | None = None
    n_head: Positive | None = None
    n_embd: Positive | None = None
    context_length: Positive | None = None  # tokens
    init_from: str | None = Field(
        None, min_length=1
    )  # a GPT-2 whose weights a new run begins with: directory or hub
    resize: bool = False  # lets it have another context_length, or fewer tokens, than the run
    dropout: Fraction = 0.0
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    activation_checkpointing: bool = False
    compile: bool = False  # torch.compile of the training pass
    loss: Literal["plain", "chunked", "auto"] = "auto"  # chunked: never holds a micro-batch's logits at once


class TrainingDataset(Section):
    """A dataset directory whose `train` split is trained on."""

    path: Path
    weight: float | None = Field(None, gt=0)  # share of the samples, against the other weights


class ValidationDataset(Section):
    """A dataset directory whose `val` split (or only split) is scored as eval/<name>."""

    name: str = Field("val", pattern=r"^[A-Za-z0-9._-]+$")
    path: Path


class DataSection(Section):
    """Which tokens, in which windows."""

    train: tuple[TrainingDataset, ...] = ()
    validation: tuple[ValidationDataset, ...] = ()
    sequence_length: Positive | None = None  # tokens; default: model.context_length
    stride: Positive | None = None  # tokens from window to window; default: half of sequence_length
    loss_on: Literal["all", "new"] = "all"  # every target of a window, or only those no earlier window had
    document_boundaries: Literal["pack", "isolate"] = "pack"  # isolate: attention stops at end-of-text


class RampSection(Section):
    """A global batch that grows at the start of a run, as Megatron-LM's --rampup-batch-size."""

    start: Positive  # windows of the first step
    increment: Positive  # windows, from size to size up to batch.global_batch_size
    samples: Positive  # the sizes are spread evenly over so many


class BatchSection(Section):
    """Accumulation is derived: global = micro × accumulation × world size."""

    global_batch_size: Positive = 8  # windows per optimizer step
    micro_batch_size: Positive = 1  # windows per forward pass and rank
    ramp: RampSection | None = None


class OptimizerSection(Section):
    """AdamW. Weight decay acts on matrices only."""

    lr: float = Field(6e-4, gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip_grad_norm: float = Field(1.0, ge=0)  # 0 turns clipping off


class ScheduleSection(Section):
    """Learning rate as a function of the optimizer step. Tokens are targets trained on."""

    kind: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    warmup_tokens: Positive | None = None  # instead of warmup_steps
    total_steps: Positive | None = None
    total_tokens: Positive | None = None  # one of the two is required
    min_lr_ratio: float = Field(0.1, ge=0, le=1)  # of optimizer.lr: the least rate, where a decay ends
    decay_fraction: float | None = Field(None, gt=0, le=1)  # wsd: last part of the steps; default: 0.2
    decay_shape: Literal["linear", "sqrt"] | None = None  # wsd: sqrt is 1 − √, the default


class ZeroSection(Section):
    """DeepSpeed ZeRO: what is partitioned over the ranks (1 optimizer, 2 + gradients, 3 + parameters)."""

    stage: Literal[0, 1, 2, 3] = 1
    offload_optimizer: Literal["none", "cpu", "nvme"] = (
        "none"  # moments and fp32 weights in host memory; stages 1–3
    )
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"  # working weights in host memory; stage 3
    deepspeed: dict[str, Any] = {}  # raw DeepSpeed keys, merged last; a conflict with ours is an error


class CheckpointSection(Section):
    """When checkpoints are written and how many stay. The last step is always saved."""

    every_steps: Positive | None = None
    every_minutes: float | None = Field(None, gt=0)  # by the clock of rank 0
    keep_last: Positive = 2
    keep_every: Positive | None = None  # checkpoints at multiples of so many steps stay for ever
    asynchronous: bool = True  # training stands still for a copy in host memory, not for the disk
    resume: str = "auto"  # auto | never | path of a checkpoint


class EvaluationSection(Section):
    """Validation during training, over the full validation sets. The last step is always evaluated."""

    every_steps: Positive | None = None
    stride: Positive | None = None  # tokens; default: data.stride
    batch_size: Positive = 8  # windows


class SamplesSection(Section):
    """Texts sampled during training, for TensorBoard."""

    prompts: tuple[str, ...] = ()
    every_steps: Positive | None = None
    max_new_tokens: Positive = 64
    temperature: float = Field(1.0, ge=0)  # 0 takes the most likely token
    top_k: int = Field(50, ge=0)  # only so many of the most likely tokens stay; 0 keeps all


class ProfileSection(Section):
    """A trace of some steps by torch.profiler: RUN/profile/step-…/rank-….pt.trace.json.gz, for each rank."""

    start: Positive  # the first optimizer step that is traced; the one before warms up
    steps: Positive = 3


class MonitoringSection(Section):
    """What is recorded, and how often."""

    log_every_steps: Positive = 10
    tensorboard: bool = True
    trackers: tuple[str, ...] = ()  # package.module:ClassName of others that are told what TensorBoard is
    profile: ProfileSection | None = None
    samples: SamplesSection = SamplesSection()


class StabilitySection(Section):
    """Which steps are left out, and when that is too much."""

    max_skipped_steps: Positive = 20  # in a row; then the run stops, with everything saved
    spike_sigma: float | None = Field(None, gt=0)  # standard deviations of the last 128 losses and gradient norms


class Config(Section):
    """A whole run, as its YAML file and overrides say."""

    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    batch: BatchSection = BatchSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    precision: Precision = "fp32"
    zero: ZeroSection = ZeroSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    monitoring: MonitoringSection = MonitoringSection()
    stability: StabilitySection = StabilitySection()

    @property
    def output_dir(self) -> Path:
        """The run directory."""
        return self.run.output_dir or Path("runs") / self.run.name

    def to_yaml(self) -> str:
        """The configuration as YAML that `read` turns back into an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

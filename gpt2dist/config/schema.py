"""Schema of the run configuration: frozen and typed, with one section for each part of a run."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from gpt2dist.config.reading import Problem, parse_settings, raise_problems, read_yaml
from gpt2dist.errors import UserError

# The upper limits are far beyond any run, so that only a slip exceeds them.
Steps = Annotated[int, Field(gt=0, le=10**9)]
Tokens = Annotated[int, Field(gt=0, le=10**16)]
Length = Annotated[int, Field(gt=0, le=10**7)]  # tokens of a window or of a sampled text
Windows = Annotated[int, Field(gt=0, le=10**8)]
Layers = Annotated[int, Field(gt=0, le=10**4)]
Count = Annotated[int, Field(gt=0, le=10**6)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

PresetName = Literal["gpt2-124m", "gpt2-355m", "gpt2-774m", "gpt2-1558m"]
Precision = Literal["fp32", "bf16", "fp16", "autocast_bf16"]


class Section(BaseModel):
    """Base of all sections: a mapping of known keys. `strict` rejects "yes" for a number or a flag."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class RunSection(Section):
    """Identity and limits of the run."""

    name: str = ""  # default: the name of the configuration file
    output_dir: Path | None = None  # default: runs/<name>
    seed: int = Field(1337, ge=0)
    stop_after_steps: Steps | None = None  # stop at this step of the run; does not alter the schedule
    world_size: Count | None = None  # ranks that the job was submitted for; any other number is refused
    # A rank that makes no progress for this long exits, and all other ranks with it.
    timeout_seconds: float = Field(600.0, ge=5, le=10**7)


class ModelSection(Section):
    """GPT-2's shape. A preset sets all four sizes, and other keys override it. `init_from` sets them too."""

    preset: PresetName | None = None
    n_layer: Layers | None = None
    n_head: Layers | None = None
    n_embd: Count | None = None
    context_length: Length | None = None  # tokens
    init_from: str | None = Field(None, min_length=1)  # GPT-2 with the initial weights: directory or hub name
    resize: bool = False  # allow init_from to have another context_length, or a smaller vocabulary, than the run
    dropout: Fraction = 0.0
    attention: Literal["sdpa", "flash_attention_2", "eager"] = "sdpa"
    activation_checkpointing: bool = False
    compile: bool = False  # torch.compile of the training pass
    loss: Literal["plain", "chunked", "auto"] = "auto"  # chunked: never hold all logits of a micro-batch together


class TrainingDataset(Section):
    """A dataset directory whose `train` split is trained on."""

    path: Path
    weight: float | None = Field(None, gt=0)  # share of the samples, relative to the other weights


class ValidationDataset(Section):
    """A dataset directory whose `val` split (or only split) is scored as eval/<name>."""

    name: str = Field("val", pattern=r"^[A-Za-z0-9._-]+$")
    path: Path


class DataSection(Section):
    """Datasets, and their division into windows."""

    train: tuple[TrainingDataset, ...] = ()
    validation: tuple[ValidationDataset, ...] = ()
    sequence_length: Length | None = None  # tokens; default: model.context_length
    stride: Length | None = None  # tokens from window to window; default: half of sequence_length
    loss_on: Literal["all", "new"] = "all"  # all targets of a window, or only those that no earlier window had
    document_boundaries: Literal["pack", "isolate"] = "pack"  # isolate: attention stops at end-of-text


class RampSection(Section):
    """A global batch that grows at the start of a run, as with Megatron-LM's --rampup-batch-size."""

    start: Windows  # windows of the first step
    increment: Windows  # windows added to each size, up to batch.global_batch_size
    samples: Tokens  # samples over which the sizes are spread evenly


class BatchSection(Section):
    """Batch sizes. Gradient accumulation follows from global = micro × accumulation × world size."""

    global_batch_size: Windows = 8  # windows per optimizer step
    micro_batch_size: Windows = 1  # windows per forward pass and rank
    ramp: RampSection | None = None


class OptimizerSection(Section):
    """AdamW. Weight decay acts on matrices only."""

    lr: float = Field(6e-4, gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip_grad_norm: float = Field(1.0, ge=0)  # 0 turns clipping off


class ScheduleSection(Section):
    """Learning rate as a function of the optimizer step. Tokens are counted as targets trained on."""

    kind: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "cosine"
    warmup_steps: int = Field(0, ge=0, le=10**9)
    warmup_tokens: Tokens | None = None  # instead of warmup_steps
    total_steps: Steps | None = None  # this or total_tokens is required
    total_tokens: Tokens | None = None
    min_lr_ratio: float = Field(0.1, ge=0, le=1)  # minimum rate, where a decay ends, relative to optimizer.lr
    decay_fraction: float | None = Field(None, gt=0, le=1)  # wsd: fraction of steps, at the end; default: 0.2
    decay_shape: Literal["linear", "sqrt"] | None = None  # wsd: sqrt is 1 − √, the default


class ZeroSection(Section):
    """DeepSpeed ZeRO. Stage 1 partitions the optimizer state over the ranks; 2 adds gradients, 3 parameters."""

    stage: Literal[0, 1, 2, 3] = 1
    # Keep moments and fp32 weights in host memory; stages 1–3.
    offload_optimizer: Literal["none", "cpu", "nvme"] = "none"
    offload_parameters: Literal["none", "cpu", "nvme"] = "none"  # keep working weights in host memory; stage 3
    deepspeed: dict[str, Any] = {}  # raw DeepSpeed keys, merged last; a conflict with other settings is an error


class CheckpointSection(Section):
    """When checkpoints are written and how many are kept. The last step is always saved."""

    every_steps: Steps | None = None
    every_minutes: float | None = Field(None, gt=0, le=10**7)  # by the clock of rank 0
    keep_last: Count = 2
    keep_every: Steps | None = None  # checkpoints at multiples of this many steps are never deleted
    asynchronous: bool = True  # training waits only for a copy to host memory, not for the disk
    resume: str = "auto"  # auto | never | path of a checkpoint


class EvaluationSection(Section):
    """Validation during training, over the full validation sets. The last step is always evaluated."""

    every_steps: Steps | None = None
    stride: Length | None = None  # tokens; default: data.stride
    batch_size: Windows = 8  # windows


class SamplesSection(Section):
    """Texts sampled during training, for TensorBoard."""

    prompts: tuple[str, ...] = ()
    every_steps: Steps | None = None
    max_new_tokens: Length = 64
    temperature: float = Field(1.0, ge=0)  # 0 takes the most likely token
    top_k: int = Field(50, ge=0, le=10**6)  # sample from this many of the most likely tokens; 0 keeps all


class ProfileSection(Section):
    """A torch.profiler trace of some steps, for each rank: RUN/profile/step-…/rank-….pt.trace.json.gz."""

    start: Steps  # the first optimizer step to trace; the step before it warms up the profiler
    steps: Steps = 3


class MonitoringSection(Section):
    """What is recorded, and how often."""

    log_every_steps: Steps = 10
    tensorboard: bool = True
    trackers: tuple[str, ...] = ()  # others besides TensorBoard, as package.module:ClassName
    profile: ProfileSection | None = None
    samples: SamplesSection = SamplesSection()


class StabilitySection(Section):
    """Skipping of bad steps, and its limit."""

    max_skipped_steps: Steps = 20  # consecutive; after more, the run saves everything and stops
    # Skip steps whose loss or gradient norm is this many standard deviations above the mean of the last 128.
    spike_sigma: float | None = Field(None, gt=0)


class Config(Section):
    """The configuration of a whole run."""

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

    @classmethod
    def read(cls, path: str | os.PathLike[str], *overrides: str) -> "Config":
        """Read a configuration file.

        Args:
            path: A YAML file. Its name, without the suffix, is the default of `run.name`.
            overrides: Keys to change, as on the command line: "section.key=value", where value is YAML.

        Raises:
            UserError: The file cannot be read, or it has mistakes; the message lists each with its key.

        Example:
            >>> config = gpt2dist.Config.read("configs/quickstart.yaml", "optimizer.lr=3e-4")
            >>> config.optimizer.lr
            0.0003
            >>> config.override("run.name=wider", "model.n_embd=256").output_dir
            PosixPath('runs/wider')
        """
        config, problems = read(Path(path), overrides)
        raise_problems(problems, str(path))
        return config

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], *overrides: str) -> "Config":
        """Build a configuration from nested dictionaries, with the sections and keys of a configuration file.

        Args:
            settings: Section → key → value. Paths may be strings or path-like objects, such as a `Dataset`.
                `run.name` or `run.output_dir` is required.
            overrides: As for `read`.

        Raises:
            UserError: The settings have mistakes; the message lists each with its key.

        Example:
            >>> config = gpt2dist.Config.from_dict({
            ...     "run": {"name": "tiny"},
            ...     "model": {"n_layer": 2, "n_head": 2, "n_embd": 64, "context_length": 64},
            ...     "data": {"train": [{"path": "data/quickstart"}]},
            ...     "schedule": {"total_steps": 100},
            ... })
        """
        try:
            raw = json.loads(json.dumps(settings, default=os.fspath))
        except (TypeError, ValueError) as error:
            raise UserError(f"the settings are not made of JSON values and paths ({error})") from None
        config, problems = parse_settings(cls, raw, overrides)
        if not config.run.name:
            known = {each.key for each in problems}
            if config.run.output_dir is None and not known & {"run", "run.name", "run.output_dir"}:
                problems.append(Problem("run.name", "is required here and missing; add it, or run.output_dir"))
            config = config._with_name((config.run.output_dir or Path()).name)
        raise_problems(problems, config.run.name or "the settings")
        return config

    def override(self, *overrides: str) -> "Config":
        """Return a copy with some keys changed, such as `config.override("optimizer.lr=3e-4", "run.name=b")`.

        Raises:
            UserError: An override is not of the form "section.key=value", or its value is wrong.
        """
        return self.from_dict(self.model_dump(mode="json"), *overrides)

    @property
    def output_dir(self) -> Path:
        """The run directory."""
        return self.run.output_dir or Path("runs") / self.run.name

    def to_yaml(self) -> str:
        """Return the configuration as YAML that `read` turns back into an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def _with_name(self, name: str) -> "Config":
        return self.model_copy(update={"run": self.run.model_copy(update={"name": name})})


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, list[Problem]]:
    """Read a configuration file and apply overrides to its keys. `Config.read` raises the problems instead.

    Returns:
        The configuration, with defaults in place of wrong values, and all problems found.

    Raises:
        UserError: The file cannot be read, is not valid YAML, or is not a mapping.
    """
    config, problems = parse_settings(Config, read_yaml(path, Config), overrides)
    return (config if config.run.name else config._with_name(path.stem)), problems

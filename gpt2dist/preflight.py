"""What a run needs, checked before it starts: every mistake at once, and the plan that the rest implies.

Free of torch, so that `validate` answers in an instant on a laptop for a run that is meant for a cluster.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpt2dist.config import Config, Problem, raise_problems, read
from gpt2dist.data.manifest import Manifest
from gpt2dist.data.windows import Windows
from gpt2dist.errors import UserError
from gpt2dist.model.flops import flops_per_token
from gpt2dist.model.shape import PRESET_CONTEXT_LENGTH, PRESETS, Shape
from gpt2dist.training.deepspeed_config import conflicts


@dataclass(frozen=True)
class ValidationSet:
    """A dataset split to score during training."""

    name: str
    dataset: Manifest
    split: str


@dataclass(frozen=True)
class Plan:
    """What a configuration implies at a world size.

    Attributes:
        world_size: Ranks.
        accumulation: Micro-batches per optimizer step and rank.
        shape: The model.
        dataset: The dataset that is trained on (its `train` split).
        validation: The splits that are scored during training.
        sequence_length: Tokens per window.
        stride: Tokens from window to window, in training.
        evaluation_stride: The same in validation.
        windows: Windows per epoch.
        targets_per_epoch: Targets in the loss per epoch; each counts as often as it is trained on.
        total_steps: Optimizer steps of the whole run.
    """

    world_size: int
    accumulation: int
    shape: Shape
    dataset: Manifest
    validation: tuple[ValidationSet, ...]
    sequence_length: int
    stride: int
    evaluation_stride: int
    windows: int
    targets_per_epoch: int
    total_steps: int
    global_batch_size: int

    @property
    def targets_per_step(self) -> float:
        """Targets in the loss of a step, on average."""
        return self.targets_per_epoch / self.windows * self.global_batch_size

    @property
    def epochs(self) -> float:
        """Passes over all windows."""
        return self.total_steps * self.global_batch_size / self.windows

    @property
    def times_seen(self) -> float:
        """How often each token is trained on; overlap counts when `loss_on` is "all"."""
        return self.epochs * self.targets_per_epoch / (self.dataset.totals("train").tokens - 1)

    @property
    def total_flops(self) -> float:
        """Floating-point operations of the whole run; windows are computed whole, whatever is in the loss."""
        tokens = self.total_steps * self.global_batch_size * self.sequence_length
        return float(tokens) * flops_per_token(self.shape, self.sequence_length)


def resolve(path: Path, overrides: list[str], world_size: int) -> tuple[Config, Plan]:
    """Reads, checks and plans a run.

    Args:
        path: The configuration file.
        overrides: Words `section.key=value`.
        world_size: Ranks of the run.

    Raises:
        UserError: Lists every mistake with its key and the way out.
    """
    config, problems = read(path, overrides)
    wrong = [problem.key for problem in problems]
    check = _Check(config, world_size)
    for problem in check.problems():
        # A key that was wrong by itself now holds a default: what follows from that would only mislead.
        if not any(_overlap(problem.key, key) for key in wrong):
            problems.append(problem)
    raise_problems(problems, str(path))
    return config, check.plan()


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are equal or one lies inside the other."""
    return (one + ".").startswith(other + ".") or (other + ".").startswith(one + ".")


class _Check:
    """The checks that span several keys, and the plan. One instance looks at one configuration."""

    def __init__(self, config: Config, world_size: int):
        self.config = config
        self.world_size = world_size
        self.dataset: Manifest | None = None
        self.validation: list[ValidationSet] = []
        preset = config.model.preset
        sequence_length = config.data.sequence_length
        context = config.model.context_length or (PRESET_CONTEXT_LENGTH if preset else sequence_length)
        self.context_length = context or 0
        self.sequence_length = sequence_length or self.context_length
        self.stride = config.data.stride or max(1, self.sequence_length // 2)
        self.evaluation_stride = config.evaluation.stride or self.stride

    def problems(self) -> Iterator[Problem]:
        yield from self._model()
        yield from self._lengths()
        yield from self._datasets()
        yield from self._batch()
        yield from self._schedule()
        yield from self._precision()
        yield from self._monitoring()
        yield from self._directories()

    def plan(self) -> Plan:
        """The plan of a configuration without problems."""
        config, dataset = self.config, self.dataset
        assert dataset is not None
        batch = config.batch
        tokens = dataset.totals("train").tokens
        windows = Windows(tokens, self.sequence_length, self.stride)
        every = config.data.loss_on == "all"
        targets = len(windows) * self.sequence_length if every else windows.targets
        per_step = targets / len(windows) * batch.global_batch_size
        total_tokens = config.schedule.total_tokens
        steps = -(-total_tokens // int(per_step)) if total_tokens else config.schedule.total_steps
        return Plan(
            world_size=self.world_size,
            accumulation=batch.global_batch_size // (batch.micro_batch_size * self.world_size),
            shape=self._shape(dataset.vocab_size),
            dataset=dataset,
            validation=tuple(self.validation),
            sequence_length=self.sequence_length,
            stride=self.stride,
            evaluation_stride=self.evaluation_stride,
            windows=len(windows),
            targets_per_epoch=targets,
            total_steps=steps or 0,
            global_batch_size=batch.global_batch_size,
        )

    def _sizes(self) -> tuple[int | None, int | None, int | None]:
        model = self.config.model
        n_layer, n_head, n_embd = PRESETS[model.preset] if model.preset else (None, None, None)
        return model.n_layer or n_layer, model.n_head or n_head, model.n_embd or n_embd

    def _shape(self, vocab_size: int) -> Shape:
        n_layer, n_head, n_embd = self._sizes()
        assert n_layer and n_head and n_embd
        return Shape(n_layer, n_head, n_embd, self.context_length, vocab_size)

    def _model(self) -> Iterator[Problem]:
        n_layer, n_head, n_embd = self._sizes()
        for key, value in (("n_layer", n_layer), ("n_head", n_head), ("n_embd", n_embd)):
            if value is None:
                yield Problem(f"model.{key}", f"missing; set it, or model.preset to one of {', '.join(PRESETS)}")
        if n_head and n_embd and n_embd % n_head:
            fitting = [h for h in range(1, n_embd + 1) if n_embd % h == 0]
            close = sorted(sorted(fitting, key=lambda h: abs(h - n_head))[:3])
            yield Problem("model.n_head", f"{n_head} does not divide n_embd {n_embd}; {_or(close)} would")

    def _lengths(self) -> Iterator[Problem]:
        length = self.sequence_length
        if not length:
            yield Problem("data.sequence_length", "missing; set it (tokens per window)")
            return
        if length > self.context_length:
            yield Problem(
                "data.sequence_length",
                f"{length} is more than the {self.context_length} positions of the model; "
                "lower it, or raise model.context_length",
            )
        for key, stride in (("data.stride", self.stride), ("evaluation.stride", self.evaluation_stride)):
            if stride > length:
                yield Problem(key, f"{stride} would skip tokens; it must be at most sequence_length {length}")

    def _datasets(self) -> Iterator[Problem]:
        train = self.config.data.train
        if len(train) != 1:
            yield Problem(
                "data.train",
                "must name one dataset: `train: [{path: DATASET}]`"
                + ("; to train on several corpora, give them all to one preprocess" if train else ""),
            )
        elif isinstance(loaded := _load(train[0].path), str):
            yield Problem("data.train.0.path", loaded)
        elif not any(shard.split == "train" for shard in loaded.shards):
            yield Problem("data.train.0.path", f"{train[0].path} has no train split")
        elif self.sequence_length and loaded.totals("train").tokens <= self.sequence_length:
            yield Problem(
                "data.train.0.path",
                f"{train[0].path} has {loaded.totals('train').tokens} training tokens, fewer than one window of "
                f"{self.sequence_length} + 1; give it more text or lower data.sequence_length",
            )
        else:
            self.dataset = loaded
        yield from self._validation_sets()

    def _validation_sets(self) -> Iterator[Problem]:
        names: set[str] = set()
        for number, entry in enumerate(self.config.data.validation):
            key = f"data.validation.{number}"
            if entry.name in names:
                yield Problem(f"{key}.name", f"{entry.name!r} names two validation sets; give each its own name")
            names.add(entry.name)
            loaded = _load(entry.path)
            if isinstance(loaded, str):
                yield Problem(f"{key}.path", loaded)
                continue
            splits = {shard.split for shard in loaded.shards}
            split = "val" if "val" in splits else "train"
            if self.dataset and split == "train" and loaded.fingerprint == self.dataset.fingerprint:
                yield Problem(
                    f"{key}.path",
                    f"{entry.path} has no val split and is what the run trains on; "
                    "preprocess it with --val-fraction, or name another dataset",
                )
            elif self.dataset and loaded.tokenizer_fingerprint != self.dataset.tokenizer_fingerprint:
                yield Problem(
                    f"{key}.path",
                    f"{entry.path} was made with another tokenizer than {self.dataset.directory}; "
                    "preprocess both with the same one",
                )
            else:
                self.validation.append(ValidationSet(entry.name, loaded, split))
        if self.config.evaluation.every_steps and not self.config.data.validation:
            yield Problem(
                "evaluation.every_steps",
                "there is nothing to evaluate on; name a dataset under data.validation",
            )

    def _batch(self) -> Iterator[Problem]:
        batch, world = self.config.batch, self.world_size
        per_pass = batch.micro_batch_size * world
        if batch.global_batch_size % per_pass:
            lower = batch.global_batch_size // per_pass * per_pass
            sizes = [size for size in (lower, lower + per_pass) if size]
            per_rank = batch.global_batch_size // world if batch.global_batch_size % world == 0 else 0
            micro = [m for m in range(1, per_rank + 1) if per_rank % m == 0]
            ways = [f"global_batch_size {_or(sizes)}"]
            if micro:
                ways.append(f"micro_batch_size {_or(micro[-8:])}")
            yield Problem(
                "batch.global_batch_size",
                f"{batch.global_batch_size} is not a multiple of micro_batch_size {batch.micro_batch_size} × "
                f"world size {world} = {per_pass}; would fit: {', or '.join(ways)}",
            )

    def _schedule(self) -> Iterator[Problem]:
        schedule = self.config.schedule
        if (schedule.total_steps is None) == (schedule.total_tokens is None):
            many = (
                "both are set; keep one" if schedule.total_steps else "missing; set it, or schedule.total_tokens"
            )
            yield Problem("schedule.total_steps", many)
        elif schedule.total_steps and schedule.warmup_steps >= schedule.total_steps:
            yield Problem(
                "schedule.warmup_steps",
                f"{schedule.warmup_steps} leaves nothing of the {schedule.total_steps} steps after the warmup; "
                "lower it, or raise schedule.total_steps",
            )

    def _precision(self) -> Iterator[Problem]:
        precision, stage = self.config.precision, self.config.zero.stage
        if stage == 0 and precision == "bf16":
            yield Problem(
                "precision",
                "bf16 at ZeRO stage 0 is silently wrong in DeepSpeed (an extra optimizer step at the start); "
                "set zero.stage to 1, 2 or 3, or precision to autocast_bf16",
            )
        if stage == 0 and precision == "fp16":
            yield Problem(
                "precision",
                "fp16 at ZeRO stage 0 is silently wrong in DeepSpeed (the loss is not scaled, the gradient is "
                "unscaled); set zero.stage to 1, 2 or 3",
            )
        for key in conflicts(self.config):
            yield Problem(
                f"zero.deepspeed.{key}",
                "is set by a key of this configuration; remove it here and use that key",
            )

    def _monitoring(self) -> Iterator[Problem]:
        samples = self.config.monitoring.samples
        if bool(samples.prompts) != bool(samples.every_steps):
            missing = "every_steps" if samples.prompts else "prompts"
            yield Problem(f"monitoring.samples.{missing}", "missing; samples need both prompts and every_steps")

    def _directories(self) -> Iterator[Problem]:
        if self.config.output_dir.exists() and not self.config.output_dir.is_dir():
            yield Problem("run.output_dir", f"{self.config.output_dir} is a file; name a directory")
        resume = self.config.checkpoint.resume
        if resume not in ("auto", "never") and not Path(resume, "manifest.json").is_file():
            yield Problem(
                "checkpoint.resume",
                f"{resume} is no checkpoint (it has no manifest.json); set auto, never or a checkpoint's path",
            )


def _load(path: Path) -> Manifest | str:
    """The manifest of a dataset directory, or what is wrong with it."""
    try:
        return Manifest.load(path)
    except UserError as error:
        return str(error)


def _or(values: list[int]) -> str:
    return " or ".join(
        [", ".join(map(str, values[:-1])), str(values[-1])] if len(values) > 1 else map(str, values)
    )

"""What a run needs, checked before it starts: every mistake at once, and the plan that the rest implies.

Free of torch, so that `validate` answers in an instant on a laptop for a run that is meant for a cluster.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gpt2dist.config import Config, Problem, TrainingDataset, raise_problems, read
from gpt2dist.data.manifest import Manifest
from gpt2dist.data.mixture import MOST_TURNS, Mixture, rounded, whole_shares
from gpt2dist.data.stream import check_files
from gpt2dist.data.windows import Windows
from gpt2dist.errors import UserError
from gpt2dist.model.shape import PRESET_CONTEXT_LENGTH, PRESETS, Shape
from gpt2dist.plan import Plan, TrainingSet, ValidationSet, targets_per_sample
from gpt2dist.training.deepspeed_config import conflicts

OWNERS = {
    "train_batch_size": "batch.global_batch_size",
    "train_micro_batch_size_per_gpu": "batch.micro_batch_size",
    "gradient_accumulation_steps": "batch.global_batch_size",
    "gradient_clipping": "optimizer.clip_grad_norm",
    "zero_optimization": "zero.stage",
    "optimizer": "the optimizer section",
    "scheduler": "the schedule section",
    **dict.fromkeys(("bf16", "fp16", "torch_autocast", "data_types"), "precision"),
}
"""Which key of ours a DeepSpeed key is made from."""
OURS = "is set by gpt2dist itself; remove it here"


def resolve(path: Path, overrides: list[str], world_size: int) -> tuple[Config, Plan]:
    """Reads, checks and plans a run.

    Args:
        path: The configuration file.
        overrides: Words `section.key=value`.
        world_size: Ranks of the run.

    Raises:
        UserError: Lists every mistake with its key and the way out.
    """
    config, wrong = read(path, overrides)
    check = _Check(config, world_size)
    # A key that was wrong by itself now holds a default: what follows from that would only mislead.
    telling = [p for p in check.problems() if not any(p.follows_from(cause) for cause in wrong)]
    raise_problems(wrong + telling, str(path))
    return config, check.plan()


class _Check:
    """The checks that span several keys, and the plan. One instance looks at one configuration."""

    def __init__(self, config: Config, world_size: int):
        self.config = config
        self.world_size = world_size
        self.datasets: tuple[TrainingSet, ...] = ()  # none until all are right
        self.validation: list[ValidationSet] = []
        preset = config.model.preset
        sequence_length = config.data.sequence_length
        context = config.model.context_length or (PRESET_CONTEXT_LENGTH if preset else sequence_length)
        self.context_length = context or 0
        self.sequence_length = sequence_length or self.context_length
        # A stride that is too large is told of; the checks after that one need a possible one.
        self.stride = min(config.data.stride or max(1, self.sequence_length // 2), self.sequence_length)
        self.evaluation_stride = config.evaluation.stride or self.stride

    def problems(self) -> Iterator[Problem]:
        yield from self._model()
        yield from self._lengths()
        yield from self._training_sets()
        yield from self._validation_sets()
        yield from self._batch()
        yield from self._schedule()
        yield from self._precision()
        yield from self._monitoring()
        yield from self._directories()

    def plan(self) -> Plan:
        """The plan of a configuration without problems."""
        batch, datasets = self.config.batch, self.datasets
        windows, shares = [len(each.windows) for each in datasets], [each.share for each in datasets]
        return Plan(
            world_size=self.world_size,
            accumulation=batch.global_batch_size // (batch.micro_batch_size * self.world_size),
            shape=self._shape(datasets[0].dataset.vocab_size),
            datasets=datasets,
            mixture=Mixture(windows, shares, self.config.run.seed),
            validation=tuple(self.validation),
            sequence_length=self.sequence_length,
            stride=self.stride,
            evaluation_stride=self.evaluation_stride,
            total_steps=self._total_steps(),
            global_batch_size=batch.global_batch_size,
        )

    def _total_steps(self) -> int:
        schedule, batch = self.config.schedule, self.config.batch
        if schedule.total_tokens:
            return math.ceil(
                schedule.total_tokens / (targets_per_sample(self.datasets) * batch.global_batch_size)
            )
        return schedule.total_steps or 0

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
        if not (n_layer or n_head or n_embd):
            ways = f"missing; set it to {_or(PRESETS)}, or set model.n_layer, n_head and n_embd"
            yield Problem("model.preset", ways)
            return
        for key, value in (("n_layer", n_layer), ("n_head", n_head), ("n_embd", n_embd)):
            if value is None:
                ways = f"missing; set it, or model.preset to {_or(PRESETS)}"
                yield Problem(f"model.{key}", ways, also=("model.preset",))
        if n_head and n_embd and n_embd % n_head:
            close = sorted(_divisors(n_embd), key=lambda heads: abs(heads - n_head))[:3]
            yield Problem(
                "model.n_head",
                f"{n_head} does not divide n_embd {n_embd}; {_or(sorted(close))} would",
                also=("model.n_embd", "model.preset"),
            )

    def _lengths(self) -> Iterator[Problem]:
        data, length = self.config.data, self.sequence_length
        model = ("model.context_length", "model.preset")
        if not length:
            yield Problem("data.sequence_length", "missing; set it (tokens per window)", also=model)
            return
        if length > self.context_length:
            yield Problem(
                "data.sequence_length",
                f"{length} is more than the {self.context_length} positions of the model; "
                "lower it, or raise model.context_length",
                also=model,
            )
        for key, stride in (("data.stride", data.stride), ("evaluation.stride", self.config.evaluation.stride)):
            if stride and stride > length:
                yield Problem(
                    key,
                    f"{stride} would skip tokens; it must be at most data.sequence_length {length}",
                    also=("data.sequence_length", *model),
                )

    def _training_sets(self) -> Iterator[Problem]:
        train = self.config.data.train
        if not train:
            yield Problem("data.train", "must name a dataset: `train: [{path: DATASET}]`")
        right: list[Manifest] = []
        for number, entry in enumerate(train):
            loaded = _load(entry.path)
            if isinstance(loaded, str):
                yield Problem(f"data.train.{number}.path", loaded)
            elif wrong := self._unfit_to_train(f"data.train.{number}.path", entry, loaded, right):
                yield wrong
            else:
                right.append(loaded)
        if train and len(right) == len(train):
            wrong_weights = list(self._weights(right))
            yield from wrong_weights
            if not wrong_weights and self.sequence_length:
                self.datasets = self._blend(right)

    def _unfit_to_train(
        self, key: str, entry: TrainingDataset, loaded: Manifest, others: Sequence[Manifest]
    ) -> Problem | None:
        if "train" not in loaded.splits:
            way_out = "preprocess the corpus with a smaller --val-fraction"
            return Problem(key, f"{entry.path} has no train split; {way_out}")
        if loaded.totals("train").tokens <= self.sequence_length:
            return Problem(
                key,
                f"{entry.path} has {loaded.totals('train').tokens} training tokens, fewer than one window of "
                f"{self.sequence_length} + 1; give it more text or lower data.sequence_length",
                also=("data.sequence_length", "model.context_length", "model.preset"),
            )
        if others and loaded.tokenizer_fingerprint != others[0].tokenizer_fingerprint:
            way_out = f"made with another tokenizer than {others[0].directory}; preprocess both with one"
            return Problem(key, f"{entry.path} was {way_out}")
        for other in others:
            if loaded.fingerprint == other.fingerprint:
                way_out = "name it once, with the sum of the weights"
                return Problem(key, f"{entry.path} is the same data as {other.directory}; {way_out}")
        return _incomplete(key, loaded, "train")

    def _weights(self, loaded: Sequence[Manifest]) -> Iterator[Problem]:
        """What is wrong with the weights of several datasets."""
        weights = [entry.weight for entry in self.config.data.train]
        given = [weight for weight in weights if weight is not None]
        if len(given) < len(weights) > 1:
            by_tokens = rounded([manifest.totals("train").tokens for manifest in loaded])
            for number, (weight, proposed) in enumerate(zip(weights, by_tokens, strict=True)):
                if weight is None:
                    yield Problem(
                        f"data.train.{number}.weight",
                        "missing; of several datasets each needs one; its part of all tokens would be "
                        f"{proposed:g}",
                    )
        elif given and sum(whole_shares(given)) > MOST_TURNS:
            yield Problem(
                "data.train",
                f"the weights {_listed(given)} are exact only over more than {MOST_TURNS:,} samples; "
                f"round them, such as to {_listed(rounded(given))}",
            )

    def _blend(self, loaded: Sequence[Manifest]) -> tuple[TrainingSet, ...]:
        names = _short_names([manifest.directory for manifest in loaded])
        shares = whole_shares([entry.weight or 1.0 for entry in self.config.data.train])
        blend = []
        for name, manifest, share in zip(names, loaded, shares, strict=True):
            windows = Windows(manifest.totals("train").tokens, self.sequence_length, self.stride)
            every = self.config.data.loss_on == "all"
            targets = len(windows) * self.sequence_length if every else windows.targets
            blend.append(TrainingSet(name, manifest, windows, share, targets))
        return tuple(blend)

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
            split = "val" if "val" in loaded.splits else "train"
            if wrong := self._unfit_to_validate(loaded, split):
                yield Problem(f"{key}.path", f"{entry.path} {wrong}")
            elif incomplete := _incomplete(f"{key}.path", loaded, split):
                yield incomplete
            else:
                self.validation.append(ValidationSet(entry.name, loaded, split))
        if self.config.evaluation.every_steps and not self.config.data.validation:
            yield Problem(
                "evaluation.every_steps",
                "there is nothing to evaluate on; name a dataset under data.validation, or remove it",
                also=("data.validation",),
            )

    def _unfit_to_validate(self, loaded: Manifest, split: str) -> str:
        """What makes a split useless for validation, with the way out; empty if nothing does."""
        if split not in loaded.splits or loaded.totals(split).tokens < 2:
            return "has no two tokens to score; give it more text"
        if not self.datasets:
            return ""
        if split == "train" and loaded.fingerprint in [each.dataset.fingerprint for each in self.datasets]:
            return (
                "has no val split and is what the run trains on; "
                "preprocess it with --val-fraction, or name another dataset"
            )
        trained_on = self.datasets[0].dataset
        if loaded.tokenizer_fingerprint != trained_on.tokenizer_fingerprint:
            return f"was made with another tokenizer than {trained_on.directory}; preprocess both with one"
        return ""

    def _batch(self) -> Iterator[Problem]:
        batch, world = self.config.batch, self.world_size
        per_pass = batch.micro_batch_size * world
        if batch.global_batch_size % per_pass:
            lower = batch.global_batch_size // per_pass * per_pass
            ways = [f"global_batch_size {_or(size for size in (lower, lower + per_pass) if size)}"]
            if batch.global_batch_size % world == 0:
                ways.append(f"micro_batch_size {_or(_divisors(batch.global_batch_size // world)[-8:])}")
            yield Problem(
                "batch.global_batch_size",
                f"{batch.global_batch_size} is not a multiple of micro_batch_size {batch.micro_batch_size} × "
                f"world size {world} = {per_pass}; would fit: {', or '.join(ways)}",
                also=("batch.micro_batch_size",),
            )

    def _schedule(self) -> Iterator[Problem]:
        schedule = self.config.schedule
        total = ("schedule.total_steps", "schedule.total_tokens")
        if schedule.total_steps and schedule.total_tokens:
            yield Problem(total[0], f"{total[1]} is set too; keep one of the two", also=total)
        elif not schedule.total_steps and not schedule.total_tokens:
            yield Problem(total[0], f"missing; set it, or {total[1]}", also=total)
        elif schedule.total_steps or self.datasets:
            steps = self._total_steps()
            if schedule.warmup_steps >= steps:
                yield Problem(
                    "schedule.warmup_steps",
                    f"{schedule.warmup_steps} leaves nothing of the {steps} steps for after the warmup; "
                    f"lower it, or raise {total[0] if schedule.total_steps else total[1]}",
                    also=total if schedule.total_steps else (*total, "batch", "data", "model"),
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
        if stage == 3 and precision == "autocast_bf16":
            yield Problem(
                "precision",
                "autocast_bf16 at ZeRO stage 3 rounds some of the fp32 weights on their way in DeepSpeed, "
                "and differently after a resume; set zero.stage to 0, 1 or 2, or precision to bf16",
            )
        for key in conflicts(self.config):
            owner = OWNERS.get(key.split(".")[0])
            way_out = f"is made from {owner}; remove it here and set that" if owner else OURS
            yield Problem(f"zero.deepspeed.{key}", way_out)

    def _monitoring(self) -> Iterator[Problem]:
        samples = self.config.monitoring.samples
        if bool(samples.prompts) != bool(samples.every_steps):
            keys = ("monitoring.samples.every_steps", "monitoring.samples.prompts")
            missing = keys[0] if samples.prompts else keys[1]
            yield Problem(missing, "missing; samples need both prompts and every_steps", also=keys)

    def _directories(self) -> Iterator[Problem]:
        output = self.config.output_dir
        blocking = [path for path in (output, *output.parents) if _kind(path) == "file"]
        if blocking:
            yield Problem("run.output_dir", f"{blocking[0]} is a file; name a directory", also=("run.name",))
        resume = self.config.checkpoint.resume
        if resume not in ("auto", "never") and _kind(Path(resume, "manifest.json")) != "file":
            yield Problem(
                "checkpoint.resume",
                f"{resume} is no checkpoint (it has no manifest.json); set auto, never or a checkpoint's path",
            )


def _kind(path: Path) -> str:
    """Whether `path` is a "file" or a "directory"; empty where nothing is, or nothing that may be looked at."""
    try:
        return "directory" if path.is_dir() else "file" if path.exists() else ""
    except OSError:
        return ""


def _load(path: Path) -> Manifest | str:
    """The manifest of a dataset directory, or what is wrong with it."""
    try:
        return Manifest.load(path)
    except UserError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {error.strerror}; name a dataset directory"


def _incomplete(key: str, manifest: Manifest, split: str) -> Problem | None:
    """Files of a split that are missing or not as large as its manifest says."""
    try:
        check_files(manifest, split)
    except UserError as error:
        return Problem(key, str(error))
    return None


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of paths, as long as it takes to tell them apart."""
    most = max(len(path.parts) for path in paths)
    for length in range(1, most + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _listed(weights: Iterable[float]) -> str:
    return ", ".join(f"{weight:.12g}" for weight in weights)


def _divisors(number: int) -> list[int]:
    """The divisors of `number` that a person may want: up to 1024."""
    return [d for d in range(1, min(number, 1024) + 1) if number % d == 0]


def _or(values: Iterable[object]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} or {last}" if first else last

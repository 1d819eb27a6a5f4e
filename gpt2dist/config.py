"""The run configuration: frozen, typed, read from YAML and `section.key=value`, all mistakes at once.

`read` never stops at the first mistake. It replaces what is wrong by the default, notes a `Problem`, and goes
on, so that the checks that span several keys (`preflight`) still see everything that is right.
"""

import dataclasses
import difflib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gpt2dist import strict_yaml
from gpt2dist.errors import UserError

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


@dataclasses.dataclass(frozen=True)
class Problem:
    """One mistake in a configuration.

    Attributes:
        key: Dotted key, such as `optimizer.lr`.
        message: What is wrong and the way out.
        also: Other keys that it is about. A problem that spans keys is not told where one of them is wrong by
            itself: it would follow from the default that took the wrong value's place.
    """

    key: str
    message: str
    also: tuple[str, ...] = ()

    def follows_from(self, other: "Problem") -> bool:
        """Whether the two share a key, or one is about a key inside the other's."""
        mine, theirs = ([f"{key}." for key in (p.key, *p.also)] for p in (self, other))
        return any(m.startswith(t) or t.startswith(m) for m in mine for t in theirs)


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, list[Problem]]:
    """Reads a configuration file and the overrides of its keys.

    Args:
        path: A YAML file.
        overrides: Words `section.key=value`, where value is YAML; `data.train.0.path=…` reaches into a list.

    Returns:
        The configuration, with defaults in place of what is wrong, and all that is wrong with it.

    Raises:
        UserError: The file cannot be read as YAML at all.
    """
    problems: list[Problem] = []
    raw = _read_yaml(path)
    for word in overrides:
        problems += _override(raw, word)
    config, more = _validate(raw)
    if not config.run.name:
        config = config.model_copy(update={"run": config.run.model_copy(update={"name": path.stem})})
    return config, problems + more


def raise_problems(problems: Iterable[Problem], where: str) -> None:
    """Raises one UserError that lists every problem, each with its key; does nothing for none."""
    listed = list(dict.fromkeys(problems))
    if listed:
        count = "1 mistake" if len(listed) == 1 else f"{len(listed)} mistakes"
        lines = "".join(f"\n  {problem.key}: {problem.message}" for problem in listed)
        raise UserError(f"{where}: {count} in the configuration{lines}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = strict_yaml.parse(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a YAML run file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; give the path of a YAML run file") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold sections ({', '.join(Config.model_fields)}), not {_brief(raw)}")
    return raw


def _override(raw: dict[str, Any], word: str) -> list[Problem]:
    """Writes one `section.key=value` into `raw`."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        return [Problem(word, "not an override; write section.key=value")]
    try:
        value = strict_yaml.parse(text)
    except ValueError as error:
        return [Problem(key, f"{_brief(text)} is not valid YAML ({error}); quote it")]
    node: Any = raw
    *sections, last = key.split(".")
    for depth, name in enumerate([*sections, last]):
        if isinstance(node, list):
            if not name.isdecimal() or int(name) >= len(node):
                place, count = ".".join(sections[:depth]), len(node)
                return [Problem(key, f"{place} is a list of {count}: name an item by its number, from 0")]
            step: Any = int(name)
        else:
            step = name
            node.setdefault(step, {})
        if depth == len(sections):
            node[step] = value
        elif not isinstance(node[step], dict | list):
            node[step] = {}
        node = node[step]
    return []


def _validate(raw: dict[str, Any]) -> tuple[Config, list[Problem]]:
    """Validates `raw`, dropping each wrong key after noting it, until what remains is right."""
    problems: list[Problem] = []
    while True:
        try:
            # JSON mode: strict about types, yet lists become tuples and text becomes paths.
            return Config.model_validate_json(json.dumps(raw)), problems
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                problem = _explain(error)
                dropped = error["type"] == "missing" and any(told.key == problem.key for told in problems)
                if not dropped and not _means_default(error):
                    problems.append(problem)
                _drop(raw, error)


def _means_default(error: Any) -> bool:
    """Whether the error is a known key with nothing behind it, as in `optimizer:` or `lr: null`."""
    in_list = any(isinstance(part, int) for part in error["loc"])
    return error["input"] is None and error["type"] != "extra_forbidden" and not in_list


def _drop(raw: dict[str, Any], error: Any) -> None:
    """Removes the key that is wrong. A list goes whole with a wrong item, a section with a missing key."""
    *sections, last = itertools.takewhile(lambda part: isinstance(part, str), error["loc"])
    if error["type"] == "missing" and last == error["loc"][-1]:
        *sections, last = sections
    node: Any = raw
    for name in sections:
        node = node.get(name, {})  # gone already if another item of the same list was wrong
    node.pop(last, None)


_WORDS = {"Input ": "", "a valid array": "a list", "a valid integer": "an integer", "an object": "a mapping"}
"""From JSON's words in pydantic's messages to those of YAML's users."""


def _explain(error: Any) -> Problem:
    location, kind, context = error["loc"], error["type"], error.get("ctx", {})
    key, given = ".".join(map(str, location)), _brief(error["input"])
    if kind == "extra_forbidden":
        return _unknown(location)
    if kind == "missing":
        return Problem(key, "is required here and missing; add it")
    if kind == "literal_error":
        return Problem(key, f"{given} is not one of {context['expected']}")
    if kind == "model_type":
        return Problem(key, f"should be a section with keys ({', '.join(_fields_at(location))}), not {given}")
    if kind == "too_long":
        return Problem(key, f"should be a list of {context['max_length']}, not {given}")
    if kind == "string_pattern_mismatch":
        return Problem(key, f"should be made of letters, digits, '.', '_' and '-', not {given}")
    message = error["msg"]
    for theirs, ours in _WORDS.items():
        message = message.replace(theirs, ours)
    scalar = not isinstance(error["input"], dict | list | None)
    quote = "; quote it if it is meant as text" if kind == "string_type" and scalar else ""
    return Problem(key, f"{message.replace('valid ', '')}, not {given}{quote}")


def _unknown(location: tuple[int | str, ...]) -> Problem:
    *section, name = map(str, location)
    known = _fields_at(location[:-1])
    homes = [f"{place}.{name}" for place in Config.model_fields if name in _fields_at((place,))]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    meant = [".".join([*section, close[0]])] if close else homes
    way_out = f"did you mean {' or '.join(meant)}?" if meant else f"known here: {', '.join(known)}"
    return Problem(".".join([*section, name]), f"unknown key; {way_out}", also=tuple(meant))


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known in the section at `location`; none where it is no section."""
    model: Any = Config
    for name in location:
        if isinstance(name, str):
            annotation = model.model_fields[name].annotation
            found = (annotation, *getattr(annotation, "__args__", ()))
            model = next((a for a in found if isinstance(a, type) and issubclass(a, Section)), None)
    return list(model.model_fields) if model else []


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"

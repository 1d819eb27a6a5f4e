"""The run configuration: frozen, typed, read from YAML and `section.key=value`, all mistakes at once.

`read` never stops at the first mistake. It replaces what is wrong by the default, notes a `Problem`, and goes
on, so that the checks that span several keys (`preflight.py`) still see everything that is right.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

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


class ModelSection(Section):
    """GPT-2's shape. A preset gives all four sizes; a key beside it overrides one."""

    preset: PresetName | None = None
    n_layer: Positive | None = None
    n_head: Positive | None = None
    n_embd: Positive | None = None
    context_length: Positive | None = None  # tokens
    dropout: Fraction = 0.0
    attention: Literal["sdpa", "eager"] = "sdpa"
    activation_checkpointing: bool = False


class TrainingDataset(Section):
    """A dataset directory whose `train` split is trained on."""

    path: Path


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


class BatchSection(Section):
    """Accumulation is derived: global = micro × accumulation × world size."""

    global_batch_size: Positive = 8  # windows per optimizer step
    micro_batch_size: Positive = 1  # windows per forward pass and rank


class OptimizerSection(Section):
    """AdamW. Weight decay acts on matrices only."""

    lr: float = Field(6e-4, gt=0)
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    clip_grad_norm: float = Field(1.0, ge=0)  # 0 turns clipping off


class ScheduleSection(Section):
    """Learning rate as a function of the optimizer step."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    total_steps: Positive | None = None
    total_tokens: Positive | None = None  # targets trained on; one of the two is required
    min_lr_ratio: float = Field(0.1, ge=0, le=1)  # of optimizer.lr, reached at the last step


class ZeroSection(Section):
    """DeepSpeed ZeRO: what is partitioned over the ranks (1 optimizer, 2 + gradients, 3 + parameters)."""

    stage: Literal[0, 1, 2, 3] = 1
    deepspeed: dict[str, Any] = {}  # raw DeepSpeed keys, merged last; a conflict with ours is an error


class CheckpointSection(Section):
    """When checkpoints are written and how many stay. The last step is always saved."""

    every_steps: Positive | None = None
    keep_last: Positive = 2
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


class MonitoringSection(Section):
    """What is recorded, and how often."""

    log_every_steps: Positive = 10
    tensorboard: bool = True
    samples: SamplesSection = SamplesSection()


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
    """

    key: str
    message: str


def read(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, list[Problem]]:
    """Reads a configuration file and the overrides of its keys.

    Args:
        path: A YAML file.
        overrides: Words `section.key=value`, where value is YAML.

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


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?` for a misspelt word, or the list of what is known."""
    options = list(known)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(options)}"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 6e-4 is a number (YAML 1.2) and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key, (key_node, _) in zip(keys, node.value, strict=True):
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} is given twice", problem_mark=key_node.start_mark
                )
        return super().construct_mapping(node, deep)


_FLOAT = r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+.0123456789"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a YAML run file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; give the path of a YAML run file") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"{path}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(
            f"{path}: must hold sections ({', '.join(Config.model_fields)}), not a {type(raw).__name__}"
        )
    return raw


def _override(raw: dict[str, Any], word: str) -> list[Problem]:
    """Writes one `section.key=value` into `raw`; values inside lists are not addressed."""
    key, equals, text = word.partition("=")
    if not equals or not key:
        return [Problem(word, "not an override; write section.key=value")]
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return [Problem(key, f"{text!r} is not valid YAML; quote it")]
    target = raw
    *sections, last = key.split(".")
    for name in sections:
        if not isinstance(target.get(name), dict):
            target[name] = {}
        target = target[name]
    target[last] = value
    return []


def _validate(raw: dict[str, Any]) -> tuple[Config, list[Problem]]:
    """Validates `raw`, dropping each wrong key after noting it, until what remains is right."""
    problems: list[Problem] = []
    raw = json.loads(json.dumps(raw, default=str))
    for section, value in list(raw.items()):  # `optimizer:` with nothing under it means the defaults
        if value is None and section in Config.model_fields:
            del raw[section]
    while True:
        try:
            # JSON mode: strict about types, yet lists become tuples and text becomes paths.
            return Config.model_validate_json(json.dumps(raw)), problems
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                problems.append(_explain(error))
                _drop(raw, error["loc"])


def _drop(raw: Any, location: tuple[int | str, ...]) -> None:
    """Removes what `location` names; a wrong or missing item takes its list with it."""
    steps: list[tuple[Any, int | str]] = []
    node = raw
    for part in location:
        steps.append((node, part))
        if not isinstance(node, dict | list) or (isinstance(node, dict) and part not in node):
            break
        node = node[part]  # type: ignore[index]
    while steps:
        container, part = steps.pop()
        if isinstance(container, dict) and part in container and not any(isinstance(c, list) for c, _ in steps):
            del container[part]
            return


def _explain(error: Any) -> Problem:
    location, kind, context = error["loc"], error["type"], error.get("ctx", {})
    key = ".".join(str(part) for part in location)
    if kind == "extra_forbidden":
        known = _fields_at(location[:-1])
        return Problem(key, f"unknown key; {nearest(str(location[-1]), known)}")
    if kind == "missing":
        return Problem(key, "is required here and missing; add it")
    if kind == "literal_error":
        return Problem(key, f"{error['input']!r} is not one of {context['expected']}")
    message = error["msg"].removeprefix("Input ").replace("a valid integer", "an integer").replace("valid ", "")
    if kind in ("model_type", "model_attributes_type"):
        message = f"should be a section with keys ({', '.join(_fields_at(location))})"
    return Problem(key, f"{message}, not {error['input']!r}")


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known in the section at `location`."""
    model: Any = Config
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        arguments = getattr(annotation, "__args__", ())
        model = next(
            (a for a in (annotation, *arguments) if isinstance(a, type) and issubclass(a, BaseModel)), model
        )
    return list(model.model_fields)

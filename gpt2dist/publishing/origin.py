"""Provenance of a model to be published: its training, configuration and scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt2dist import hub, json_files
from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import best_step, checkpoint_name
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.config import Config, raise_problems, read
from gpt2dist.errors import UserError
from gpt2dist.evaluation.measure import MeasureInfo
from gpt2dist.evaluation.measures import ACC, ACCURACY, OURS, finite, of_result
from gpt2dist.model.find_model import fingerprint
from gpt2dist.model.huggingface import Pretrained
from gpt2dist.model.shape import Shape
from gpt2dist.preflight.model import lengths_of
from gpt2dist.run import starts
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.starts import Change
from gpt2dist.tokenizer import text_changes

PROTOCOL = (
    *("scored", "split", "detokenizer", "sequence_length", "stride", "prefix", "per_document"),
    *("document_boundaries", "dtype", "num_fewshot", "limit", "task_version"),
)
"""Keys of a result that describe how a score was computed, apart from the model and the text."""
OF_LAST_WORDS, OF_CHOICES = "the last word of each passage", "the choices of each question"
AS_TASK = "as the task of lm-evaluation-harness does"
"""What was scored, if it was not a whole text."""
_GIVE_RESULT = "give a file that `gpt2dist evaluate --output` wrote, or remove it"

PUBLISHED_CHANGES = (
    *("optimizer.", "schedule.", "batch.", "precision", "run.allow_tf32", "model.dropout", "stability."),
)
"""Starts of the keys whose changes at a restart are published. Others may hold local paths."""


@dataclass(frozen=True)
class Result:
    """Scores on one text.

    Attributes:
        name: Name of the text.
        data: Fingerprint of the text; empty if it is not recorded.
        measures: Finite values of the measures that a card shows, by key.
        protocol: Values of the `PROTOCOL` keys that are known.
        shown: How these measures are written.
    """

    name: str
    data: str
    measures: dict[str, float]
    protocol: dict[str, Any]
    shown: tuple[MeasureInfo, ...] = field(default=(), compare=False)

    @classmethod
    def of(cls, name: str, record: dict[str, Any]) -> "Result":
        """Extract the result from a record that has further keys."""
        shown = tuple(each for each in of_result(record, "card") if finite(record[each.key]) is not None)
        if "task" in record:
            record = record | {"scored": AS_TASK}
        elif ACCURACY.key in record:
            record = record | {"scored": OF_LAST_WORDS}
        elif ACC.key in record:
            record = record | {"scored": OF_CHOICES}
        return cls(
            name,
            str(record.get("data") or ""),
            {each.key: record[each.key] for each in shown},
            {
                key: record[key]
                for key in PROTOCOL
                if record.get(key) not in (None, "fp32") and record[key] is not False
            }
            | _text_changes(record),
            shown,
        )


@dataclass(frozen=True)
class EnvironmentFile:
    """The keys of a run's environment.json that a model card shows. Unknown ones are None or empty."""

    gpt2dist: str | None = None
    python: str | None = None
    packages: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    gpu: str | None = None
    init_from: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelProvenance:
    """Provenance of a model. Unknown fields are None or empty.

    Attributes:
        shape: Sizes of the model.
        fingerprint: Fingerprint of the weights.
        base_source: NAME@COMMIT on the hub of the model, or of the model from which its training started.
        state: Trainer state at the checkpoint.
        config: Configuration of the run.
        environment: Software and hardware of the run.
        results: Scores of the model.
        changes: Hyperparameters that were changed at restarts, each with the step of the restart.
        chosen_by: The metric by which this is the best checkpoint of its run; empty if it is not.
    """

    shape: Shape
    fingerprint: str
    base_source: str | None
    state: TrainerState | None
    config: Config | None
    environment: EnvironmentFile
    results: tuple[Result, ...]
    changes: tuple[tuple[int, Change], ...] = ()
    chosen_by: str = ""

    @property
    def base_model(self) -> str | None:
        """Name on the hub of `base_source`."""
        return self.base_source.partition("@")[0] if self.base_source else None

    @classmethod
    def read(cls, directory: Path, results: Sequence[Path] = ()) -> "ModelProvenance":
        """Read the provenance from a model directory and, if it is a checkpoint, from its run directory.

        Args:
            directory: The model directory.
            results: Files that `gpt2dist evaluate --output` wrote for this model.

        Raises:
            UserError: A file cannot be read, or a result has no known measure or belongs to another model.
        """
        shape, digest = Pretrained.read(directory).shape, fingerprint(directory)
        given = [result for path in results for result in _results(path, directory, digest)]
        if not (directory / manifest.NAME).is_file():  # transformers' Trainer also writes trainer_state.json
            base = hub.source_of(directory) or None
            return cls(shape, digest, base, None, None, EnvironmentFile(), tuple(given))
        trainer = TrainerState.read(directory)
        run = RunDirectory(directory.resolve().parent.parent)
        if not run.config.is_file():  # a checkpoint that was moved out of its run
            return cls(shape, digest, None, trainer, None, EnvironmentFile(), tuple(given))
        config, problems = read(run.config)
        raise_problems(problems, str(run.config))
        environment = _environment(run.environment)
        base = hub.source_of(Path(environment.init_from.get("path", ""))) or None
        recorded = [*_validation(run, trainer.step, config), *_recorded(run, trainer.step, digest)]
        changes = tuple(_changes(run, trainer.step))
        chosen_by = _chosen_by(run, trainer.step, config)
        return cls(shape, digest, base, trainer, config, environment, (*recorded, *given), changes, chosen_by)


def _chosen_by(run: RunDirectory, step: int, config: Config) -> str:
    """Return the metric by which the checkpoint of a step is the best of its run; empty if it is not."""
    return (config.checkpoint.keep_best or "") if best_step(run.checkpoints) == step else ""


def _changes(run: RunDirectory, step: int) -> Iterator[tuple[int, Change]]:
    """Yield what restarts changed within the first steps of a run; a restart at step 0 started over."""
    for start in (starts.read(run.path, number) for number in starts.numbers(run.path)):
        if start.step and start.step < step:
            published = (each for each in start.changes if each.key.startswith(PUBLISHED_CHANGES))
            yield from ((start.step, each) for each in published)


def _validation(run: RunDirectory, step: int, config: Config) -> Iterator[Result]:
    """Yield the scores of the run's own validation at a step."""
    lengths = lengths_of(config)
    protocol = {
        "sequence_length": lengths.sequence,
        "stride": lengths.evaluation_stride,
        "document_boundaries": config.data.document_boundaries,
    }
    path = run.evaluations / f"{checkpoint_name(step)}.json"
    for name, record in (_json(path) if path.exists() else {}).items():
        _check_protocol(path, record)
        yield Result.of(name, protocol | record)


def _recorded(run: RunDirectory, step: int, digest: str) -> Iterator[Result]:
    """Yield the scores that `gpt2dist evaluate` recorded for the weights at a step."""
    for path in sorted(run.evaluations.glob(f"*/{checkpoint_name(step)}.json")):
        record = _json(path)
        if record.get("model") == digest:
            yield Result.of(path.parent.name, record)


def _results(path: Path, directory: Path, digest: str) -> list[Result]:
    """Read a result file. That of `evaluate --tasks` has a result for each task."""
    record = _json(path)
    if not (record and all(isinstance(each, dict) and "task" in each for each in record.values())):
        return [_result(path, path.stem, record, directory, digest)]
    for each in record.values():
        _check_protocol(path, each)
    return [_result(path, name, each, directory, digest) for name, each in record.items()]


def _result(path: Path, name: str, record: dict[str, Any], directory: Path, digest: str) -> Result:
    if record.get("model") != digest:
        raise UserError(
            f"--results: {path} is of another model than {directory} (its fingerprint differs); "
            f"score this one: gpt2dist evaluate {directory} --output {path}"
        )
    result = Result.of(name, record)
    if not result.measures:
        known = dict.fromkeys(each.key for each in OURS if "card" in each.places)
        raise UserError(
            f"--results: {path} has none of {', '.join(known)}; give a file that `gpt2dist evaluate --output` "
            "wrote"
        )
    return result


def _environment(path: Path) -> EnvironmentFile:
    if not path.exists():
        return EnvironmentFile()
    try:
        return json_files.build(EnvironmentFile, json_files.load(path))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: {json_files.reason(error)}; remove it to write a card without the environment"
        ) from None


def _json(path: Path) -> dict[str, Any]:
    content = json_files.require(path, _GIVE_RESULT, infinite=True)
    _check_protocol(path, content)
    return dict(content)


def _check_protocol(path: Path, record: Any) -> None:
    """Check a result's settings, which the card quotes."""
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a result of an evaluation; {_GIVE_RESULT}")
    for key in PROTOCOL:
        if not isinstance(record.get(key), str | int | None):
            raise UserError(f"{path}: {key} is neither a text nor a number; {_GIVE_RESULT}")


def _text_changes(record: dict[str, Any]) -> dict[str, str]:
    changes = record.get("text_changes")
    try:
        text_changes.check(changes)
    except TypeError:
        return {}
    return {"text": text_changes.described(changes)} if changes else {}

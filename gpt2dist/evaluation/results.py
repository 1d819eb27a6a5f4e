"""Results that belong to a run: RUN/eval/NAME/step-00001000.json, one for each checkpoint that was scored."""

import json
import time
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io
from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.naming import checkpoint_name
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.errors import UserError
from gpt2dist.run.directory import RunDirectory

CURVES = ("loss", "perplexity", "bits_per_byte", "word_perplexity")
"""What goes to TensorBoard."""
NEEDED = ("time", "model", *CURVES)
"""What a file must have beside its step to be a result."""


class EvaluationResults:
    """The results of one evaluation of a run.

    Args:
        run: The run directory.
        name: Tells its evaluations apart.

    Raises:
        UserError: The name cannot be that of a directory.
    """

    def __init__(self, run: Path, name: str):
        if not name or Path(name).name != name or name.startswith("."):
            raise UserError(
                f"--name {name!r} cannot be the name of a directory; give a plain word such as wikitext"
            )
        self.run = run
        self.name = name
        self.directory = RunDirectory(run).evaluations / name

    def results(self) -> dict[int, dict[str, Any]]:
        """What there is, by step, in order.

        Raises:
            UserError: A file is no result.
        """
        found = {}
        for path in sorted(self.directory.glob("step-*.json")):
            try:
                result = json.loads(path.read_bytes())
                found[int(result["step"])] = result
                missing = [name for name in NEEDED if name not in result]
                if missing:
                    raise ValueError(f"no {missing[0]}")
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: not a result of `gpt2dist evaluate` ({error}); remove it") from None
        return dict(sorted(found.items()))

    def require_comparable(self, conditions: dict[str, Any]) -> None:
        """Refuses an evaluation whose results would be points of another curve.

        Args:
            conditions: What `evaluate.conditions` says of it.

        Raises:
            UserError: Names what differs.
        """
        for there in self.results().values():
            for key, value in conditions.items():
                if there.get(key) != value:
                    raise UserError(
                        f"{self.directory}: holds results with {key} {there.get(key)!r}, this one has "
                        f"{value!r}; give this evaluation another --name"
                    )

    def add(self, step: int, model: Path, result: dict[str, Any]) -> None:
        """Writes the result of a model at a step, in place of one of the same step.

        It gets `step`, `time` and, of a checkpoint, `consumed_tokens` too.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        known: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        if (model / manifest.NAME).is_file():
            known["consumed_tokens"] = TrainerState.read(model).consumed_tokens
        path = self.directory / f"{checkpoint_name(step)}.json"
        atomic_io.write_json(path, known | atomic_io.finite(result))

    def lines(self) -> list[dict[str, Any]]:
        """The results as lines of metrics.jsonl, for TensorBoard."""
        return [self.line(result) for result in self.results().values()]

    def line(self, result: dict[str, Any]) -> dict[str, Any]:
        """A result as a line of metrics.jsonl."""
        known = {"progress/tokens": result["consumed_tokens"]} if "consumed_tokens" in result else {}
        curves = {f"eval/{self.name}/{name}": result[name] for name in CURVES}
        return {"step": result["step"], "time": result["time"], **known, **curves}

"""Tasks of lm-evaluation-harness on all ranks, and the model that they share. Imports lm-eval when it is used."""

import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.model_forward import Dtype, FoundModel, find_together, load_model, require_dtype
from gpt2dist.evaluation.scoring import OnBatch, ignore
from gpt2dist.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gpt2dist.evaluation.harness import HarnessTask
    from gpt2dist.evaluation.model_forward import LoadedModel

EXTRA = "lm-eval"


def require_harness() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError(f"--tasks: lm-eval is not installed; pip install 'gpt2dist[{EXTRA}]', or omit --tasks")


class Tasks:
    """Tasks to evaluate models on. Creating it is collective; rank 0 loads the tasks and their data.

    Args:
        names: Names of tasks, groups and tags, or paths of YAML files.
        include_path: A directory with further tasks; None for only the harness's.
        num_fewshot: Number of examples before each question; None for the task's own.
        limit: Number of documents of each task; None for all.
        world: This rank.
        batch_size: Rows per forward pass.
        zero_stage: 3 partitions the parameters across the ranks; 0 gives each rank a replica.
        dtype: How the model computes.

    Attributes:
        names: Names of the tasks and groups; a tag stands for its tasks.

    Raises:
        UserError: The harness is not installed, or a task is unknown or cannot be loaded.
    """

    def __init__(
        self,
        names: Sequence[str],
        include_path: Path | None,
        num_fewshot: int | None,
        limit: int | None,
        world: World,
        batch_size: int = 8,
        zero_stage: Literal[0, 3] = 0,
        dtype: Dtype = "fp32",
    ):
        require_dtype(dtype, world.device)
        self._world, self._batch_size, self._zero_stage, self._dtype = world, batch_size, zero_stage, dtype
        self._tasks: dict[str, HarnessTask] = {}
        self._loaded: tuple[str, LoadedModel] | None = None

        def load() -> dict[str, dict[str, Any]]:
            require_harness()
            from gpt2dist.evaluation.harness import TaskSettings, load_tasks

            self._tasks = {
                task.name: task for task in load_tasks(names, include_path, TaskSettings(num_fewshot, limit))
            }
            return {name: task.conditions() for name, task in self._tasks.items()}

        self._conditions = world.on_main(load)
        self.names = tuple(self._conditions)

    def conditions(self, name: str, model: Path) -> dict[str, Any]:
        """Return the settings that two results of a task must share, except for the fingerprint of its data."""
        return {**self._conditions[name], "tokenizer": Tokenizer.load(model).fingerprint, "dtype": self._dtype}

    def evaluate(
        self,
        name: str,
        model: str | Path,
        on_batch: OnBatch = ignore,
        on_data: Callable[[str], None] = lambda data: None,
    ) -> dict[str, Any]:
        """Evaluate a model on a task. Collective.

        Args:
            name: One of `names`.
            model: A checkpoint, a run directory (its newest checkpoint), a model directory or a hub name.
            on_batch: As in `score_windows`.
            on_data: Called on rank 0 with a fingerprint of the task's requests, before the first one is computed.

        Returns:
            The result; see docs/guides/evaluation.md.

        Raises:
            UserError: The model cannot be loaded, or the task fails.
        """
        from gpt2dist.evaluation.harness_model import Answers, on_main_with_all

        located = find_together(model, self._world)
        tokenizer = located.tokenizer
        loaded = self._load(located)
        answers = Answers(loaded, tokenizer, self._world, self._batch_size, self._zero_stage == 3, on_batch)
        began = time.monotonic()
        found = on_main_with_all(answers, lambda asked: self._tasks[name].run(asked, on_data))
        return {
            **found,
            "tokenizer": tokenizer.fingerprint,
            "dtype": self._dtype,
            "batch_size": self._batch_size,
            "zero_stage": self._zero_stage,
            "world_size": self._world.size,
            **located.recorded(),
            **({"text_changes": tokenizer.text_changes} if tokenizer.text_changes else {}),
            "seconds": round(time.monotonic() - began, 3),
        }

    def _load(self, found: FoundModel) -> "LoadedModel":
        """Load a model, unless it is that of the last call."""
        if self._loaded is None or self._loaded[0] != found.weights:
            self._loaded = None  # its memory is needed for the next one
            model = load_model(found.directory, found.tokenizer, self._zero_stage, self._world, self._dtype)
            self._loaded = found.weights, model
        return self._loaded[1]

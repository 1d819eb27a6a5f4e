"""What a report shows of a run, read from its directory once."""

import dataclasses
from pathlib import Path
from typing import Any

from gpt2dist.report.decimation import MOST_PARTS
from gpt2dist.report.history import History, read_history
from gpt2dist.run.directory import RunDirectory
from gpt2dist.status import run_files
from gpt2dist.status.evaluations import Evaluation, all_evaluations
from gpt2dist.status.status import Status, read_status


@dataclasses.dataclass(frozen=True)
class Contents:
    """A run.

    Attributes:
        path: The run directory.
        name: `run.name`, else the name of the directory.
        status: Its status, with all starts.
        history: What it recorded over time.
        evaluations: All results.
        settings: config.yaml by section.
        environment: environment.json.
    """

    path: Path
    name: str
    status: Status
    history: History
    evaluations: list[Evaluation]
    settings: dict[str, dict[str, Any]]
    environment: dict[str, Any]


def read_contents(run: Path, most: int = MOST_PARTS) -> Contents:
    """Read a run, which may still be training.

    Args:
        run: The run directory.
        most: Half of the largest number of parts of a series.

    Raises:
        UserError: metrics.jsonl cannot be read.
    """
    settings = run_files.read_settings(run)
    return Contents(
        path=run,
        name=str(settings.get("run", {}).get("name") or run.resolve().name),
        status=read_status(run, all_starts=True),
        history=read_history(run, most),
        evaluations=all_evaluations(run),
        settings=settings,
        environment=run_files.read_object(RunDirectory(run).environment),
    )

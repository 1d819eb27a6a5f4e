"""A training run, read from its directory: `gpt2dist.Run`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gpt2dist.errors import UserError

if TYPE_CHECKING:  # importing gpt2dist.Run imports neither numpy nor pydantic
    import numpy as np
    from numpy.typing import NDArray

    from gpt2dist.config import Config
    from gpt2dist.status.evaluations import Evaluation
    from gpt2dist.status.status import Status


class Series(NamedTuple):
    """The values of one tag of metrics.jsonl.

    Attributes:
        steps: int64 [N], the optimizer steps done.
        values: float64 [N]; NaN for a number that was not finite. For texts, object [N].
    """

    steps: "NDArray[np.int64]"
    values: "NDArray[np.float64]"


class Run(os.PathLike[str]):
    """A run, read from its directory. Each access reads the files again, so the run may still be training.

    A run can be given wherever a path is expected, such as `gpt2dist.evaluate(run, …)`.

    Args:
        directory: The run directory: `config.output_dir`.

    Attributes:
        directory: As given.

    Raises:
        UserError: No run was started in the directory.

    Example:
        >>> run = gpt2dist.Run("runs/quickstart")
        >>> run.status.state, run.status.step
        ('finished', 300)
        >>> steps, losses = run.metrics()["train/loss"]
        >>> run.checkpoints[-1].name
        'step-00000300'
    """

    def __init__(self, directory: str | os.PathLike[str]):
        from gpt2dist.status.run_files import is_run

        self.directory = Path(directory)
        if not is_run(self.directory):
            raise UserError(f"{directory}: not a run directory; `gpt2dist status DIR` lists those in a folder")

    def __fspath__(self) -> str:
        return str(self.directory)

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @property
    def config(self) -> "Config":
        """The configuration of the last start, with all defaults.

        Raises:
            UserError: The run has none yet, or it cannot be read.
        """
        from gpt2dist.config import Config
        from gpt2dist.run.directory import RunDirectory

        return Config.read(RunDirectory(self.directory).config)

    @property
    def status(self) -> "Status":
        """The state, step, loss, speed, time left and more, as `gpt2dist status` shows them."""
        from gpt2dist.status.status import read_status

        return read_status(self.directory)

    def metrics(self) -> dict[str, Series]:
        """Read metrics.jsonl.

        Returns:
            Tag → its steps and values, such as "train/loss", "train/lr", "throughput/tokens_per_second" or
            "eval/val/loss". Empty before the first log.

        Raises:
            UserError: The file cannot be read.

        Example:
            >>> steps, losses = run.metrics()["train/loss"]
            >>> float(losses[-1])
            3.84
        """
        import numpy as np

        from gpt2dist.run import metrics_file
        from gpt2dist.run.directory import RunDirectory

        columns: dict[str, tuple[list[int], list[metrics_file.Value]]] = {}
        for line in metrics_file.stream(RunDirectory(self.directory).metrics):
            for tag, value in line.items():
                if tag != "step":
                    steps, values = columns.setdefault(tag, ([], []))
                    steps.append(line["step"])
                    values.append(value)
        return {
            tag: Series(np.array(steps, np.int64), np.array(values, object if _has_text(values) else np.float64))
            for tag, (steps, values) in columns.items()
        }

    @property
    def evaluations(self) -> "list[Evaluation]":
        """All evaluation results, of training and of `gpt2dist evaluate --run`, by name and step."""
        from gpt2dist.status.evaluations import all_evaluations

        return all_evaluations(self.directory)

    @property
    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, newest last. Each is a directory that transformers loads as a model."""
        from gpt2dist.checkpoint.naming import finished
        from gpt2dist.run.directory import RunDirectory

        return finished(RunDirectory(self.directory).checkpoints)

    def report(
        self, output: str | os.PathLike[str] | None = None, others: Sequence[str | os.PathLike[str]] = ()
    ) -> Path:
        """Write the run as one self-contained HTML page, as `gpt2dist report` does.

        Args:
            output: Path of the page; an existing file is replaced. By default report.html in the run directory.
            others: Further run directories, or runs, that share the page and its charts.

        Returns:
            The path of the page.

        Raises:
            UserError: The page cannot be written there, or one of `others` is no run directory.

        Example:
            >>> run.report("report.html")
            PosixPath('report.html')
        """
        from gpt2dist.output_paths import check_file, write_file
        from gpt2dist.report.page import report
        from gpt2dist.run.directory import RunDirectory

        path = RunDirectory(self.directory).report if output is None else Path(output)
        runs = [self, *map(Run, others)]
        check_file(path)
        write_file(path, report([each.directory for each in runs]))
        return path


def _has_text(values: list[float | int | str | None]) -> bool:
    return any(isinstance(value, str) for value in values)

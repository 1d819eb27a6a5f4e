"""The layout of a run directory. Paths are defined here; the format of each file is defined by its owner."""

import dataclasses
from pathlib import Path

LATEST = "latest"
"""Name of the file beside the checkpoints that names the newest one."""
BEST = "best"
"""Name of the file beside the checkpoints that names the best one by `checkpoint.keep_best`."""
SAVED = "saved"
"""Name of the file beside the checkpoints that lists all that were completed."""


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths of a run. Does not access the file system.

    Attributes:
        path: The run directory: `run.output_dir`.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration of the last start, as resolved."""
        return self.path / "config.yaml"

    @property
    def deepspeed_config(self) -> Path:
        """The configuration given to DeepSpeed."""
        return self.path / "deepspeed.json"

    @property
    def environment(self) -> Path:
        """Versions, machine, code and datasets of the last start."""
        return self.path / "environment.json"

    @property
    def starts(self) -> Path:
        """The records of all starts; see `starts`."""
        return self.path / "starts"

    def start(self, number: int) -> "RunDirectory":
        """Return the record of a start: a directory with its own `config` and `environment`."""
        return RunDirectory(self.starts / f"{number:03d}")

    @property
    def metrics(self) -> Path:
        """The record of the run, one line per log interval and evaluation; see `metrics_file`."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """The event files of TensorBoard."""
        return self.path / "tensorboard"

    @property
    def trackers(self) -> Path:
        """What each tracker keeps from start to start, in a directory of its name."""
        return self.path / "trackers"

    @property
    def evaluations(self) -> Path:
        """Results: step-….json for evaluations during training, and a directory for each other evaluation."""
        return self.path / "eval"

    @property
    def report(self) -> Path:
        """The page that `gpt2dist report` writes by default."""
        return self.path / "report.html"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints, one directory each."""
        return self.path / "checkpoints"

    @property
    def latest(self) -> Path:
        """The file that names the newest checkpoint."""
        return self.checkpoints / LATEST

    @property
    def best(self) -> Path:
        """The file that names the best checkpoint, if `checkpoint.keep_best` is set."""
        return self.checkpoints / BEST

    @property
    def saved(self) -> Path:
        """The names of all checkpoints that were ever completed, one a line, also of those deleted since."""
        return self.checkpoints / SAVED

    @property
    def commit_calls(self) -> Path:
        """The calls of `checkpoint.on_commit`, a line each; see `commit_calls`."""
        return self.path / "on_commit.jsonl"

    @property
    def logs(self) -> Path:
        """The logs of the ranks."""
        return self.path / "logs"

    def rank_log(self, rank: int) -> Path:
        """Return the path of a rank's log."""
        return self.logs / f"rank-{rank:05d}.log"

    @property
    def profile(self) -> Path:
        """The traces of `monitoring.profile`."""
        return self.path / "profile"

    @property
    def verify_resume(self) -> Path:
        """The trainings that `verify-resume` compares, and its logs."""
        return self.path / "verify-resume"

    @property
    def submissions(self) -> Path:
        """The records of submitted jobs; see `submissions`."""
        return self.path / "submission"

    @property
    def lock(self) -> Path:
        """The file that the active job locks; see `lock`."""
        return self.path / "lock"

    @property
    def stopped_marker(self) -> Path:
        """The marker file of a run that stopped on request; see `end_markers`."""
        return self.path / "stopped.json"

    @property
    def finished_marker(self) -> Path:
        """The marker file of a run that `evaluation.patience` ended before its last step; see `end_markers`."""
        return self.path / "finished.json"

    @property
    def failed_marker(self) -> Path:
        """The marker file of a run in which a rank failed; see `end_markers`."""
        return self.path / "failed.json"

"""TensorBoard tracker: a view of metrics.jsonl that can be rebuilt from it at any time."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from gpt2dist.monitoring.trackers import Hyperparameters, send
from gpt2dist.run.metrics_file import Line

LAYOUT = {
    "gpt2dist": {
        "loss": ["Multiline", [r"train/loss$", r"eval/.*/loss$"]],
        "perplexity": ["Multiline", [r"train/perplexity$", r"eval/.*/perplexity$"]],
        "throughput": ["Multiline", [r"throughput/tokens_per_second$"]],
    }
}


class TensorBoard:
    """Tracker that writes TensorBoard events over the optimizer step.

    Each loss is also written as `…_vs_tokens`, over the tokens trained on.

    Args:
        directory: Directory of the event files.
    """

    def __init__(self, directory: Path):
        self._directory = directory

    def start(self, hyperparameters: Hyperparameters, run: Path, history: list[Line]) -> None:
        """Replace all event files with new ones written from the history.

        The old files may lack lines that were not flushed, or contain lines that a resume dropped. A running
        TensorBoard handles a complete rewrite correctly. If it were asked to purge from a later step, it would
        also discard points of the `…_vs_tokens` charts.
        """
        for old in self._directory.glob("events.out.tfevents.*"):
            # TensorBoard without its data server would never leave a file deleted while it reads it. The file is
            # therefore emptied first, and deleted at a later start.
            if old.stat().st_size:
                old.write_bytes(b"")
            else:
                old.unlink()
        self._writer = SummaryWriter(str(self._directory), max_queue=1000, flush_secs=10, purge_step=0)
        self._tokens = 0
        self._writer.add_custom_scalars(LAYOUT)
        # The experiment summary is not written, because TensorBoard would apply that of one run to all runs.
        # Without it, TensorBoard collects the hyperparameters of all runs and shows those that differ first.
        _, begin, self._end = hparams({name: _shown(value) for name, value in hyperparameters.items()}, {})
        self._in_table = bool(hyperparameters)
        if self._in_table:
            self._summarise(begin)
        for line in history:
            send(self, line)

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Write numbers."""
        before, self._tokens = self._tokens, int(values.get("progress/tokens", self._tokens))
        for tag, value in values.items():
            if tag == "progress/tokens" and self._tokens == before:
                continue  # several lines of a step may contain it; one point is enough
            self._writer.add_scalar(tag, value, step, walltime=time)
            if tag == "train/loss" or (tag.startswith("eval/") and tag.endswith("/loss")):
                self._writer.add_scalar(f"{tag}_vs_tokens", value, self._tokens, walltime=time)

    def text(self, step: int, time: float, tag: str, text: str) -> None:
        """Write a text as a Markdown code block, so that it is shown verbatim."""
        self._writer.add_text(tag, f"    {text}".replace("\n", "\n    "), step, walltime=time)

    def close(self, failed: bool) -> None:
        """Flush and close the event file."""
        if self._in_table and not failed:
            self._summarise(self._end)
        self._writer.close()

    def _summarise(self, summary: Any) -> None:
        file: Any = self._writer.file_writer
        file.add_summary(summary)


def _shown(value: bool | int | float | str) -> int | float | str:
    """Return a value for the table of hyperparameters, which would show a flag as a number."""
    return str(value).lower() if isinstance(value, bool) else value

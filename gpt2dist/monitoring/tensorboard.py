"""TensorBoard: a view of metrics.jsonl, which can be made again from it at any time."""

from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from gpt2dist.monitoring.trackers import Hyperparameters, tell
from gpt2dist.run.metrics_file import Line

LAYOUT = {
    "gpt2dist": {
        "loss": ["Multiline", [r"train/loss$", r"eval/.*/loss$"]],
        "perplexity": ["Multiline", [r"train/perplexity$", r"eval/.*/perplexity$"]],
        "throughput": ["Multiline", [r"throughput/tokens_per_second$"]],
    }
}


class TensorBoard:
    """A tracker that writes TensorBoard events; x is the optimizer step.

    Losses get a twin `…_vs_tokens` whose x is the tokens trained on.

    Args:
        directory: Where the event files go.
    """

    def __init__(self, directory: Path):
        self._directory = directory

    def start(self, hyperparameters: Hyperparameters, run: Path, history: list[Line]) -> None:
        """Replaces all event files by what the history says.

        They may lack lines that were not flushed, or have some that a resume dropped. To begin again from nothing
        is what a TensorBoard that is looking on understands too: told to forget from a step on, it would forget
        the points of the tokens axis as well.
        """
        for old in self._directory.glob("events.out.tfevents.*"):
            # One that is being read must not vanish: without its data server TensorBoard would stay with it.
            if old.stat().st_size:
                old.write_bytes(b"")
            else:
                old.unlink()
        self._writer = SummaryWriter(str(self._directory), max_queue=1000, flush_secs=10, purge_step=0)
        self._tokens = 0
        self._writer.add_custom_scalars(LAYOUT)
        # No summary of the experiment: TensorBoard would take that of one run for all. Left alone it finds out
        # which hyperparameters there are over all runs, and shows first those in which they differ.
        _, begin, self._end = hparams({name: _shown(value) for name, value in hyperparameters.items()}, {})
        self._in_table = bool(hyperparameters)
        if self._in_table:
            self._summarise(begin)
        for line in history:
            tell(self, line)

    def log(self, step: int, time: float, values: dict[str, float]) -> None:
        """Writes numbers."""
        before, self._tokens = self._tokens, int(values.get("progress/tokens", self._tokens))
        for tag, value in values.items():
            if tag == "progress/tokens" and self._tokens == before:
                continue  # each line of a step may tell it; one point is enough
            self._writer.add_scalar(tag, value, step, walltime=time)
            if tag == "train/loss" or (tag.startswith("eval/") and tag.endswith("/loss")):
                self._writer.add_scalar(f"{tag}_vs_tokens", value, self._tokens, walltime=time)

    def text(self, step: int, time: float, tag: str, text: str) -> None:
        """Writes a text, as it is: the Markdown of a code block."""
        self._writer.add_text(tag, f"    {text}".replace("\n", "\n    "), step, walltime=time)

    def close(self, failed: bool) -> None:
        """Flushes and closes."""
        if self._in_table and not failed:
            self._summarise(self._end)
        self._writer.close()

    def _summarise(self, summary: Any) -> None:
        file: Any = self._writer.file_writer
        file.add_summary(summary)


def _shown(value: bool | int | float | str) -> int | float | str:
    """The value in a table, where a flag is no number."""
    return str(value).lower() if isinstance(value, bool) else value

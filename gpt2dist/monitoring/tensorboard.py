"""TensorBoard: a view of metrics.jsonl, which can be made again from it at any time."""

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from gpt2dist.monitoring.metrics import Value

LAYOUT = {
    "gpt2dist": {
        "loss": ["Multiline", [r"train/loss$", r"eval/.*/loss$"]],
        "perplexity": ["Multiline", [r"train/perplexity$", r"eval/.*/perplexity$"]],
        "throughput": ["Multiline", [r"throughput/tokens_per_second$"]],
    }
}


class TensorBoard:
    """Writes the lines of metrics.jsonl as TensorBoard events; x is the optimizer step.

    Losses get a twin `…_vs_tokens` whose x is the tokens trained on.

    Args:
        directory: Where the event files go.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._tokens = 0
        self._writer = self._open()

    def write(self, line: dict[str, Value]) -> None:
        """Writes one line."""
        step, time = int(line["step"]), float(line["time"])
        before, self._tokens = self._tokens, int(line.get("progress/tokens", self._tokens))
        for tag, value in line.items():
            if tag in ("step", "time") or value is None:
                continue
            if tag == "progress/tokens" and self._tokens == before:
                continue  # each line of a step may tell it; one point is enough
            if isinstance(value, str):
                self._writer.add_text(tag, f"    {value}".replace("\n", "\n    "), step, walltime=time)
                continue
            self._writer.add_scalar(tag, value, step, walltime=time)
            if tag == "train/loss" or (tag.startswith("eval/") and tag.endswith("/loss")):
                self._writer.add_scalar(f"{tag}_vs_tokens", value, self._tokens, walltime=time)

    def rebuild(self, lines: list[dict[str, Value]]) -> None:
        """Replaces all event files: TensorBoard's own purge would drop the points of the tokens axis too."""
        self._writer.close()
        for old in self._directory.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer, self._tokens = self._open(), 0
        for line in lines:
            self.write(line)

    def close(self) -> None:
        """Flushes and closes."""
        self._writer.close()

    def _open(self) -> SummaryWriter:
        writer = SummaryWriter(str(self._directory), max_queue=1000, flush_secs=10)
        writer.add_custom_scalars(LAYOUT)
        return writer

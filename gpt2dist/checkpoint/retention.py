"""Which checkpoints stay: a pure function of their steps."""

from collections.abc import Iterable


def outdated(steps: Iterable[int], saved: int, keep_last: int, keep_every: int | None) -> list[int]:
    """The steps whose checkpoints are to be removed after one was saved.

    Args:
        steps: Steps of all checkpoints that there are, the saved one included.
        saved: Step of the one that was saved. Those beyond it are of another past, from which the run went back:
            they neither go nor count.
        keep_last: The newest that stay.
        keep_every: Checkpoints at multiples of this stay for ever, and do not count.
    """
    passing = sorted(step for step in steps if step <= saved and not (keep_every and step % keep_every == 0))
    return passing[:-keep_last]

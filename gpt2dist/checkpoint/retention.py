"""Retention of checkpoints: a pure function of their steps."""

from collections.abc import Iterable


def outdated(
    steps: Iterable[int], saved: int, keep_last: int, keep_every: int | None, best: int | None = None
) -> list[int]:
    """Return the steps whose checkpoints are to be deleted after a save.

    Args:
        steps: Steps of all existing checkpoints, including the one just saved.
        saved: Step of the checkpoint just saved. Later ones are from a continuation that was abandoned: they are
            neither deleted nor counted.
        keep_last: Number of newest checkpoints to keep.
        keep_every: Checkpoints at multiples of this are kept forever and not counted; None keeps none.
        best: Step of the best checkpoint, which is kept and, if it is one of the newest, counted.
    """
    temporary = sorted(step for step in steps if step <= saved and not (keep_every and step % keep_every == 0))
    return [step for step in temporary[:-keep_last] if step != best]

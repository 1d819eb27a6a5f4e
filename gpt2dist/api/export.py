"""Export a model: `gpt2dist.export`."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal


def export(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    name: str | None = None,
    license: str | None = None,
    results: Sequence[str | os.PathLike[str]] = (),
    push_to_hub: str | None = None,
    public: bool = False,
    quiet: bool = False,
) -> Path:
    """Export a model to a directory that transformers loads, with a model card, as `gpt2dist export` does.

    The directory appears only after its weights have been read back and their logits agree with the model's.

    Args:
        model: A `Run` (its newest checkpoint), or a checkpoint, a run directory, a model directory or a hub name.
        output: The directory to create.
        dtype: Dtype of the weights.
        name: Name of the model in its card; None for the name of the run or of the directory.
        license: The hub's name of a license, such as "mit"; None omits it.
        results: Files with results of `gpt2dist evaluate --output`, for the card.
        push_to_hub: OWNER/NAME of a repository on the hub to push the model to. It is created if it is missing.
        public: Whether everyone may read that repository; if False, it is private.
        quiet: Whether to show only warnings and errors.

    Returns:
        The directory.

    Raises:
        UserError: The model, the output or an option cannot be used.
        RunError: The files cannot be written, do not match the model, or were not pushed.

    Example:
        >>> directory = gpt2dist.export("runs/quickstart", "quickstart-model", dtype="bfloat16")
        >>> model = transformers.GPT2LMHeadModel.from_pretrained(directory)
    """
    from gpt2dist.monitoring.progress import info, quietly
    from gpt2dist.publishing.publish import publish

    with quietly(quiet):
        publish(
            os.fspath(model),
            Path(output),
            dtype,
            name,
            license,
            [Path(each) for each in results],
            push_to_hub,
            public,
            on_info=partial(info, command="export"),
        )
    return Path(output)

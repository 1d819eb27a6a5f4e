"""Evaluate a model: `gpt2dist.evaluate`."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpt2dist.api.ranks import joined_ranks
from gpt2dist.distributed.hosts import HostWork
from gpt2dist.errors import UserError

if TYPE_CHECKING:  # importing numpy would slow down the import of gpt2dist
    from gpt2dist.distributed.world import World
    from gpt2dist.evaluation.held_out_text import HeldOut

StrPath = str | os.PathLike[str]


def evaluate(
    model: StrPath,
    data: StrPath | None = None,
    *,
    split: str | None = None,
    text: StrPath | Sequence[StrPath] | None = None,
    text_field: str = "text",
    documents: Sequence[str] | None = None,
    detokenizer: Literal["none", "wikitext"] = "none",
    sequence_length: int | None = None,
    stride: int | None = None,
    prefix: Literal["none", "end-of-text"] = "none",
    per_document: bool = False,
    document_boundaries: Literal["pack", "isolate"] = "pack",
    batch_size: int = 8,
    zero_stage: Literal[0, 3] = 0,
    measures: Sequence[str] = (),
    dtype: Literal["fp32", "bf16", "tf32"] = "fp32",
    quiet: bool = False,
) -> dict[str, Any]:
    """Score every token of a held-out text once, as `gpt2dist evaluate` does, with the same numbers.

    In a script that torchrun or `gpt2dist launch` started, every rank calls it with the same arguments.

    Args:
        model: A `Run` (its newest checkpoint), or a checkpoint, a run directory, a model directory or a hub name.
        data: A `Dataset` or its directory. Give one of `data`, `text` and `documents`.
        split: Split of the dataset; None for "val" if the dataset has it, else its only one.
        text: Files, directories and globs to tokenise on the fly, as the verb's --text.
        text_field: Key or column of the text in files of records.
        documents: Texts to tokenise on the fly, such as ["First document.", "Second document."].
        detokenizer: What to apply to texts first; bytes and words are counted before it.
        sequence_length: Tokens per window; None for the context length of the model.
        stride: Tokens between the starts of windows; None for half the sequence length.
        prefix: "end-of-text" makes the first token a target too.
        per_document: Whether to score each document separately, without the end-of-text after it.
        document_boundaries: "isolate" restarts attention and positions at each end-of-text.
        batch_size: Windows per forward pass. At a given batch size, the result is bitwise identical for any
            number of ranks.
        zero_stage: 3 partitions the parameters across the ranks; 0 gives each rank a replica.
        measures: Further measures, each as "package.module:NAME". Those of installed packages are
            always computed.
        dtype: How the model computes. "bf16" and "tf32" (fp32 with rounded factors, on a GPU) are faster and less
            exact; their difference from fp32 is measured on the first batch and shown.
        quiet: Whether to show only warnings and errors.

    Returns:
        The object that `gpt2dist evaluate --json` prints: the measures ("loss", "perplexity", "bits_per_byte",
        "word_perplexity", …), the counts behind them and the settings; see docs/guides/evaluation.md.

    Raises:
        UserError: The model or the text cannot be read, or the model, text and settings are incompatible.
        RunError: Another rank is gone.

    Example:
        >>> result = gpt2dist.evaluate("runs/quickstart", "data/quickstart", stride=64)
        >>> result["perplexity"], result["bits_per_byte"]
        (21.6, 1.43)
    """
    from gpt2dist.evaluation.evaluate import EvaluationConfig
    from gpt2dist.evaluation.evaluate import evaluate as score
    from gpt2dist.evaluation.model_forward import locate_together, require_dtype_of_host
    from gpt2dist.monitoring.progress import Progress, is_quiet, quietly

    settings = EvaluationConfig(
        sequence_length,
        stride,
        prefix,
        per_document,
        document_boundaries,
        batch_size,
        zero_stage,
        tuple(measures),
        dtype,
    )
    with quietly(quiet):
        require_dtype_of_host(dtype)
        held_out = _held_out(data, split, text, text_field, documents, detokenizer)
        with joined_ranks() as world:
            directory = locate_together(os.fspath(model), world)
            text_of_model = held_out(world)
            with Progress("evaluate", None, "token", scale=True, enabled=world.is_main) as bar:
                on_difference = None if is_quiet() else partial(bar.info, command="evaluate")
                return score(directory, text_of_model(directory), settings, world, bar.advance, on_difference)


def _held_out(
    data: StrPath | None,
    split: str | None,
    text: StrPath | Sequence[StrPath] | None,
    text_field: str,
    documents: Sequence[str] | None,
    detokenizer: str,
) -> "Callable[[World], Callable[[Path], HeldOut]]":
    """Return a function that, once the ranks have joined, returns a function from a model directory to the text.

    Everything that does not need the model is checked here.
    """
    from gpt2dist.corpus import Reading
    from gpt2dist.dataset.manifest import Manifest
    from gpt2dist.evaluation.detokenizers import DETOKENIZERS
    from gpt2dist.evaluation.held_out_text import HeldOut, default_split, read_texts
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    if sum(given is not None for given in (data, text, documents)) != 1:
        raise UserError("give one of data, text and documents")
    if detokenizer not in DETOKENIZERS:
        raise UserError(f"detokenizer {detokenizer!r} is not one of {', '.join(DETOKENIZERS)}")
    if data is not None:
        if detokenizer != "none":
            raise UserError("detokenizer: the dataset holds tokens; give the files themselves as text")

        def open_dataset() -> HeldOut:
            dataset = Manifest.load(data)
            return HeldOut.of_dataset(dataset, split or default_split(dataset))

        return shared_dataset(open_dataset)
    if split is not None:
        raise UserError("split: only a dataset has splits; omit it for texts")
    if text is not None:
        inputs = [os.fspath(each) for each in ([text] if isinstance(text, str | os.PathLike) else text)]
        texts, name = list(read_texts(inputs, Reading(text_field=text_field))), ", ".join(inputs)
    else:
        texts, name = [documents] if isinstance(documents, str) else list(documents or ()), "documents"
    return lambda world: lambda directory: HeldOut.of_texts(texts, Tokenizer.load(directory), detokenizer, name)


def shared_dataset(open_dataset: "Callable[[], HeldOut]") -> "Callable[[World], Callable[[Path], HeldOut]]":
    """Open a dataset on one rank of each host, before the ranks join.

    Returns:
        A function that, once they have joined, gives it to all of them, and returns a function from any model
        directory to it. It raises the UserError of opening on every rank.
    """
    work = HostWork.before_join(open_dataset)

    def share(world: "World") -> "Callable[[Path], HeldOut]":
        text = work.share(world, lambda found: {found.name: found.fingerprint})
        return lambda directory: text

    return share

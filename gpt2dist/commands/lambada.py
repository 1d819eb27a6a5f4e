"""`gpt2dist lambada`: measure how often a model predicts the last word of a passage."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.api.ranks import joined_ranks
from gpt2dist.commands import recording, results
from gpt2dist.commands.preprocess import add_encoding, encoding
from gpt2dist.tokenizer.text_changes import described

if TYPE_CHECKING:
    from gpt2dist.distributed.world import World


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    results.add_arguments(parser)
    parser.add_argument(
        "--data", required=True, type=Path, metavar="F.jsonl", help="passages, one JSON object per line"
    )
    parser.add_argument(
        "--text-field", default="text", metavar="NAME", help="key of a passage's text; default: %(default)s"
    )
    add_encoding(parser)
    recording.add_arguments(parser)
    parser.epilog = """\
Computed as in lm-evaluation-harness: the last word is the text after the last space, and the model has guessed it
if each of its tokens is the likeliest one.

example:
  gpt2dist lambada runs/gpt2-124m --data lambada_test.jsonl"""


def run(args: argparse.Namespace) -> None:
    """Score the passages and print or record the result."""
    from gpt2dist.corpus import Reading
    from gpt2dist.evaluation.held_out_text import read_texts
    from gpt2dist.evaluation.measures import in_use
    from gpt2dist.evaluation.model_forward import require_dtype_of_host
    from gpt2dist.monitoring.logs import quiet_libraries

    results.check(args)
    recording.check(args, args.data.stem)
    in_use("last_words", args.measure)
    require_dtype_of_host(args.dtype)
    passages = list(
        read_texts([str(args.data)], Reading(args.text_field, encoding=encoding(args)), format="jsonl")
    )
    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    last_words = _LastWords(args, passages)
    with joined_ranks() as world:
        recording.evaluate(args, [last_words], world, last_words.table)


class _LastWords:
    """The last words of passages; see `recording.ModelEvaluation`."""

    def __init__(self, args: argparse.Namespace, passages: list[str]):
        self.name = args.data.stem
        self._args = args
        self._passages = passages

    def conditions(self, model: Path) -> dict[str, Any]:
        from gpt2dist.evaluation.lambada import conditions
        from gpt2dist.tokenizer.tokenizer import Tokenizer

        return conditions(self._passages, Tokenizer.load(model), self._args.dtype)

    def score(self, model: Path, label: str, world: "World", require: recording.Require) -> dict[str, Any]:
        from gpt2dist.evaluation.lambada import lambada
        from gpt2dist.monitoring.progress import Progress

        args = self._args
        with Progress(label, None, "token", scale=True, enabled=world.is_main) as bar:
            how = (args.batch_size, args.zero_stage, bar.advance, args.measure, args.dtype)
            return lambada(model, self._passages, world, *how)

    def table(self, found: Mapping[str, dict[str, Any]]) -> dict[str, str]:
        """Return the rows to print."""
        from gpt2dist.evaluation.measures import in_table

        result = found[self.name]
        changes = described(result.get("text_changes", {}))
        return {
            **in_table(result),
            "passages": f"{result['examples']:,} of {self._args.data}, {result['targets']:,} tokens scored",
            **({"text changes": changes} if changes else {}),
            "speed": results.speed(result),
        }

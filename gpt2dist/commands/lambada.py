"""`gpt2dist lambada`: measure how often a model predicts the last word of a passage."""

import argparse
import os
from pathlib import Path

from gpt2dist.api.ranks import joined_ranks
from gpt2dist.commands import results
from gpt2dist.commands.preprocess import add_encoding, encoding
from gpt2dist.tokenizer.text_changes import described


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
    parser.epilog = """\
Computed as in lm-evaluation-harness: the last word is the text after the last space, and the model has guessed it
if each of its tokens is the likeliest one.

example:
  gpt2dist lambada runs/gpt2-124m --data lambada_test.jsonl"""


def run(args: argparse.Namespace) -> None:
    """Score the passages and print the result."""
    from gpt2dist.corpus import Reading
    from gpt2dist.evaluation.held_out_text import read_texts
    from gpt2dist.evaluation.measures import in_table, in_use
    from gpt2dist.monitoring.logs import quiet_libraries

    results.check(args)
    in_use("last_words", args.measure)
    passages = list(
        read_texts([str(args.data)], Reading(args.text_field, encoding=encoding(args)), format="jsonl")
    )
    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from gpt2dist.evaluation.lambada import lambada
    from gpt2dist.monitoring.progress import Progress

    with (
        joined_ranks() as world,
        Progress("lambada", None, "token", scale=True, enabled=world.is_main) as bar,
    ):
        result = lambada(args.model, passages, world, args.batch_size, args.zero_stage, bar.advance, args.measure)
    if world.is_main:
        changes = described(result.get("text_changes", {}))
        shown = {
            **in_table(result),
            "passages": f"{result['examples']:,} of {args.data}, {result['targets']:,} tokens scored",
            **({"text changes": changes} if changes else {}),
            "speed": f"{result['tokens_per_second']:,.0f} tokens per second on {world.size} process(es)",
        }
        results.print_result(result, shown, args)

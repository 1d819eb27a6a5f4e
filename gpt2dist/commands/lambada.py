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
        "--data", required=True, type=Path, metavar="F.jsonl", help="passages, one JSON object in a line"
    )
    parser.add_argument("--text-field", default="text", metavar="NAME", help="its key; default: %(default)s")
    add_encoding(parser)
    parser.epilog = """\
Computed as by lm-evaluation-harness: the last word is what stands behind the last space. A passage counts as
guessed when each token of it is the likeliest one.

example:
  gpt2dist lambada runs/gpt2-124m --data lambada_test.jsonl"""


def run(args: argparse.Namespace) -> None:
    """Score the passages and print the result."""
    from gpt2dist.corpus import Reading
    from gpt2dist.evaluation.held_out_text import read_texts
    from gpt2dist.monitoring.logs import quiet_libraries

    results.check(args)
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
        result = lambada(args.model, passages, world, args.batch_size, args.zero_stage, bar.advance)
    if world.is_main:
        changes = described(result.get("text_changes", {}))
        shown = {
            "accuracy": f"{result['accuracy']:.4f}",
            "perplexity": f"{result['perplexity']:.4f} of the last word",
            "passages": f"{result['examples']:,} of {args.data}, {result['targets']:,} tokens scored",
            **({"text changes": changes} if changes else {}),
            "speed": f"{result['tokens_per_second']:,.0f} tokens per second on {world.size} process(es)",
        }
        results.print_result(result, shown, args)

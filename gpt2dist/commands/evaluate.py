"""`gpt2dist evaluate`: perplexity of a model on a dataset, alone or with all the ranks of a launcher."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "model", metavar="MODEL", help="a checkpoint, a run directory, a model directory or a hub name"
    )
    parser.add_argument("--data", required=True, type=Path, metavar="DATASET", help="a dataset directory")
    parser.add_argument("--split", help="default: val where there is one, else the only split")
    parser.add_argument(
        "--sequence-length", type=int, metavar="L", help="tokens per window; default: the context"
    )
    parser.add_argument("--stride", type=int, metavar="S", help="tokens between windows; default: half of L")
    parser.add_argument(
        "--prefix",
        choices=("none", "end-of-text"),
        default="none",
        help="end-of-text makes the first token a target too; default: %(default)s",
    )
    parser.add_argument(
        "--document-boundaries",
        choices=("pack", "isolate"),
        default="pack",
        help="isolate: attention and positions begin anew at each end-of-text; default: %(default)s",
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="windows; default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="F.json", help="write the result there as JSON too")
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    parser.epilog = """\
Every token of the split is scored exactly once, by the first window that predicts it. For one batch size the
result is the same to the last bit at any number of processes (with the same threads per process).

examples:
  gpt2dist evaluate runs/quickstart --data data/quickstart
  torchrun --standalone --nproc-per-node 8 -m gpt2dist evaluate gpt2 --data data/wikitext --stride 512"""


def run(args: argparse.Namespace) -> None:
    """Evaluates."""
    from gpt2dist.data.manifest import Manifest
    from gpt2dist.data.stream import check_files
    from gpt2dist.errors import UserError
    from gpt2dist.monitoring.logs import quiet_libraries

    if args.batch_size < 1:
        raise UserError("--batch-size must be at least 1")
    dataset = Manifest.load(args.data)
    split = args.split or ("val" if "val" in dataset.splits else next(iter(dataset.splits), "val"))
    check_files(dataset, split)  # before anything is loaded; refuses an unknown split too
    if args.output:
        _make_room(args.output)
    quiet_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    from gpt2dist import distributed

    world = distributed.join()
    try:
        result = _evaluate(args, dataset, split, world)
    finally:
        distributed.leave()
    if world.is_main:
        _report(result, args)


def _evaluate(args: argparse.Namespace, dataset: Any, split: str, world: Any) -> dict[str, Any]:
    from gpt2dist.checkpoint.manifest import require_whole_model
    from gpt2dist.data.stream import TokenStream
    from gpt2dist.data.tokenizer import Tokenizer
    from gpt2dist.errors import UserError
    from gpt2dist.evaluation.perplexity import Score, score
    from gpt2dist.model.gpt2 import load_pretrained, logits, require_vocabulary
    from gpt2dist.model.locate import fingerprint, locate
    from gpt2dist.monitoring.progress import Progress

    directory = locate(args.model)
    require_whole_model(directory)
    tokenizer = Tokenizer.load(directory)
    if tokenizer.fingerprint != dataset.tokenizer_fingerprint:
        raise UserError(
            f"--data: {args.data} was made with another tokenizer than {args.model}; "
            f"preprocess the text again with --tokenizer {args.model}"
        )
    model = load_pretrained(directory, world.device)
    require_vocabulary(model, tokenizer.vocab_size, directory)
    windows = _windows(args, dataset.totals(split).tokens, model.config.n_positions)
    prefix = dataset.end_of_text_id if args.prefix == "end-of-text" else None
    border = dataset.end_of_text_id if args.document_boundaries == "isolate" else None
    stream = TokenStream.open(dataset, split, prefix)
    began = time.monotonic()
    with Progress("evaluate", windows.targets, "token", scale=True, enabled=world.is_main) as bar:
        nll, targets = score(
            lambda tokens: logits(model, tokens.to(world.device), border),
            stream,
            windows,
            args.batch_size,
            world.rank,
            world.size,
            world.sum,
            bar.advance,
        )
    seconds = time.monotonic() - began
    totals = dataset.totals(split)
    result = Score(nll, targets, totals.bytes, totals.words, len(windows))
    return {
        "nll_sum": result.nll_sum,
        "targets": result.targets,
        "loss": result.loss,
        "perplexity": result.perplexity,
        "bits_per_byte": result.bits_per_byte,
        "bytes": result.bytes,
        "word_perplexity": result.word_perplexity,
        "words": result.words,
        "sequence_length": windows.sequence_length,
        "stride": windows.stride,
        "prefix": args.prefix,
        "document_boundaries": args.document_boundaries,
        "windows": result.windows,
        "batch_size": args.batch_size,
        "world_size": world.size,
        "model": fingerprint(directory),
        "data": dataset.fingerprint,
        "tokenizer": tokenizer.fingerprint,
        "split": split,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(targets / seconds, 1),
    }


def _windows(args: argparse.Namespace, tokens: int, context_length: int) -> Any:
    from gpt2dist.data.windows import Windows
    from gpt2dist.errors import UserError

    length = context_length if args.sequence_length is None else args.sequence_length
    if not 1 <= length <= context_length:
        raise UserError(
            f"--sequence-length {length} is not between 1 and the {context_length} positions of the model"
        )
    stride = max(1, length // 2) if args.stride is None else args.stride
    if not 1 <= stride <= length:
        raise UserError(f"--stride {stride} is not between 1 and the sequence length {length}")
    tokens += args.prefix == "end-of-text"
    if tokens < 2:
        raise UserError(f"--data: {args.data} has a single token there, which leaves nothing to predict")
    return Windows(tokens, length, stride)


def _make_room(output: Path) -> None:
    """Refuses before the work what could not be written after it."""
    from gpt2dist.errors import UserError

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {output.parent} cannot be made ({error.strerror})") from None
    if output.is_dir() or not os.access(output if output.exists() else output.parent, os.W_OK):
        raise UserError(f"--output: {output} cannot be written; name a file")


def _report(result: dict[str, Any], args: argparse.Namespace) -> None:
    import orjson

    text = orjson.dumps(result, option=orjson.OPT_INDENT_2).decode()
    if args.output:
        args.output.write_text(text + "\n")
    if args.json:
        print(text)
        return
    shown = {
        "perplexity": f"{result['perplexity']:.4f} per token",
        "word perplexity": f"{result['word_perplexity']:.4f}",
        "bits per byte": f"{result['bits_per_byte']:.5f}",
        "loss": f"{result['loss']:.6f} nats per token",
        "Σ nll": f"{result['nll_sum']!r} nats",
        "targets": f"{result['targets']:,} in {result['windows']:,} windows of {result['sequence_length']} "
        f"tokens, stride {result['stride']}, prefix {result['prefix']}",
        "text": f"{result['bytes']:,} bytes, {result['words']:,} words ({result['split']} of {args.data})",
        "speed": f"{result['tokens_per_second']:,.0f} tokens per second on {result['world_size']} process(es)",
    }
    for name, value in shown.items():
        print(f"{name:>16}  {value}", file=sys.stderr)
    if args.output:
        print(f"{'written':>16}  {args.output}", file=sys.stderr)

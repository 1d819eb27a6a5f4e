"""`gpt2dist tokenizer`: train a tokenizer, or import GPT-2's or BERT's vocabulary files."""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2dist import atomic_io, json_files
from gpt2dist.cli import add_quiet
from gpt2dist.commands.preprocess import (
    add_corpus_arguments,
    add_damage_arguments,
    damage_limits,
    reading,
    suffixes,
)
from gpt2dist.errors import UserError
from gpt2dist.monitoring.progress import info, warn
from gpt2dist.output_paths import check_new_directory, new_directory

if TYPE_CHECKING:
    from gpt2dist.corpus import Source
    from gpt2dist.corpus.texts import CorpusTexts
    from gpt2dist.tokenizer.tokenizer import Tokenizer

TRAIN_EPILOG = """\
An INPUT is anything that `gpt2dist preprocess` reads. transformers' AutoTokenizer can load DIR too. If DIR was
already made from the same inputs with the same options, the command does nothing.

examples:
  gpt2dist tokenizer train corpus/ --vocab-size 8192 --output tokenizer/
  gpt2dist tokenizer train shakespeare.txt --kind char --output tokenizer/
"""

IMPORT_EPILOG = """\
BERT's vocab.txt, which GPT2-Chinese uses too, has no merges. It becomes lowercase WordPiece in which each Chinese
character is a word and [SEP] is end-of-text. It may lose some of the text, so `preprocess` needs --lossy for it.
A tokenizer.json does not need to be imported.

examples:
  gpt2dist tokenizer import --vocab encoder.json --merges vocab.bpe --output gpt2-tokenizer/
  gpt2dist tokenizer import --vocab vocab.txt --output chinese-tokenizer/
"""

RECORD_NAME = "tokenizer_origin.json"
"""File that records the inputs and options of a tokenizer, so that the same command recognizes it."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the two actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    formatter = argparse.RawDescriptionHelpFormatter
    summary = "train a tokenizer on a corpus: byte-level BPE, or one token per character"
    train = actions.add_parser(
        "train",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=TRAIN_EPILOG,
        formatter_class=formatter,
    )
    add_corpus_arguments(train)
    add_damage_arguments(train.add_argument_group("limits on damaged documents"))
    train.add_argument(
        "--vocab-size",
        type=int,
        metavar="N",
        help="number of tokens, end-of-text included; at least 257; required for bpe",
    )
    train.add_argument(
        "--kind",
        choices=("bpe", "char"),
        default="bpe",
        help="byte-level BPE like GPT-2's, or one token per character; default: %(default)s",
    )
    train.add_argument("--output", required=True, metavar="DIR", help="directory to create")
    summary = "import GPT-2's or BERT's vocabulary files"
    importer = actions.add_parser(
        "import",
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=IMPORT_EPILOG,
        formatter_class=formatter,
    )
    importer.add_argument(
        "--vocab", required=True, metavar="FILE", help="encoder.json (or vocab.json): token → id; or vocab.txt"
    )
    importer.add_argument(
        "--merges", metavar="FILE", help="vocab.bpe (or merges.txt); required with encoder.json"
    )
    importer.add_argument("--output", required=True, metavar="DIR", help="directory to create")
    for action in (train, importer):
        add_quiet(action)


def run(args: argparse.Namespace) -> int | None:
    """Create the tokenizer, unless it exists already."""
    output = Path(args.output)
    check_new_directory(output, reuse=True)
    with tempfile.TemporaryDirectory(prefix="gpt2dist-") as scratch:
        training = args.action == "train"
        make, origin = _prepare_training(args, Path(scratch)) if training else _prepare_import(args)
        if _is_there(output, origin):
            info(f"{output} was made from the same inputs with the same options: nothing to do", "tokenizer")
            return None
        check_new_directory(output)
        tokenizer = make()
    with new_directory(output) as partial:
        tokenizer.save(partial)
        (partial / RECORD_NAME).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    wanted = getattr(args, "vocab_size", None)
    if wanted and tokenizer.vocab_size < wanted:
        info(
            f"the corpus is too small for {wanted} tokens; the tokenizer has {tokenizer.vocab_size}", "tokenizer"
        )
    info(
        f"{output}: {tokenizer.vocab_size:,} tokens, end-of-text {tokenizer.end_of_text!r} has the id "
        f"{tokenizer.end_of_text_id}, fingerprint {tokenizer.fingerprint[:12]}",
        "tokenizer",
    )
    return None


def _prepare_training(args: argparse.Namespace, scratch: Path) -> tuple[Callable[[], "Tokenizer"], dict]:
    """Return a function that trains the tokenizer, and its record. Standard input is copied into `scratch`."""
    if args.kind == "bpe" and args.vocab_size is None:
        raise UserError("--kind bpe needs --vocab-size N, such as 8192 for a few MB of text, or GPT-2's 50257")
    if args.kind == "char" and args.vocab_size is not None:
        raise UserError(
            "--vocab-size cannot be used with --kind char, where every character of the corpus is a token"
        )
    from gpt2dist.corpus import discover, spool, with_versions
    from gpt2dist.corpus.texts import CorpusTexts
    from gpt2dist.tokenizer.tokenizer import train_bpe, train_char

    how, limits = reading(args), damage_limits(args)
    spooled = None
    if "-" in args.inputs:
        spooled = spool(sys.stdin.buffer, scratch / "input", args.format or "jsonl")
    show = partial(info, command="tokenizer")
    sources = with_versions(
        discover(args.inputs, suffixes(args), (Path(args.output),), args.format, spooled, how.encoding, show)
    )

    def make() -> "Tokenizer":
        # On a terminal the library draws its own bars, which also cover the merges.
        own_bars = args.kind == "bpe" and sys.stderr.isatty()
        corpus = CorpusTexts(sources, how, limits)
        texts = _with_progress(corpus, not own_bars)
        made = train_char(texts) if args.kind == "char" else train_bpe(texts, args.vocab_size, own_bars)
        for warning in corpus.warnings():
            warn(warning, "tokenizer")
        return made

    origin = {
        "action": "train",
        "kind": args.kind,
        "vocab_size": args.vocab_size,
        **asdict(how),
        "files": len(sources),
        **_corpus_identity(sources, Path(args.output)),
    }
    return make, origin


def _corpus_identity(sources: list["Source"], output: Path) -> dict[str, str]:
    """Return the record's entry for the corpus. Records of version 0.1 identify it by modification times."""
    from gpt2dist.corpus import content_sha256, dated

    if "files_sha256" not in _record(output):
        return {"content_sha256": content_sha256(sources)}
    files = "".join(f"{source.path} {source.size} {source.version}\n" for source in dated(sources))
    return {"files_sha256": atomic_io.sha256_of_text(files)}


def _with_progress(corpus: "CorpusTexts", show: bool) -> Iterator[str]:
    from gpt2dist.monitoring.progress import Progress

    with Progress("read", corpus.bytes, "B", scale=True, enabled=show) as progress:
        yield from corpus.read(progress.advance)


def _prepare_import(args: argparse.Namespace) -> tuple[Callable[[], "Tokenizer"], dict]:
    from gpt2dist.tokenizer.bert import import_bert
    from gpt2dist.tokenizer.tokenizer import import_gpt2

    hashes = {}
    plain = args.vocab.endswith(".txt")
    if plain and args.merges:
        raise UserError(f"--vocab {args.vocab}: BERT's vocabulary has no merges; omit --merges")
    if not plain and not args.merges:
        raise UserError(
            f"--vocab {args.vocab}: needs --merges vocab.bpe; only BERT's vocabulary, a .txt file, does not"
        )
    for name in ("vocab",) if plain else ("vocab", "merges"):
        path = Path(getattr(args, name))
        if not path.is_file():
            raise UserError(f"--{name} {path}: no such file")
        hashes[f"{name}_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    record = {"action": "import", **hashes}
    if plain:
        return lambda: import_bert(args.vocab), record
    return lambda: import_gpt2(args.vocab, args.merges), record


def _is_there(output: Path, origin: dict) -> bool:
    """Return whether `output` holds the tokenizer of this record. Raise a UserError if it holds another one."""
    if not (output / "tokenizer.json").exists():
        return False
    from gpt2dist.corpus import Reading

    there = _record(output)
    if there.get("action") == "train":
        there = asdict(Reading()) | there  # older records lack newer options; None stands for other defaults
    different = [name for name in origin if there.get(name) != origin[name]]
    if there and not different:
        return True
    raise UserError(
        f"{output}: contains another tokenizer ({', '.join(different)} differ); "
        "choose another --output, or remove this directory to create it again"
    )


def _record(output: Path) -> dict:
    path = output / RECORD_NAME
    way_out = "remove the directory to create the tokenizer again, or choose another --output"
    return json_files.require(path, way_out) if path.exists() else {}

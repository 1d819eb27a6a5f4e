"""`gpt2dist preprocess`: corpus → dataset directory."""

import argparse
import json
import os
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.api.display import Display, usable_cores
from gpt2dist.cli import EXIT_INTERRUPTED
from gpt2dist.errors import UserError
from gpt2dist.terminal import say

if TYPE_CHECKING:
    from gpt2dist.corpus import Reading
    from gpt2dist.corpus.damage import DamageLimits
    from gpt2dist.preprocessing import PreprocessingJob

EPILOG = """\
An INPUT is a file, a directory (searched recursively, following links), a quoted glob such as 'books/**/*.txt', a
URL (s3://, gs://, hf://, … with fsspec's package for it), `datasets:NAME` for a dataset of the Hugging Face hub,
or `-` for standard input.
{formats}
Each line or row is a document, with its text in --text-field. So is each record of a WARC or WET file that is
plain text; HTML is skipped. Every other file is one document, unless --document-separator cuts it. Text is UTF-8
(UTF-16 or UTF-32 where a byte-order mark says so) or in --encoding. Each document ends with the tokenizer's
end-of-text token.

Run the same command again to resume an interrupted job. The dataset does not depend on how the work is divided.

examples:
  gpt2dist preprocess corpus/ --tokenizer tokenizer/ --output dataset/ --val-fraction 0.01
  gpt2dist preprocess 'dumps/*.jsonl.zst' --text-field meta.text --tokenizer gpt2 --output dataset/
  gpt2dist preprocess src/ --suffix .py --suffix .rst --tokenizer tokenizer/ --output dataset/
  zcat dump.gz | gpt2dist preprocess - --format jsonl --tokenizer tokenizer/ --output dataset/

on a cluster, all hosts seeing the same files:
  gpt2dist preprocess … --scheduler tcp://host:8786    on the workers of a Dask scheduler (--nthreads 1)
  sbatch --array=0-99 … gpt2dist preprocess … --task-index $SLURM_ARRAY_TASK_ID --task-count 100
  gpt2dist preprocess … --finish                       the same options, when all parts are done
"""

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG.replace("{formats}", formats_help())
    add_corpus_arguments(parser)
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="DIR|FILE|NAME",
        help="directory made by `gpt2dist tokenizer`, a tokenizer.json, or NAME or NAME@REVISION on the hub",
    )
    add_lossy(parser)
    parser.add_argument("--output", required=True, metavar="DATASET", help="dataset directory to create")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help='fraction of the documents for the split "val", chosen by a hash of the text (default 0: none)',
    )
    parser.add_argument(
        "--shard-tokens",
        type=int,
        default=1 << 30,
        metavar="N",
        help="maximum tokens per shard (default 2^30, a file of 2 GiB); a document is never split",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    _add_filters(parser.add_argument_group("which documents are kept"))
    _add_resources(parser.add_argument_group("workers"))


def add_lossy(parser: argparse.ArgumentParser) -> None:
    """Add --lossy."""
    parser.add_argument(
        "--lossy",
        action="store_true",
        help="accept a tokenizer that may lose some of the text, such as WordPiece or Unigram; the dataset "
        "and its results record it",
    )


def _add_filters(group: Any) -> None:
    group.add_argument("--deduplicate", action="store_true", help="keep the first of documents with equal text")
    group.add_argument("--min-chars", type=int, default=0, metavar="N", help="skip shorter documents")
    group.add_argument("--max-chars", type=int, metavar="N", help="skip longer documents")
    group.add_argument(
        "--normalizer",
        metavar="MODULE:FUNCTION",
        help="Python function from text to text that each document passes through first",
    )
    group.add_argument(
        "--filter",
        action="append",
        metavar="MODULE:FUNCTION",
        help="Python function that gets the text of each document and returns it, changed or not, or "
        "gpt2dist.preprocessing.Skip(reason); repeatable. Skipped documents are counted by reason and listed in "
        "DATASET/filtered.jsonl",
    )
    add_damage_arguments(group, "; DATASET/rejected.jsonl lists them")


def _add_resources(group: Any) -> None:
    group.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: the CPU cores that may be used)"
    )
    group.add_argument(
        "--memory-per-worker",
        type=_size,
        default=1 << 30,
        metavar="SIZE",
        help="memory limit of a worker, such as 2G (default 1G)",
    )
    group.add_argument("--scheduler", metavar="ADDRESS", help="run on a Dask cluster: tcp://host:port")
    group.add_argument("--task-index", type=int, metavar="I", help="run only part I of --task-count, from 0")
    group.add_argument("--task-count", type=int, metavar="N", help="number of parts to divide the work into")
    group.add_argument("--finish", action="store_true", help="assemble the dataset when all parts are done")


def _size(text: str) -> int:
    """Parse a number of bytes, which may end in K, M, G or T."""
    number, unit = text.strip().upper().removesuffix("B").removesuffix("I"), ""
    if number and number[-1] in UNITS:
        number, unit = number[:-1], number[-1]
    try:
        return int(float(number) * UNITS[unit])
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; use one such as 512M or 2G") from None


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the documents, which `preprocess` and `tokenizer train` share."""
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="file, directory, quoted glob or URL; see below"
    )
    add_reading_arguments(parser.add_argument_group("reading the corpus"))


def add_damage_arguments(group: Any, listed: str = "") -> None:
    """Add the options for damaged documents; `listed` says where those that cannot be read are listed."""
    group.add_argument(
        "--on-bad-text",
        choices=("replace", "fail"),
        default="replace",
        help="replace invalid Unicode by U+FFFD and count it, or stop the job (default: replace)",
    )
    group.add_argument(
        "--max-replaced-fraction",
        type=float,
        default=0.001,
        metavar="F",
        help="fail if U+FFFD replaces a larger fraction of the characters (default 0.001)",
    )
    group.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.001,
        metavar="F",
        help=f"fail if a larger fraction of the documents cannot be read (default 0.001){listed}",
    )


def add_encoding(group: Any) -> None:
    """Add --encoding."""
    group.add_argument(
        "--encoding",
        metavar="NAME",
        help="encoding of text, JSON lines and CSV, such as gb18030, shift_jis or cp1252 (default: UTF-8); "
        "a byte-order mark in a file wins",
    )


def add_reading_arguments(group: Any) -> None:
    """Add the options that control how files are read."""
    group.add_argument(
        "--text-field",
        default="text",
        metavar="NAME",
        help="key or column of the text; dots refer to nested objects (default: text)",
    )
    group.add_argument(
        "--document-separator",
        type=_unescaped,
        metavar="TEXT",
        help=r"separator between the documents of a text file, such as '\n\n\n' (default: one document per file)",
    )
    group.add_argument(
        "--quoting",
        choices=("standard", "none"),
        default="standard",
        help="quotes in CSV and TSV: around fields as in RFC 4180, or ordinary characters (default: standard)",
    )
    group.add_argument(
        "--max-field-lines",
        type=int,
        default=100,
        metavar="N",
        help="maximum lines of a quoted field; a longer one stops the command, since a stray quote hides rows "
        "up to the next one (default 100)",
    )
    group.add_argument(
        "--format",
        metavar="FORMAT",
        help=f"format of all inputs, if their names do not show it: {', '.join(_formats())}, or your own "
        "reader as package.module:Reader",
    )
    add_encoding(group)
    group.add_argument(
        "--suffix",
        action="append",
        metavar=".EXT",
        help="read files with this suffix from directories, instead of those of the known formats; repeatable",
    )


def _formats() -> tuple[str, ...]:
    from gpt2dist.corpus import file_formats

    return file_formats()


def formats_help() -> str:
    """Describe the formats that are read, in lines of text."""
    from gpt2dist.corpus.formats import COMPRESSIONS, reader

    described, whole = [], []
    for name in _formats():
        suffixes: tuple[str, ...] = ()
        with suppress(UserError):  # a broken package must not break --help
            suffixes = reader(name).suffixes
            whole += [name] if reader(name).compressible else []
        described.append(f"{name} ({' '.join(suffixes)})" if suffixes else name)
    compressed = f"{', '.join(whole)} also as {' '.join(f'.{kind}' for kind in COMPRESSIONS)}"
    return textwrap.fill(f"Formats: {', '.join(described)}; {compressed}.", 112)


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r")


def suffixes(args: argparse.Namespace) -> tuple[str, ...] | None:
    """Return the suffixes of the files to read from directories, each with its dot; None for the default."""
    return tuple(f".{suffix.removeprefix('.')}" for suffix in args.suffix or ()) or None


def reading(args: argparse.Namespace) -> "Reading":
    """Return the settings for reading documents."""
    from gpt2dist.corpus import Reading

    if args.document_separator == "":
        raise UserError("--document-separator: is empty; omit it to read each file as one document")
    if args.max_field_lines < 1:
        raise UserError(f"--max-field-lines {args.max_field_lines}: must be at least 1")
    return Reading(
        text_field=args.text_field,
        document_separator=args.document_separator,
        encoding=encoding(args),
        quoting=args.quoting,
        max_field_lines=args.max_field_lines,
    )


def damage_limits(args: argparse.Namespace) -> "DamageLimits":
    """Return the limits on damage that the options set."""
    from gpt2dist.corpus.damage import DamageLimits

    limits = DamageLimits(args.on_bad_text, args.max_bad_fraction, args.max_replaced_fraction)
    limits.check()
    return limits


def encoding(args: argparse.Namespace) -> str | None:
    """Return the canonical name of the encoding to read; None for UTF-8."""
    from gpt2dist.corpus.encodings import canonical_name

    return None if args.encoding is None else canonical_name(args.encoding)


def run(args: argparse.Namespace) -> int | None:
    """Build the dataset and print a summary."""
    # Set before the first use of the library. Otherwise a single worker would use all cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from gpt2dist.commands.inspect import describe, summary
    from gpt2dist.preprocessing import prepare, prepare_part

    part = _part(args)
    job = job_of(args)
    start = time.monotonic()
    with Display() as display:
        try:
            if part:
                prepare_part(job, *part, display.update, display.info, display.warn)
                return None
            manifest = prepare(job, display.update, display.info, display.warn, finish=args.finish)
        except KeyboardInterrupt:
            display.close()
            kept = f"finished work is kept in {job.build}: run the same command again to resume"
            message = kept if (job.build / "plan.json").is_file() else "nothing was written yet"
            say(f"gpt2dist preprocess: interrupted; {message}")  # also with --quiet
            return EXIT_INTERRUPTED
    say(describe(manifest))
    if display.worked:
        seconds = time.monotonic() - start
        rate = f"{display.worked / seconds / 1e6:.1f} MB/s with {_workers(job)}"
        say(f"  read {display.worked / 1e6:,.1f} MB in {seconds:.1f} s ({rate})")
    if args.json:
        say(json.dumps(summary(manifest), ensure_ascii=False), sys.stdout)
    return None


def job_of(args: argparse.Namespace) -> "PreprocessingJob":
    """Build the job from the options."""
    from gpt2dist.preprocessing import PreprocessingJob

    return PreprocessingJob(
        inputs=tuple(args.inputs),
        tokenizer=args.tokenizer,
        lossy=args.lossy,
        output=Path(args.output).absolute() if args.scheduler else Path(args.output),
        format=args.format,
        suffixes=suffixes(args),
        reading=reading(args),
        val_fraction=args.val_fraction,
        shard_tokens=args.shard_tokens,
        min_chars=args.min_chars,
        max_chars=args.max_chars,
        normalizer=args.normalizer,
        filters=tuple(args.filter or ()),
        deduplicate=args.deduplicate,
        on_bad_text=args.on_bad_text,
        max_bad_fraction=args.max_bad_fraction,
        max_replaced_fraction=args.max_replaced_fraction,
        workers=usable_cores() if args.workers is None else args.workers,
        scheduler=args.scheduler,
        memory_per_worker=args.memory_per_worker,
    )


def _part(args: argparse.Namespace) -> tuple[int, int] | None:
    """Return the index of this process's part and the number of parts; None if it does all the work."""
    index, count = args.task_index, args.task_count
    if index is None and count is None:
        return None
    if index is None or count is None:
        raise UserError("--task-index and --task-count: give both, the part and the number of parts")
    if args.finish:
        raise UserError("--finish: runs after all parts; omit --task-index and --task-count")
    if not 0 <= index < count:
        raise UserError(f"--task-index {index}: must be at least 0 and below --task-count {count}")
    return index, count


def _workers(job: "PreprocessingJob") -> str:
    if job.scheduler:
        return f"the workers of {job.scheduler}"
    return f"{job.workers} worker{'s' * (job.workers > 1)}"

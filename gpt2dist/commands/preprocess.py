"""`gpt2dist preprocess`: corpus → dataset directory."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.monitoring.progress import Progress

if TYPE_CHECKING:
    from gpt2dist.data.tasks import Counts

EPILOG = """\
An INPUT is a file, a directory (searched recursively) or a quoted glob such as 'books/**/*.txt'. In .jsonl and
.ndjson files each line is a document, a JSON object with the text in --text-field; every other file is one
document, in UTF-8. Each document ends with the tokenizer's end-of-text token.

An interrupted job goes on when the same command is run again. Its result does not depend on --workers.

examples:
  gpt2dist preprocess corpus/ --tokenizer tokenizer/ --output dataset/ --val-fraction 0.01
  gpt2dist preprocess 'dumps/*.jsonl' --text-field meta.text --tokenizer openai-community/gpt2 --output dataset/
  gpt2dist preprocess src/ --suffix .py --suffix .rst --tokenizer tokenizer/ --output dataset/
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.epilog = EPILOG
    add_corpus_arguments(parser)
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="DIR|NAME",
        help="directory that `gpt2dist tokenizer` made, or a tokenizer on the Hugging Face hub",
    )
    parser.add_argument("--output", required=True, metavar="DATASET", help="dataset directory to make")
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help='share of the documents that goes to the split "val", by a hash of the text (default 0: none)',
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="worker processes (default: the CPU cores that may be used)"
    )
    parser.add_argument(
        "--shard-tokens",
        type=int,
        default=1 << 30,
        metavar="N",
        help="most tokens in a shard (default 2^30, a file of 2 GiB); a document is never split",
    )
    parser.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.001,
        metavar="F",
        help="fail when a larger share of the documents cannot be read (default 0.001); "
        "those that are left out are listed in DATASET/rejected.jsonl",
    )


def add_corpus_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say which documents are read: the same for `preprocess` and `tokenizer train`."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, directory or quoted glob")
    parser.add_argument(
        "--text-field",
        default="text",
        metavar="NAME",
        help="key of the text in JSON lines; dots lead into nested objects (default: text)",
    )
    parser.add_argument(
        "--suffix",
        action="append",
        metavar=".EXT",
        help="take files with this suffix from directories, instead of .txt .md .rst .jsonl .ndjson; repeatable",
    )


def suffixes(args: argparse.Namespace) -> tuple[str, ...]:
    """What to take from directories, each with its dot."""
    from gpt2dist.data.corpus import DEFAULT_SUFFIXES

    named = tuple(f".{suffix.removeprefix('.')}" for suffix in args.suffix or ())
    return named or DEFAULT_SUFFIXES


def run(args: argparse.Namespace) -> int | None:
    """Prepares the dataset and prints what it holds."""
    # Set before the first use, or a single worker would take all cores.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from gpt2dist.commands.inspect import describe
    from gpt2dist.data.prepare import WorkerDiedError, prepare
    from gpt2dist.data.tasks import Job

    job = Job(
        inputs=tuple(args.inputs),
        tokenizer=args.tokenizer,
        output=Path(args.output),
        text_field=args.text_field,
        val_fraction=args.val_fraction,
        workers=usable_cores() if args.workers is None else args.workers,
        shard_tokens=args.shard_tokens,
        max_bad_fraction=args.max_bad_fraction,
        suffixes=suffixes(args),
    )
    start = time.monotonic()
    with Display() as display:
        try:
            manifest = prepare(job, display.update, display.say)
        except (WorkerDiedError, KeyboardInterrupt) as error:
            display.close()
            display.say(str(error) or f"interrupted; run the same command again to go on ({job.build} is kept)")
            return 1
    print(describe(manifest), file=sys.stderr)
    if display.worked:
        seconds = time.monotonic() - start
        rate = f"{display.worked / seconds / 1e6:.1f} MB/s with {job.workers} worker{'s' * (job.workers > 1)}"
        print(f"  read {display.worked / 1e6:,.1f} MB in {seconds:.1f} s ({rate})", file=sys.stderr)
    return None


def usable_cores() -> int:
    """The CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Display:
    """The progress of `prepare` on standard error; a context manager.

    Attributes:
        worked: Bytes of the corpus that this run has read.
    """

    def __init__(self) -> None:
        self.worked = 0
        self._progress: Progress | None = None
        self._before = 0

    def update(self, counts: "Counts", total: int) -> None:
        """Shows the work done so far."""
        if self._progress is None:
            self._before = counts.bytes
            self._progress = Progress("preprocess", total, "B", initial=counts.bytes, scale=True)
        details = {"documents": f"{counts.documents:,}", "tokens": f"{counts.tokens:,}"}
        if counts.rejected:
            details["rejected"] = f"{counts.rejected:,}"
        worked = counts.bytes - self._before
        self._progress.advance(worked - self.worked, **details)
        self.worked = worked

    def say(self, text: str) -> None:
        """Prints a line."""
        print(f"gpt2dist preprocess: {text}", file=sys.stderr)

    def close(self) -> None:
        """Ends the bar."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

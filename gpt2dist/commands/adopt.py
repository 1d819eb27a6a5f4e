"""`gpt2dist adopt`: token files of Megatron-LM, GPT-NeoX, nanoGPT or llm.c → dataset directory, in place."""

import argparse
from pathlib import Path

from gpt2dist.commands.preprocess import add_lossy
from gpt2dist.terminal import say

EPILOG = """\
The token files stay where they are; the dataset directory refers to them and records their hashes and counts.
Each file is read once, to check its tokens against the tokenizer and to count the bytes and words of the text.

  megatron   .bin and .idx of Megatron-LM, Megatron-DeepSpeed and GPT-NeoX
  nanogpt    .bin without a header, 16 bits per token (else give --dtype)
  llmc       .bin with llm.c's header, 16 or 32 bits per token

Files with "val" in their name (val.bin, fineweb_val_000000.bin) and those given with --val are the split "val".

examples:
  gpt2dist adopt /data/pile_text_document --format megatron --tokenizer gpt2/ --output data/pile
  gpt2dist adopt nanoGPT/data/openwebtext --format nanogpt --tokenizer gpt2/ --output data/openwebtext
  gpt2dist adopt 'fineweb10B/*.bin' --format llmc --tokenizer gpt2/ --output data/fineweb
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG
    parser.add_argument("paths", nargs="+", metavar="PATH", help="file, directory or quoted glob")
    parser.add_argument(
        "--format", required=True, choices=("megatron", "nanogpt", "llmc"), help="format of the files"
    )
    parser.add_argument(
        "--tokenizer",
        required=True,
        metavar="DIR|FILE|NAME",
        help="the tokenizer that made the tokens: a directory, its tokenizer.json, or a name on the Hugging Face "
        "hub",
    )
    add_lossy(parser)
    parser.add_argument(
        "--dtype",
        choices=("uint16", "int32", "uint32", "int64"),
        default="",
        help="dtype of tokens in files without a header (--format nanogpt); default: uint16",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DATASET", help="dataset directory to create"
    )
    parser.add_argument("--val", nargs="+", default=[], metavar="PATH", help='files for the split "val"')


def run(args: argparse.Namespace) -> None:
    """Adopt the files and print a summary of the dataset."""
    from gpt2dist.commands.inspect import describe
    from gpt2dist.dataset.adopt import Adoption, adopt
    from gpt2dist.monitoring.progress import Progress, warn

    adoption = Adoption(
        tuple(args.paths),
        args.format,
        args.tokenizer,
        args.output,
        tuple(args.val),
        dtype=args.dtype,
        lossy=args.lossy,
    )
    progress: list[Progress] = []

    def show(count: int, total: int) -> None:
        if not progress:
            progress.append(Progress("adopt", total, "B", scale=True))
        progress[0].advance(count)

    try:
        manifest = adopt(adoption, show, lambda text: warn(text, "adopt"))
    finally:
        for bar in progress:
            bar.close()
    say(describe(manifest))

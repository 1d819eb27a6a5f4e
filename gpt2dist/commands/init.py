"""`gpt2dist init`: write one of the run configurations that come with gpt2dist."""

import argparse
import sys
from pathlib import Path

from gpt2dist.errors import UserError
from gpt2dist.output_paths import check_file, write_file
from gpt2dist.terminal import say

EXAMPLES = """\
Without PRESET, the presets are listed. The JSON Schema is written beside the file, for editors.

examples:
  gpt2dist init
  gpt2dist init gpt2-124m
  gpt2dist init gpt2-355m --output mine.yaml
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EXAMPLES
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="name of the configuration to write")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file to write; default: PRESET.yaml")


def run(args: argparse.Namespace) -> None:
    """Write a preset, or list all on standard output."""
    from gpt2dist.config import presets
    from gpt2dist.monitoring.progress import info

    if args.preset is None:
        if args.output:
            raise UserError("--output: needs a PRESET to write; `gpt2dist init` lists them")
        width = max(map(len, presets.names()))
        for name in presets.names():
            say(f"{name:{width}}  {presets.summary(name)}", sys.stdout)
        return
    path = args.output or Path(f"{args.preset}.yaml")
    text = presets.text_for(args.preset, path)
    if path.exists():
        raise UserError(f"{path}: exists already; name another file with --output, or move it away")
    check_file(path)
    write_file(path, text)
    schema = path.parent / presets.SCHEMA
    if not schema.exists():
        write_file(schema, presets.schema())
    info(f"{path}: set data.train and data.validation in it, then `gpt2dist validate {path}`", "init")

"""`gpt2dist config`: explain the keys of a run configuration, or print its JSON Schema."""

import argparse
import json
import sys

from gpt2dist.errors import UserError
from gpt2dist.terminal import say

EXAMPLES = """\
examples:
  gpt2dist config                        all keys, one line each
  gpt2dist config optimizer              the keys of a section
  gpt2dist config optimizer.lr           type, limits, default and meaning of a key
  gpt2dist config --schema > schema.json

An editor with YAML support completes and checks a file whose first line names the schema:
  # yaml-language-server: $schema=schema.json

`gpt2dist validate FILE` checks the values of a run.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EXAMPLES
    parser.add_argument("key", nargs="?", metavar="KEY", help="key or section to explain (default: all)")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of configuration files")


def run(args: argparse.Namespace) -> None:
    """Print an explanation or the schema on standard output."""
    from gpt2dist.config.describe import describe, explanation, overview
    from gpt2dist.config.json_schema import json_schema

    if args.schema:
        if args.key:
            raise UserError(f"--schema prints the schema of all keys; remove {args.key}, or --schema")
        say(json.dumps(json_schema(), indent=2, ensure_ascii=False), sys.stdout)
        return
    if args.key and args.key.endswith((".yaml", ".yml")):
        raise UserError(f"{args.key} is a file, not a key; `gpt2dist validate {args.key}` checks it")
    key = describe(args.key or "")
    say(overview(key) if key.keys else explanation(key), sys.stdout)

"""`gpt2dist export`: publish a checkpoint as a transformers model directory."""

import argparse
from functools import partial
from pathlib import Path

from gpt2dist.monitoring.progress import info

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes per parameter, by dtype."""
BESIDE_THE_WEIGHTS = 20_000_000
"""Maximum bytes of the other files, such as the tokenizer."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="a checkpoint, a run directory, a model directory or a hub name"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="directory to create")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="dtype of the weights; default: %(default)s"
    )
    parser.add_argument("--name", help="name of the model in its card; default: that of the run, or of DIR")
    parser.add_argument("--license", help="the hub's name of a license, such as mit; default: none")
    parser.add_argument(
        "--results",
        nargs="+",
        type=Path,
        default=[],
        metavar="F.json",
        help="results of `gpt2dist evaluate --output` for the card, where a text has the name of its file",
    )
    parser.epilog = """\
The written weights are read back. DIR is created only if they reproduce the checkpoint's logits.

examples:
  gpt2dist export runs/quickstart --output quickstart-model
  gpt2dist export runs/gpt2-124m/checkpoints/step-00600000 --output my-gpt2 --dtype bfloat16 --license mit"""


def run(args: argparse.Namespace) -> None:
    """Export the checkpoint."""
    from gpt2dist.checkpoint.manifest import require_whole_model
    from gpt2dist.errors import UserError
    from gpt2dist.model.find_model import locate
    from gpt2dist.monitoring.logs import quiet_libraries
    from gpt2dist.publishing.origin import ModelProvenance
    from gpt2dist.publishing.output_directory import require_room

    for option in ("name", "license"):
        if getattr(args, option) is not None and not getattr(args, option).strip():
            raise UserError(f"--{option} is empty; give one, or leave the option out")
    require_room(args.output, 0)
    quiet_libraries()
    source = locate(args.checkpoint)
    show = partial(info, command="export")
    show(f"checking {source}")
    require_whole_model(source)
    origin = ModelProvenance.read(source, args.results)
    require_room(args.output, DTYPES[args.dtype] * origin.shape.parameters + BESIDE_THE_WEIGHTS)

    from gpt2dist.publishing.card import model_card
    from gpt2dist.publishing.exporter import Exported, export

    directory = args.output.resolve().name
    name = args.name or (origin.config.run.name if origin.config else "") or directory

    def card(exported: Exported) -> str:
        return model_card(name, directory, origin, exported, args.license)

    exported = export(source, args.output, args.dtype, card, show)
    show(
        f"{args.output}: {exported.parameters:,} parameters in {exported.dtype}, "
        f"{exported.bytes / 1e6:,.1f} MB; its logits differ from the checkpoint's by {exported.difference}"
    )
    show(f'load it: transformers.GPT2LMHeadModel.from_pretrained("{args.output}")')

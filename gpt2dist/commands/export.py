"""`gpt2dist export`: publish a checkpoint as a transformers model directory."""

import argparse
from functools import partial
from pathlib import Path

from gpt2dist.monitoring.progress import info
from gpt2dist.publishing.publish import DTYPES, publish


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a checkpoint (or RUN/checkpoints/best), a run directory, a model directory, or NAME or "
        "NAME@REVISION on the hub",
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
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="also push DIR to this private repository of the Hugging Face hub, which is created if missing",
    )
    parser.add_argument("--public", action="store_true", help="with --push-to-hub: everyone may read it")
    parser.epilog = """\
The written weights are read back. DIR is created only if they reproduce the checkpoint's logits.

examples:
  gpt2dist export runs/quickstart --output quickstart-model
  gpt2dist export runs/finetune-gpt2/checkpoints/best --output my-gpt2 --dtype bfloat16 --license mit
  gpt2dist export runs/quickstart --output quickstart-model --push-to-hub me/quickstart"""


def run(args: argparse.Namespace) -> None:
    """Export the checkpoint."""
    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()
    show = partial(info, command="export")
    exported = publish(
        *(args.checkpoint, args.output, args.dtype, args.name, args.license, args.results),
        push_to_hub=args.push_to_hub,
        public=args.public,
        on_info=show,
    )
    show(
        f"{args.output}: {exported.parameters:,} parameters in {exported.dtype}, "
        f"{exported.bytes / 1e6:,.1f} MB; its logits differ from the checkpoint's by {exported.difference}"
    )
    show(f'load it: transformers.GPT2LMHeadModel.from_pretrained("{args.output}")')

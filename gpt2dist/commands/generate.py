"""`gpt2dist generate`: samples text from a model."""

import argparse
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """Declares the options."""
    parser.add_argument(
        "model", metavar="MODEL", help="a checkpoint, a run directory, a model directory or a hub name"
    )
    parser.add_argument("--prompt", default="", help="text to continue (default: the beginning of a document)")
    parser.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 is greedy; default: %(default)s"
    )
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0 keeps all; default: %(default)s")
    parser.add_argument(
        "--top-p", type=float, default=0.95, metavar="P", help="1 keeps all; default: %(default)s"
    )
    parser.add_argument(
        "--repetition-penalty", type=float, default=1.0, metavar="R", help="1 is none; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the same seed, the same text")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.epilog = """\
The text goes to standard output; several samples are divided by a line of dashes.

example:
  gpt2dist generate runs/quickstart --prompt "def main(" --num-samples 3"""


def run(args: argparse.Namespace) -> None:
    """Samples."""
    how = _sampling(args)

    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()

    import torch

    from gpt2dist.checkpoint.manifest import require_whole_model
    from gpt2dist.data.tokenizer import Tokenizer
    from gpt2dist.generation import generate
    from gpt2dist.model.gpt2 import IncrementalLogits, load_pretrained, require_vocabulary
    from gpt2dist.model.locate import locate

    directory = locate(args.model)
    require_whole_model(directory)
    tokenizer = Tokenizer.load(directory)
    model = load_pretrained(directory, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    require_vocabulary(model, tokenizer.vocab_size, directory)
    prompt = args.prompt.encode(errors="replace").decode()  # bytes of the command line that were no UTF-8
    samples = generate(
        IncrementalLogits(model),
        tokenizer.encode(prompt).tolist(),
        how,
        tokenizer.end_of_text_id,
        model.config.n_positions,
        args.num_samples,
    )
    for number, tokens in enumerate(samples):
        if number:
            print("-" * 80)
        print(prompt + tokenizer.decode(tokens))
    sys.stdout.flush()


def _sampling(args: argparse.Namespace):
    from gpt2dist.errors import UserError

    bounds = {
        "--max-new-tokens": (args.max_new_tokens >= 1, "must be at least 1"),
        "--temperature": (args.temperature >= 0, "must be 0 (greedy) or more"),
        "--top-k": (args.top_k >= 0, "must be 0 (all) or more"),
        "--top-p": (0 < args.top_p <= 1, "must lie above 0 and be at most 1"),
        "--repetition-penalty": (args.repetition_penalty > 0, "must be more than 0"),
        "--seed": (0 <= args.seed < 2**63, "must be 0 or more, and less than 2⁶³"),
        "--num-samples": (args.num_samples >= 1, "must be at least 1"),
    }
    wrong = [f"{option} {message}" for option, (right, message) in bounds.items() if not right]
    if wrong:
        raise UserError("; ".join(wrong))

    from gpt2dist.generation import Sampling

    return Sampling(
        args.max_new_tokens, args.temperature, args.top_k, args.top_p, args.repetition_penalty, args.seed
    )

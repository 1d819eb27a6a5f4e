"""`gpt2dist generate`: continue prompts with a model."""

import argparse
import codecs
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpt2dist.terminal import say

if TYPE_CHECKING:
    from gpt2dist.generation.continuations import EncodedPrompt
    from gpt2dist.generation.generator import Generator
    from gpt2dist.generation.prompts import Prompt
    from gpt2dist.generation.sampling import Sampling
    from gpt2dist.tokenizer.tokenizer import Tokenizer

DIVIDER = "-" * 80

EPILOG = """\
Texts go to standard output, separated by lines of dashes. On a terminal, texts that are generated one at a time
appear token by token, with control characters escaped. With --json, each text is an object: prompt, text (what
the model added), tokens, seed and finish_reason, which is "stop" (end-of-text) or "length".

A text depends only on its prompt and its seed, up to rounding: --seed 5 gives the sixth text of --num-samples 6.
A text may be longer than the context. When the context is full, the model continues from its last half.

examples:
  gpt2dist generate runs/quickstart --prompt "def main(" --num-samples 3
  fortune | gpt2dist generate gpt2 --prompt-file - --temperature 0
  gpt2dist generate runs/quickstart --prompts-file prompts.jsonl --json > texts.jsonl"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a checkpoint (or RUN/checkpoints/best), a run directory, a model directory, or NAME or "
        "NAME@REVISION on the hub",
    )
    _add_prompts(parser)
    _add_sampling(parser)
    parser.add_argument(
        "--num-samples", type=int, default=1, metavar="N", help="texts per prompt; default: %(default)s"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=8,
        metavar="B",
        help="texts to generate at the same time; default: %(default)s",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per text, each on its own line"
    )


def _add_prompts(parser: argparse.ArgumentParser) -> None:
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", default="", metavar="TEXT", help="text to continue (default: start a new document)"
    )
    prompts.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="a file whose whole text is the prompt, without a newline at its end; - reads standard input",
    )
    prompts.add_argument(
        "--prompts-file",
        metavar="FILE",
        help='a file with one prompt per line; blank lines are skipped; in a .jsonl file, the "prompt" of each '
        "line; - reads standard input",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=100,
        metavar="N",
        help="maximum number of tokens to add; default: %(default)s",
    )
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="T", help="0 is greedy; default: %(default)s"
    )
    parser.add_argument(
        "--top-k",
        type=int,
        default=0,
        metavar="K",
        help="sample from the K most likely tokens; 0 keeps all; default: %(default)s",
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=0.95,
        metavar="P",
        help="sample from the most likely tokens that together have probability P; 1 keeps all; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1, make tokens less likely that the text already has; default: %(default)s",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of the first text; the second has S + 1, and so on; default: %(default)s",
    )


def run(args: argparse.Namespace) -> None:
    """Generate the texts and print them."""
    from gpt2dist.generation.sampling import Sampling

    how = Sampling(args.max_new_tokens, args.repetition_penalty, args.temperature, args.top_k, args.top_p)
    _check_bounds(how, args)
    prompts = _prompts(args)

    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()

    from gpt2dist.checkpoint.manifest import require_whole_model
    from gpt2dist.generation.continuations import encode_prompts, load_generator
    from gpt2dist.model.find_model import locate
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    directory = locate(args.model)
    require_whole_model(directory)
    tokenizer = Tokenizer.load(directory)
    encoded = encode_prompts(prompts, tokenizer, args.num_samples, args.seed)
    generator = load_generator(directory, tokenizer)
    if sys.stdout.isatty() and not args.json and 1 in (args.batch_size, len(encoded)):
        _stream(generator, tokenizer, encoded, how)
    else:
        _print(generator, tokenizer, encoded, how, args.batch_size, args.json)


def _prompts(args: argparse.Namespace) -> "list[Prompt]":
    from gpt2dist.errors import UserError
    from gpt2dist.generation.prompts import Prompt, read_prompt, read_prompts

    if args.prompts_file is not None:
        return read_prompts(args.prompts_file)
    if args.prompt_file is not None:
        return [read_prompt(args.prompt_file)]
    try:
        args.prompt.encode()
    except UnicodeEncodeError:  # bytes of the command line that are not UTF-8 arrive as surrogates
        raise UserError(f"--prompt {args.prompt!r}: not UTF-8; convert it, or put it into a file") from None
    return [Prompt(args.prompt, "--prompt")]


class _Screen:
    """Terminal display of a text, token by token and in whole characters.

    Args:
        tokenizer: The tokenizer of the text.
    """

    def __init__(self, tokenizer: "Tokenizer"):
        self._bytes = [*tokenizer.token_bytes]
        self._bytes[tokenizer.end_of_text_id] = b""
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")

    def begin(self, prompt: str) -> None:
        """Show the start of a text."""
        self._show(prompt)

    def add(self, tokens: Sequence[int]) -> None:
        """Show the characters that the next tokens complete."""
        self._show(self._characters.decode(b"".join(self._bytes[token] for token in tokens)))

    def end(self) -> None:
        """Show the rest of an incomplete character, and end the line."""
        self._show(self._characters.decode(b"", final=True) + "\n")

    def _show(self, text: str) -> None:
        say(text, sys.stdout, end="")


def _stream(
    generator: "Generator", tokenizer: "Tokenizer", prompts: "Sequence[EncodedPrompt]", how: "Sampling"
) -> None:
    """Show texts one after another, while they are generated."""
    screen = _Screen(tokenizer)
    for number, prompt in enumerate(prompts):
        screen.begin((DIVIDER + "\n" if number else "") + prompt.text)
        generator([prompt.tokens], [prompt.seed], how, on_tokens=screen.add)
        screen.end()


def _print(
    generator: "Generator",
    tokenizer: "Tokenizer",
    prompts: "Sequence[EncodedPrompt]",
    how: "Sampling",
    batch_size: int,
    as_json: bool,
) -> None:
    """Generate and print texts batch by batch."""
    from gpt2dist.generation.continuations import continuations
    from gpt2dist.monitoring.progress import Progress

    with Progress("generate", len(prompts), "text", enabled=not sys.stdout.isatty(), leave=False) as bar:
        for number, text in enumerate(continuations(generator, tokenizer, prompts, how, batch_size)):
            if as_json:
                say(json.dumps(dataclasses.asdict(text)), sys.stdout)
            else:
                say((DIVIDER + "\n" if number else "") + text.prompt + text.text, sys.stdout)
            bar.advance()


def _check_bounds(how: "Sampling", args: argparse.Namespace) -> None:
    from gpt2dist.errors import UserError
    from gpt2dist.generation.continuations import wrong_settings

    wrong = wrong_settings(how, args.seed, args.num_samples, args.batch_size)
    if wrong:
        raise UserError("; ".join(f"--{name.replace('_', '-')} {message}" for name, message in wrong.items()))

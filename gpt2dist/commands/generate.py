"""`gpt2dist generate`: continue prompts with a model."""

import argparse
import codecs
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist.terminal import say

if TYPE_CHECKING:
    from gpt2dist.generation.generator import Generator
    from gpt2dist.generation.prompts import Prompt
    from gpt2dist.generation.sampling import Sampling
    from gpt2dist.tokenizer.tokenizer import Tokenizer

DIVIDER = "-" * 80


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "model", metavar="MODEL", help="a checkpoint, a run directory, a model directory or a hub name"
    )
    prompts = parser.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", default="", metavar="TEXT", help="text to continue (default: the beginning of a document)"
    )
    prompts.add_argument(
        "--prompt-file",
        metavar="FILE",
        help="a file that is one prompt, less a newline at its end; - is standard input",
    )
    prompts.add_argument(
        "--prompts-file",
        metavar="FILE",
        help='a file of prompts, one in each line that is not blank; in lines of a .jsonl file, the "prompt"; '
        "- is standard input",
    )
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
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="of the first text, S + 1 of the second, …; default: %(default)s",
    )
    parser.add_argument(
        "--num-samples", type=int, default=1, metavar="N", help="of each prompt; default: %(default)s"
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="B", help="texts drawn together; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per text and line")
    parser.epilog = """\
Texts go to standard output, several divided by a line of dashes. On a terminal a text is shown as it is drawn,
where one is drawn at once, with control characters escaped. With --json each is an object: prompt, text (what was
added), tokens, seed and finish_reason, "stop" (end-of-text) or "length".

A text depends on its prompt and its seed, and not on the texts beside it, but for rounding: --seed 5 gives the
sixth of --num-samples 6. A text may outgrow the context: when that is full, the model goes on from its last half.

examples:
  gpt2dist generate runs/quickstart --prompt "def main(" --num-samples 3
  fortune | gpt2dist generate gpt2 --prompt-file - --temperature 0
  gpt2dist generate runs/quickstart --prompts-file prompts.jsonl --json > texts.jsonl"""


@dataclass(frozen=True)
class _Text:
    """A text to generate.

    Attributes:
        prompt: The prompt.
        tokens: Tokens of the prompt.
        seed: Seed for sampling.
    """

    prompt: str
    tokens: list[int]
    seed: int


def run(args: argparse.Namespace) -> None:
    """Generate the texts and print them."""
    _check_bounds(args)
    prompts = _prompts(args)

    from gpt2dist.monitoring.logs import quiet_libraries

    quiet_libraries()

    from gpt2dist.checkpoint.manifest import require_whole_model
    from gpt2dist.generation.sampling import Sampling
    from gpt2dist.model.find_model import locate
    from gpt2dist.tokenizer.tokenizer import Tokenizer

    directory = locate(args.model)
    require_whole_model(directory)
    tokenizer = Tokenizer.load(directory)
    begun = [
        (prompt.text, tokens)
        for prompt, tokens in zip(prompts, _encode(prompts, tokenizer), strict=True)
        for _ in range(args.num_samples)
    ]
    texts = [_Text(prompt, tokens, args.seed + number) for number, (prompt, tokens) in enumerate(begun)]
    how = Sampling(args.max_new_tokens, args.repetition_penalty, args.temperature, args.top_k, args.top_p)
    generator = _load(directory, tokenizer)
    if sys.stdout.isatty() and not args.json and 1 in (args.batch_size, len(texts)):
        _stream(generator, tokenizer, texts, how)
    else:
        _print(generator, tokenizer, texts, how, args.batch_size, args.json)


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


def _encode(prompts: "Sequence[Prompt]", tokenizer: "Tokenizer") -> list[list[int]]:
    from gpt2dist.errors import UserError

    encoded = []
    for prompt in prompts:
        try:
            encoded.append(tokenizer.encode(prompt.text).tolist())
        except UserError as error:
            raise UserError(f"{prompt.source}: {error}") from None
    return encoded


def _load(directory: Path, tokenizer: "Tokenizer") -> "Generator":
    import torch

    from gpt2dist.errors import UserError
    from gpt2dist.generation.generator import Generator
    from gpt2dist.model.pretrained import load_pretrained, require_vocabulary

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_pretrained(directory, device)
    require_vocabulary(model, tokenizer.vocab_size, directory)

    def forward(tokens: torch.Tensor, cache: Any, **padding: torch.Tensor) -> torch.Tensor:
        logits = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **padding).logits
        if not logits.isfinite().all():
            raise UserError(f"{directory}: its model gives numbers that are not finite; give another checkpoint")
        return logits

    return Generator(forward, tokenizer.vocab_size, model.config.n_positions, tokenizer.end_of_text_id, device)


class _Screen:
    """Terminal display of a text, token by token and in whole characters.

    Args:
        tokenizer: The tokenizer of the text.
    """

    def __init__(self, tokenizer: "Tokenizer"):
        self._bytes = tokenizer.token_bytes()
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


def _stream(generator: "Generator", tokenizer: "Tokenizer", texts: Sequence[_Text], how: "Sampling") -> None:
    """Show texts one after another, while they are generated."""
    screen = _Screen(tokenizer)
    for number, text in enumerate(texts):
        screen.begin((DIVIDER + "\n" if number else "") + text.prompt)
        generator([text.tokens], [text.seed], how, on_tokens=screen.add)
        screen.end()


def _print(
    generator: "Generator",
    tokenizer: "Tokenizer",
    texts: Sequence[_Text],
    how: "Sampling",
    batch_size: int,
    as_json: bool,
) -> None:
    """Generate and print texts batch by batch."""
    from gpt2dist.monitoring.progress import Progress

    with Progress("generate", len(texts), "text", enabled=not sys.stdout.isatty(), leave=False) as bar:
        for first in range(0, len(texts), batch_size):
            batch = texts[first : first + batch_size]
            added = generator([text.tokens for text in batch], [text.seed for text in batch], how)
            for number, (text, tokens) in enumerate(zip(batch, added, strict=True), start=first):
                if as_json:
                    say(json.dumps(_as_json(text, tokenizer.decode(tokens), len(tokens), how)), sys.stdout)
                else:
                    say((DIVIDER + "\n" if number else "") + text.prompt + tokenizer.decode(tokens), sys.stdout)
            bar.advance(len(batch))


def _as_json(text: _Text, added: str, tokens: int, how: "Sampling") -> dict[str, Any]:
    finish = "length" if tokens == how.max_new_tokens else "stop"
    return {
        "prompt": text.prompt,
        "text": added,
        "tokens": tokens,
        "seed": text.seed,
        "finish_reason": finish,
    }


def _check_bounds(args: argparse.Namespace) -> None:
    from gpt2dist.errors import UserError

    bounds = {
        "--max-new-tokens": (args.max_new_tokens >= 1, "must be at least 1"),
        "--temperature": (
            args.temperature == 0 or 0.01 <= args.temperature <= 100,
            "must be 0 (greedy) or lie between 0.01 and 100",
        ),
        "--top-k": (args.top_k >= 0, "must be 0 (all) or more"),
        "--top-p": (0 < args.top_p <= 1, "must lie above 0 and be at most 1"),
        "--repetition-penalty": (0.01 <= args.repetition_penalty <= 100, "must lie between 0.01 and 100"),
        "--seed": (0 <= args.seed < 2**63, "must be 0 or more, and less than 2⁶³"),
        "--num-samples": (args.num_samples >= 1, "must be at least 1"),
        "--batch-size": (args.batch_size >= 1, "must be at least 1"),
    }
    wrong = [f"{option} {message}" for option, (right, message) in bounds.items() if not right]
    if wrong:
        raise UserError("; ".join(wrong))

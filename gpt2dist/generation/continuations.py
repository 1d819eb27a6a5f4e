"""Continue prompts with a model directory: encode them, load the model, and generate texts batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gpt2dist.errors import UserError
from gpt2dist.generation.prompts import Prompt
from gpt2dist.generation.sampling import Sampling

if TYPE_CHECKING:  # importing torch would delay errors in the prompts
    import torch

    from gpt2dist.generation.generator import Generator
    from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt to continue once.

    Attributes:
        text: The prompt.
        tokens: Token ids of the prompt.
        seed: Seed for sampling its continuation.
    """

    text: str
    tokens: list[int]
    seed: int


@dataclass(frozen=True)
class Continuation:
    """A generated text.

    Attributes:
        prompt: The prompt.
        text: The text that the model added.
        tokens: Number of tokens added.
        seed: Seed of the text.
        finish_reason: "stop" if the model ended the text, "length" if it reached the maximum.
    """

    prompt: str
    text: str
    tokens: int
    seed: int
    finish_reason: Literal["stop", "length"]


def wrong_settings(how: Sampling, seed: int, num_samples: int, batch_size: int) -> dict[str, str]:
    """Return the settings that are out of range: name → what it must be."""
    bounds = {
        "max_new_tokens": (how.max_new_tokens >= 1, "must be at least 1"),
        "temperature": (
            how.temperature == 0 or 0.01 <= how.temperature <= 100,
            "must be 0 (greedy) or between 0.01 and 100",
        ),
        "top_k": (how.top_k >= 0, "must be 0 (all) or more"),
        "top_p": (0 < how.top_p <= 1, "must be above 0 and at most 1"),
        "repetition_penalty": (0.01 <= how.repetition_penalty <= 100, "must be between 0.01 and 100"),
        "seed": (0 <= seed < 2**63, "must be 0 or more, and less than 2⁶³"),
        "num_samples": (num_samples >= 1, "must be at least 1"),
        "batch_size": (batch_size >= 1, "must be at least 1"),
    }
    return {name: message for name, (right, message) in bounds.items() if not right}


def encode_prompts(
    prompts: Sequence[Prompt], tokenizer: "Tokenizer", num_samples: int, seed: int
) -> list[EncodedPrompt]:
    """Encode each prompt `num_samples` times, with the seeds `seed`, `seed` + 1, ….

    Raises:
        UserError: The tokenizer cannot encode a prompt; the message names the source of the prompt.
    """
    encoded = []
    for prompt in prompts:
        try:
            tokens = tokenizer.encode(prompt.text).tolist()
        except UserError as error:
            raise UserError(f"{prompt.source}: {error}") from None
        encoded += [(prompt.text, tokens)] * num_samples
    return [EncodedPrompt(text, tokens, seed + number) for number, (text, tokens) in enumerate(encoded)]


def load_generator(directory: Path, tokenizer: "Tokenizer") -> "Generator":
    """Load the model of a directory onto the GPU, or onto the CPU if there is no GPU.

    Args:
        directory: A model directory.
        tokenizer: Its tokenizer.

    Raises:
        UserError: The model cannot be loaded, or its vocabulary is smaller than the tokenizer's. Generating
            raises one if the logits are not finite.
    """
    import torch

    from gpt2dist.generation.generator import Generator
    from gpt2dist.model.numerics import fp32_products
    from gpt2dist.model.pretrained import load_pretrained, require_vocabulary

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_pretrained(directory, device)
    require_vocabulary(model, tokenizer.vocab_size, directory)

    def forward(tokens: "torch.Tensor", cache: Any, **padding: "torch.Tensor") -> "torch.Tensor":
        with fp32_products(False, device):
            logits = model(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **padding).logits
        if not logits.isfinite().all():
            raise UserError(f"{directory}: the model's logits are not finite; use another checkpoint")
        return logits

    return Generator(forward, tokenizer.vocab_size, model.config.n_positions, tokenizer.end_of_text_id, device)


def continuations(
    generator: "Generator",
    tokenizer: "Tokenizer",
    prompts: Sequence[EncodedPrompt],
    how: Sampling,
    batch_size: int,
) -> Iterator[Continuation]:
    """Yield the continuation of each prompt, in order, generating `batch_size` of them at a time."""
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        added = generator([prompt.tokens for prompt in batch], [prompt.seed for prompt in batch], how)
        for prompt, tokens in zip(batch, added, strict=True):
            text = tokenizer.decode_after(prompt.tokens, tokens)
            ended: Literal["stop", "length"] = "length" if len(tokens) == how.max_new_tokens else "stop"
            yield Continuation(prompt.text, text, len(tokens), prompt.seed, ended)

"""Sampling text: temperature, top-k, top-p and repetition penalty, reproducible from a seed.

Draws come from a generator of their own, so that sampling during training changes nothing there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: Tokens to add at most.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Only the k most likely tokens stay; 0 keeps all.
        top_p: Only the most likely tokens whose probabilities reach p together stay; 1 keeps all.
        repetition_penalty: Makes tokens that appeared already less likely; 1 leaves them.
        seed: Of the draws.
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    seed: int = 0


def penalise_repetition(logits: Tensor, tokens: Tensor, penalty: float) -> Tensor:
    """Divides positive logits of tokens that appeared by the penalty and multiplies negative ones with it.

    Keskar et al. 2019 (CTRL), section 4.1.

    Args:
        logits: [B, V].
        tokens: [B, T] token ids so far.
        penalty: Above 1 discourages repetition.
    """
    seen = logits.gather(1, tokens)
    return logits.scatter(1, tokens, torch.where(seen > 0, seen / penalty, seen * penalty))


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Sets all but the k highest logits of each row [B, V] to −∞ (Fan et al. 2018)."""
    lowest_kept = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < lowest_kept, float("-inf"))


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keeps the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020)."""
    ordered, places = logits.sort(descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    drop = (before >= p).scatter(1, places, before >= p)
    return logits.masked_fill(drop, float("-inf"))


def choose(logits: Tensor, tokens: Tensor, how: Sampling, generator: torch.Generator) -> Tensor:
    """Chooses the next token of each row.

    Args:
        logits: [B, V] of the last position; moved to the CPU in fp32, so that a seed draws the same everywhere.
        tokens: [B, T] token ids so far, on the CPU.
        how: The way of choosing.
        generator: Where the draws come from, on the CPU.

    Returns:
        [B] token ids.
    """
    logits = logits.float().cpu()
    if how.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, tokens, how.repetition_penalty)
    if how.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / how.temperature
    if how.top_k:
        logits = keep_top_k(logits, how.top_k)
    if how.top_p < 1.0:
        logits = keep_top_p(logits, how.top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


@torch.no_grad()
def generate(
    logits: Callable[[Tensor], Tensor],
    prompt: Sequence[int],
    how: Sampling,
    end_of_text_id: int,
    context_length: int,
    num_samples: int = 1,
    run_on: bool = False,
) -> list[list[int]]:
    """Continues a prompt.

    Args:
        logits: Maps tokens [B, L], L ≤ context_length, to logits [B, L, V].
        prompt: Token ids; end-of-text stands for an empty one.
        how: The way of choosing.
        end_of_text_id: Ends a text.
        context_length: Positions that the model knows; older tokens are left out of its sight.
        num_samples: Continuations to draw.
        run_on: Never stops early, so that all ranks of a partitioned model run the same number of passes.

    Returns:
        The new token ids of each sample, up to and without end-of-text.
    """
    generator = torch.Generator().manual_seed(how.seed)
    tokens = torch.tensor([list(prompt) or [end_of_text_id]] * num_samples)
    start = tokens.shape[1]
    ended = torch.zeros(num_samples, dtype=torch.bool)
    for _ in range(how.max_new_tokens):
        last = logits(tokens[:, -context_length:])[:, -1]
        following = choose(last, tokens, how, generator)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
        ended |= following == end_of_text_id
        if ended.all() and not run_on:
            break
    return [_until(row, end_of_text_id) for row in tokens[:, start:].tolist()]


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end)] if end in tokens else tokens

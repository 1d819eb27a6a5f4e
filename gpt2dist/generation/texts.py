"""The loop of generation: transformers' `generate`, over texts that outgrow the model's context."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.generation import (
    BaseStreamer,
    LogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import CausalLMOutput

from gpt2dist.generation.sampling import Sampling


class TextModel(Protocol):
    """The part of a model that the loop uses; `generator.Generator` describes the attributes."""

    @property
    def forward(self) -> Callable[..., Tensor]:
        """Function that extends the cache and returns the last logits."""

    @property
    def vocab_size(self) -> int:
        """Size of the tokenizer's vocabulary."""

    @property
    def context_length(self) -> int:
        """Number of positions of the model."""

    @property
    def end_of_text_id(self) -> int:
        """Token that ends a text."""

    @property
    def device(self) -> torch.device:
        """Device of the model."""


def continue_texts(
    generator: TextModel,
    tokens: Sequence[Sequence[int]],
    seeds: Sequence[int],
    how: Sampling,
    run_on: bool,
    on_tokens: Callable[[list[int]], None] | None,
    is_done: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """Continue texts together; the arguments are those of `Generator.__call__`.

    Args:
        generator: The model.
        tokens: Token ids of each text, at least one.
        seeds: Random seed of each text.
        how: The sampling settings.
        run_on: Whether to continue after end-of-text.
        on_tokens: Called with the new token of each text.
        is_done: Called with the new tokens of each text, which ends if it returns true.

    Returns:
        The new token ids of each text, with end-of-text as padding.
    """
    lengths = [len(each) for each in tokens]
    longest = max(lengths)
    # An id that does not exist, which the repetition penalty ignores; it would not ignore end-of-text.
    padded = [[generator.vocab_size] * (longest - len(each)) + list(each) for each in tokens]
    texts: Any = _Texts(generator, lengths)  # `generate` is annotated for subclasses of more than it needs
    continued = texts.generate(
        torch.tensor(padded, device=generator.device),
        attention_mask=torch.ones(len(padded), longest, dtype=torch.long, device=generator.device),  # not used
        generation_config=GenerationConfig(
            max_new_tokens=how.max_new_tokens,
            do_sample=False,  # `_Draw` draws
            eos_token_id=None if run_on else generator.end_of_text_id,
            pad_token_id=generator.end_of_text_id,
            use_cache=False,  # `_Texts` has its own
        ),
        logits_processor=_processors(how, seeds, generator.device),
        stopping_criteria=StoppingCriteriaList([_Stop(is_done, longest)] if is_done else []),
        streamer=_Listener(on_tokens) if on_tokens else None,
        synced_gpus=False,
    )
    return continued[:, longest:].tolist()


class _Texts(PreTrainedModel, GenerationMixin):
    """Adapter that lets transformers' `generate` extend texts beyond the context length.

    GPT-2 has no positions beyond its context, where `generate` alone would fail. Here the model sees each text
    through a window. When the window is full, it moves so that only its last half remains. The keys and values,
    which depend on position, are then recomputed. The place of a window depends only on its own text's length.

    Args:
        generator: The model.
        lengths: Number of tokens in each prompt.
    """

    def __init__(self, generator: TextModel, lengths: Sequence[int]):
        super().__init__(PreTrainedConfig())
        self._generator = generator
        self._lengths = lengths
        self._begins: list[int] = []
        self._cache = DynamicCache()
        self._seen = 0

    @property
    def device(self) -> torch.device:
        """The device that `generate` uses; it cannot be inferred, since this model has no parameters."""
        return self._generator.device

    def forward(self, input_ids: Tensor, **_: object) -> CausalLMOutput:
        """Return the logits [B, 1, V] of the token after the whole texts [B, T]."""
        width = input_ids.shape[1]
        grown = width - max(self._lengths)
        begins = [width - self._visible(length, grown) for length in self._lengths]
        first = min(begins)
        if begins != self._begins:
            self._begins, self._cache, self._seen = begins, DynamicCache(), first
        padding = {}
        if len(set(begins)) > 1:
            columns = torch.arange(first, width, device=self.device)
            positions = columns - torch.tensor(begins, device=self.device)[:, None]  # negative before the window
            padding["attention_mask"] = (positions >= 0).long()
            padding["position_ids"] = positions[:, self._seen - first :].clamp(min=0)
        new = input_ids[:, self._seen :].clamp(max=self._generator.vocab_size - 1)  # padding may be any token
        logits = self._generator.forward(new, self._cache, **padding)
        self._seen = width
        return CausalLMOutput(logits=logits[:, -1:, : self._generator.vocab_size])

    def _visible(self, length: int, grown: int) -> int:
        """Return the window's number of tokens for a prompt of `length` tokens that has grown by `grown`."""
        context = self._generator.context_length
        fits = min(length, context) + grown
        if fits <= context:
            return fits
        half = max(1, context // 2)
        return fits - half * math.ceil((fits - context) / half)


class _RepetitionPenalty(LogitsProcessor):
    """Logits processor that makes the tokens of a text less likely (Keskar et al. 2019, 4.1).

    It ignores ids outside the vocabulary, which pad short prompts here. That of transformers 5.17 does not.

    Args:
        penalty: Divides logits above 0, and multiplies those below.
    """

    def __init__(self, penalty: float):
        self._penalty = penalty

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Map logits [B, V] to logits [B, V], given all tokens [B, T] so far."""
        vocab_size = scores.shape[1]
        seen = torch.zeros(len(scores), vocab_size + 1, dtype=torch.bool, device=scores.device)
        seen.scatter_(1, input_ids.clamp(max=vocab_size), True)
        less = torch.where(scores < 0, scores * self._penalty, scores / self._penalty)
        return torch.where(seen[:, :vocab_size], less, scores)


class _Draw(LogitsProcessor):
    """Logits processor that draws a token with each row's own generator, and gives it the highest score.

    p / Exp(1) is highest at i with probability p_i. torch.multinomial does the same with only one generator.

    Args:
        seeds: Seed of each row's generator.
        device: Device of the generators.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Map logits [B, V] to scores [B, V], of which the highest in each row marks the drawn token."""
        draws = [torch.empty_like(scores[0]).exponential_(generator=each) for each in self._generators]
        return scores.softmax(dim=-1) / torch.stack(draws)


def _processors(how: Sampling, seeds: Sequence[int], device: torch.device) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if how.repetition_penalty != 1.0:
        processors.append(_RepetitionPenalty(how.repetition_penalty))
    if how.temperature == 0:
        return processors
    if how.temperature != 1.0:
        processors.append(TemperatureLogitsWarper(how.temperature))
    if how.top_k:
        processors.append(TopKLogitsWarper(how.top_k))
    if how.top_p < 1.0:
        processors.append(TopPLogitsWarper(how.top_p))
    processors.append(_Draw(seeds, device))
    return processors


class _Stop(StoppingCriteria):
    """Stopping criterion of each text by its own new tokens.

    Args:
        is_done: Function of the new tokens of a text.
        known: Number of columns before the new tokens.
    """

    def __init__(self, is_done: Callable[[list[int]], bool], known: int):
        self._is_done = is_done
        self._known = known

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        """Return which texts [B] are done, given all tokens [B, T] so far."""
        done = [self._is_done(row) for row in input_ids[:, self._known :].tolist()]
        return torch.tensor(done, device=input_ids.device)


class _Listener(BaseStreamer):
    """Streamer that passes on new tokens, but not the prompts."""

    def __init__(self, on_tokens: Callable[[list[int]], None]):
        self._on_tokens = on_tokens
        self._begun = False

    def put(self, value: Tensor) -> None:
        """Receive the prompts [B, T] in the first call, then the tokens [B] of each step."""
        if self._begun:
            self._on_tokens(value.tolist())
        self._begun = True

    def end(self) -> None:
        """Do nothing, since no tokens are buffered."""

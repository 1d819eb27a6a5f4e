"""Continuing texts with transformers' `generate`: any number of prompts, of any length, beyond the context.

A text depends on its prompt and its seed alone (but for the rounding of matrix products of another size): not on
the texts that are drawn with it, and not on torch's global generator, which is left as it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import CausalLMOutput


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, in the order in which transformers applies it.

    Attributes:
        max_new_tokens: Tokens to add at most.
        repetition_penalty: Makes tokens of the text so far less likely; 1 leaves them (Keskar et al. 2019, 4.1).
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Only the k most likely tokens stay; 0 keeps all (Fan et al. 2018).
        top_p: Only the most likely tokens whose probabilities reach p together stay; 1 keeps all (Holtzman et
            al. 2020).
    """

    max_new_tokens: int = 64
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


@dataclass(frozen=True)
class Generator:
    """A model that continues texts.

    Attributes:
        forward: Maps tokens [B, L] and transformers' cache of what stands before them to logits [B, …, V] that
            end with those of the last token, and adds the tokens to the cache. Texts that do not begin together
            come with `attention_mask` [B, cached + L] and `position_ids` [B, L], as transformers knows them.
        vocab_size: Ids of the tokenizer. Logits behind them, of padding, are never looked at.
        context_length: Positions that the model knows.
        end_of_text_id: Ends a text, and begins one that has no prompt.
        device: Where the model is; tokens are drawn there.
    """

    forward: Callable[..., Tensor]
    vocab_size: int
    context_length: int
    end_of_text_id: int
    device: torch.device

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        how: Sampling,
        run_on: bool = False,
        on_tokens: Callable[[list[int]], None] | None = None,
    ) -> list[list[int]]:
        """Continues prompts, all at once.

        Args:
            prompts: Token ids of each; of a long one the model sees the end.
            seeds: Of the draws of each.
            how: The way of choosing.
            run_on: Never stops early, so that all ranks of a partitioned model run the same number of passes.
            on_tokens: Called with the new token of each text as soon as they are drawn; a text that has ended
                gets end-of-text.

        Returns:
            The new token ids of each text, up to and without end-of-text.
        """
        tokens = [list(prompt) or [self.end_of_text_id] for prompt in prompts]
        lengths = [len(each) for each in tokens]
        longest = max(lengths)
        # An id that is none: transformers' repetition penalty leaves it out, which it would not with end-of-text.
        padded = [[self.vocab_size] * (longest - len(each)) + each for each in tokens]
        texts: Any = _Texts(self, lengths)  # `generate` is annotated for subclasses of more than it needs
        continued = texts.generate(
            torch.tensor(padded, device=self.device),
            attention_mask=torch.ones(len(padded), longest, dtype=torch.long, device=self.device),  # not used
            generation_config=GenerationConfig(
                max_new_tokens=how.max_new_tokens,
                do_sample=False,  # `_Draw` draws
                eos_token_id=None if run_on else self.end_of_text_id,
                pad_token_id=self.end_of_text_id,
                use_cache=False,  # `_Texts` has its own
            ),
            logits_processor=_processors(how, seeds, self.device),
            streamer=_Listener(on_tokens) if on_tokens else None,
            synced_gpus=False,
        )
        return [self._until_the_end(row) for row in continued[:, longest:].tolist()]

    def _until_the_end(self, tokens: list[int]) -> list[int]:
        end = self.end_of_text_id
        return tokens[: tokens.index(end)] if end in tokens else tokens


class _Texts(PreTrainedModel, GenerationMixin):
    """Texts that grow, as a model in the eyes of transformers' `generate`.

    GPT-2 has no positions beyond its context, where `generate` by itself would fail. Here each text is seen
    through a window; when it is full, the window moves on to the last half, and the keys and values, which know
    their old positions, are computed anew. Where a text's window stands depends on its own length alone.

    Args:
        generator: The model.
        lengths: Tokens of each prompt.
    """

    def __init__(self, generator: Generator, lengths: Sequence[int]):
        super().__init__(PreTrainedConfig())
        self._generator = generator
        self._lengths = lengths
        self._begins: list[int] = []
        self._cache = DynamicCache()
        self._seen = 0

    @property
    def device(self) -> torch.device:
        """Where `generate` looks for the model, which has no parameters of its own."""
        return self._generator.device

    def forward(self, input_ids: Tensor, **_: object) -> CausalLMOutput:
        """Logits [B, 1, V] behind the whole texts [B, T]."""
        width = input_ids.shape[1]
        grown = width - max(self._lengths)
        begins = [width - self._visible(length, grown) for length in self._lengths]
        first = min(begins)
        if begins != self._begins:
            self._begins, self._cache, self._seen = begins, DynamicCache(), first
        padding = {}
        if len(set(begins)) > 1:
            columns = torch.arange(first, width, device=self.device)
            positions = columns - torch.tensor(begins, device=self.device)[:, None]  # below 0: before the window
            padding["attention_mask"] = (positions >= 0).long()
            padding["position_ids"] = positions[:, self._seen - first :].clamp(min=0)
        new = input_ids[:, self._seen :].clamp(max=self._generator.vocab_size - 1)  # padding: any token will do
        logits = self._generator.forward(new, self._cache, **padding)
        self._seen = width
        return CausalLMOutput(logits=logits[:, -1:, : self._generator.vocab_size])

    def _visible(self, length: int, grown: int) -> int:
        """Tokens in the window of a text whose prompt of `length` tokens has grown by `grown`."""
        context = self._generator.context_length
        fits = min(length, context) + grown
        if fits <= context:
            return fits
        half = max(1, context // 2)
        return fits - half * math.ceil((fits - context) / half)


class _Draw(LogitsProcessor):
    """Draws a token of each row, with a generator for each, and marks it as the highest.

    p / Exp(1) is highest at i with probability p_i: what torch.multinomial does, which knows one generator only.

    Args:
        seeds: Of the generators.
        device: Of the generators.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Maps logits [B, V] to numbers [B, V] whose highest are the draws."""
        draws = [torch.empty_like(scores[0]).exponential_(generator=each) for each in self._generators]
        return scores.softmax(dim=-1) / torch.stack(draws)


def _processors(how: Sampling, seeds: Sequence[int], device: torch.device) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if how.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(how.repetition_penalty))
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


class _Listener(BaseStreamer):
    """Hands new tokens on, without the prompts that come first."""

    def __init__(self, on_tokens: Callable[[list[int]], None]):
        self._on_tokens = on_tokens
        self._begun = False

    def put(self, value: Tensor) -> None:
        """Takes the prompts [B, T], then the tokens [B] of each step."""
        if self._begun:
            self._on_tokens(value.tolist())
        self._begun = True

    def end(self) -> None:
        """Nothing is held back."""

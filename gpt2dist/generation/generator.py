"""Generate text with transformers' `generate`: any number of prompts of any length, beyond the context length.

A text depends only on its own prompt and seed, apart from rounding in matrix products of a different size. It
does not depend on the other texts in the batch or on torch's global generator, which stays unchanged.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpt2dist.generation.sampling import Sampling


@dataclass(frozen=True)
class Generator:
    """A model that continues texts.

    Attributes:
        forward: Maps tokens [B, L] and transformers' cache of the tokens before them to logits [B, …, V] that end
            with the last token's, and adds the tokens to the cache. If the texts start at different columns, it
            also gets transformers' `attention_mask` [B, cached + L] and `position_ids` [B, L].
        vocab_size: Number of ids of the tokenizer. Logits after them are padding and ignored.
        context_length: Number of positions of the model.
        end_of_text_id: Token that ends a text, and that starts a text without a prompt.
        device: Device of the model, on which tokens are drawn too.
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
        is_done: Callable[[list[int]], bool] | None = None,
    ) -> list[list[int]]:
        """Continue all prompts as one batch.

        Args:
            prompts: Token ids of each prompt. If a prompt is too long, the model sees only its end.
            seeds: Random seed of each text.
            how: The sampling settings.
            run_on: Never stop early, so that all ranks of a partitioned model run the same number of passes.
            on_tokens: Called at every step with the new token of each text; a text that has ended gets
                end-of-text.
            is_done: Called at every step with the new tokens of each text, which ends if it returns true.

        Returns:
            The new token ids of each text, up to but not including end-of-text.
        """
        # Imported here: a run that samples nothing does not need transformers.
        from gpt2dist.generation.texts import continue_texts

        tokens = [list(prompt) or [self.end_of_text_id] for prompt in prompts]
        continued = continue_texts(self, tokens, seeds, how, run_on, on_tokens, is_done)
        return [self._until_the_end(row) for row in continued]

    def _until_the_end(self, tokens: list[int]) -> list[int]:
        end = self.end_of_text_id
        return tokens[: tokens.index(end)] if end in tokens else tokens

"""Continuing texts with transformers' `generate`: any number of prompts, of any length, beyond the context.

A text depends on its prompt and its seed alone (but for the rounding of matrix products of another size): not on
the texts that are drawn with it, and not on torch's global generator, which is left as it is.
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
        # Imported here: a run that samples nothing does not need transformers.
        from gpt2dist.generation.texts import continue_texts

        tokens = [list(prompt) or [self.end_of_text_id] for prompt in prompts]
        continued = continue_texts(self, tokens, seeds, how, run_on, on_tokens)
        return [self._until_the_end(row) for row in continued]

    def _until_the_end(self, tokens: list[int]) -> list[int]:
        end = self.end_of_text_id
        return tokens[: tokens.index(end)] if end in tokens else tokens

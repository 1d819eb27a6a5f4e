"""The output layer: from the last hidden states to logits or to the loss."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor, nn

from gpt2dist.model.chunks import chunk_rows
from gpt2dist.model.loss import chunked_nll, each_nll, token_nll

Loss = Literal["plain", "chunked", "auto"]
T = TypeVar("T")


class Head(nn.Module):
    """GPT-2's output layer, tied to the embedding.

    The module that owns the weight also computes the loss, because ZeRO stage 3 gathers a parameter only for the
    forward and backward passes of its module.

    Args:
        weight: [rows, D], the embedding. Rows from `vocab_size` on are padding and are not used.
        vocab_size: Size of the vocabulary without padding.
        loss: "plain" holds the logits of a whole micro-batch, "chunked" those of a few hundred tokens at a time.
            "auto" is chunked on a CPU, where that is not slower at any size and needs a third of the memory
            (docs/log.md). On GPUs, where speed is not measured, memory decides: it is chunked for micro-batches
            of more than one chunk.

    Attributes:
        product: Faster replacement of the weight for scoring; see `use_onednn`.
        chunked_nll: The chunked loss; a `functools.partial` of it may set the size of its chunks.
    """

    def __init__(self, weight: nn.Parameter, vocab_size: int, loss: Loss = "auto"):
        super().__init__()
        self.weight = weight
        self.vocab_size = vocab_size
        self.loss = loss
        self.product: nn.Module | None = None
        self.chunked_nll: Callable[..., Tensor] = chunked_nll

    @overload
    def forward(self, hidden: Tensor) -> Tensor: ...
    @overload
    def forward(self, hidden: Tensor, compute: Callable[[Tensor], T]) -> T: ...
    def forward(self, hidden: Tensor, compute: Callable[[Tensor], Any] | None = None) -> Any:
        """Return `compute(hidden)` of hidden states [B, L, D]; by default the logits, as transformers' models do.

        ZeRO stage 3 gathers the weight around this method only, so the methods below go through it.
        """
        return (compute or self._logits)(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [B, L, V] of hidden states [B, L, D]."""
        return self(hidden, self._logits)

    def nll_sum(self, hidden: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        """Return Σ nll over the counted targets, a scalar in fp32.

        Args:
            hidden: [B, L, D], any floating dtype.
            targets: [B, L] int64.
            counted: [B, L] bool, which targets are in the loss.
        """
        return self(hidden, partial(self._nll_sum, targets=targets, counted=counted))

    def each_nll(self, hidden: Tensor, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Score each target; the arguments are those of `nll_sum`, the result that of `loss.each_nll`."""
        return self(hidden, partial(self._each_nll, targets=targets, counted=counted))

    def _logits(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight)[..., : self.vocab_size]

    def _each_nll(self, hidden: Tensor, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
        return each_nll(hidden, self.product or self._product, targets, counted, chunk_rows(self.vocab_size))

    def _product(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight[: self.vocab_size])

    def _nll_sum(self, hidden: Tensor, targets: Tensor, counted: Tensor) -> Tensor:
        if self._in_chunks(hidden):
            return self.chunked_nll(hidden, self.weight, targets, counted, self.vocab_size)
        # A bias excludes the padding. Slicing would copy the logits.
        without_padding = hidden.new_zeros(len(self.weight), dtype=self.weight.dtype)
        without_padding[self.vocab_size :] = -torch.inf
        logits = nn.functional.linear(hidden, self.weight, without_padding)
        return token_nll(logits, targets).masked_fill(~counted, 0.0).sum()

    def _in_chunks(self, hidden: Tensor) -> bool:
        if self.loss == "auto":
            return hidden.device.type == "cpu" or hidden[..., 0].numel() > chunk_rows(len(self.weight))
        return self.loss == "chunked"

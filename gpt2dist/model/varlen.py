"""Attention within documents by torch's kernel for sequences of different lengths, which needs no mask.

A mask excludes flash attention. `varlen_attn` of torch is flash attention for documents that are laid end to end.
"""

from typing import Any

import torch
from torch import Tensor


def document_borders(tokens: Tensor, document_separator_id: int) -> Tensor:
    """Return the borders of the documents of a micro-batch whose rows are laid end to end.

    A document starts at the start of a row and at each separator. The number of documents N is rounded up to a
    power of two by empty ones at the end, so that torch.compile meets few sizes.

    Args:
        tokens: [B, L], any integer dtype.
        document_separator_id: The token that starts a document.

    Returns:
        [N + 1] int32: document i consists of the tokens from borders[i] up to borders[i + 1].
    """
    starts = tokens.int() == document_separator_id
    starts[:, 0] = True
    begins = starts.flatten().nonzero().flatten()
    documents = 1 << (len(begins) - 1).bit_length()
    borders = torch.full((documents + 1,), tokens.numel(), dtype=torch.int32, device=tokens.device)
    borders[: len(begins)] = begins
    return borders


def varlen_attention(query: Tensor, key: Tensor, value: Tensor, borders: Tensor) -> Tensor:
    """Attend causally within documents, on a CUDA device in 16 bits.

    Args:
        query: [B, H, L, d], as are key and value.
        key: The keys.
        value: The values.
        borders: The result of `document_borders`, on the device.

    Returns:
        [B, L, H, d].
    """
    from torch.nn.attention.varlen import varlen_attn

    batch, _, length, width = query.shape
    # [B·L, H, d]. The bound of a document's length is a constant, since the host does not know the longest.
    query, key, value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))
    out: Any = varlen_attn(
        query, key, value, borders, borders, length, length, scale=width**-0.5, window_size=(-1, 0)
    )
    return out.view(batch, length, *out.shape[1:])

"""Plain attention as the kernel of torch's `varlen_attn`, which needs a GPU."""

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


@contextlib.contextmanager
def varlen_on_cpu() -> Iterator[list[Tensor]]:
    """Lets torch's `varlen_attn` and its gradient run on a CPU, and yields the borders of each forward call."""
    calls: list[Tensor] = []

    def forward(*args: Any, **options: Any) -> tuple[Tensor, ...]:
        query, key, value, borders, *_ = args
        calls.append(borders)
        out, unused = torch.empty_like(query), torch.empty(0)
        for document in _documents(*args, **options):
            weights = _weights(query[document], key[document], options["scale"])
            out[document] = (weights @ value[document].transpose(0, 1)).transpose(0, 1)
        return out, torch.empty(query.shape[1], len(query)), unused, unused, unused

    def backward(grad: Tensor, *args: Any, **options: Any) -> tuple[Tensor, ...]:
        """Follows Dao et al. 2022 (FlashAttention), appendix B.4."""
        query, key, value, out, _, *rest = args
        borders, borders_k, max_q, max_k, dropout, causal, *_ = rest
        checked = query, key, value, borders, borders_k, max_q, max_k, dropout, causal
        gradients = tuple(torch.empty_like(part) for part in (query, key, value))
        for document in _documents(*checked, **options):
            weights = _weights(query[document], key[document], options["scale"])
            q, k, v, o, do = (part[document].transpose(0, 1) for part in (query, key, value, out, grad))
            scores = weights * (do @ v.mT - (do * o).sum(-1, keepdim=True)) * options["scale"]
            for gradient, part in zip(gradients, (scores @ k, scores.mT @ q, weights.mT @ do), strict=True):
                gradient[document] = part.transpose(0, 1)
        return gradients

    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", forward, "CPU")
    library.impl("_flash_attention_backward", backward, "CPU")
    try:
        yield calls
    finally:
        library._destroy()


def _documents(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    borders: Tensor,
    borders_k: Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    causal: bool,
    *unset: Any,
    **options: Any,
) -> Iterator[slice]:
    """Yields each document, and refuses what would make the kernel read out of bounds, or compute something else.

    Args:
        query: [T, H, d], as are key and value: the documents end to end.
        key: The keys.
        value: The values.
        borders: [N + 1] int32, where the documents begin and end.
        borders_k: The same of the keys.
        max_q: A bound of their lengths.
        max_k: The same of the keys.
        dropout: Must be 0.
        causal: Must be true.
        unset: Other options, which must not be set either.
        options: Nothing but a scale and a causal window may be set.
    """
    assert causal and not dropout and options.pop("scale")
    assert (options.pop("window_size_left"), options.pop("window_size_right")) == (-1, 0)
    assert not any((*unset, *options.values()))
    assert query.dim() == 3 and query.shape == key.shape == value.shape
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
    assert borders.dtype == borders_k.dtype == torch.int32 and torch.equal(borders, borders_k)
    assert borders[0] == 0 and borders[-1] == len(query)
    for begin, end in itertools.pairwise(borders.tolist()):
        assert 0 <= end - begin <= min(max_q, max_k)
        yield slice(begin, end)


def _weights(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """The weights [H, l, l] with which the tokens of a document attend to it."""
    scores = query.transpose(0, 1) @ key.transpose(0, 1).mT * scale
    return scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf).softmax(-1)

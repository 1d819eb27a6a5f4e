"""Loss: negative log-likelihoods of shifted targets, summed or per target, but never averaged.

Two functions give the same sum. `token_nll` is the plain one. `chunked_nll` holds the logits of only a few
hundred tokens at a time; with GPT-2's vocabulary, logits are by far the largest tensors of a training step.
`each_nll`, which evaluation uses, also works in chunks.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2dist.model.chunks import chunk_rows


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target, in nats.

    Args:
        logits: [B, L, V], any floating dtype; the softmax is computed in fp32.
        targets: [B, L] int64.

    Returns:
        [B, L] fp32.
    """
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def counted_mask(targets: Tensor, counted_from: Tensor, counted_to: Tensor) -> Tensor:
    """Return which targets are in the loss: [B, L] bool, true from `counted_from` [B] up to `counted_to` [B]."""
    place = torch.arange(targets.shape[1], device=targets.device)
    return (place >= counted_from[:, None]) & (place < counted_to[:, None])


def chunked_nll(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    counted: Tensor,
    vocab_size: int,
    rows: int | None = None,
    in_place: bool = False,
) -> Tensor:
    """Return Σ nll over the counted targets, directly from the last hidden states.

    `torch.nn.functional.linear_cross_entropy` does the same, but returns the sum in the dtype of its input: in
    bf16 it has three digits, and in fp16 it overflows at 65504 nats. Here, sums are fp32 for any input dtype.

    Args:
        hidden: [B, L, D], any floating dtype; cast under autocast as in a linear layer.
        weight: [rows, D], the output layer; rows from `vocab_size` on are padding.
        targets: [B, L] int64.
        counted: [B, L] bool.
        vocab_size: Number of token ids. The padding is ignored, and its gradient is exactly zero.
        rows: Number of tokens per chunk; None takes `chunk_rows`, whose size is the fastest on CPUs.
        in_place: Whether to add each chunk's part of the weight's gradient within the matrix product, without a
            tensor for the part. It matters on GPUs in 16 bits only: in fp32 it is always so, and a CPU has no
            such product of 16-bit matrices. Under torch.compile it has no effect.

    Returns:
        Scalar fp32.
    """
    rows = rows or chunk_rows(len(weight))
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    with torch.autocast(device, enabled=False):
        flat = hidden.flatten(0, -2), weight, targets.flatten(), counted.flatten()
        return _ChunkedNll.apply(*flat, vocab_size, rows, in_place)


@torch.no_grad()
def each_nll(
    hidden: Tensor, product: Callable[[Tensor], Tensor], targets: Tensor, counted: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    """Return the nll of each counted target, and whether it is the likeliest token.

    Only counted targets are computed. If windows overlap by half, this halves the work of the output layer.

    Args:
        hidden: [B, L, D], any floating dtype.
        product: The output layer without padding, which maps [n, D] to logits [n, V] in a new tensor.
        targets: [B, L] int64.
        counted: [B, L] bool.
        rows: Number of tokens per chunk.

    Returns:
        Negative log-likelihoods in nats, [B, L] fp32, 0 where not counted; and [B, L] bool, true where no
        token is likelier than the target, or the target is not counted.
    """
    nll = torch.zeros(targets.shape, dtype=torch.float32, device=targets.device)
    greedy = torch.ones_like(counted)
    places = counted.nonzero(as_tuple=True)  # once, because the host waits for a GPU to count them
    pieces = zip(hidden[places].split(rows), targets[places].split(rows), strict=True)
    parts = [_nll_of_rows(product(part).float(), target) for part, target in pieces]
    nll[places], greedy[places] = (torch.cat(part) for part in zip(*parts, strict=True))
    return nll, greedy


def _nll_of_rows(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nll of targets [n], and whether no token is likelier; overwrites the logits [n, V] fp32."""
    of_target = logits.gather(1, targets[:, None]).squeeze(1)
    highest = logits.amax(1)
    logarithm = logits.sub_(highest[:, None]).exp_().sum(1).log_()
    return logarithm + highest - of_target, of_target == highest


class _ChunkedNll(torch.autograd.Function):
    """Σ nll, with gradients computed chunk by chunk in the forward pass, while the logits exist.

    This costs three matrix products, as the plain loss does. Recomputing logits in the backward pass costs four.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        counted: Tensor,
        vocab_size: int,
        rows: int,
        in_place: bool,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        nll = torch.zeros((), dtype=torch.float32, device=hidden.device)
        ctx.dtype = weight.dtype
        grad_hidden = torch.empty_like(hidden) if wanted else None
        # In 16 bits, the sum over many chunks would lose small terms.
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if wanted else None
        for begin in range(0, len(hidden), rows):
            chunk = slice(begin, begin + rows)
            part, target, mask = hidden[chunk], targets[chunk, None], counted[chunk, None]
            logits = (part @ weight.T).float()
            logits[:, vocab_size:] = -torch.inf  # probability and gradient are 0 there
            log_softmax = logits.log_softmax(1)
            # Not in place: compiled by torch 2.11, an output that is changed in place silently has no gradient.
            nll = nll - log_softmax.gather(1, target).masked_fill(~mask, 0.0).sum()
            if grad_hidden is not None and grad_weight is not None:
                # d nll / d logits = softmax − one-hot. The mask is applied to tensors of width D, not V.
                one = torch.ones_like(target, dtype=log_softmax.dtype)
                grad = log_softmax.exp_().scatter_add_(1, target, -one).to(part.dtype)
                grad_hidden[chunk] = (grad @ weight) * mask
                _add_product(grad_weight, grad.T, part * mask, in_place)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return nll

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * grad, (grad_weight * grad).to(ctx.dtype), None, None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor, in_place: bool) -> None:
    """Add the matrix product of two tensors of any dtype to an fp32 tensor."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif left.device.type != "cuda":
        total += left @ right
    # On a GPU, the product stays in fp32, in which it is summed anyway. Inductor has no `addmm` in two dtypes.
    elif in_place and not torch.compiler.is_compiling():
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += torch.mm(left, right, out_dtype=total.dtype)

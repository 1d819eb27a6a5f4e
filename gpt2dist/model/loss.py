"""The loss: negative log-likelihoods of shifted targets, summed, never averaged here."""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, in nats.

    Args:
        logits: [B, L, V], any floating dtype; the softmax is computed in fp32.
        targets: [B, L] int64.

    Returns:
        [B, L] fp32.
    """
    flat = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def counted_mask(targets: Tensor, counted_from: Tensor, counted_to: Tensor) -> Tensor:
    """Which targets are in the loss: [B, L] bool, true from `counted_from` [B] up to `counted_to` [B]."""
    place = torch.arange(targets.shape[1], device=targets.device)
    return (place >= counted_from[:, None]) & (place < counted_to[:, None])

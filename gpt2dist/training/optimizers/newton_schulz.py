"""Orthogonalize matrices by Newton–Schulz iterations, in batches of equal shape."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b and c of aX + b(XXᵀ)X + c(XXᵀ)²X, as in Jordan et al. 2024 and torch.optim.Muon."""
EPS = 1e-7
"""Least norm that a matrix is divided by, so that a zero matrix stays zero; as in torch.optim.Muon."""
BATCH_ELEMENTS = 2**24
"""Elements of a batch, which bounds its memory: about four times as many are in use at a time."""


def newton_schulz(matrices: Tensor, steps: int) -> Tensor:
    """Orthogonalize matrices approximately: UΣVᵀ becomes UΣ'Vᵀ with singular values near 1.

    After five steps, the singular values are between about 0.7 and 1.2, apart from those that are very small
    compared with the norm of the matrix.

    Args:
        matrices: [B, m, n] with m ≤ n, in the data type in which to compute.
        steps: Number of iterations.

    Returns:
        [B, m, n] of the same data type.
    """
    a, b, c = COEFFICIENTS
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True)
    x = matrices / norms.clamp(min=EPS)  # no singular value exceeds 1
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def orthogonalize(matrices: Sequence[Tensor], steps: int) -> list[Tensor]:
    """Orthogonalize matrices [B, m, n] of any shapes, those of equal shape together.

    Args:
        matrices: Batches of matrices, each of which may have more rows than columns.
        steps: Number of iterations.

    Returns:
        Tensors of the same shapes, in the same order.
    """
    wide = [each if each.shape[1] <= each.shape[2] else each.mT for each in matrices]
    results = dict[int, Tensor]()
    for batch in _batches(wide):
        joined = newton_schulz(torch.cat([wide[number] for number in batch]), steps)
        results |= zip(batch, joined.split([len(wide[number]) for number in batch]), strict=True)
    return [
        results[number] if each is wide[number] else results[number].mT for number, each in enumerate(matrices)
    ]


def _batches(matrices: Sequence[Tensor]) -> Iterable[list[int]]:
    """Yield the places of matrices of one shape, of at most BATCH_ELEMENTS unless a single one has more."""
    by_shape: dict[torch.Size, list[int]] = {}
    for number, each in enumerate(matrices):
        by_shape.setdefault(each.shape[1:], []).append(number)
    for numbers in by_shape.values():
        batch: list[int] = []
        elements = 0
        for number in numbers:
            if batch and elements + matrices[number].numel() > BATCH_ELEMENTS:
                yield batch
                batch, elements = [], 0
            batch.append(number)
            elements += matrices[number].numel()
        yield batch

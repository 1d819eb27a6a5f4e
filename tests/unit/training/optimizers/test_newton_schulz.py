"""Newton–Schulz against singular values in fp64, and against torch's own."""

import pytest
import torch

from gpt2dist.training.optimizers import newton_schulz
from gpt2dist.training.optimizers.newton_schulz import orthogonalize
from tests.support.plain_muon import newton_schulz_in_fp32

SHAPES = [(8, 8), (8, 32), (32, 8), (25, 75), (1, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 0.01), (torch.bfloat16, 0.05)])
def test_singular_values_become_near_1_and_vectors_stay(shape, dtype, slack):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    s = s.clamp(min=s.max() / 20)  # values that five steps bring near 1
    (found,) = orthogonalize([((u * s) @ v)[None].to(dtype)], 5)
    inside = u.mT @ found[0].double() @ v.mT  # diagonal, if the singular vectors are kept
    values = inside.diagonal()
    assert found.dtype == dtype and found.shape == (1, *shape)
    assert values.min() > 0.68 - slack and values.max() < 1.21 + slack
    assert (inside - values.diag()).abs().max() < slack
    assert (found[0].double() - u @ inside @ v).abs().max() < slack  # nothing outside of their span


def test_is_torchs_apart_from_rounding():
    torch.manual_seed(0)
    matrices = [torch.randn(shape) for shape in SHAPES * 2]
    for ours, matrix in zip(orthogonalize([each[None] for each in matrices], 5), matrices, strict=True):
        assert (ours[0] - newton_schulz_in_fp32(matrix, newton_schulz.COEFFICIENTS, 5, 1e-7)).abs().max() < 1e-5
    matrix = torch.randn(16, 24)
    theirs = torch.optim._muon._zeropower_via_newtonschulz(matrix, newton_schulz.COEFFICIENTS, 5, 1e-7)
    (ours,) = orthogonalize([matrix.bfloat16()[None]], 5)
    assert (ours[0] - theirs).abs().max() < 0.05


def test_batches_are_bounded_and_do_not_change_the_result(monkeypatch):
    torch.manual_seed(0)
    matrices = [torch.randn(parts, 6, 4) for parts in (3, 1, 1, 2)]
    whole = orthogonalize(matrices, 5)
    monkeypatch.setattr(newton_schulz, "BATCH_ELEMENTS", 48)
    assert [len(batch) for batch in newton_schulz._batches(matrices)] == [1, 2, 1]
    for ours, theirs in zip(orthogonalize(matrices, 5), whole, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_zero_matrix_stays_zero():
    assert not orthogonalize([torch.zeros(1, 3, 4)], 5)[0].any()

import math

import torch

from gpt2dist.model.loss import counted_mask, token_nll


def test_nll_by_hand():
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(7), 0.0]]])
    nll = token_nll(logits, torch.tensor([[1, 1]]))
    torch.testing.assert_close(nll, torch.tensor([[math.log(4 / 3), math.log(8)]]))


def test_the_softmax_is_computed_in_fp32_whatever_the_logits_are():
    logits = torch.randn(2, 3, 1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.tensor([[1, 2, 3], [4, 5, 6]])
    nll = token_nll(logits, targets)
    exact = -logits.double().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)
    assert nll.dtype == torch.float32
    torch.testing.assert_close(nll.double(), exact, atol=1e-5, rtol=0)


def test_bounds_are_half_open_and_may_be_empty():
    mask = counted_mask(torch.zeros(4, 5), torch.tensor([0, 2, 5, 3]), torch.tensor([5, 4, 5, 3]))
    assert mask.int().tolist() == [[1, 1, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]

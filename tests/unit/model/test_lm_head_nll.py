"""What evaluation scores with: the nll of each target, against torch's cross-entropy in fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gpt2dist.model import chunks
from gpt2dist.model.lm_head import Head
from gpt2dist.model.onednn import OneDnnLinear

WIDTH, VOCAB, PADDED = 16, 100, 128
CHUNK = 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 8 tokens: those of a batch below are several and a rest."""
    monkeypatch.setattr(chunks, "ROWS_MULTIPLE", CHUNK)
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", CHUNK * VOCAB)


def batch(rows=3, length=14, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, WIDTH, generator=draw) * scale
    weight = torch.randn(PADDED, WIDTH, generator=draw)
    weight[VOCAB:] *= 100  # whatever stands in the padding takes no part
    targets = torch.randint(0, VOCAB, (rows, length), generator=draw)
    targets[0, 0], targets[0, 1] = 0, VOCAB - 1
    targets[1] = (hidden[1] @ weight[:VOCAB].T).argmax(-1)
    return hidden, weight, targets, torch.rand(rows, length, generator=draw) < 0.7


def each(hidden, weight, targets, counted, onednn=False):
    head = Head(nn.Parameter(weight), VOCAB)
    if onednn:
        head.product = OneDnnLinear(weight[:VOCAB])
    return head.each_nll(hidden, targets, counted)


def exactly(hidden, weight, targets):
    """By torch in fp64, of the very numbers that are given."""
    logits = hidden.double() @ weight[:VOCAB].double().T
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view(targets.shape), logits.argmax(-1) == targets


@pytest.mark.parametrize("onednn", [False, True])
def test_in_fp32(onednn):
    hidden, weight, targets, counted = batch()
    nll, greedy = each(hidden, weight, targets, counted, onednn)
    exact, hits = exactly(hidden, weight, targets)
    assert (nll.dtype, greedy.dtype) == (torch.float32, torch.bool)
    torch.testing.assert_close(nll[counted].double(), exact[counted], rtol=1e-5, atol=1e-5)
    assert torch.equal(greedy[counted], hits[counted])
    assert greedy[1].all() and not greedy[counted].all(), "both kinds are there"


def test_what_is_not_counted_costs_nothing_and_stands_in_no_ones_way():
    hidden, weight, targets, counted = batch()
    nll, greedy = each(hidden, weight, targets, counted)
    assert (nll[~counted] == 0).all() and greedy[~counted].all()
    hidden[~counted] = torch.nan
    again = each(hidden, weight, targets, counted)
    assert torch.equal(again[0], nll) and torch.equal(again[1], greedy)


@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("shape", [(3, 14), (1, 1), (2, 0)])
def test_nothing_counted(shape, onednn):
    hidden, weight = torch.randn(*shape, WIDTH), torch.randn(PADDED, WIDTH)
    targets = torch.zeros(shape, dtype=torch.int64)
    nll, greedy = each(hidden, weight, targets, torch.zeros(shape, dtype=torch.bool), onednn)
    assert nll.shape == greedy.shape == shape
    assert (nll == 0).all() and greedy.all()


@pytest.mark.parametrize("count", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 2])
def test_any_number_of_rows_against_a_chunk(count):
    hidden, weight, targets, _ = batch()
    counted = (torch.arange(targets.numel()) < count).view(targets.shape)
    nll, _ = each(hidden, weight, targets, counted)
    exact, _ = exactly(hidden, weight, targets)
    torch.testing.assert_close(nll[counted].double(), exact[counted], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_only_the_logits_are_rounded(dtype):
    hidden, weight, targets, counted = batch()
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    nll, _ = each(hidden, weight, targets, counted)
    exact, _ = exactly(hidden, weight, targets)
    largest = (hidden.double() @ weight[:VOCAB].double().T).abs().max().item()
    assert nll.dtype == torch.float32
    assert (nll[counted] - exact[counted]).abs().max() < 2 * torch.finfo(dtype).eps * largest


def test_under_autocast_it_is_what_a_linear_layer_and_cross_entropy_are():
    hidden, weight, targets, counted = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nll, greedy = each(hidden, weight, targets, counted)
        logits = F.linear(hidden[counted], weight[:VOCAB])
    assert logits.dtype == torch.bfloat16
    expected = F.cross_entropy(logits.float(), targets[counted], reduction="none")
    torch.testing.assert_close(nll[counted], expected, rtol=1e-5, atol=2**-7 * logits.abs().max().item())
    likeliest = logits.amax(1) == logits.gather(1, targets[counted][:, None]).squeeze(1)
    assert (greedy[counted] == likeliest).float().mean() > 0.95  # products of other sizes round apart


def test_the_likeliest_may_be_one_of_several():
    weight = torch.zeros(PADDED, WIDTH)
    weight[[3, 7], 0] = 1.0
    hidden = torch.zeros(1, 3, WIDTH)
    hidden[..., 0] = 5.0
    _, greedy = each(hidden, weight, torch.tensor([[3, 7, 4]]), torch.ones(1, 3, dtype=torch.bool))
    assert greedy.tolist() == [[True, True, False]]


def test_logits_too_large_for_an_exponential():
    hidden, weight, targets, counted = batch(scale=1e4)
    nll, _ = each(hidden, weight, targets, counted)
    exact, _ = exactly(hidden, weight, targets)
    assert exact.max() > 1e4 and torch.isfinite(nll).all()
    torch.testing.assert_close(nll[counted].double(), exact[counted], rtol=1e-5, atol=0.1)


def test_a_model_that_has_diverged_is_seen():
    hidden, weight, targets, counted = batch()
    hidden[2, 3], counted[2, 3] = torch.nan, True
    nll, greedy = each(hidden, weight, targets, counted)
    assert nll[2, 3].isnan() and not greedy[2, 3]
    assert nll.isnan().sum() == 1


def test_the_sum_is_that_of_the_loss():
    hidden, weight, targets, counted = batch()
    for loss in ("plain", "chunked"):
        expected = Head(nn.Parameter(weight), VOCAB, loss).nll_sum(hidden, targets, counted)
        torch.testing.assert_close(each(hidden, weight, targets, counted)[0].sum(), expected.detach())

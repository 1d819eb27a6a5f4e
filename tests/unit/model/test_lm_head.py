"""The chunked loss is the plain one, and both are what fp64 says."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gpt2dist.model import chunks
from gpt2dist.model.lm_head import Head
from gpt2dist.model.loss import chunked_nll

WIDTH, VOCAB, PADDED = 16, 100, 128
BEYOND_FP16 = 65504


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 8 tokens: the 42 of a batch below are five and a rest."""
    monkeypatch.setattr(chunks, "ROWS_MULTIPLE", 8)
    monkeypatch.setattr(chunks, "LOGITS_PER_CHUNK", 8 * PADDED)


def batch(rows=3, length=14, scale=1.0):
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, length, WIDTH, generator=draw) * scale
    weight = torch.randn(PADDED, WIDTH, generator=draw)  # whatever stands in the padding takes no part
    targets = torch.randint(0, VOCAB, (rows, length), generator=draw)
    targets[0, 0], targets[0, 1] = 0, VOCAB - 1
    return hidden, weight, targets, torch.rand(rows, length, generator=draw) < 0.7


def computed(loss, hidden, weight, targets, counted, factor=1.0, **chunking):
    """Σ nll and the gradients of `factor` × it, by hidden state and weight."""
    head = Head(nn.Parameter(weight.clone()), VOCAB, loss)
    head.chunked_nll = partial(chunked_nll, **chunking)
    hidden = hidden.clone().requires_grad_()
    nll = head.nll_sum(hidden, targets, counted)
    (nll * factor).backward()
    return nll.detach(), hidden.grad, head.weight.grad


def in_double_precision(hidden, weight, targets, counted):
    hidden, weight = hidden.double().requires_grad_(), weight.double().requires_grad_()
    logits = hidden @ weight[:VOCAB].T
    labels = targets.where(counted, -100)
    nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    nll.backward()
    return nll.detach(), hidden.grad, weight.grad


@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_sum_and_gradients_in_fp32(loss):
    ours, exact = computed(loss, *batch()), in_double_precision(*batch())
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["plain", "chunked"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sum_and_gradients_in_16_bits(loss, dtype):
    hidden, weight, targets, counted = batch()
    rounded = hidden.to(dtype), weight.to(dtype), targets, counted
    ours, exact = computed(loss, *rounded), in_double_precision(*rounded)
    assert [a.dtype for a in ours] == [torch.float32, dtype, dtype]
    digits = torch.finfo(dtype).eps
    assert ours[0].item() == pytest.approx(exact[0].item(), rel=digits)
    for a, b in zip(ours[1:], exact[1:], strict=True):
        assert (a.double() - b).norm() < 2 * digits * b.norm()


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("rows", [None, 1, 5, 41, 42, 1000])
def test_chunks_of_any_size(rows, in_place):
    for dtype, digits in ((torch.float32, 1e-6), (torch.bfloat16, 2 * torch.finfo(torch.bfloat16).eps)):
        hidden, weight, targets, counted = batch()
        rounded = hidden.to(dtype), weight.to(dtype), targets, counted
        ours = computed("chunked", *rounded, rows=rows, in_place=in_place)
        for a, b in zip(ours, in_double_precision(*rounded), strict=True):
            assert (a.double() - b).norm() < digits * b.norm()


def test_a_chunk_has_the_given_number_of_tokens(monkeypatch):
    sizes, log_softmax = [], torch.Tensor.log_softmax
    monkeypatch.setattr(torch.Tensor, "log_softmax", lambda x, dim: sizes.append(len(x)) or log_softmax(x, dim))
    computed("chunked", *batch())
    computed("chunked", *batch(), rows=40)
    assert sizes == [8, 8, 8, 8, 8, 2, 40, 2]


def test_the_sum_does_not_end_where_16_bits_end():
    hidden, weight, targets, counted = batch(rows=4, length=64, scale=100.0)
    for dtype in (torch.bfloat16, torch.float16):
        rounded = hidden.to(dtype), weight.to(dtype), targets, counted
        (nll, *_), (exact, *_) = computed("chunked", *rounded), in_double_precision(*rounded)
        assert exact > BEYOND_FP16 and nll.item() == pytest.approx(exact.item(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_it_is_what_the_plain_loss_is(dtype):
    hidden, weight, targets, counted = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = computed("chunked", hidden.to(dtype), weight, targets, counted)
        plain = computed("plain", hidden.to(dtype), weight, targets, counted)
    assert [a.dtype for a in ours] == [a.dtype for a in plain] == [torch.float32, dtype, torch.float32]
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


def test_the_upstream_gradient_scales_ours():
    _, hidden, weight = computed("chunked", *batch())
    _, scaled_hidden, scaled_weight = computed("chunked", *batch(), factor=0.125)
    assert torch.equal(scaled_hidden, hidden / 8) and torch.equal(scaled_weight, weight / 8)


@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_padding_and_uncounted_targets_have_no_gradient_at_all(loss):
    hidden, weight, targets, counted = batch()
    _, grad_hidden, grad_weight = computed(loss, hidden, weight, targets, counted)
    assert torch.all(grad_weight[VOCAB:] == 0) and torch.all(grad_weight[:VOCAB].abs().sum(1) > 0)
    assert torch.all(grad_hidden[~counted] == 0) and torch.all(grad_hidden[counted].abs().sum(1) > 0)


@pytest.mark.parametrize("loss", ["plain", "chunked"])
def test_nothing_counted_is_nothing(loss):
    hidden, weight, targets, counted = batch()
    for each in computed(loss, hidden, weight, targets, torch.zeros_like(counted)):
        assert torch.all(each == 0)


def test_without_gradients_none_are_computed():
    hidden, weight, targets, counted = batch()
    expected = computed("chunked", hidden, weight, targets, counted)[0]
    with torch.no_grad():
        assert torch.equal(
            Head(nn.Parameter(weight), VOCAB, "chunked").nll_sum(hidden, targets, counted), expected
        )


@pytest.mark.parametrize(
    ("device", "tokens", "chunked"), [("cpu", 1, True), ("meta", 8, False), ("meta", 9, True)]
)
def test_auto_goes_by_the_device_and_what_a_chunk_holds(monkeypatch, device, tokens, chunked):
    calls = []
    monkeypatch.setattr("gpt2dist.model.lm_head.chunked_nll", lambda *each: calls.append(1) or torch.zeros(()))
    hidden, weight, targets, counted = (each.to(device) for each in batch(rows=1, length=tokens + 1))
    Head(nn.Parameter(weight), VOCAB, "auto").nll_sum(hidden[:, 1:], targets[:, 1:], counted[:, 1:])
    assert bool(calls) == chunked


def test_logits_have_no_padding():
    hidden, weight, *_ = batch()
    torch.testing.assert_close(Head(nn.Parameter(weight), VOCAB)(hidden), hidden @ weight[:VOCAB].T)

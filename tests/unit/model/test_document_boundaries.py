"""document_boundaries: isolate. A packed window is the same as its documents, each run by itself."""

import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from gpt2dist.model.gpt2 import LanguageModel, segment_positions
from gpt2dist.model.shape import Shape
from gpt2dist.model.varlen import document_borders
from tests.support.varlen_on_cpu import varlen_on_cpu

SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, context_length=40, vocab_size=100)
END = 99

WINDOWS = {
    "no border": [5] * 40,
    "a border first": [END] + [3] * 39,
    "a border last": [3] * 39 + [END],
    "borders in a row": [1, 2, END, END, END, 4] + [7] * 34,
    "only borders": [END] * 40,
    **{f"random {seed}": random.Random(seed).choices([*range(20), END], k=40) for seed in range(6)},
}


def model(isolate=True, **options):
    return LanguageModel(SHAPE, END, seed=1, isolate=isolate, **options)


def documents(row):
    """The stretches of a window that begin at its start and at each end-of-text."""
    starts = sorted({0, *(place for place, token in enumerate(row) if token == END)})
    return [row[begin:end] for begin, end in zip(starts, [*starts[1:], len(row)], strict=True)]


def test_positions():
    row = torch.tensor([[7, 8, END, 9, END, END, 1], [END, 1, 2, 3, 4, 5, 6]])
    assert segment_positions(row, END).tolist() == [[0, 1, 0, 1, 0, 0, 1], [0, 1, 2, 3, 4, 5, 6]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", WINDOWS)
def test_logits_are_those_of_the_documents_apart(name, attention):
    # Two rows: one batch can hold windows with and without borders.
    rows = [WINDOWS[name], WINDOWS["no border"]]
    packed = model(attention=attention).eval().logits(torch.tensor(rows))
    plain = model(isolate=False, attention=attention).eval()
    for row, ours in zip(rows, packed, strict=True):
        apart = torch.cat([plain.logits(torch.tensor([document]))[0] for document in documents(row)])
        assert (ours - apart).abs().max() < 1e-5


@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}, {"attention": "eager"}])
def test_loss_and_gradients_are_those_of_the_documents_apart(options):
    draw = random.Random(7)
    windows = [draw.choices([*range(20), END], k=41) for _ in range(3)]
    ours, plain = model(**options).train(), model(isolate=False).train()
    begin, end = torch.tensor([0, 11, 39]), torch.tensor([40, 40, 40])
    loss = ours.nll_sum(torch.tensor(windows), begin, end)
    loss.backward()
    expected = torch.zeros(())
    for window, first in zip(windows, begin.tolist(), strict=True):
        place = 0
        for document in documents(window[:-1]):
            targets = torch.tensor(window[place + 1 : place + len(document) + 1])
            targets[: max(first - place, 0)] = -100
            logits = plain.logits(torch.tensor([document]))[0]
            expected = expected + F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
            place += len(document)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for (name, a), (_, b) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-4, rtol=1e-4), name


def test_nothing_is_seen_across_a_border():
    row = torch.tensor([[1, 2, 3, END, 4, 5, 6, END, 7, 8]])
    other = row.clone()
    other[0, 4:7] = torch.tensor([10, 11, 12])
    seen = model().eval()
    first, second = seen.logits(row)[0], seen.logits(other)[0]
    assert torch.equal(first[:4], second[:4]) and torch.equal(first[7:], second[7:])
    assert not torch.allclose(first[4:7], second[4:7])
    packed = model(isolate=False).eval()
    assert not torch.allclose(packed.logits(row)[0][7:], packed.logits(other)[0][7:])


BORDERS = {
    "no separator": ([[5, 5, 5, 5], [5, 5, 5, 5]], [0, 4, 8]),
    "at the start of a row": ([[END, 5, 5, 5], [END, 5, 5, 5]], [0, 4, 8]),
    "within": ([[5, END, 5, 5], [5, 5, 5, END]], [0, 1, 4, 7, 8]),
    "three, rounded up to four": ([[5, 5, END, 5], [5, 5, 5, 5]], [0, 2, 4, 8, 8]),
    "five, rounded up to eight": ([[5, END, END, 5], [5, 5, END, 5]], [0, 1, 2, 4, 6, 8, 8, 8, 8]),
    "only separators": ([[END] * 4] * 2, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    "one token": ([[5]], [0, 1]),
}


@pytest.mark.parametrize("name", BORDERS)
@pytest.mark.parametrize("dtype", [torch.uint16, torch.int32, torch.int64])
def test_borders_of_documents(name, dtype):
    rows, expected = BORDERS[name]
    borders = document_borders(torch.tensor(rows, dtype=dtype), END)
    assert borders.dtype == torch.int32 and borders.tolist() == expected


@pytest.mark.parametrize("name", WINDOWS)
def test_borders_are_those_of_the_mask(name):
    rows = [WINDOWS[name], WINDOWS["random 3"], WINDOWS["no border"]]
    borders = document_borders(torch.tensor(rows), END).tolist()
    expected = [0]
    for row in rows:
        expected += [expected[-1] + end for end in itertools.accumulate(map(len, documents(row)))]
    assert borders[: len(expected)] == expected and set(borders[len(expected) :]) <= {120}
    assert (len(borders) - 1).bit_count() == 1  # a power of two


def loss_and_gradients(batch, borders=True, **options):
    each = model(**options).train()
    tokens, begin, end = batch
    loss = each.nll_sum(tokens, begin, end, each.borders(tokens) if borders else None)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in each.named_parameters()}


def batch(windows):
    rows = torch.tensor([[*windows[name], 7] for name in windows], dtype=torch.uint16)
    return rows, torch.tensor([3] * len(rows)), torch.tensor([40] * len(rows))


@pytest.fixture
def calls():
    with varlen_on_cpu() as calls:
        yield calls


@pytest.mark.parametrize("options", [{}, {"activation_checkpointing": True}, {"loss": "plain"}])
def test_varlen_computes_what_the_mask_does(calls, options):
    masked, expected = loss_and_gradients(batch(WINDOWS), attention="sdpa", **options)
    assert calls == []
    ours, gradients = loss_and_gradients(batch(WINDOWS), attention="varlen", **options)
    assert len(calls) == SHAPE.n_layer * (2 if "activation_checkpointing" in options else 1)
    assert ours == pytest.approx(masked, rel=1e-6)
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).abs().max() < 1e-5 * max(1, expected[name].abs().max()), name


def test_varlen_needs_no_borders(calls):
    """Then it is sdpa with a mask, bit for bit: scores, logits, cached generation and whole windows."""
    row = torch.tensor([WINDOWS["random 1"]])
    for isolate in (True, False):
        ours, plain = (model(isolate=isolate, attention=kernel).eval() for kernel in ("varlen", "sdpa"))
        assert torch.equal(ours.logits(row), plain.logits(row))
        counted = torch.tensor([0]), torch.tensor([39])
        assert torch.equal(ours.score(row, *counted)[0], plain.score(row, *counted)[0])
        assert torch.equal(ours.next_logits(row, DynamicCache()), plain.next_logits(row, DynamicCache()))
    whole = loss_and_gradients(batch(WINDOWS), isolate=False, attention="varlen")
    assert whole[0] == loss_and_gradients(batch(WINDOWS), isolate=False, attention="sdpa")[0]
    assert calls == []


@pytest.mark.parametrize(("attention", "isolate"), [("sdpa", True), ("eager", True), ("varlen", False)])
def test_only_varlen_on_isolated_documents_has_borders(attention, isolate):
    assert model(isolate=isolate, attention=attention).borders(torch.tensor([WINDOWS["random 1"]])) is None


def test_varlen_has_no_dropout(calls):
    with pytest.raises(ValueError, match="no dropout"):
        loss_and_gradients(batch(WINDOWS), attention="varlen", dropout=0.1)
    assert loss_and_gradients(batch(WINDOWS), borders=False, attention="varlen", dropout=0.1)
    assert calls == []

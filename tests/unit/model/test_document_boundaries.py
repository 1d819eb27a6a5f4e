"""document_boundaries: isolate. A packed window is the same as its documents, each run by itself."""

import random

import pytest
import torch
import torch.nn.functional as F

from gpt2dist.model.gpt2 import LanguageModel, segment_positions
from gpt2dist.model.shape import Shape

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

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2dist.dataset.manifest import Totals
from gpt2dist.distributed.world import World
from gpt2dist.evaluation import scoring
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.perplexity import score
from gpt2dist.loading.windows import DocumentWindows, Windows
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.shape import Shape

LENGTH = 8
TOKENS = np.random.default_rng(5).integers(0, 59, 75).astype(np.uint16)
END = 59


@pytest.fixture(scope="module")
def model():
    language_model = LanguageModel(Shape(2, 2, 16, LENGTH, 60), END, seed=4).eval()
    with torch.no_grad():
        for parameter in language_model.parameters():
            parameter.mul_(5)  # far from the uniform model, for which any context would do
    return language_model


class Ranks:
    """Ranks that run one after the other: what each adds is kept, and the last one sees the sum."""

    def __init__(self, size):
        self.size = size
        self.parts = []

    def rank(self, number):
        kept = self.parts

        class Rank(World):
            def sum(self, tensor):
                kept.append(tensor.clone())
                return sum(kept) if number == self.size - 1 else torch.ones_like(tensor)

        return Rank(number, number, self.size, torch.device("cpu"))


def held_out(tokens):
    tokens = np.asarray(tokens, np.uint16)
    documents = int((tokens == END).sum()) + (tokens[-1] != END)
    return HeldOut("text", [tokens], Totals(len(tokens), documents, 10, 5), END, "", "")


def scored(model, tokens=TOKENS, stride=4, batch_size=3, world_size=1, length=LENGTH, **how):
    """Runs every rank; the last one has the result."""
    ranks = Ranks(world_size)
    calls = []
    for rank in range(world_size):

        def forward(*batch):
            calls[-1] += 1
            return model.score(*batch)

        calls.append(0)
        world = ranks.rank(rank)
        result = score(forward, held_out(tokens), length, stride, batch_size, world, **how)
    assert len(set(calls)) == 1, "ranks of a model in parts would wait for each other for ever"
    return result.nll_sum, result.targets


def by_hand(model, tokens, stride):
    """Each token with the context that the first window which predicts it gives; a pass for each."""
    tokens = np.asarray(tokens)
    last_start = max(0, len(tokens) - 1 - LENGTH)
    total = 0.0
    for position in range(1, len(tokens)):
        window = max(0, math.ceil((position - LENGTH) / stride))
        start = min(window * stride, last_start)
        context = torch.from_numpy(tokens[None, start:position].astype(np.int64))
        with torch.no_grad():
            total -= model.logits(context)[0, -1].double().log_softmax(-1)[int(tokens[position])].item()
    return total


@pytest.mark.parametrize("stride", [LENGTH, LENGTH // 2, 3, 1])
@pytest.mark.parametrize("count", [75, LENGTH + 1, LENGTH, 2])
def test_every_target_counts_once_with_the_context_of_its_window(model, stride, count):
    nll, targets = scored(model, TOKENS[:count], stride)
    assert targets == count - 1
    assert nll == pytest.approx(by_hand(model, TOKENS[:count], stride), rel=1e-6)


def test_a_prefix_makes_the_first_token_a_target(model):
    nll, targets = scored(model, prefix=True)
    assert targets == len(TOKENS)
    assert nll == pytest.approx(by_hand(model, [END, *TOKENS], 4), rel=1e-6)


DOCUMENTS = [TOKENS[:30], TOKENS[30:31], TOKENS[31:36], TOKENS[36:]]
PACKED = np.concatenate([part for document in DOCUMENTS for part in (document, [END])])


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("stride", [LENGTH, 3])
def test_documents_are_scored_as_if_each_stood_alone(model, stride, prefix):
    """Which lm-evaluation-harness does with its rolling windows: a prefix, and no end-of-text behind."""
    nll, targets = scored(model, PACKED, stride, prefix=prefix, per_document=True)
    alone = [[END, *document] if prefix else list(document) for document in DOCUMENTS]
    assert targets == sum(len(document) - 1 for document in alone)
    assert nll == pytest.approx(sum(by_hand(model, each, stride) for each in alone if len(each) > 1), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("world_size", [2, 3, 5])
@pytest.mark.parametrize("per_document", [False, True])
def test_the_bits_do_not_depend_on_the_number_of_ranks(model, batch_size, world_size, per_document):
    how = {"batch_size": batch_size, "prefix": per_document, "per_document": per_document}  # 18 or 19 windows
    assert scored(model, PACKED, world_size=world_size, **how) == scored(model, PACKED, **how)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_documents_at_any_number_of_ranks(model, data):
    lengths = data.draw(st.lists(st.integers(1, 3 * LENGTH), min_size=1, max_size=6))
    documents = [TOKENS[:length] for length in lengths]
    packed = np.concatenate([part for document in documents for part in (document, [END])])
    stride = data.draw(st.integers(1, LENGTH))
    size, world_size = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 6))
    nll, targets = scored(model, packed, stride, size, world_size, prefix=True, per_document=True)
    assert targets == sum(lengths)
    assert nll == pytest.approx(sum(by_hand(model, [END, *each], stride) for each in documents), rel=1e-5)


@pytest.mark.parametrize("kind", [Windows, DocumentWindows])
@pytest.mark.parametrize("world_size", [1, 3])
def test_every_rank_hears_of_all_targets_and_looks_up_its_own_windows(model, world_size, kind, monkeypatch):
    looked_up, owned = [], kind.owned
    monkeypatch.setattr(
        kind, "owned", lambda self, indices: looked_up.append(len(indices)) or owned(self, indices)
    )
    text, ranks = held_out(np.where(np.arange(75) % 10 == 0, END, TOKENS)), Ranks(world_size)
    for rank in range(world_size):
        told = []
        looked_up.clear()
        how = {
            "per_document": kind is DocumentWindows,
            "on_batch": lambda *targets, told=told: told.append(targets),
        }
        result = score(model.score, text, LENGTH, 4, 3, ranks.rank(rank), **how)
        assert sum(targets for targets, _ in told) == result.targets
        assert {of for _, of in told} == {result.targets}
        assert looked_up[0] == result.windows  # all once, and then the batches of this rank
        assert len(looked_up) == 1 + len(told) and max(looked_up[1:]) <= 3


def test_a_window_that_is_scored_twice_is_noticed(model, monkeypatch):
    monkeypatch.setattr(scoring, "_longest_first", lambda windows: np.arange(len(windows)) // 2)
    with pytest.raises(RuntimeError, match="a target was not scored exactly once"):
        scored(model)


def test_only_what_is_new_in_a_window_passes_the_output_layer(model, monkeypatch):
    rows = []
    whole = model.gpt2.lm_head.each_nll

    def each_nll(hidden, targets, counted):
        rows.append(int(counted.sum()))
        return whole(hidden, targets, counted)

    monkeypatch.setattr(model.gpt2.lm_head, "each_nll", each_nll)
    scored(model, stride=2)
    assert sum(rows) == len(TOKENS) - 1


def test_batch_sizes_agree(model):
    one, _ = scored(model, batch_size=1)
    for batch_size in (2, 5, 100):
        assert scored(model, batch_size=batch_size)[0] == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize("stride", [LENGTH, LENGTH // 2, LENGTH // 4])
def test_the_strided_recipe_of_transformers_documentation_gives_the_same_sum(model, stride):
    """Its loop; labels are shifted inside, so T + 1 ids have T targets, of which the last are new."""
    ids = torch.from_numpy(TOKENS[: LENGTH + 1 + 8 * stride].astype(np.int64))[None]
    total, previous_end = 0.0, 1
    for begin in range(0, ids.shape[1] - LENGTH, stride):
        end = begin + LENGTH + 1
        window, new = ids[:, begin:end], end - previous_end
        with torch.no_grad():
            nll = -model.logits(window[:, :-1]).log_softmax(-1).gather(-1, window[:, 1:, None]).flatten()
        total += nll[-new:].double().sum().item()
        previous_end = end
    assert previous_end == ids.shape[1]
    assert scored(model, ids[0].numpy().astype(np.uint16), stride)[0] == pytest.approx(total, rel=1e-6)

import math

import numpy as np
import pytest
import torch

from gpt2dist.data.stream import TokenStream
from gpt2dist.data.windows import Windows
from gpt2dist.evaluation.perplexity import Score, score
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.shape import Shape

LENGTH = 8
TOKENS = np.random.default_rng(5).integers(0, 60, 75).astype(np.uint16)


@pytest.fixture(scope="module")
def model():
    language_model = LanguageModel(Shape(2, 2, 16, LENGTH, 60), 0, seed=4).eval()
    with torch.no_grad():
        for parameter in language_model.parameters():
            parameter.mul_(5)  # far from the uniform model, for which any context would do
    return language_model


def scored(model, tokens=TOKENS, stride=4, batch_size=3, world_size=1, prefix=None):
    """Runs every rank and adds what each contributes."""
    stream = TokenStream([tokens], prefix)
    windows = Windows(len(stream), LENGTH, stride)
    parts = []

    def take(array):
        parts.append(array.clone())
        return array

    for rank in range(world_size):
        score(model, stream, windows, batch_size, rank, world_size, take)
    return score(model, stream, windows, batch_size, 0, world_size, lambda _: sum(parts))


def by_hand(model, tokens, stride):
    """Each token with the context that the first window which predicts it gives; a pass for each."""
    last_start = max(0, len(tokens) - 1 - LENGTH)
    total = 0.0
    for position in range(1, len(tokens)):
        window = max(0, math.ceil((position - LENGTH) / stride))
        start = min(window * stride, last_start)
        context = torch.from_numpy(tokens[None, start:position].astype(np.int64))
        with torch.no_grad():
            total -= model(context)[0, -1].double().log_softmax(-1)[int(tokens[position])].item()
    return total


@pytest.mark.parametrize("stride", [LENGTH, LENGTH // 2, 3, 1])
@pytest.mark.parametrize("count", [75, LENGTH + 1, LENGTH, 2])
def test_every_target_counts_once_with_the_context_of_its_window(model, stride, count):
    nll, targets = scored(model, TOKENS[:count], stride)
    assert targets == count - 1
    assert nll == pytest.approx(by_hand(model, TOKENS[:count], stride), rel=1e-6)


def test_a_prefix_makes_the_first_token_a_target(model):
    nll, targets = scored(model, prefix=59)
    assert targets == len(TOKENS)
    assert nll == pytest.approx(by_hand(model, np.concatenate([[59], TOKENS]).astype(np.uint16), 4), rel=1e-6)


@pytest.mark.parametrize("world_size", [2, 3, 5, 8])
def test_the_bits_do_not_depend_on_the_number_of_ranks(model, world_size):
    assert scored(model, world_size=world_size) == scored(model)  # 18 windows: 6 batches, so rank 7 has none


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
            nll = -model(window[:, :-1]).log_softmax(-1).gather(-1, window[:, 1:, None]).flatten()
        total += nll[-new:].double().sum().item()
        previous_end = end
    assert previous_end == ids.shape[1]
    assert scored(model, ids[0].numpy().astype(np.uint16), stride)[0] == pytest.approx(total, rel=1e-6)


def test_the_measures_by_hand():
    result = Score(nll_sum=200.0, targets=50, bytes=400, words=20, windows=3)
    assert result.loss == 4.0
    assert result.perplexity == pytest.approx(54.598150033)
    assert result.bits_per_byte == pytest.approx(0.721347520)
    assert result.word_perplexity == pytest.approx(22026.4657948)


def test_overflow_is_infinite_and_no_exception():
    result = Score(nll_sum=1e6, targets=10, bytes=10, words=10, windows=1)
    assert result.perplexity == math.inf
    assert result.word_perplexity == math.inf


def test_a_text_without_words_or_bytes_has_no_such_measure():
    result = Score(nll_sum=1.0, targets=1, bytes=0, words=0, windows=1)
    assert math.isnan(result.bits_per_byte) and math.isnan(result.word_perplexity)

"""LAMBADA against a plain loop over GPT2LMHeadModel, one passage at a time."""

import math
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.lambada import lambada, split_last_word
from gpt2dist.tokenizer.tokenizer import Tokenizer

CONTEXT = 16
PASSAGES = [
    "abc def ghi",
    "jkl ab",
    "fed",  # no space: scored behind an end-of-text
    "abc   def",  # the spaces before the last word belong to it
    "abc \n\t def",
    "ab cd\nef gh\nij",  # "gh\nij" is the last word: only spaces end one
    " abc",  # nothing but a space before it
    "   abc",
    "abcdefghijkl " * 9 + "abc",  # longer than the context
    "abc " + "abcdefghijkl" * 9,  # a last word that is
    "ab ü",
    "abc def ghi",  # the same once more
]
ALONE = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def directory(tiny_dataset, tmp_path_factory):
    home = tmp_path_factory.mktemp("lambada") / "model"
    torch.manual_seed(3)
    sizes = {"vocab_size": 300, "n_positions": CONTEXT, "n_embd": 16, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.4)).save_pretrained(home)
    Tokenizer.load(tiny_dataset).save(home)
    return home


@pytest.fixture(scope="module")
def by_hand(directory):
    """Text → Σ nll of its last word, whether greedy decoding gives it, and how many tokens that are."""
    model, tokenizer = GPT2LMHeadModel.from_pretrained(directory), Tokenizer.load(directory)

    def score(text):
        words = text.split(" ")
        context, target = " ".join(words[:-1]), " " + words[-1]
        spaces = len(context) - len(context.rstrip())
        context, target = context[: len(context) - spaces], context[len(context) - spaces :] + target
        known, whole = tokenizer.encode(context).tolist(), tokenizer.encode(context + target).tolist()
        new = whole[len(known) :]
        row = ([*known, *new] if known else [tokenizer.end_of_text_id, *new])[-(CONTEXT + 1) :]
        new = new[-(len(row) - 1) :]
        with torch.no_grad():
            logits = model(torch.tensor([row[:-1]])).logits[0, -len(new) :].double()
        nll = -logits.log_softmax(-1)[range(len(new)), new].sum().item()
        return nll, logits.argmax(-1).tolist() == new, len(new)

    return score


@pytest.fixture(scope="module")
def guessed(directory):
    """Passages whose last word is what the model would say, so that accuracy is not 0 for all."""
    model, tokenizer = GPT2LMHeadModel.from_pretrained(directory), Tokenizer.load(directory)
    texts = []
    for token in range(256, 299):
        beginning = tokenizer.decode([token, token]).strip()
        known = tokenizer.encode(beginning).tolist()
        for _ in range(2):
            with torch.no_grad():
                known.append(model(torch.tensor([known])).logits[0, -1].argmax().item())
        text = tokenizer.decode(known)
        if tokenizer.encode(text).tolist() == known and not text.endswith(" "):
            texts.append(text)
    return texts


@pytest.mark.parametrize("text", PASSAGES)
def test_a_passage_by_hand(directory, by_hand, text):
    result = lambada(directory, [text], ALONE)
    nll, greedy, tokens = by_hand(text)
    assert result["nll_sum"] == pytest.approx(nll, rel=1e-5)
    assert (result["accuracy"], result["targets"], result["examples"]) == (float(greedy), tokens, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_all_of_them_in_batches(directory, by_hand, guessed, batch_size):
    passages = PASSAGES + guessed
    result = lambada(directory, passages, ALONE, batch_size)
    nll, greedy, tokens = zip(*map(by_hand, passages), strict=True)
    assert 0 < sum(greedy) < len(passages), "some are guessed and some are not"
    assert result["accuracy"] == sum(greedy) / len(passages)
    assert result["perplexity"] == pytest.approx(math.exp(sum(nll) / len(passages)), rel=1e-5)
    assert result["targets"] == sum(tokens) and result["examples"] == len(passages)


class Ranks:
    """Ranks that run one after the other; the last one sees the sum of what each added."""

    def __init__(self, size):
        self.parts = []
        self.said = {}  # by rank 0, from call to call
        ranks, calls = self, Counter()

        class Rank(World):
            def sum(self, tensor):
                ranks.parts.append(tensor.clone())
                return sum(ranks.parts) if self.rank == size - 1 else torch.ones_like(tensor)

            def gather(self, value):
                return [value] * size

            def from_main(self, value):
                calls[self.rank] += 1
                return ranks.said.setdefault(calls[self.rank], value)

        self.all = [Rank(rank, rank, size, torch.device("cpu")) for rank in range(size)]


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_bits_do_not_depend_on_the_number_of_ranks(directory, monkeypatch, size, batch_size):
    monkeypatch.setattr(World, "on_main", lambda self, work: work())
    one = lambada(directory, PASSAGES[:11], ALONE, batch_size)
    *_, many = (lambada(directory, PASSAGES[:11], rank, batch_size) for rank in Ranks(size).all)
    for name in ("nll_sum", "accuracy", "perplexity", "targets", "examples"):
        assert many[name] == one[name]


@pytest.mark.parametrize("text", ["", " ", "abc ", "abc  "])
def test_a_passage_without_a_last_word(directory, text):
    with pytest.raises(UserError, match="passage 2 has no last word"):
        lambada(directory, ["abc def", text], ALONE)


def test_no_passage(directory):
    with pytest.raises(UserError, match="there are no passages"):
        lambada(directory, [], ALONE)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a b c", ("a b", " c")),
        ("a  b", ("a", "  b")),
        ("a\n b", ("a", "\n b")),
        ("a", ("", " a")),
        (" a", ("", " a")),
        ("a b\n", ("a", " b\n")),
    ],
)
def test_the_last_word_takes_the_white_space_before_it(text, parts):
    assert split_last_word(text) == parts


def test_what_is_told_says_what_was_scored(directory):
    a, b = lambada(directory, PASSAGES[:2], ALONE), lambada(directory, PASSAGES[1::-1], ALONE)
    assert a["data"] != b["data"] and a["model"] == b["model"]
    assert len(a["data"]) == len(a["model"]) == len(a["tokenizer"]) == 64
    assert a["data"] != lambada(directory, ["".join(PASSAGES[:2])], ALONE)["data"]


def test_the_speed_counts_the_tokens_that_are_scored(directory, monkeypatch):
    """As that of `evaluate` does."""
    clock = SimpleNamespace(monotonic=iter((0.0, 2.0)).__next__)
    monkeypatch.setattr(sys.modules[split_last_word.__module__], "time", clock)
    result = lambada(directory, PASSAGES, ALONE)
    assert result["tokens_per_second"] == result["targets"] / 2


def test_another_stage_of_zero_is_refused(directory):
    with pytest.raises(UserError, match="evaluation does not support ZeRO stage 2; give 0 or 3"):
        lambada(directory, PASSAGES, ALONE, zero_stage=2)

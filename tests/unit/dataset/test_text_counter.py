"""Bytes and words of tokens against those of the text that was encoded."""

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt2dist.corpus.word_count import words_of_parts
from gpt2dist.dataset import text_counter
from gpt2dist.dataset.text_counter import TextCounter
from gpt2dist.tokenizer.tokenizer import train_bpe, train_char

ALPHABET = "ab é日😀 \n\t\x1c\u0085\u00a0\u1680\u2003\u2028\u202f\u205f\u3000\u200b"
TEXT = "".join(random.Random(1).choices(ALPHABET, k=3000))
TOKENIZERS = {"bytes": train_bpe([], 257), "bpe": train_bpe([TEXT], 330), "characters": train_char([ALPHABET])}


@given(
    kind=st.sampled_from(sorted(TOKENIZERS)),
    texts=st.lists(st.text(ALPHABET, max_size=30), min_size=1, max_size=8),
    block=st.integers(1, 40),
)
def test_the_counts_are_those_of_the_texts(kind, texts, block):
    tokenizer = TOKENIZERS[kind]
    ids, lengths = tokenizer.encode_batch(texts)
    stream = np.insert(ids, np.cumsum(lengths), tokenizer.end_of_text_id).astype(np.uint16)
    counter = TextCounter(tokenizer)
    for start in range(0, len(stream), block):
        counter.add(stream[start : start + block])
    counter.close()
    assert counter.bytes == sum(len(text.encode()) for text in texts)
    assert counter.words == sum(len(text.split()) for text in texts)
    expected = sum(len(re.split(r"\s+", text)) for text in texts)
    assert counter.lm_eval_words(len(texts)) == expected
    assert counter.lm_eval_words(len(texts) + 2) is None


def test_a_text_without_whole_tokens_is_bounded(monkeypatch):
    monkeypatch.setattr(text_counter, "_LONGEST_RUN", 4)
    counter = TextCounter(TOKENIZERS["bytes"])
    for _ in range(5):
        counter.add(TOKENIZERS["bytes"].encode("日日日"))
        assert counter._held.size <= 4
    counter.close()
    assert (counter.bytes, counter.words) == (45, 1)


@given(st.lists(st.text(ALPHABET, min_size=1, max_size=9), min_size=1, max_size=9))
def test_words_of_parts(parts):
    data = [part.encode() for part in parts]
    found = words_of_parts(b"".join(data), np.array([len(part) for part in data]))
    expected = [(len(part.split()), not part[0].isspace(), not part[-1].isspace()) for part in parts]
    assert [tuple(each) for each in np.stack([array.astype(int) for array in found], axis=1).tolist()] == expected


@pytest.mark.parametrize("ids", [[], [256], [256, 256]])
def test_nothing_but_end_of_text(ids):
    counter = TextCounter(TOKENIZERS["bytes"])
    counter.add(np.array(ids, np.uint16))
    counter.close()
    assert (counter.bytes, counter.words) == (0, 0)

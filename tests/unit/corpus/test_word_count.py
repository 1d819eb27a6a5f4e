import random
import re
import sys

import pytest

from gpt2dist.corpus.word_count import WordCounter, count_words


def expected(texts):
    """The words of each text, and those that lm-evaluation-harness counts."""
    return [(len(text.split()), len(re.split(r"\s+", text))) for text in texts]


def counted(texts):
    return list(zip(*(counts.tolist() for counts in count_words([text.encode() for text in texts])), strict=True))


def counted_in_parts(text, sizes):
    counter, at = WordCounter(), 0
    while at < len(text):
        size = next(sizes)
        counter.add(text[at : at + size].encode())
        at += size
    return counter.total, counter.lm_eval_total


@pytest.mark.parametrize(
    "texts", [[], [""], ["", "a", ""], [" "], ["a b", "", "  c\td\n", "e"], ["one"], ["a\x1cb\x1fc\x85d"]]
)
def test_as_split_counts(texts):
    assert counted(texts) == expected(texts)


def test_every_character_between_two_words():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    texts = [f"a{character}b" for character in characters]
    assert counted(texts) == expected(texts)
    texts = [character for character in characters if character.isspace()]
    assert counted(texts) == expected(texts) == [(0, 2)] * len(texts)


def test_random_texts_of_spaces_and_their_neighbours():
    draw = random.Random(0)
    alphabet = (
        "ab \n\t\x1c\x1b!\x85\x86\xa0¡\u1680\u1681\u2000\u200a\u200b\u2028\u202f\u205f\u2060\u3000\u3001é😀"
    )
    for _ in range(200):
        texts = ["".join(draw.choices(alphabet, k=draw.randint(0, 12))) for _ in range(draw.randint(0, 9))]
        assert counted(texts) == expected(texts)
        for text in texts:
            sizes = (draw.randint(1, 3) for _ in text)
            assert counted_in_parts(text, sizes) == expected([text])[0], text

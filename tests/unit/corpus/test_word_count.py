import random
import sys

import numpy as np
import pytest

from gpt2dist.corpus.word_count import count_words


def expected(texts):
    return [len(text.split()) for text in texts]


def counted(texts):
    return count_words([text.encode() for text in texts]).tolist()


@pytest.mark.parametrize(
    "texts", [[], [""], ["", "a", ""], [" "], ["a b", "", "  c\td\n", "e"], ["one"], ["a\x1cb\x1fc\x85d"]]
)
def test_as_split_counts(texts):
    assert counted(texts) == expected(texts)


def test_every_character_between_two_words():
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    texts = [f"a{character}b" for character in characters]
    assert np.array_equal(count_words([text.encode() for text in texts]), expected(texts))


def test_random_texts_of_spaces_and_their_neighbours():
    draw = random.Random(0)
    alphabet = (
        "ab \n\t\x1c\x1b!\x85\x86\xa0¡\u1680\u1681\u2000\u200a\u200b\u2028\u202f\u205f\u2060\u3000\u3001é😀"
    )
    for _ in range(200):
        texts = ["".join(draw.choices(alphabet, k=draw.randint(0, 12))) for _ in range(draw.randint(0, 9))]
        assert counted(texts) == expected(texts)

"""Undoing the tokenisation of old benchmark texts, so that a model sees text as it was trained on.

A score stays one of the benchmark's text: its bytes and words are counted before anything is undone.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Detokenizer:
    """How a benchmark's text is read.

    Attributes:
        clean: The text that a model is to see, from the benchmark's.
        count_words: Words of the benchmark's text.
    """

    clean: Callable[[str], str]
    count_words: Callable[[str], int]


def wikitext(text: str) -> str:
    """WikiText as English: the rules of Megatron-LM and lm-evaluation-harness, quirks included.

    They are the same in both (`wikitext_detokenizer`), and published numbers depend on them. The second rule
    matches nothing, since its slashes are meant as delimiters; it is left out for that.
    """
    text = text.replace("s '", "s'")
    for token, sign in ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", ".")):
        text = text.replace(token, sign)
    for sign in ":;.!?,":
        text = text.replace(f" {sign} ", f"{sign} ")
    for opening, inner, closing in (r"\(", r"[^\)]", r"\)"), (r"\[", r"[^\]]", r"\]"), ("{", "[^}]", "}"):
        text = re.sub(
            rf"{opening}\s*({inner}*?)\s*{closing}",
            rf"{opening[-1]}\1{closing[-1]}",
            text,
        )
    for quote in "\"'":
        text = re.sub(rf"{quote}\s*([^{quote}]*?)\s*{quote}", rf"{quote}\1{quote}", text)
    for heading in ("= = = =", "= = =", "= ="):
        text = text.replace(heading, heading.replace(" ", ""))
    text = text.replace(" ° ", "°").replace(" \n", "\n").replace("\n ", "\n")
    return text.replace(" N ", " 1 ").replace(" 's", "'s")


def _as_it_is(text: str) -> str:
    return text


def _words(text: str) -> int:
    return len(text.split())


def _words_as_harness(text: str) -> int:
    """As lm-evaluation-harness counts: white space at the ends of a text counts as a word there."""
    return len(re.split(r"\s+", text))


DETOKENIZERS = {
    "none": Detokenizer(_as_it_is, _words),
    "wikitext": Detokenizer(wikitext, _words_as_harness),
}

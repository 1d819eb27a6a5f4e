"""Undo the tokenisation of old benchmark texts, so that a model sees text like its training text.

Bytes and words are counted before this, so a score still refers to the benchmark's original text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Detokenizer:
    """Functions that prepare a benchmark's text.

    Attributes:
        clean: Maps the benchmark's text to the text that the model sees.
        count_words: Counts the words of the benchmark's text.
    """

    clean: Callable[[str], str]
    count_words: Callable[[str], int]


def wikitext(text: str) -> str:
    """Restore normal English from WikiText by the rules of Megatron-LM and lm-evaluation-harness.

    Both use the same rules (`wikitext_detokenizer`), and published numbers depend on their quirks. Their second
    rule is omitted: it matches nothing, since its slashes are meant as delimiters.
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


def count_lm_eval_words(text: str) -> int:
    """Count words as lm-evaluation-harness does: white space at either end counts as a word."""
    return len(re.split(r"\s+", text))


DETOKENIZERS = {
    "none": Detokenizer(_as_it_is, _words),
    "wikitext": Detokenizer(wikitext, count_lm_eval_words),
}

"""Determine from a tokenizer.json which parts of a text it keeps, and which of its tokens a text can produce.

The functions take the parsed content of tokenizer.json as `tokenizers` writes it.
"""

from collections.abc import Iterable, Iterator, Set
from typing import Any

from tokenizers import pre_tokenizers

Content = dict[str, Any]

BYTE_ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())
"""The 256 characters that represent bytes in a byte-level vocabulary."""
ANY_CHARACTER = r"[\s\S]"
PER_CHARACTER = {"type": "Split", "pattern": {"Regex": ANY_CHARACTER}, "behavior": "Isolated", "invert": False}
"""The pre-tokenizer of a character-level tokenizer."""

_KEEPING = ("ByteLevel", "Digits", "FixedLength", "Punctuation", "Split", "UnicodeScripts")
"""Pre-tokenizers that keep every character, unless their `behavior` is Removed."""
_HIDDEN = "\U0010ffff"
"""A noncharacter, prepended to a name so that no text can contain it."""


def normalizers_of(content: Content) -> str:
    """Return the names of the normalizers that are applied to a text, such as "NFC"; empty if there are none."""
    return ", ".join(node["type"] for node in _leaves(content["normalizer"]))


def is_byte_level(content: Content) -> bool:
    """Return whether the tokenizer is byte-level BPE: text is mapped to the byte alphabet before it is merged."""
    return content["model"]["type"] == "BPE" and any(
        node["type"] == "ByteLevel" for node in _leaves(content["pre_tokenizer"])
    )


def is_character_level(content: Content) -> bool:
    """Return whether each character of a text is a token."""
    return content["model"]["type"] == "WordLevel" and content["pre_tokenizer"] == PER_CHARACTER


def cuts_as_gpt2(content: Content) -> bool:
    """Return whether the tokenizer is byte-level BPE with GPT-2's pre-tokenizer."""
    rule = content["pre_tokenizer"] or {}
    plain = rule.get("type") == "ByteLevel" and rule.get("use_regex", True) and not rule["add_prefix_space"]
    return is_byte_level(content) and plain


def losses(content: Content, end_of_text: str) -> list[str]:
    """Return why ids may not decode to the normalised text that was encoded; empty if they always do.

    Manifests and results record these reasons, so their wording is part of what is on disk.
    """
    model = content["model"]
    if not is_byte_level(content) and not is_character_level(content):
        return [f"it is {model['type']}, and neither byte-level nor character-level"]
    found = [
        f"its added token {token['content']!r} takes the white space beside it"
        for token in matched_tokens(content, end_of_text)
        if token["lstrip"] or token["rstrip"]
    ]
    decoders = [node["type"] for node in _leaves(content["decoder"])]
    if decoders != (["ByteLevel"] if is_byte_level(content) else ["Fuse"]):
        found.append(f"its decoder ({', '.join(decoders) or 'none'}) does not give back the text")
    return [*found, *_byte_level_losses(content, end_of_text)] if is_byte_level(content) else found


def matched_tokens(content: Content, end_of_text: str) -> list[dict[str, Any]]:
    """Return the added tokens that are found in a text before the model sees it: those that are not special."""
    return [
        token for token in content["added_tokens"] if not token["special"] and token["content"] != end_of_text
    ]


def ordinary_tokens(content: Content, tokens: Iterable[str]) -> set[str]:
    """Return those of `tokens` that ordinary text can produce when special tokens are not matched in it."""
    model = content["model"]
    known = set(tokens) & _names(model)
    if not known:
        return known
    if model["type"] == "BPE":
        merged = _merged(model)
        return {token for token in known if len(token) == 1 or token in merged or _is_byte(model, token)}
    if is_character_level(content):
        return {token for token in known if len(token) == 1}
    return known - {added["content"] for added in content["added_tokens"]}


def unknown_token(content: Content) -> str | None:
    """Return the token that replaces text outside the vocabulary, or None."""
    model = content["model"]
    if model["type"] == "Unigram":
        return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]
    token = model.get("unk_token")
    return token if token in model["vocab"] else None


def for_encoding(content: Content, end_of_text: str) -> Content:
    """Return the tokenizer that encodes texts as the documented rules say: `content` itself if it does so.

    In it, end-of-text is special whatever its flag, no merge is dropped at random, and the model does not encode
    text that looks like a special token as that token. All ids are as in `content`.
    """
    model, added = content["model"], content["added_tokens"]
    special = {token["content"] for token in added if token["special"]} | {end_of_text}
    by_name = model["type"] != "BPE" or model.get("ignore_merges")  # other BPEs reach a token by merges only
    names = _names(model)
    hidden = special & names - ordinary_tokens(content, special) if by_name else set()
    plain = all(token["special"] for token in added if token["content"] == end_of_text)
    if plain and not hidden and not model.get("dropout"):
        return content

    def hide(name: str) -> str:
        return _HIDDEN + name if name in hidden else name

    changed = dict(model)
    if model["type"] == "Unigram":
        changed["vocab"] = [[hide(name), score] for name, score in model["vocab"]]
    else:
        changed["vocab"] = {hide(name): number for name, number in model["vocab"].items()}
        changed["unk_token"] = model["unk_token"] and hide(model["unk_token"])
    if model["type"] == "BPE":
        changed["dropout"] = None
    tokens = [
        {**token, "content": hide(token["content"]), "special": token["content"] in special} for token in added
    ]
    return {**content, "added_tokens": tokens, "model": changed, "post_processor": None}


def _byte_level_losses(content: Content, end_of_text: str) -> Iterator[str]:
    model = content["model"]
    missing = BYTE_ALPHABET - model["vocab"].keys()
    if missing:
        yield f"its vocabulary lacks {len(missing)} of the 256 bytes"
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            yield f"its model has the {key} {model[key]!r}"
    rules = list(_leaves(content["pre_tokenizer"]))
    for rule in rules:
        if rule["type"] not in _KEEPING or rule.get("behavior") == "Removed":
            yield f"its pre-tokenizer {rule['type']} drops or replaces characters"
        if rule.get("add_prefix_space"):
            yield "its pre-tokenizer puts a space before each text"
    if sum(rule["type"] == "ByteLevel" for rule in rules) > 1:
        yield "its pre-tokenizer maps bytes to characters twice"
    matched = (token["content"] for token in matched_tokens(content, end_of_text))
    for name in sorted(ordinary_tokens(content, matched)):
        # Printable ASCII stands for itself in the byte alphabet, other characters for other bytes.
        if not name.isascii():
            yield f"its added token {name!r} is also the token of other text"


def _leaves(node: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the parts of a normalizer, pre-tokenizer or decoder in order, with sequences resolved."""
    if not node:
        return
    children = next((node[key] for key in ("normalizers", "pretokenizers", "decoders") if key in node), None)
    if children is None:
        yield node
    for child in children or ():
        yield from _leaves(child)


def _names(model: dict[str, Any]) -> Set[str]:
    if model["type"] == "Unigram":
        return {name for name, _ in model["vocab"]}
    return model["vocab"].keys()


def _merged(model: dict[str, Any]) -> set[str]:
    """Return the tokens that the merges of a BPE produce."""
    prefix = len(model.get("continuing_subword_prefix") or "")
    return {left + right[prefix:] for left, right in model["merges"]}


def _is_byte(model: dict[str, Any], token: str) -> bool:
    return bool(model.get("byte_fallback")) and token.startswith("<0x") and len(token) == 6

"""Load, train, import and save tokenizers, and encode text with them.

Two kinds are supported: byte-level BPE, as in GPT-2, and one token per character. Both decode to exactly the text
that was encoded, which bits per byte requires.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from gpt2dist import json_files
from gpt2dist.errors import UserError

END_OF_TEXT = "<|endoftext|>"
BYTE_ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())
"""The 256 characters that stand for bytes in a byte-level vocabulary."""

FILE_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"
MAX_BYTES, MAX_IDS = 1 << 30, 1 << 24
"""Size and ids up to which a tokenizer.json is read; those of 256,000 tokens have 35 MB."""
_ANY_CHARACTER = r"[\s\S]"
_NO_TOKEN = "<|unknown|>"
_PROBE = "a b  c\r\n\td . é 😀 "
"""Text that byte-level BPE must decode unchanged; one that prepends a space does not (RoBERTa's)."""


class UnknownCharacterError(UserError):
    """A text contains a character that a character-level tokenizer does not have."""


class Tokenizer:
    """A byte-level BPE or character-level tokenizer with an end-of-text token.

    Special tokens written in a text are encoded as ordinary text, so "<|endoftext|>" in a document does not end
    it. Texts are never truncated or padded, and nothing is added to them.

    Args:
        backend: The tokenizer of the `tokenizers` library, which is modified in place.
        end_of_text: The content of the token that ends a document.
        origin: The directory or name of the tokenizer, for messages.

    Attributes:
        end_of_text: The content of the end-of-text token.
        end_of_text_id: The id of the end-of-text token.
        is_byte_level: Whether the tokenizer is byte-level BPE, which can encode any text.
        cuts_as_gpt2: Whether the tokenizer is byte-level BPE with GPT-2's pre-tokenizer.
        vocab_size: The number of ids, end-of-text included. Ids are 0 … vocab_size − 1.

    Raises:
        UserError: The tokenizer may change or lose text, its ids have gaps, or it has no end-of-text token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: str = END_OF_TEXT, origin: str = "tokenizer"):
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        self._backend = backend
        self._origin = origin
        content = orjson.loads(backend.to_str())
        self._characters = _check_lossless(backend, content, origin)
        self.is_byte_level = self._characters is None
        self.cuts_as_gpt2 = self.is_byte_level and _cuts_as_gpt2(content["pre_tokenizer"])
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.end_of_text = end_of_text
        if end_of_text not in vocabulary:
            raise UserError(
                f"{origin}: has no end-of-text token {end_of_text!r}; documents must end with one. "
                f"Name another as eos_token in {CONFIG_NAME}, or take a tokenizer that has it"
            )
        self.end_of_text_id = int(vocabulary[end_of_text])
        self.vocab_size = max(vocabulary.values()) + 1
        if len(set(vocabulary.values())) != self.vocab_size:
            missing = self.vocab_size - len(set(vocabulary.values()))
            raise UserError(
                f"{origin}: {missing} of the ids below {self.vocab_size} have no token; a model would waste rows "
                "on them: take a tokenizer with dense ids, or make one with `gpt2dist tokenizer train`"
            )

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> "Tokenizer":
        """Load a tokenizer from a directory with tokenizer.json, or from the Hugging Face hub by name.

        Args:
            source: A directory as written by `Tokenizer.save`, or a name such as "openai-community/gpt2".

        Raises:
            UserError: `source` is neither, or the tokenizer cannot be used.
        """
        path = Path(source) / FILE_NAME
        if not path.is_file():
            return cls(_from_hub(str(source)), origin=str(source))
        try:
            text = json_files.read_text(path, MAX_BYTES)
            _require_bounded_ids(orjson.loads(text))
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # The library raises bare Exception.
            raise UserError(f"{path}: not a tokenizer of the tokenizers library ({error})") from None
        return cls(backend, _declared_end_of_text(Path(source)), origin=str(source))

    @cached_property
    def fingerprint(self) -> str:
        """The hex sha256 of tokenizer.json with sorted keys, which does not depend on its formatting."""
        content = json.loads(self.to_json())
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def vocabulary(self) -> dict[str, int]:
        """The mapping from token to id, end-of-text included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def to_json(self) -> str:
        """Return the content of tokenizer.json."""
        return self._backend.to_str()

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text, uint32 [tokens], without end-of-text.

        Raises:
            UnknownCharacterError: A character-level tokenizer does not have a character of the text.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode texts, without end-of-text.

        Returns:
            The concatenated ids of all texts, uint32 [tokens], and the number of tokens in each, int64 [texts].

        Raises:
            UnknownCharacterError: A character-level tokenizer does not have a character of a text.
        """
        for text in texts if self._characters is not None else ():
            unknown = self.unknown_characters(text)
            if unknown:
                raise UnknownCharacterError(
                    f"{self._origin}: {describe_characters(unknown)} not in this character-level tokenizer; "
                    "train it on text that has them, or use a byte-level one (--kind bpe), which takes any text"
                )
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.uint32, count=int(lengths.sum()))
        return flat, lengths

    def unknown_characters(self, text: str) -> list[str]:
        """Return the sorted characters of `text` that the tokenizer cannot encode; empty for byte-level BPE."""
        return [] if self._characters is None else sorted(set(text) - self._characters)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of `ids`, including end-of-text. An incomplete UTF-8 sequence becomes U+FFFD."""
        return self._backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def token_bytes(self) -> list[bytes]:
        """Return the bytes of the text that each id stands for; for special tokens, those of their names."""
        names = {number: name for name, number in self._backend.get_vocab(with_added_tokens=True).items()}
        special = self._backend.get_added_tokens_decoder()
        byte_of = _byte_of_character() if self.is_byte_level else None
        return [
            names[number].encode()
            if byte_of is None or number in special
            else bytes(byte_of[character] for character in names[number])
            for number in range(self.vocab_size)
        ]

    def save(self, directory: str | os.PathLike[str], context_length: int | None = None) -> None:
        """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer loads as the same tokenizer.

        Args:
            directory: The directory to write to, created if missing.
            context_length: The context length, in tokens, of the model in the same directory. AutoTokenizer
                truncates to it when asked to truncate.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # With this class name AutoTokenizer uses tokenizer.json unchanged, even beside a GPT-2 config.json.
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.end_of_text,
            "eos_token": self.end_of_text,
            "pad_token": self.end_of_text,
            "clean_up_tokenization_spaces": False,
        }
        if context_length:
            config["model_max_length"] = context_length
        (directory / FILE_NAME).write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")
        (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def train_bpe(texts: Iterable[str], vocab_size: int, show_progress: bool = False) -> Tokenizer:
    """Train byte-level BPE as in GPT-2: all bytes, then merges, then end-of-text as the last id.

    Args:
        texts: The texts to train on, read once.
        vocab_size: The vocabulary size, end-of-text included. A small corpus can yield a smaller one; see the
            result's `vocab_size`.
        show_progress: Whether the library shows its progress bars on a terminal.

    Raises:
        UserError: `vocab_size` is below 257, which the bytes and end-of-text take.
    """
    if vocab_size < len(BYTE_ALPHABET) + 1:
        raise UserError(f"--vocab-size {vocab_size}: must be at least 257, for the 256 bytes and end-of-text")
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=sorted(BYTE_ALPHABET),
        special_tokens=[],
        show_progress=show_progress,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(_with_end_of_text(backend))


def train_char(texts: Iterable[str]) -> Tokenizer:
    """Build a character-level tokenizer: distinct characters by code point, then end-of-text as the last id."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocabulary = {character: number for number, character in enumerate(sorted(characters))}
    # The unknown token is not in the vocabulary, so an unknown character is an error and never becomes a token.
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=_NO_TOKEN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_ANY_CHARACTER), "isolated")
    # This adds nothing. Without it, AutoTokenizer would insert the same one on saving and change the fingerprint.
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[])
    backend.decoder = decoders.Fuse()
    return Tokenizer(_with_end_of_text(backend))


def import_gpt2(vocab: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Tokenizer:
    """Import OpenAI's GPT-2 tokenizer files, or others in the same format.

    Args:
        vocab: encoder.json, also called vocab.json: token → id.
        merges: vocab.bpe, also called merges.txt: a version line, then one merge per line.

    Raises:
        UserError: A file is missing or malformed, or the vocabulary has no end-of-text token.
    """
    for path in (Path(vocab), Path(merges)):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    try:
        entries, pairs = models.BPE.read_file(str(vocab), str(merges))
        backend = _byte_level(models.BPE(entries, pairs))
    except Exception as error:  # The library raises bare Exception.
        raise UserError(
            f"{vocab}, {merges}: not GPT-2's vocabulary and merges ({error}); "
            "--vocab takes encoder.json (token → id), --merges takes vocab.bpe (a merge in each line)"
        ) from None
    if END_OF_TEXT not in entries:
        raise UserError(f"{vocab}: has no {END_OF_TEXT!r}, so it is not a vocabulary of GPT-2's form")
    return Tokenizer(_with_end_of_text(backend), origin=str(vocab))


def describe_characters(characters: Sequence[str]) -> str:
    """Format at most five characters for a message, followed by a verb: "'é' (U+00E9) is"."""
    named = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in characters[:5])
    more = f" and {len(characters) - 5} more" if len(characters) > 5 else ""
    return f"{named}{more} {'is' if len(characters) == 1 else 'are'}"


def _byte_level(model: Any) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_end_of_text(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return backend


def _check_lossless(backend: tokenizers.Tokenizer, content: dict[str, Any], origin: str) -> frozenset[str] | None:
    """Return the alphabet of a character-level tokenizer or None for byte-level BPE; refuse all others."""
    vocabulary = backend.get_vocab(with_added_tokens=False)
    if content["normalizer"] is None:
        if content["model"]["type"] == "BPE" and _mentions(content["pre_tokenizer"], "ByteLevel"):
            missing = BYTE_ALPHABET - vocabulary.keys()
            if missing:
                raise UserError(
                    f"{origin}: its vocabulary lacks {len(missing)} of the 256 bytes, so it would lose text; "
                    "train one with `gpt2dist tokenizer train`"
                )
            if backend.decode(backend.encode(_PROBE, add_special_tokens=False).ids) == _PROBE:
                return None
        pattern = (content["pre_tokenizer"] or {}).get("pattern")
        if content["model"]["type"] == "WordLevel" and pattern == {"Regex": _ANY_CHARACTER}:
            return frozenset(vocabulary)
    raise UserError(
        f"{origin}: neither byte-level BPE nor character-level, so it may change or lose text; "
        "make one with `gpt2dist tokenizer train` or `gpt2dist tokenizer import`"
    )


def _byte_of_character() -> dict[str, int]:
    """Return the byte of each character of a byte-level vocabulary (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved


def _cuts_as_gpt2(rule: dict[str, Any]) -> bool:
    """Return whether the pre-tokenizer of a byte-level BPE is exactly GPT-2's."""
    return rule["type"] == "ByteLevel" and rule.get("use_regex", True) and not rule["add_prefix_space"]


def _mentions(node: Any, kind: str) -> bool:
    """Return whether a pre-tokenizer is of type `kind` or contains one, at any depth."""
    if not isinstance(node, dict):
        return False
    return node.get("type") == kind or any(_mentions(child, kind) for child in node.get("pretokenizers", ()))


def _from_hub(name: str) -> tokenizers.Tokenizer:
    path = Path(name)
    missing = f"{name}: not a directory with {FILE_NAME}, and not found on the hub"
    if path.is_absolute() or path.exists() or name.startswith(".") or len(path.parts) > 2:
        raise UserError(f"{missing}: it is a path; `gpt2dist tokenizer train` or `import` makes such a directory")
    try:
        return tokenizers.Tokenizer.from_pretrained(name)
    except Exception as error:  # The library raises bare Exception for every failure.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{missing}: {reason}") from None


def _require_bounded_ids(content: Any) -> None:
    """Check the ids of a tokenizer.json before the library allocates memory for each id up to the largest.

    Raises:
        ValueError: An id is absurd.
    """
    vocabulary = content["model"].get("vocab", {})
    ids = [*vocabulary.values()] if isinstance(vocabulary, dict) else []
    ids += [token["id"] for token in content.get("added_tokens") or ()]
    if ids and max(ids) >= MAX_IDS:
        raise ValueError(f"the id {max(ids)} is beyond {MAX_IDS:,}")


def _declared_end_of_text(directory: Path) -> str:
    """Return the eos_token of tokenizer_config.json, or `END_OF_TEXT` if it declares none."""
    path = directory / CONFIG_NAME
    if not path.exists():
        return END_OF_TEXT
    try:
        declared = json_files.load(path).get("eos_token")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: malformed ({json_files.reason(error)}); copy the tokenizer again") from None
    content = declared.get("content") if isinstance(declared, dict) else declared
    return content if isinstance(content, str) else END_OF_TEXT

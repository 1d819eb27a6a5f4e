"""Tokenizers: load, train, import and save them, and encode text by the million documents.

Two kinds are taken, because both give back exactly the text that went in, which bits per byte needs:
byte-level BPE (GPT-2's), and one token per character.
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

from gpt2dist.errors import UserError

END_OF_TEXT = "<|endoftext|>"
BYTE_ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())
"""The 256 characters that stand for bytes in a byte-level vocabulary."""

FILE_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"


class UnknownCharacterError(UserError):
    """A text holds a character that a character-level tokenizer does not have."""


class Tokenizer:
    """A byte-level BPE or character-level tokenizer with an end-of-text token.

    Special tokens written out in a text are ordinary text: a document can hold the word "<|endoftext|>", but
    not end itself with it. Nothing is added to a text, cut off or padded.

    Args:
        backend: The tokenizer of the `tokenizers` library; taken over and changed.
        end_of_text: The content of the token that ends a document.
        origin: What messages call it: its directory or name.

    Attributes:
        end_of_text: Content of the end-of-text token.
        end_of_text_id: Its id.
        is_byte_level: Whether it is byte-level BPE, which takes any text.
        cuts_as_gpt2: Whether it is, with GPT-2's rule of what a word is.
        vocab_size: Number of ids, end-of-text included; ids are 0 … vocab_size − 1.

    Raises:
        UserError: It loses or changes text, its ids have holes, or it has no end-of-text token.
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
        """Loads a directory with tokenizer.json, or a tokenizer from the Hugging Face hub by name.

        Args:
            source: A directory such as `Tokenizer.save` writes, or a name such as "openai-community/gpt2".

        Raises:
            UserError: It is neither, or the tokenizer cannot be used.
        """
        path = Path(source) / FILE_NAME
        if not path.is_file():
            return cls(_from_hub(str(source)), origin=str(source))
        try:
            backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{path}: not a tokenizer of the tokenizers library ({error})") from None
        return cls(backend, _declared_end_of_text(Path(source)), origin=str(source))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hexadecimal) of tokenizer.json with sorted keys, so that its formatting does not matter."""
        content = json.loads(self.to_json())
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token → id, end-of-text included."""
        return self._backend.get_vocab(with_added_tokens=True)

    def to_json(self) -> str:
        """The content of tokenizer.json."""
        return self._backend.to_str()

    def encode(self, text: str) -> np.ndarray:
        """The ids of one text, uint32 [tokens], without end-of-text.

        Raises:
            UnknownCharacterError: A character-level tokenizer does not have a character of the text.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes texts, without end-of-text.

        Returns:
            The ids of all texts one after the other, uint32 [tokens], and int64 [texts], the tokens in each.

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
        """The characters of `text` that the tokenizer cannot encode, sorted; always none for byte-level BPE."""
        return [] if self._characters is None else sorted(set(text) - self._characters)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`, end-of-text written out; a byte sequence cut within a character gives U+FFFD."""
        return self._backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False)

    def token_bytes(self) -> list[bytes]:
        """The bytes of the text that each id stands for; of special tokens those of their names."""
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
        """Writes tokenizer.json and tokenizer_config.json, from which AutoTokenizer makes the same tokenizer.

        Args:
            directory: Where to; made if it is not there.
            context_length: Of the model beside it, in tokens: AutoTokenizer cuts there, where it is asked to cut.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # This class name makes AutoTokenizer take tokenizer.json as it is, also beside a GPT-2 config.json.
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
    """Trains byte-level BPE as GPT-2's: all bytes, then merges, then end-of-text as the last id.

    Args:
        texts: The texts to count word pieces in; read once.
        vocab_size: Entries, end-of-text included. A small corpus can give fewer: see the result's `vocab_size`.
        show_progress: Whether the library shows its bars on a terminal.

    Raises:
        UserError: `vocab_size` is below 257, the bytes and end-of-text.
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
    """Makes every distinct character of the texts a token, by code point, then end-of-text as the last id."""
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocabulary = {character: number for number, character in enumerate(sorted(characters))}
    # The unknown token is in no vocabulary: an unknown character is an error, never silently another token.
    backend = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=_NO_TOKEN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(_ANY_CHARACTER), "isolated")
    # Adds nothing; AutoTokenizer would put the same here when it saves, and change the fingerprint.
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A:0 $B:1", special_tokens=[])
    backend.decoder = decoders.Fuse()
    return Tokenizer(_with_end_of_text(backend))


def import_gpt2(vocab: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Tokenizer:
    """Imports OpenAI's files of GPT-2, or others of that form.

    Args:
        vocab: encoder.json, also called vocab.json: token → id.
        merges: vocab.bpe, also called merges.txt: one merge in a line, after a line with the version.

    Raises:
        UserError: A file is missing or not of that form, or has no end-of-text token.
    """
    for path in (Path(vocab), Path(merges)):
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    try:
        entries, pairs = models.BPE.read_file(str(vocab), str(merges))
        backend = _byte_level(models.BPE(entries, pairs))
    except Exception as error:  # the library raises bare Exception
        raise UserError(
            f"{vocab}, {merges}: not GPT-2's vocabulary and merges ({error}); "
            "--vocab takes encoder.json (token → id), --merges takes vocab.bpe (a merge in each line)"
        ) from None
    if END_OF_TEXT not in entries:
        raise UserError(f"{vocab}: has no {END_OF_TEXT!r}, so it is not a vocabulary of GPT-2's form")
    return Tokenizer(_with_end_of_text(backend), origin=str(vocab))


def describe_characters(characters: Sequence[str]) -> str:
    """Names characters for a message, such as "'é' (U+00E9)", at most five, and the verb that follows."""
    named = ", ".join(f"{character!r} (U+{ord(character):04X})" for character in characters[:5])
    more = f" and {len(characters) - 5} more" if len(characters) > 5 else ""
    return f"{named}{more} {'is' if len(characters) == 1 else 'are'}"


_ANY_CHARACTER = r"[\s\S]"
_NO_TOKEN = "<|unknown|>"
_PROBE = "a b  c\r\n\td . é 😀 "
"""What byte-level BPE must give back as it is; one that adds a space before the text (RoBERTa's) does not."""


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
    """The alphabet of a character-level tokenizer, None for byte-level BPE; all else loses text: refused."""
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
    """What the characters of a byte-level vocabulary stand for (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    moved = {chr(0x100 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | moved


def _cuts_as_gpt2(rule: dict[str, Any]) -> bool:
    """Whether the pre-tokenizer of a byte-level BPE is GPT-2's and nothing else."""
    return rule["type"] == "ByteLevel" and rule.get("use_regex", True) and not rule["add_prefix_space"]


def _mentions(node: Any, kind: str) -> bool:
    """Whether a (nested) pre-tokenizer is or holds one of type `kind`."""
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
    except Exception as error:  # the library raises bare Exception for all that can happen
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{missing}: {reason}") from None


def _declared_end_of_text(directory: Path) -> str:
    """The eos_token of tokenizer_config.json, where there is one."""
    path = directory / CONFIG_NAME
    if not path.is_file():
        return END_OF_TEXT
    try:
        declared = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{path}: malformed ({error})") from None
    content = declared.get("content") if isinstance(declared, dict) else declared
    return content if isinstance(content, str) else END_OF_TEXT

"""Load, train, import and save tokenizers, and encode text with them.

Two kinds keep every text: byte-level BPE, as in GPT-2, and one token per character. Their ids decode to exactly
the text that was encoded, or to its normalized form if they have a normalizer. All others, such as WordPiece and
Unigram, may lose some of the text, and new data may use them only with --lossy.
"""

import hashlib
import itertools
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from gpt2dist.errors import UserError
from gpt2dist.tokenizer import analysis
from gpt2dist.tokenizer.analysis import ANY_CHARACTER, BYTE_ALPHABET
from gpt2dist.tokenizer.source import CONFIG_NAME, END_OF_TEXT, FILE_NAME, read_source
from gpt2dist.tokenizer.token_text import byte_level_bytes, bytes_in_context

_NO_TOKEN = "<|unknown|>"
_PROBE = "a b  c\r\n\td . é 😀 "
"""Text that byte-level BPE must decode unchanged, but for its normalizer."""


class UnknownCharacterError(UserError):
    """A text contains a character that a character-level tokenizer does not have."""


class Tokenizer:
    """A tokenizer with an end-of-text token.

    Special tokens written in a text are encoded as ordinary text, so "<|endoftext|>" in a document does not end
    it, whatever the tokenizer's own file declares. Texts are never truncated or padded, and nothing is added to
    them.

    Args:
        backend: The tokenizer of the `tokenizers` library, which is modified in place.
        end_of_text: The content of the token that ends a document.
        origin: The file, directory or name of the tokenizer, for messages.

    Attributes:
        origin: As given.
        hub_source: NAME@COMMIT if it was loaded from the hub, else empty.
        end_of_text: The content of the end-of-text token.
        end_of_text_id: The id of the end-of-text token.
        unknown_id: The id that replaces text outside the vocabulary; None if the tokenizer has no such id.
        ends_in_text: Whether ordinary text can produce the end-of-text token.
        model: The type of the model, such as "BPE" or "WordPiece".
        dropout: The probability with which a BPE is meant to skip a merge. gpt2dist never skips one.
        normalizer: The normalizers that are applied to a text, such as "NFC"; empty if there are none.
        losses: Why ids may not decode to the normalised text; empty if they always do.
        is_byte_level: Whether the tokenizer is byte-level BPE, which can encode any text.
        cuts_as_gpt2: Whether text can be cut where GPT-2's pre-tokenizer cuts it.
        is_character_level: Whether each character is a token, so that a text may have unknown characters.
        vocab_size: The number of ids, end-of-text included. Ids are 0 … vocab_size − 1.

    Raises:
        UserError: The ids have gaps, or the end-of-text token does not exist.
    """

    def __init__(self, backend: tokenizers.Tokenizer, end_of_text: str = END_OF_TEXT, origin: str = "tokenizer"):
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.origin = origin
        self.hub_source = ""
        # Not kept: the vocabulary and merges would take much memory in Python.
        content = orjson.loads(backend.to_str())
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.end_of_text = end_of_text
        if end_of_text not in vocabulary:
            raise UserError(_no_end_of_text(origin, end_of_text, content))
        self.end_of_text_id = int(vocabulary[end_of_text])
        unknown = analysis.unknown_token(content)
        self.unknown_id = None if unknown is None else int(vocabulary[unknown])
        self.vocab_size = max(vocabulary.values()) + 1
        if len(set(vocabulary.values())) != self.vocab_size:
            missing = self.vocab_size - len(set(vocabulary.values()))
            raise UserError(
                f"{origin}: {missing} of the ids below {self.vocab_size} have no token; a model would waste rows "
                "on them: take a tokenizer with dense ids, or make one with `gpt2dist tokenizer train`"
            )
        self._encoding = self._make_encoding_backend(content)
        self._matched = analysis.matched_tokens(content, end_of_text)
        added = {token["content"] for token in content["added_tokens"]}
        ordinary = analysis.ordinary_tokens(content, added | {end_of_text})
        self._plain_tokens = added - ordinary
        self.ends_in_text = end_of_text in ordinary
        self.model = content["model"]["type"]
        self.dropout = float(content["model"].get("dropout") or 0)
        self.normalizer = analysis.normalizers_of(content)
        self.is_byte_level = analysis.is_byte_level(content)
        self.is_character_level = analysis.is_character_level(content)
        self._characters = frozenset(content["model"]["vocab"]) if self.is_character_level else None
        self.losses = tuple(self._find_losses(content))
        # Whether an added token that must be a single word is found depends on the characters beside it.
        words = any(token["single_word"] for token in self._matched)
        known = not self.losses and self.normalizer in ("", "NFC") and not words
        self.cuts_as_gpt2 = known and analysis.cuts_as_gpt2(content)

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> "Tokenizer":
        """Load a tokenizer from a directory with tokenizer.json, from such a file, or from the hub by name.

        Args:
            source: A directory as written by `Tokenizer.save`, a tokenizer.json, or a name such as
                "openai-community/gpt2", which "NAME@REVISION" pins to a branch, tag or commit. The end-of-text
                token is the eos_token of the tokenizer_config.json beside tokenizer.json, or else `END_OF_TEXT`.

        Raises:
            UserError: `source` is none of these, or the tokenizer cannot be used.

        Example:
            >>> gpt2dist.Tokenizer.load("gpt2").encode("Hello world")
            array([15496,   995], dtype=uint32)
        """
        backend, end_of_text, hub_source = read_source(source)
        tokenizer = cls(backend, end_of_text, origin=str(source))
        tokenizer.hub_source = hub_source
        return tokenizer

    @staticmethod
    def train(
        texts: Iterable[str], vocab_size: int | None = None, kind: Literal["bpe", "char"] = "bpe"
    ) -> "Tokenizer":
        """Train a tokenizer on texts. `gpt2dist tokenizer train` does it for the files of a corpus.

        Args:
            texts: The texts, read once.
            vocab_size: The vocabulary size of "bpe", end-of-text included; at least 257. A small corpus can yield
                a smaller one. "char" takes none.
            kind: "bpe" is byte-level BPE as in GPT-2; "char" gives each character of the texts a token.

        Raises:
            UserError: The vocabulary size is missing, too small, or given for "char".

        Example:
            >>> tokenizer = gpt2dist.Tokenizer.train([text], vocab_size=512)
            >>> tokenizer.decode(tokenizer.encode("To be, or not to be"))
            'To be, or not to be'
            >>> tokenizer.save("tokenizer/")
        """
        if isinstance(texts, str):
            raise UserError("texts must be an iterable of texts, not a single one; write [text]")
        if kind not in ("bpe", "char"):
            raise UserError(f"kind {kind!r} is neither 'bpe' nor 'char'")
        if (kind == "bpe") != (vocab_size is not None):
            raise UserError("vocab_size goes with kind 'bpe', and only with it")
        return train_char(texts) if vocab_size is None else train_bpe(texts, vocab_size)

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

    def encoding_json(self) -> str:
        """Return the content of the tokenizer.json that encodes texts; see `analysis.for_encoding`."""
        return self._encoding.to_str()

    @property
    def matched_tokens(self) -> list[str]:
        """The added tokens that are found in a text before the model sees it."""
        return [token["content"] for token in self._matched]

    @property
    def text_changes(self) -> dict[str, Any]:
        """The change of text by this tokenizer: empty, {"normalizer": …} or {"lossy": …}."""
        if self.losses:
            return {"lossy": "; ".join(self.losses)}
        return {"normalizer": self.normalizer} if self.normalizer else {}

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of one text, uint32 [tokens], without end-of-text.

        Raises:
            UserError: As for `encode_batch`.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode texts, without end-of-text.

        Returns:
            The concatenated ids of all texts, uint32 [tokens], and the number of tokens in each, int64 [texts].

        Raises:
            UnknownCharacterError: A character-level tokenizer does not have a character of a text.
            UserError: A text produces the end-of-text token, or cannot be encoded.
        """
        for text in texts if self.is_character_level else ():
            unknown = self.unknown_characters(text)
            if unknown:
                raise UnknownCharacterError(
                    f"{self.origin}: {describe_characters(unknown)} not in this character-level tokenizer; "
                    "train it on text that has them, or use a byte-level one (--kind bpe), which encodes any text"
                )
        try:
            encodings = self._encoding.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # The library raises bare Exception, such as for a missing unknown token.
            raise UserError(f"{self.origin}: cannot encode a text ({error}); use another tokenizer") from None
        ids = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.uint32, count=int(lengths.sum()))
        self.require_no_end_of_text(flat, lengths, texts)
        return flat, lengths

    def require_no_end_of_text(self, ids: np.ndarray, lengths: np.ndarray, texts: Sequence[str | bytes]) -> None:
        """Check that no text produces the end-of-text token, which ends documents.

        Args:
            ids: The concatenated ids of the texts.
            lengths: The number of ids of each text.
            texts: The texts.

        Raises:
            UserError: A text produces it.
        """
        found = np.flatnonzero(ids == self.end_of_text_id)
        if not found.size:
            return
        text = texts[int(np.searchsorted(np.cumsum(lengths), found[0], side="right"))]
        shown = text[:60] if isinstance(text, str) else text[:60].decode(errors="ignore")
        raise UserError(
            f"{self.origin}: encodes the text {shown!r} as its end-of-text token {self.end_of_text!r}, which "
            f"would end a document within it; name a special token as eos_token in {CONFIG_NAME}"
        )

    def normalize(self, text: str) -> str:
        """Apply the tokenizer's normalizer to a text."""
        normalizer = self._backend.normalizer
        return text if normalizer is None else normalizer.normalize_str(text)

    def keeps(self, text: bytes) -> bool:
        """Return whether the normalizer certainly does not change a text.

        Python's version of Unicode is not older than the library's. Text that is NFC by the newer version is NFC
        by the older one too, which neither composes nor reorders characters that it does not know.
        """
        if not self.normalizer:
            return True
        return self.normalizer == "NFC" and (text.isascii() or unicodedata.is_normalized("NFC", text.decode()))

    def unknown_characters(self, text: str) -> list[str]:
        """Return the sorted characters of a text that a character-level tokenizer lacks; empty for all others."""
        return [] if self._characters is None else sorted(set(self.normalize(text)) - self._characters)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text of `ids`, including end-of-text. An incomplete UTF-8 sequence becomes U+FFFD.

        A lossy tokenizer uses its own decoder; that of WordPiece puts spaces between words.
        """
        if self.losses:
            return self._backend.decode(np.asarray(ids).tolist(), skip_special_tokens=False)
        table = self.token_bytes
        return b"".join([table[number] for number in np.asarray(ids).tolist()]).decode(errors="replace")

    def decode_after(self, before: Sequence[int] | np.ndarray, ids: Sequence[int] | np.ndarray) -> str:
        """Return the text that `ids` add after the ids `before`, such as a space and a word."""
        if not self.losses:
            return self.decode(ids)
        head, whole = self.decode(before), self.decode([*before, *ids])
        return whole[len(head) :] if whole.startswith(head) else self.decode(ids)

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """The bytes of text that each id represents; for special tokens, those of their names.

        For a lossy tokenizer, the bytes that its decoder adds for the id within a text.
        """
        by_id = {number: name for name, number in self.vocabulary.items()}
        names = [by_id[number] for number in range(self.vocab_size)]
        if self.is_byte_level:
            return tuple(byte_level_bytes(names, self._plain_tokens))
        if self.losses:
            return tuple(bytes_in_context(self._backend, names))
        return tuple(name.encode() for name in names)

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

    def save_gpt2_files(self, directory: Path) -> None:
        """Write vocab.json and merges.txt, GPT-2's own files, where they are enough for the same tokenizer.

        GPT2Tokenizer of any version of transformers reads them; tokenizer.json needs one that is not older than
        the tokenizer. They are not written for tokenizers without merges, or with another pre-tokenizer or a
        normalizer, which these files cannot represent.
        """
        model = orjson.loads(self._backend.to_str())["model"]
        if not self.is_byte_level or not self.cuts_as_gpt2 or self.normalizer or not model.get("merges"):
            return
        vocabulary = dict(sorted(self.vocabulary.items(), key=lambda item: item[1]))
        merges = [each if isinstance(each, str) else " ".join(each) for each in model["merges"]]
        (directory / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        (directory / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")

    def _make_encoding_backend(self, content: analysis.Content) -> tokenizers.Tokenizer:
        backend, changed = self._backend, analysis.for_encoding(content, self.end_of_text)
        if changed is not content:
            backend = tokenizers.Tokenizer.from_str(orjson.dumps(changed).decode())
        backend.encode_special_tokens = True
        return backend

    def _find_losses(self, content: analysis.Content) -> Iterator[str]:
        found = analysis.losses(content, self.end_of_text)
        yield from found
        if self.is_byte_level and not found:
            ids = self._encoding.encode(_PROBE, add_special_tokens=False).ids
            names = [str(self._backend.id_to_token(number)) for number in ids]
            given = b"".join(byte_level_bytes(names, self._plain_tokens))
            if given != self.normalize(_PROBE).encode():
                yield f"it does not give back the text {_PROBE!r}"


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
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(ANY_CHARACTER), "isolated")
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
            "--vocab is encoder.json (token → id), --merges is vocab.bpe (one merge per line)"
        ) from None
    if END_OF_TEXT not in entries:
        raise UserError(f"{vocab}: has no {END_OF_TEXT!r}, so it is not a vocabulary in GPT-2's format")
    tokenizer = Tokenizer(_with_end_of_text(backend), origin=str(vocab))
    if tokenizer.losses:
        raise UserError(f"{vocab}: would lose text, since {'; '.join(tokenizer.losses)}; use another vocabulary")
    return tokenizer


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


def _no_end_of_text(origin: str, end_of_text: str, content: analysis.Content) -> str:
    special = [token["content"] for token in content["added_tokens"] if token["special"]]
    others = f" (its special tokens: {', '.join(special[:10])})" if special else ""
    return (
        f"{origin}: has no end-of-text token {end_of_text!r}; documents must end with one. "
        f"Name another as eos_token in {CONFIG_NAME}{others}, or use a tokenizer that has it"
    )

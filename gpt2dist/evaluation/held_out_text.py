"""Held-out text: a split of a dataset, or texts that are tokenised on the fly.

Both form one stream in which every document ends with end-of-text, so the same texts get the same score.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2dist.corpus import Document, LongDocument, Reading, Rejected, Skipped, cut, discover, read
from gpt2dist.corpus.damage import without_text
from gpt2dist.corpus.documents import BadDocumentError
from gpt2dist.dataset.manifest import Manifest, Totals
from gpt2dist.errors import UserError
from gpt2dist.evaluation.detokenizers import DETOKENIZERS, count_lm_eval_words
from gpt2dist.loading.token_stream import LazyShard, Tokens, TokenStream, check_files
from gpt2dist.loading.windows import DocumentWindows, Windows, WindowSet
from gpt2dist.tokenizer.round_trip import RoundTrip, TextChanges
from gpt2dist.tokenizer.tokenizer import Tokenizer

TOKENISED_TOGETHER = 256
"""Number of documents to tokenise in one call."""
SCANNED_TOGETHER = 1 << 24
"""Number of tokens to search for end-of-text at a time."""


@dataclass(frozen=True)
class HeldOut:
    """Text to score.

    Attributes:
        name: Name of the text in messages.
        parts: Arrays or shards of tokens.
        totals: Numbers of tokens and documents, and of bytes and words in the original text.
        end_of_text_id: Token that ends each document.
        tokenizer: Fingerprint of the tokenizer.
        fingerprint: Fingerprint of the text and the tokenizer together.
        split: Split of the dataset; "" for texts.
        detokenizer: Detokenizer applied to the texts, a key of `DETOKENIZERS`.
        vocab_size: Number of ids; None if all tokens are known to be below it.
        text_changes: How the tokens differ from the text; see `tokenizer.text_changes`.
    """

    name: str
    parts: Sequence[Tokens]
    totals: Totals
    end_of_text_id: int
    tokenizer: str
    fingerprint: str
    split: str = ""
    detokenizer: str = "none"
    vocab_size: int | None = None
    text_changes: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_dataset(cls, dataset: Manifest, split: str) -> "HeldOut":
        """Open a split of a dataset directory.

        Raises:
            UserError: The split does not exist, or its files are incomplete.
        """
        check_files(dataset, split)
        shards = [LazyShard(dataset, record, shuffled=False) for record in dataset.shards_of(split)]
        return cls(
            str(dataset.directory),
            shards,
            dataset.totals(split),
            dataset.end_of_text_id,
            dataset.tokenizer_fingerprint,
            dataset.fingerprint,
            split,
            vocab_size=dataset.vocab_size,
            text_changes=dataset.text_changes,
        )

    @classmethod
    def of_texts(
        cls, texts: Iterable[str], tokenizer: Tokenizer, detokenizer: str = "none", name: str = "texts"
    ) -> "HeldOut":
        """Tokenise texts. Empty ones are skipped, as in `preprocess`.

        Args:
            texts: The documents.
            tokenizer: The model's tokenizer.
            detokenizer: Detokenizer to apply to each text first, a key of `DETOKENIZERS`.
            name: Name of the texts in messages.

        Raises:
            UserError: All texts are empty, or one has a character that the tokenizer does not know.
        """
        how = DETOKENIZERS[detokenizer]
        digest = hashlib.sha256(tokenizer.fingerprint.encode())
        pieces: list[NDArray[np.uint32]] = []
        documents = size = words = lm_eval_words = 0
        changes: list[TextChanges] = []
        round_trip = RoundTrip(tokenizer)
        for batch in _batches(text for text in texts if text):
            for original in batch:
                content = original.encode()
                digest.update(len(content).to_bytes(8, "little") + content)
                size += len(content)
                words += how.count_words(original)
                lm_eval_words += count_lm_eval_words(original)
            cleaned = [how.clean(text) for text in batch]
            tokens, lengths = tokenizer.encode_batch(cleaned)
            changes.append(round_trip.compare([text.encode() for text in cleaned], tokens, lengths))
            pieces.append(_with_ends(tokens, lengths, tokenizer.end_of_text_id))
            documents += len(batch)
        if not documents:
            raise UserError(f"{name}: contains no text; give files that do")
        tokens = np.concatenate(pieces)
        totals = Totals(len(tokens), documents, size, words, lm_eval_words)
        return cls(
            name,
            [tokens],
            totals,
            tokenizer.end_of_text_id,
            tokenizer.fingerprint,
            digest.hexdigest(),
            detokenizer=detokenizer,
            text_changes=TextChanges.total(changes).recorded(tokenizer),
        )

    def stream(self, prefix: bool) -> TokenStream:
        """Return all tokens as a stream, which starts with an additional end-of-text if `prefix` is true."""
        return TokenStream(self.parts, self.end_of_text_id if prefix else None, self.vocab_size)

    def windows(
        self, sequence_length: int, stride: int, prefix: bool, per_document: bool
    ) -> tuple[TokenStream, WindowSet]:
        """Return the stream to read, and the windows over it.

        Args:
            sequence_length: Tokens L per window.
            stride: Tokens between the starts of windows.
            prefix: Whether to prepend an end-of-text to the stream, so that its first token is a target too.
            per_document: Whether to window each document separately. The prefix then precedes each document,
                and the end-of-text after it is not a target: only the text is scored.

        Raises:
            UserError: The text has no target, or `per_document` is set and the number of end-of-text tokens
                does not match the number of documents.
        """
        if not per_document:
            stream = self.stream(prefix)
            if len(stream) < 2:
                raise UserError(f"{self.name}: has a single token, so there is nothing to predict")
            return stream, Windows(len(stream), sequence_length, stride)
        stream = self.stream(prefix=True)  # so that an end-of-text precedes each document
        begins, tokens = self._documents(stream)
        if not prefix:
            begins, tokens = begins + 1, tokens - 1
        windows = DocumentWindows(begins, tokens, sequence_length, stride)
        if not windows.targets:
            raise UserError(f"{self.name}: no document has two tokens, so there is nothing to predict")
        return stream, windows

    def _documents(self, stream: TokenStream) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the stream position of each document's prefix, and its number of tokens with the prefix."""
        ends = np.append(_find(stream, self.end_of_text_id), len(stream))
        tokens = np.diff(ends)
        if tokens[-1] == 1:  # nothing after the last end-of-text
            ends, tokens = ends[:-1], tokens[:-1]
        if len(tokens) != self.totals.documents:
            raise UserError(
                f"{self.name}: has {self.totals.documents:,} documents but {len(tokens):,} by its end-of-text "
                "tokens, so it cannot be scored per document; score it as one stream, or preprocess it again"
            )
        return ends[:-1], tokens


def default_split(dataset: Manifest) -> str:
    """Return the split that is scored unless another is named: "val" if the dataset has it, else its only one."""
    return "val" if "val" in dataset.splits else next(iter(dataset.splits), "val")


def read_texts(
    inputs: Sequence[str],
    reading: Reading,
    suffixes: Sequence[str] | None = None,
    format: str | None = None,
    on_info: Callable[[str], None] = lambda text: None,
) -> Iterator[str]:
    """Yield the whole documents of files, in order of path. `corpus.discover` describes inputs and `on_info`.

    Raises:
        UserError: A file or a document cannot be read. Skipping it would change the text that is scored.
    """
    skipped: Counter[str] = Counter()
    for source in discover(inputs, suffixes, format=format, encoding=reading.encoding, on_info=on_info):
        for piece in cut(source, max(source.size, 1)):
            for item in read(piece, reading):
                if isinstance(item, Skipped):
                    skipped[item.kind] += 1
                else:
                    yield _whole(item, source.path, reading.encoding)
    if skipped:
        on_info(f"skipped {without_text(skipped)}")


def _whole(item: Document | LongDocument | Rejected, path: str, encoding: str | None) -> str:
    match item:
        case Document():
            text, repaired = item.text, item.repaired
        case LongDocument():
            try:
                text = b"".join(item.parts)
            except BadDocumentError as error:
                raise _unreadable(path, item.line, str(error)) from error
            repaired = item.repaired  # known only after the last part
        case Rejected():
            raise _unreadable(path, item.line, item.reason)
    if repaired:
        reason = f"is not Unicode ({repaired:,} characters are not valid {encoding or 'UTF-8'}; --encoding NAME"
        raise _unreadable(path, item.line, f"{reason} reads other encodings)")
    return text.decode()


def _unreadable(path: str, line: int, reason: str) -> UserError:
    return UserError(
        f"{path}:{line}: {reason}; fix it, or `gpt2dist preprocess` the files, which lists the "
        "documents that it skips, and give the dataset as --data"
    )


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == TOKENISED_TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _with_ends(tokens: NDArray[np.uint32], lengths: NDArray[np.int64], end_of_text_id: int) -> NDArray[np.uint32]:
    """Return the tokens of texts, with an end-of-text after each text."""
    return np.insert(tokens, np.cumsum(lengths), end_of_text_id).astype(np.uint32)


def _find(stream: TokenStream, token: int) -> NDArray[np.int64]:
    """Return the positions of a token in a stream, in order."""
    borders = [*range(0, len(stream), SCANNED_TOGETHER), len(stream)]
    found = (
        begin + np.flatnonzero(stream.read(np.array([begin]), end - begin)[0] == token)
        for begin, end in pairwise(borders)
    )
    return np.concatenate([np.empty(0, np.int64), *found])

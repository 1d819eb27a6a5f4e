"""Text that a model is scored on: a split of a dataset, or texts that are tokenised on the fly.

Both are one stream in which every document ends with end-of-text, so the same texts have the same score.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpt2dist.corpus import DEFAULT_SUFFIXES, Document, LongDocument, Reading, Rejected, cut, discover, read
from gpt2dist.corpus.documents import BadDocumentError, Item
from gpt2dist.dataset.manifest import Manifest, Totals
from gpt2dist.errors import UserError
from gpt2dist.evaluation.detokenizers import DETOKENIZERS
from gpt2dist.loading.token_stream import LazyShard, Tokens, TokenStream, check_files
from gpt2dist.loading.windows import DocumentWindows, Windows, WindowSet
from gpt2dist.tokenizer.tokenizer import Tokenizer

TOKENISED_TOGETHER = 256
"""Documents that are tokenised in one call."""
SCANNED_TOGETHER = 1 << 24
"""Tokens that are searched for end-of-text at a time."""


@dataclass(frozen=True)
class HeldOut:
    """Text to score.

    Attributes:
        name: What messages call it.
        parts: The tokens, in pieces.
        totals: Tokens and documents, and bytes and words of the original text.
        end_of_text_id: Ends each document.
        tokenizer: Fingerprint of the tokenizer.
        fingerprint: Another one when the text or the tokenizer is another.
        split: Of a dataset; "" for texts.
        detokenizer: What texts went through, a key of `DETOKENIZERS`.
    """

    name: str
    parts: Sequence[Tokens]
    totals: Totals
    end_of_text_id: int
    tokenizer: str
    fingerprint: str
    split: str = ""
    detokenizer: str = "none"

    @classmethod
    def of_dataset(cls, dataset: Manifest, split: str) -> "HeldOut":
        """A split of a dataset directory.

        Raises:
            UserError: There is no such split, or its files are not whole.
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
        )

    @classmethod
    def of_texts(
        cls, texts: Iterable[str], tokenizer: Tokenizer, detokenizer: str = "none", name: str = "texts"
    ) -> "HeldOut":
        """Texts, tokenised now. Empty ones are left out, as `preprocess` does.

        Args:
            texts: The documents.
            tokenizer: The model's.
            detokenizer: What each goes through first, a key of `DETOKENIZERS`.
            name: What messages call them.

        Raises:
            UserError: There is no text, or it has a character that the tokenizer does not know.
        """
        how = DETOKENIZERS[detokenizer]
        digest = hashlib.sha256(tokenizer.fingerprint.encode())
        pieces: list[NDArray[np.uint32]] = []
        documents = size = words = 0
        for batch in _batches(text for text in texts if text):
            for original in batch:
                content = original.encode()
                digest.update(len(content).to_bytes(8, "little") + content)
                size += len(content)
                words += how.count_words(original)
            pieces.append(_with_ends([how.clean(text) for text in batch], tokenizer))
            documents += len(batch)
        if not documents:
            raise UserError(f"{name}: no text there; give files that hold some")
        tokens = np.concatenate(pieces)
        totals = Totals(len(tokens), documents, size, words)
        return cls(
            name,
            [tokens],
            totals,
            tokenizer.end_of_text_id,
            tokenizer.fingerprint,
            digest.hexdigest(),
            detokenizer=detokenizer,
        )

    def stream(self, prefix: bool) -> TokenStream:
        """All tokens, after an end-of-text where one is wanted as `prefix`."""
        return TokenStream(self.parts, self.end_of_text_id if prefix else None)

    def windows(
        self, sequence_length: int, stride: int, prefix: bool, per_document: bool
    ) -> tuple[TokenStream, WindowSet]:
        """What to read, and where.

        Args:
            sequence_length: Tokens L per window.
            stride: Tokens from window to window.
            prefix: Whether an end-of-text stands before the stream, so that its first token is a target too.
            per_document: Whether windows begin anew with each document. The prefix then stands before each
                document, and the end-of-text behind it is no target: what is scored is the text alone.

        Raises:
            UserError: There is nothing to predict, or `per_document` cannot tell the documents apart.
        """
        if not per_document:
            stream = self.stream(prefix)
            if len(stream) < 2:
                raise UserError(f"{self.name}: holds a single token, which leaves nothing to predict")
            return stream, Windows(len(stream), sequence_length, stride)
        stream = self.stream(prefix=True)  # so that an end-of-text stands before each document
        begins, tokens = self._documents(stream)
        if not prefix:
            begins, tokens = begins + 1, tokens - 1
        windows = DocumentWindows(begins, tokens, sequence_length, stride)
        if not windows.targets:
            raise UserError(f"{self.name}: no document has two tokens, which leaves nothing to predict")
        return stream, windows

    def _documents(self, stream: TokenStream) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in the stream each document's prefix stands, and its tokens with the prefix."""
        ends = np.append(list(_find(stream, self.end_of_text_id)), len(stream)).astype(np.int64)
        tokens = np.diff(ends)
        if tokens[-1] == 1:  # nothing behind the last end-of-text
            ends, tokens = ends[:-1], tokens[:-1]
        if len(tokens) != self.totals.documents:
            raise UserError(
                f"{self.name}: has {self.totals.documents:,} documents but {len(tokens):,} by its end-of-text "
                "tokens, so it cannot be scored per document; score it as one stream, or preprocess it again"
            )
        return ends[:-1], tokens


def read_texts(
    inputs: Sequence[str],
    reading: Reading,
    suffixes: Sequence[str] = DEFAULT_SUFFIXES,
    format: str | None = None,
) -> Iterator[str]:
    """The documents of files, whole, in the order of the files' paths; see `corpus.discover` for what is read.

    Raises:
        UserError: A file or a document cannot be read: a score of a part would be no score of the text.
    """
    for source in discover(inputs, suffixes, format=format):
        for piece in cut(source, max(source.size, 1)):
            for item in read(piece, reading):
                yield _whole(item, source.path)


def _whole(item: Item, path: str) -> str:
    match item:
        case Document():
            text, repaired = item.text, item.repaired
        case LongDocument():
            try:
                text = b"".join(item.parts)
            except BadDocumentError as error:
                raise _unreadable(path, item.line, str(error)) from error
            repaired = item.repaired  # known when the parts have ended
        case Rejected():
            raise _unreadable(path, item.line, item.reason)
    if repaired:
        raise _unreadable(path, item.line, "is not Unicode")
    return text.decode()


def _unreadable(path: str, line: int, reason: str) -> UserError:
    return UserError(
        f"{path}, document {line}: {reason}; mend it, or `gpt2dist preprocess` the files, which lists what it "
        "leaves out, and give the result as --data"
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


def _with_ends(texts: list[str], tokenizer: Tokenizer) -> NDArray[np.uint32]:
    """The tokens of texts, end-of-text behind each."""
    tokens, lengths = tokenizer.encode_batch(texts)
    return np.insert(tokens, np.cumsum(lengths), tokenizer.end_of_text_id).astype(np.uint32)


def _find(stream: TokenStream, token: int) -> Iterator[int]:
    """The positions of a token in a stream."""
    borders = [*range(0, len(stream), SCANNED_TOGETHER), len(stream)]
    for begin, end in pairwise(borders):
        yield from (begin + np.flatnonzero(stream.read(np.array([begin]), end - begin)[0] == token)).tolist()

"""Compare texts with the bytes that their token ids represent."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpt2dist.errors import RunError
from gpt2dist.tokenizer.token_bytes import TokenBytes
from gpt2dist.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextChanges:
    """How the ids of some texts differ from the texts.

    Attributes:
        documents: Number of texts that their ids do not restore byte for byte.
        unknown_tokens: Number of ids that represent text outside the vocabulary.
    """

    documents: int = 0
    unknown_tokens: int = 0

    @classmethod
    def total(cls, parts: Iterable["TextChanges"]) -> "TextChanges":
        """Return the sum of the changes of several batches."""
        parts = list(parts)
        return cls(sum(each.documents for each in parts), sum(each.unknown_tokens for each in parts))

    def recorded(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Return the record for manifests and results; see `text_changes`. Empty if no byte can change."""
        if not tokenizer.text_changes:
            return {}
        unknown = tokenizer.losses and tokenizer.unknown_id is not None
        counted = asdict(self) if unknown else {"documents": self.documents}
        return tokenizer.text_changes | counted


class RoundTrip:
    """Comparison of texts and ids for one tokenizer.

    If the tokenizer keeps every byte of the texts, the number of bytes is checked, which costs little beside
    encoding. Otherwise, the texts that changed are counted.

    Args:
        tokenizer: The tokenizer of the ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._bytes = None if tokenizer.losses else TokenBytes(tokenizer)
        self._sizes = np.zeros(0, np.int32) if self._bytes is None else self._bytes.lengths.astype(np.int32)

    def compare(
        self, texts: Sequence[bytes], ids: NDArray[np.integer], lengths: NDArray[np.int64]
    ) -> TextChanges:
        """Compare texts with their ids.

        Args:
            texts: Texts as valid UTF-8.
            ids: The concatenated ids of all texts, without end-of-text.
            lengths: The number of ids of each text.

        Raises:
            RunError: A tokenizer that should keep every byte lost some.
        """
        if self._bytes is None:
            return self._compare_lossy(texts, ids, lengths)
        if not all(map(self._tokenizer.keeps, texts)):
            return TextChanges(self._changed(self._bytes, texts, ids, lengths))
        if int(np.take(self._sizes, ids).sum(dtype=np.int64)) != sum(map(len, texts)):
            raise self._lost(self._bytes, texts, ids, lengths)
        return TextChanges()

    def _lost(
        self, table: TokenBytes, texts: Sequence[bytes], ids: NDArray[np.integer], lengths: NDArray[np.int64]
    ) -> RunError:
        """Return the error that names the first text with another number of bytes than its ids."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.cumsum(lengths)
        counts = np.concatenate([[0], np.cumsum(table.lengths[ids])])
        counts = counts[ends] - counts[ends - lengths]
        number = int(np.flatnonzero(counts != sizes)[0])
        return RunError(
            f"the tokens of the text {texts[number][:60].decode(errors='ignore')!r} … represent "
            f"{counts[number]:,} bytes, but it has {sizes[number]:,}: the tokenizer loses text in a way that "
            "gpt2dist does not detect; please report it"
        )

    def _changed(
        self, table: TokenBytes, texts: Sequence[bytes], ids: NDArray[np.integer], lengths: NDArray[np.int64]
    ) -> int:
        """Return the number of texts that differ from the bytes of their ids."""
        given = table.join(ids)
        if given == b"".join(texts):
            return 0
        ends = np.concatenate([[0], np.cumsum(table.lengths[ids])])[np.cumsum(lengths)].tolist()
        starts = [0, *ends[:-1]]
        return sum(given[start:end] != text for start, end, text in zip(starts, ends, texts, strict=True))

    def _compare_lossy(
        self, texts: Sequence[bytes], ids: NDArray[np.integer], lengths: NDArray[np.int64]
    ) -> TextChanges:
        documents = np.split(ids, np.cumsum(lengths)[:-1])
        pairs = zip(documents, texts, strict=True)
        changed = sum(self._tokenizer.decode(each).encode() != text for each, text in pairs)
        unknown = self._tokenizer.unknown_id
        return TextChanges(changed, 0 if unknown is None else int(np.count_nonzero(ids == unknown)))

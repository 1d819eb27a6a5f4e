"""Which documents of a task are kept. The others are counted by their reason, and listed."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gpt2dist.corpus import Document, LongDocument, Piece, Rejected, Skipped
from gpt2dist.corpus.damage import MOST_EXAMPLES, excerpt, not_unicode
from gpt2dist.dataset.manifest import FILTERED, RECORD
from gpt2dist.errors import UserError
from gpt2dist.preprocessing.atomic_output import Counts
from gpt2dist.preprocessing.filters import MOST_REASONS, Skip, TextFunctions
from gpt2dist.preprocessing.job import PreprocessingJob
from gpt2dist.preprocessing.tasks import FILTERED_NAME, REJECTED_NAME, ReplacedExample
from gpt2dist.tokenizer.tokenizer import Tokenizer, describe_characters


class Selection:
    """Selection of the documents of one task.

    Args:
        job: The job.
        tokenizer: The tokenizer, which may not know all characters.
        functions: The normalizer and the filters.
        counts: The counts of the task, to which this adds rejected, skipped and replaced ones.

    Attributes:
        changes_text: Whether there is a normalizer or a filter.
        left_out: Number of documents and records that were omitted, by reason.
        repaired: Number of documents with replaced characters.
        examples: The first of these.
    """

    def __init__(self, job: PreprocessingJob, tokenizer: Tokenizer, functions: TextFunctions, counts: Counts):
        self._job, self._tokenizer, self._functions, self._counts = job, tokenizer, functions, counts
        self.changes_text = bool(functions)
        self.left_out = dict.fromkeys(("rejected", "empty", "too_short", "too_long"), 0)
        self.repaired = 0
        self.examples: list[ReplacedExample] = []

    @contextmanager
    def listing_in(self, folder: Path) -> Iterator[None]:
        """Write rejected.jsonl and filtered.jsonl to a folder, durably, while the block runs."""
        names = [REJECTED_NAME, FILTERED_NAME] if self._job.filters else [REJECTED_NAME]
        with ExitStack() as stack:
            self._listings = {
                name: stack.enter_context(open(folder / name, "w", encoding="utf-8")) for name in names
            }
            yield
            for file in self._listings.values():
                file.flush()
                os.fsync(file.fileno())

    def start(self, number: int, piece: Piece) -> None:
        """Begin a piece; `number` is its index among the pieces of the corpus."""
        self._number, self._piece = number, piece

    def kept(self, document: Document) -> bytes:
        """Return the text to tokenise, or b"" for a skipped document, which is counted by its reason."""
        if document.repaired:
            self.repair(document, excerpt(document.text))
        text = document.text
        if self.changes_text:
            found = self._functions.apply(text, lambda: self._place(document))
            if isinstance(found, Skip):
                self._filter_out(document, found.reason)
                return b""
            text = found
        reason = self._unwanted(text)
        if reason:
            self.skip(reason)
            return b""
        if self._tokenizer.is_character_level:
            unknown = self._tokenizer.unknown_characters(text.decode())
            if unknown:
                self.reject(document, not_known(unknown))
                return b""
        return text

    def _unwanted(self, text: bytes) -> str:
        if not text:
            return "empty"
        by_length = self._job.min_chars or self._job.max_chars is not None
        return self.wrong_length(len(text.decode())) if by_length else ""

    def wrong_length(self, characters: int) -> str:
        """Return the reason to skip a document of this length; "" if there is none."""
        if characters < self._job.min_chars:
            return "too_short"
        return "too_long" if self._job.max_chars is not None and characters > self._job.max_chars else ""

    def repair(self, document: Document | LongDocument, text: str) -> None:
        """Count a document with replaced characters; `text` is an excerpt of it."""
        if self._job.on_bad_text == "fail":
            raise UserError(f"{self._place(document)}: {text!r}: {not_unicode(self._job.reading.encoding)}")
        self.repaired += 1
        self._counts.replaced += document.repaired
        if len(self.examples) < MOST_EXAMPLES:
            self.examples.append(ReplacedExample(self._number, document.line, document.offset, text))

    def skip(self, reason: str) -> None:
        """Count a document as skipped."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1
        self._counts.skipped += 1

    def _filter_out(self, document: Document, reason: str) -> None:
        """Count and list a document that a filter skips."""
        self.skip(f"{FILTERED}{reason}")
        if self._number_of_reasons(FILTERED) > MOST_REASONS:
            raise UserError(
                f"--filter: gives more than {MOST_REASONS} different reasons, such as {reason!r}. Each is "
                "counted: return Skip with one of a few reasons, without numbers or text of the document"
            )
        self._list(FILTERED_NAME, document, reason, lines=1)

    def skip_record(self, item: Skipped) -> None:
        """Count a record that holds no text; beyond `MOST_REASONS` kinds, as one of other kinds."""
        kind = f"{RECORD}{item.kind}"
        if kind not in self.left_out and self._number_of_reasons(RECORD) >= MOST_REASONS:
            kind = f"{RECORD}other"
        self.skip(kind)

    def _number_of_reasons(self, prefix: str) -> int:
        return sum(reason.startswith(prefix) for reason in self.left_out)

    def reject(self, item: Document | LongDocument | Rejected, reason: str, lines: int = 1) -> None:
        """Record a rejection. It counts as many documents as it spans lines, since each may have been one."""
        self._list(REJECTED_NAME, item, reason, lines)
        self.left_out["rejected"] += lines
        self._counts.rejected += lines

    def _list(self, name: str, item: Document | LongDocument | Rejected, reason: str, lines: int) -> None:
        record = {
            "piece": self._number,
            "line": item.line,
            "lines": lines,
            "offset": item.offset,
            "bytes": item.size,
            "reason": reason,
        }
        self._listings[name].write(json.dumps(record) + "\n")

    def _place(self, document: Document | LongDocument) -> str:
        return place(self._piece, document.line, document.offset)


def place(piece: Piece, line: int, offset: int) -> str:
    """Format the location of a document, as exactly as is known from its piece alone."""
    if piece.start == 0:
        return f"{piece.path}:{line}"
    return f"{piece.path}, byte {offset}" if offset >= 0 else f"{piece.path}, row {line} after part {piece.start}"


def not_known(characters: list[str]) -> str:
    """Return the reason to reject a document with characters that a character-level tokenizer lacks."""
    return f"{describe_characters(characters)} not in the character-level tokenizer"

"""Limits and messages for unreadable documents, characters replaced by U+FFFD, and records without text."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from gpt2dist.corpus.documents import Piece
from gpt2dist.corpus.encodings import guess, has_utf8_lines
from gpt2dist.corpus.files import Stream
from gpt2dist.corpus.formats import reader
from gpt2dist.corpus.utf8 import REPLACEMENT
from gpt2dist.errors import UserError

_EXCERPT = 40
"""Characters of a text in an example."""
_SEARCHED_BYTES = 4 << 20
"""Bytes of a file to search for invalid text, from which its encoding is guessed."""


MOST_EXAMPLES = 3
"""Maximum number of damaged documents to show."""

MOST_KINDS = 8
"""Maximum number of kinds of records without text to list."""

EARLY_DAMAGE = 100
"""Minimum rejected documents or replaced characters for a job to stop before it has read the whole corpus."""


@dataclass(frozen=True)
class DamageLimits:
    """How to treat damaged text, and how much of it to accept."""

    on_bad_text: str = "replace"
    """"replace" substitutes U+FFFD for invalid Unicode, "fail" refuses it."""
    max_bad_fraction: float = 0.001
    """Fraction of the documents that may be unreadable, in [0, 1]."""
    max_replaced_fraction: float = 0.001
    """Fraction of the characters that may be replaced by U+FFFD, in [0, 1]."""

    def check(self) -> None:
        """Check the fractions.

        Raises:
            UserError: One is out of range; the message names its option.
        """
        for name in ("max_bad_fraction", "max_replaced_fraction"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be between 0 and 1, such as 0.001")


@dataclass(frozen=True)
class Example:
    """A damaged document: its piece, its first byte (-1 if unknown), and a line that describes it."""

    piece: Piece
    offset: int
    line: str


def excerpt(text: bytes) -> str:
    """Return the text around its first U+FFFD."""
    place = text.find(REPLACEMENT.encode())
    before = text[max(place - 2 * _EXCERPT, 0) : place].decode(errors="ignore")
    after = text[place : place + 4 * _EXCERPT].decode(errors="ignore")
    return (before[-_EXCERPT // 2 :] + after)[:_EXCERPT]


def not_unicode(encoding: str | None) -> str:
    """Describe text with invalid characters, for --on-bad-text fail, and the fix."""
    return (
        f"text that is not Unicode (invalid {encoding or 'UTF-8'}, or half of a surrogate pair); fix it, name "
        "the encoding of the files with --encoding, or replace it by U+FFFD with --on-bad-text replace"
    )


def too_many_rejected(
    rejected: int, documents: int, limit: float, examples: Sequence[Example], encoding: str | None
) -> str:
    """Report that too many documents cannot be read, in complete lines and without a fix.

    Args:
        rejected: Number of documents that cannot be read.
        documents: Number of all documents.
        limit: Value of --max-bad-fraction.
        examples: The first of them.
        encoding: The encoding with which they were read; None for UTF-8.
    """
    problem = (
        f"{rejected:,} of {documents:,} documents cannot be read, more than --max-bad-fraction {limit} allows"
    )
    return _with_examples(problem, examples, encoding)


def too_many_replaced(
    replaced: int, characters: int, limit: float, examples: Sequence[Example], encoding: str | None
) -> str:
    """Report that too many characters were replaced; the arguments and result are as for `too_many_rejected`."""
    problem = (
        f"{replaced:,} of {characters:,} characters are not valid {encoding or 'UTF-8'} and would become U+FFFD, "
        f"more than --max-replaced-fraction {limit} allows"
    )
    return _with_examples(problem, examples, encoding)


def without_text(records: Counter[str]) -> str:
    """Describe records that hold no text, and what to do if they are HTML.

    Args:
        records: Their number by kind.
    """
    kinds = sorted(records.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{count:,} {kind}" for kind, count in kinds[:MOST_KINDS]]
    if rest := sum(count for _, count in kinds[MOST_KINDS:]):
        listed.append(f"{rest:,} of other kinds")
    html = (
        ". Text is not extracted from HTML: extract it first, or use WET files" if "text/html" in records else ""
    )
    return f"records that are not plain text: {', '.join(listed)}{html}"


def _with_examples(problem: str, examples: Sequence[Example], encoding: str | None) -> str:
    shown = "".join(f"\n  {example.line}" for example in examples[:MOST_EXAMPLES])
    return f"{problem}. The first:{shown}\n{_suggest_encoding(examples[0], encoding)}"


def _suggest_encoding(example: Example, encoding: str | None) -> str:
    """Return lines that suggest encodings for the file of an example; "" if its bytes are valid or none fits."""
    piece = example.piece
    if not reader(piece.format).has_encodings:
        return ""
    data = _bytes_from(piece, max(example.offset, piece.start))
    found = guess(data, encoding)
    if not found:
        return ""
    if found[0].encoding == "utf-8":
        return f"{piece.path} is UTF-8: omit --encoding, or read this file separately from those in {encoding}.\n"
    lines = "".join(f"\n  {fit.encoding}: {fit.text[:_EXCERPT]!r}" for fit in found)
    if has_utf8_lines(data):
        return f"Some lines are UTF-8; convert the others. Their encoding may be one of these:{lines}\n"
    return (
        f"The encoding there may be one of these:{lines}\n"
        f"--encoding NAME reads all plain files in that encoding, such as --encoding {found[0].encoding}.\n"
    )


def _bytes_from(piece: Piece, start: int) -> bytes:
    """Return decompressed bytes of a piece's file from `start`, as many as can be read."""
    data, skip = b"", start if piece.compression else 0
    with suppress(UserError, OSError), Stream(piece.path, piece.compression, start - skip) as stream:
        while len(data) < _SEARCHED_BYTES and (block := stream.read()):
            data += block[skip:]
            skip = max(skip - len(block), 0)
    return data

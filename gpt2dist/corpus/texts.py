"""The texts of a corpus one after another, with limits on damage."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from gpt2dist.corpus.damage import (
    EARLY_DAMAGE,
    MOST_EXAMPLES,
    DamageLimits,
    Example,
    excerpt,
    not_unicode,
    too_many_rejected,
    too_many_replaced,
    without_text,
)
from gpt2dist.corpus.documents import (
    BadDocumentError,
    Document,
    LongDocument,
    Piece,
    Reading,
    Rejected,
    Skipped,
    Source,
)
from gpt2dist.corpus.reading import cut, read
from gpt2dist.corpus.utf8 import REPLACEMENT, count_characters
from gpt2dist.errors import UserError


class CorpusTexts:
    """Reader of the texts of a corpus, which counts what is damaged.

    Args:
        sources: The corpus.
        reading: Options for reading it.
        limits: Limits on the damage.

    Attributes:
        bytes: Stored bytes of the corpus.
    """

    def __init__(self, sources: Sequence[Source], reading: Reading, limits: DamageLimits):
        self.bytes = sum(source.size for source in sources)
        self._sources, self._reading, self._limits = sources, reading, limits
        self._read_bytes = self._documents = self._characters = self._rejected = self._replaced = 0
        self._rejections: list[Example] = []
        self._replacements: list[Example] = []
        self._skipped: Counter[str] = Counter()

    def read(self, on_bytes: Callable[[int], None]) -> Iterator[str]:
        """Yield the texts, long ones in parts.

        Args:
            on_bytes: Called with the stored bytes of each document.

        Raises:
            UserError: A file cannot be read, no document can be read, or the damage exceeds a limit.
        """
        for piece in (piece for source in self._sources for piece in cut(source, max(source.size, 1))):
            for item in read(piece, self._reading):
                if isinstance(item, Skipped):
                    self._skipped[item.kind] += 1
                else:
                    yield from self._texts(item, piece)
                self._read_bytes += item.size
                self._check(self.bytes / max(self._read_bytes, 1), EARLY_DAMAGE)
                on_bytes(item.size)
        self._check(growth=1, least=1)
        if not self._documents:
            only = f", only {without_text(self._skipped)}" if self._skipped else "; check the inputs"
            raise UserError(f"the corpus has no documents to read{only}")

    def warnings(self) -> list[str]:
        """Describe the damage within the limits and the records without text, after the texts were read."""
        found = [f"skipped {without_text(self._skipped)}"] if self._skipped else []
        if self._rejected:
            found.append(f"{self._rejected:,} documents cannot be read. The first: {self._rejections[0].line}")
        if self._replaced:
            found.append(f"{self._replaced:,} characters became U+FFFD. The first: {self._replacements[0].line}")
        return found

    def _texts(self, item: Document | LongDocument | Rejected, piece: Piece) -> Iterator[str]:
        damaged = ""
        try:
            if isinstance(item, Rejected):
                raise BadDocumentError(item.reason, item.lines)
            for part in (item.text,) if isinstance(item, Document) else item.parts:
                self._characters += count_characters(part)
                if not damaged and REPLACEMENT.encode() in part:
                    damaged = excerpt(part)
                yield part.decode()
        except BadDocumentError as error:
            self._rejected += error.lines
            _note(self._rejections, piece, item, str(error))
            return
        self._documents += 1
        if item.repaired:
            self._replaced += item.repaired
            _note(self._replacements, piece, item, repr(damaged))
            if self._limits.on_bad_text == "fail":
                raise UserError(f"{self._replacements[0].line}: {not_unicode(self._reading.encoding)}")

    def _check(self, growth: float, least: int) -> None:
        """Raise if the damage exceeds what is allowed in a corpus `growth` times the size of what was read.

        Fewer than `least` damaged documents or characters are ignored.
        """
        limits, encoding = self._limits, self._reading.encoding
        documents = self._documents + self._rejected
        if self._rejected >= least and self._rejected > limits.max_bad_fraction * documents * growth:
            problem = too_many_rejected(
                self._rejected, documents, limits.max_bad_fraction, self._rejections, encoding
            )
            if not self._documents:
                raise UserError(f"{problem}Name the field of the text with --text-field, or check the inputs")
            raise UserError(f"{problem}Fix them, or skip them with a larger --max-bad-fraction")
        if self._replaced >= least and self._replaced > limits.max_replaced_fraction * self._characters * growth:
            problem = too_many_replaced(
                self._replaced, self._characters, limits.max_replaced_fraction, self._replacements, encoding
            )
            raise UserError(f"{problem}To keep the text with its U+FFFD, raise --max-replaced-fraction")


def _note(examples: list[Example], piece: Piece, item: Document | LongDocument | Rejected, what: str) -> None:
    if len(examples) < MOST_EXAMPLES:
        examples.append(Example(piece, item.offset, f"{piece.path}:{item.line}: {what}"))

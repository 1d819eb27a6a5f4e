"""Collect the quickstart's corpus into one JSON-lines file, from Python's standard library or given sources."""

import json
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpt2dist.corpus import Document, Reading, Source, content_sha256, cut, discover, read, with_versions
from gpt2dist.output_paths import check_file, write_file

SUFFIXES = (".py", ".txt", ".rst", ".md", ".jsonl", ".ndjson")
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
FEW_DOCUMENTS = 100
PIECES = 200
LONGEST_PIECE = 8192  # characters


def make_corpus(output: Path, inputs: Sequence[str] = ()) -> str:
    """Write the corpus, unless the file exists and was made from the same sources.

    Args:
        output: The file to write, in JSON lines.
        inputs: Files, directories and globs; empty for the standard library of this Python.

    Returns:
        What was done, in words.

    Raises:
        UserError: An input does not exist, or the file cannot be created.
        RunError: The file cannot be written.
    """
    listing_file = output.with_suffix(".origin.json")
    for path in (output, listing_file):
        check_file(path, "OUTPUT")
    sources = [Path(source.path) for source in discover(inputs, SUFFIXES)] if inputs else standard_library()
    listing = content_sha256(
        with_versions([Source(str(path), "", "", path.stat().st_size, "") for path in sources])
    )
    if output.is_file() and listing_file.is_file() and listing_file.read_text() == listing:
        return f"{output}: there already"
    documents = list(_texts(sources))
    if len(documents) < FEW_DOCUMENTS:
        # Validation holds out whole documents, so a few long ones could not be split well.
        size = min(LONGEST_PIECE, sum(map(len, documents)) // PIECES)
        documents = [piece for document in documents for piece in _pieces(document, size)]
    write_file(output, "".join(json.dumps({"text": text}) + "\n" for text in documents), "OUTPUT")
    write_file(listing_file, listing, "OUTPUT")
    size = sum(len(text.encode()) for text in documents)
    return f"{output}: {len(documents):,} documents, {size / 1e6:.1f} MB of text"


def standard_library() -> list[Path]:
    """Return the source and text files of the standard library; pydoc_data contains the manual's topics."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in root.rglob("*") if path.suffix in (".py", ".txt", ".rst"))
    return sorted(path for path in files if path.is_file() and not SKIPPED & set(path.relative_to(root).parts))


def _texts(sources: list[Path]) -> Iterator[str]:
    """Yield the documents of the sources, without blank or unreadable ones."""
    for source in discover([str(path) for path in sources], SUFFIXES):
        for piece in cut(source, source.size):
            for item in read(piece, Reading()):
                if isinstance(item, Document) and not item.text.isspace() and item.text:
                    yield item.text.decode()


def _pieces(text: str, size: int) -> Iterator[str]:
    """Yield pieces of a text, cut at line ends, of at least `size` characters except for the last."""
    piece: list[str] = []
    for line in text.splitlines(keepends=True):
        piece.append(line)
        if sum(map(len, piece)) >= size:
            yield "".join(piece)
            piece = []
    if piece:
        yield "".join(piece)

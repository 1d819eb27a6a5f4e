"""Collect a corpus into one JSON-lines file, from the standard library of this Python or from given sources.

    python tools/make_corpus.py data/quickstart.jsonl                       the standard library
    python tools/make_corpus.py data/quickstart.jsonl books/ notes.txt      files, directories, globs

If the file already exists and was made from the same sources, nothing is done.
"""

import argparse
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gpt2dist.corpus import Document, Reading, Source, content_sha256, cut, discover, read, with_versions
from gpt2dist.errors import UserError
from gpt2dist.output_paths import check_file, write_file

SUFFIXES = (".py", ".txt", ".rst", ".md", ".jsonl", ".ndjson")
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
FEW_DOCUMENTS = 100
PIECES = 200
LONGEST_PIECE = 8192  # characters


def main() -> int:
    """Write the corpus, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="file to write: JSON lines")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="default: the standard library")
    args = parser.parse_args()
    origin = args.output.with_suffix(".origin.json")
    try:
        for path in (args.output, origin):
            check_file(path, "OUTPUT")
        sources = named_sources(args.inputs) if args.inputs else standard_library()
    except UserError as error:
        print(f"make_corpus: {error}", file=sys.stderr)
        return 2
    listing = content_sha256(
        with_versions([Source(str(path), "", "", path.stat().st_size, "") for path in sources])
    )
    if args.output.is_file() and origin.is_file() and origin.read_text() == listing:
        print(f"{args.output}: there already", file=sys.stderr)
        return 0
    documents = list(texts(sources))
    if len(documents) < FEW_DOCUMENTS:
        # Validation holds out whole documents, so a few long ones could not be split well.
        size = min(LONGEST_PIECE, sum(map(len, documents)) // PIECES)
        documents = [piece for document in documents for piece in pieces(document, size)]
    write_file(args.output, "".join(json.dumps({"text": text}) + "\n" for text in documents), "OUTPUT")
    write_file(origin, listing, "OUTPUT")
    size = sum(len(text.encode()) for text in documents)
    print(f"{args.output}: {len(documents):,} documents, {size / 1e6:.1f} MB of text", file=sys.stderr)
    return 0


def standard_library() -> list[Path]:
    """Return the source and text files of the standard library; pydoc_data contains the manual's topics."""
    root = Path(sysconfig.get_path("stdlib"))
    files = (path for path in root.rglob("*") if path.suffix in (".py", ".txt", ".rst"))
    return sorted(path for path in files if path.is_file() and not LEFT_OUT & set(path.relative_to(root).parts))


def named_sources(inputs: list[str]) -> list[Path]:
    """Return the files that the user's inputs name."""
    return [Path(source.path) for source in discover(inputs, SUFFIXES)]


def texts(sources: list[Path]) -> Iterator[str]:
    """Yield the documents of the sources, without blank or unreadable ones."""
    for source in discover([str(path) for path in sources], SUFFIXES):
        for piece in cut(source, source.size):
            for item in read(piece, Reading()):
                if isinstance(item, Document) and not item.text.isspace() and item.text:
                    yield item.text.decode()


def pieces(text: str, size: int) -> Iterator[str]:
    """Yield pieces of a text, cut at line ends, of at least `size` characters except for the last."""
    piece: list[str] = []
    for line in text.splitlines(keepends=True):
        piece.append(line)
        if sum(map(len, piece)) >= size:
            yield "".join(piece)
            piece = []
    if piece:
        yield "".join(piece)


if __name__ == "__main__":
    sys.exit(main())

import re

import pytest

from gpt2dist.commands.preprocess import formats_help
from gpt2dist.corpus import READERS, Reader, file_formats
from gpt2dist.corpus.formats import DATASETS, default_suffixes, reader


def test_the_documentation_lists_the_readers(repository):
    """docs/design/corpus.md shows name, suffixes and compression of each reader, in the order of the table."""
    page = (repository / "docs/design/corpus.md").read_text(encoding="utf-8")
    rows = [re.split(r" *\| *", line)[1:-1] for line in page.splitlines() if re.match(r"\| (`|–)", line)]
    shown = {
        name.strip("`"): (tuple(re.findall(r"`(\.\w+)`", files)), compressed.startswith("yes"))
        for name, files, *_, compressed in rows
        if name not in ("–", "`--format`")
    }
    assert shown == {name: (reader(name).suffixes, reader(name).compressible) for name in file_formats()}
    assert list(shown) == list(file_formats())


def test_help_lists_the_readers():
    text = " ".join(formats_help().split())
    assert text.startswith("Formats: text (.txt .md .rst), jsonl (.jsonl .ndjson .json), csv (.csv)")
    assert text.endswith("text, jsonl, csv, tsv, warc also as .gz .zst .xz .bz2.")


@pytest.mark.parametrize("name", READERS.names())
def test_each_reader_is_whole(name):
    found = reader(name)
    assert isinstance(found, Reader) and type(found).read is not Reader.read
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in found.suffixes)
    assert bool(found.suffixes) == (name != DATASETS)


def test_the_suffixes_are_those_of_all_readers():
    suffixes = default_suffixes()
    assert len(set(suffixes)) == len(suffixes)
    assert {".md", ".ndjson.zst", ".tsv.xz", ".parquet", ".wet.gz"} < set(suffixes)
    assert ".parquet.gz" not in suffixes

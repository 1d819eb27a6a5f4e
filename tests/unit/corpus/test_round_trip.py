import bz2
import csv
import gzip
import io
import json
import lzma
import random
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from gpt2dist.corpus import documents, files

SEPARATOR = "\n<|end|>\n"
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


def as_text(texts):
    return SEPARATOR.join(texts).encode() + SEPARATOR.encode()


def as_jsonl(texts):
    generator = random.Random(0)
    return "".join(
        json.dumps({"id": 1, "text": t}, ensure_ascii=generator.random() < 0.5) + "\n" for t in texts
    ).encode()


def as_table(delimiter):
    def write(texts):
        output = io.StringIO()
        writer = csv.writer(output, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "text"), *enumerate(texts)])
        return output.getvalue().encode()

    return write


def as_parquet(texts):
    output = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), output, row_group_size=20)
    return output.getvalue()


def as_arrow(new):
    def write(texts):
        output, table = io.BytesIO(), pa.table({"id": range(len(texts)), "text": texts})
        with new(output, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
        return output.getvalue()

    return write


PLAIN = {"txt": as_text, "jsonl": as_jsonl, "csv": as_table(","), "tsv": as_table("\t")}
WRITERS = {
    f"{kind}{suffix}": (write, pack) for kind, write in PLAIN.items() for suffix, pack in COMPRESS.items()
} | {
    "parquet": (as_parquet, bytes),
    "file.arrow": (as_arrow(pa.ipc.new_file), bytes),
    "stream.arrow": (as_arrow(pa.ipc.new_stream), bytes),
}


def random_texts(seed, count=120):
    """Texts of any characters but zero, which makes a text file binary."""
    generator = random.Random(seed)

    def character():
        kind = generator.randrange(4)
        if kind == 0:
            return generator.choice('\t\n\r\v\f\x1c\x85\u2028",\\ ')
        code = generator.randrange(1, (128, 0x800, 0xD800, 0x110000)[kind])
        return chr(code) if not 0xD800 <= code < 0xE000 else "\U0010ffff"

    return ["".join(character() for _ in range(generator.randrange(60))) for _ in range(count)]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("long_bytes, block_bytes", [(8 << 20, 1 << 20), (40, 16)])
def test_texts_come_back_from_every_format(tmp_path, read_corpus, monkeypatch, name, long_bytes, block_bytes):
    texts = random_texts(name)
    write, pack = WRITERS[name]
    path = tmp_path / f"corpus.{name}"
    path.write_bytes(pack(write(texts)))
    monkeypatch.setattr(documents, "LONG_BYTES", long_bytes)
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    for size in (100, 1 << 40):
        seen = read_corpus(path, size, document_separator=SEPARATOR)
        assert [document.text for document in seen] == texts
        assert not any(document.repaired for document in seen)


@pytest.mark.parametrize("name", ["txt", "jsonl.zst", "csv", "parquet"])
def test_the_languages_of_the_world_come_back(tmp_path, read_corpus, shared_data, name):
    with zipfile.ZipFile(shared_data / "udhr.zip") as archive:
        data = [archive.read(entry) for entry in archive.namelist() if not entry.endswith("/")]
    texts = []
    for text in data:
        try:
            texts.append(text.decode("utf-8-sig"))
        except UnicodeDecodeError:
            continue
    assert len(texts) > 100
    write, pack = WRITERS[name]
    path = tmp_path / f"corpus.{name}"
    path.write_bytes(pack(write(texts)))
    options = {"document_separator": SEPARATOR, "max_field_lines": 10_000}
    assert [document.text for document in read_corpus(path, 1 << 20, **options)] == texts

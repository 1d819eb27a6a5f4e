import csv
import io
import random

import pytest

from gpt2dist.corpus import LongDocument, Reading, cut, discover, documents, files, read
from gpt2dist.errors import UserError


def test_rows_and_what_they_account_for(tmp_path, read_corpus):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,text\r\n1,plain\r\n\r\n2,"quoted, with ""quotes""\r\nand lines"\r\n'
        b'3,caf\xe9\r\n4,\r\n5,"last"'
    )
    seen = read_corpus(path, size=3)
    assert [(document.text, document.line, document.repaired) for document in seen] == [
        ("plain", 1, False),
        ('quoted, with "quotes"\r\nand lines', 2, False),
        ("caf\ufffd", 3, True),
        ("", 4, False),
        ("last", 5, False),
    ]
    data = path.read_bytes()
    assert [data[document.offset :][:2] for document in seen] == [b"1,", b"2,", b"3,", b"4,", b"5,"]
    assert sum(document.size for document in seen) == len(data)


def test_tabs(tmp_path, read_corpus):
    (tmp_path / "a.tsv").write_text('text\tid\n"a\tb"\t1\nc, d\t2\n')
    assert [document.text for document in read_corpus(tmp_path / "a.tsv")] == ["a\tb", "c, d"]


def test_rejected_rows_say_why(tmp_path, read_corpus):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,id\na,1\nb\nc,1,2\nd\re,2\nf,3\n"never,closed\n')
    seen = read_corpus(path)
    assert [(document.line, document.text or document.reason[:40]) for document in seen] == [
        (1, "a"),
        (2, "1 cells in a row of a table with 2 column"[:40]),
        (3, "3 cells in a row of a table with 2 column"[:40]),
        (4, "not ','-separated: new-line character se"),
        (5, "f"),
        (6, "a quote that is never closed"),
    ]


@pytest.mark.parametrize(
    "data, message",
    [
        (b"id,content\n1,x\n", r"a\.csv: no column 'text'; its columns are 'id', 'content': --text-field takes"),
        (
            "text,id\n".encode("utf-16-le"),
            r"a\.csv: its first row names no columns: it is binary, or text in another",
        ),
        (b"\n\n", r"a\.csv: no column 'text'; its columns are none"),
    ],
)
def test_a_table_without_the_column_is_refused(tmp_path, read_corpus, data, message):
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_corpus(tmp_path / "a.csv")


def test_a_header_that_is_too_long_is_refused(tmp_path, read_corpus, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 100)
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)
    (tmp_path / "a.csv").write_bytes(b"x" * 1000)
    with pytest.raises(UserError, match="its first row names no columns"):
        read_corpus(tmp_path / "a.csv")


def random_table(generator):
    """A table as bytes, sometimes spoiled, and the rows that the module csv reads from it."""
    pieces = ["x", "é€", "😀", ",", '"', "\n", "\r\n", " ", "word " * 5]
    output = io.StringIO()
    end = generator.choice(["\n", "\r\n"])
    quoting = generator.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(output, lineterminator=end, quoting=quoting)
    for _ in range(generator.randrange(1, 6)):
        writer.writerow("".join(generator.choices(pieces, k=generator.randrange(6))) for _ in range(3))
    text = output.getvalue()
    if generator.random() < 0.5:
        at = generator.randrange(len(text))
        text = text[:at] + generator.choice([",", '"', "\n", "x", ""]) + text[at + generator.randrange(2) :]
    return text


@pytest.mark.parametrize("seed", range(6))
def test_long_rows_read_as_the_module_csv_does(tmp_path, read_corpus, monkeypatch, seed):
    path = tmp_path / "a.csv"
    generator, long = random.Random(seed), 0
    for _ in range(150):
        text = random_table(generator)
        path.write_bytes(b"a,text,c\n" + text.encode())
        monkeypatch.setattr(files, "BLOCK_BYTES", generator.choice([1, 2, 3, 8]))
        monkeypatch.setattr(documents, "LONG_BYTES", 1 << 20)
        whole = read_corpus(path)
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row] if "\r" not in text else None
        if rows is not None and not any("closed" in document.reason for document in whole):
            assert [document.text for document in whole] == [row[1] if len(row) == 3 else None for row in rows]
        monkeypatch.setattr(documents, "LONG_BYTES", 9)  # the header is just short enough
        parts = read_corpus(path)
        assert [(item.text, item.line, item.offset) for item in parts] == [
            (item.text, item.line, item.offset) for item in whole
        ]
        long += sum(document.long for document in parts)
    assert long > 100


def test_a_long_row_that_nobody_reads_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 20)
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"' + "a line of it\n" * 10 + '"\n2,short\n')
    (source,) = discover([str(path)])
    long, short = read(cut(source, 100)[0], Reading())
    assert isinstance(long, LongDocument) and long.size > 100 and short.text == b"short"

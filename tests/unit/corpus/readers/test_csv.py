import csv
import io
import operator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
        ("plain", 2, False),
        ('quoted, with "quotes"\r\nand lines', 4, False),
        ("caf\ufffd", 6, True),
        ("", 7, False),
        ("last", 8, False),
    ]
    data = path.read_bytes()
    assert [data[document.offset :][:2] for document in seen] == [b"1,", b"2,", b"3,", b"4,", b"5,"]
    assert sum(document.size for document in seen) == len(data)


def test_tabs(tmp_path, read_corpus):
    (tmp_path / "a.tsv").write_text('text\tid\n"a\tb"\t1\nc, d\t2\n')
    assert [document.text for document in read_corpus(tmp_path / "a.tsv")] == ["a\tb", "c, d"]


def test_rejected_rows_say_why(tmp_path, read_corpus):
    path = tmp_path / "a.csv"
    path.write_bytes(
        b'text,id\na,1\nb\nc,1,2\nd\re,2\nf,3\n"Hello," he said.,4\n"g\nh" i,5\n"j",6\n"never,\nclosed\n'
    )
    hint = " (--quoting none treats quotes as ordinary characters)"
    assert [(item.line, item.lines, item.text or item.reason) for item in read_corpus(path)] == [
        (2, 1, "a"),
        (3, 1, "1 cells in a row of a table with 2 columns"),
        (4, 1, "3 cells in a row of a table with 2 columns"),
        (5, 1, "a carriage return outside quotes that does not end a line"),
        (6, 1, "f"),
        (7, 1, f"text after the quote that closes a field{hint}"),
        (8, 2, f"text after the quote that closes a field{hint}"),
        (10, 1, "j"),
        (11, 2, f"a quote that is never closed{hint}"),
    ]


def test_quotes_as_ordinary_characters(tmp_path, read_corpus):
    path = tmp_path / "a.tsv"
    path.write_text('id\ttext\n1\t"Hello," he said.\n"2\t5" pipe\n3\t"all"\r\n')
    seen = read_corpus(path, quoting="none")
    assert [(item.text, item.line) for item in seen] == [('"Hello," he said.', 2), ('5" pipe', 3), ('"all"', 4)]


@pytest.mark.parametrize("long_bytes", [1 << 20, 30])
@pytest.mark.parametrize("begin, line", [('a,1\n"b', 3), ('"a\nb","c', 3), ('"a\nb\nc","d\ne', 4)])
def test_a_quoted_field_of_too_many_lines_stops(tmp_path, read_corpus, monkeypatch, begin, line, long_bytes):
    monkeypatch.setattr(documents, "LONG_BYTES", long_bytes)
    monkeypatch.setattr(files, "BLOCK_BYTES", 16)
    path = tmp_path / "a.csv"
    path.write_text("text,id\n" + begin + "\nx" * 4 + '"\nlast,2\n')
    message = rf"a\.csv: line {line}: a quoted field starts here and does not end within 4 lines"
    with pytest.raises(UserError, match=message):
        read_corpus(path, max_field_lines=4)
    assert read_corpus(path, max_field_lines=6)[-1].text == "last"


@pytest.mark.parametrize("long_bytes", [1 << 20, 30])
def test_where_rows_end_with_cr_lf_a_bare_lf_hides_no_row(tmp_path, read_corpus, monkeypatch, long_bytes):
    monkeypatch.setattr(documents, "LONG_BYTES", long_bytes)
    monkeypatch.setattr(files, "BLOCK_BYTES", 16)
    path, poem = tmp_path / "a.csv", "\n".join("abcdefghij")
    path.write_text(f'id,text\r\n1,"{poem}"\r\n2,b\r\n', newline="")
    seen = read_corpus(path, max_field_lines=4)
    assert [(item.text, item.line) for item in seen] == [(poem, 2), ("b", 12)]
    path.write_text('id,text\r\n1,"a\r\n2,b\r\n3,c\r\n4,d\r\n5,e"\r\n', newline="")
    with pytest.raises(UserError, match=r"line 2: a quoted field starts here and does not end within 4 lines"):
        read_corpus(path, max_field_lines=4)
    path.write_text(f'id,text\r\n0,a\n1,"{poem}"\n2,b\n', newline="")  # rows end with a bare LF, too
    with pytest.raises(UserError, match=r"line 3: a quoted field starts here and does not end within 4 lines"):
        read_corpus(path, max_field_lines=4)


@pytest.mark.parametrize(
    "data, message",
    [
        (
            b"id,content\n1,x\n",
            r"a\.csv: no column 'text'; its columns are 'id', 'content'; name the text column",
        ),
        (
            "text,id\n".encode("utf-16-le"),
            r"a\.csv: the first row has no column names: the file is binary, or text in another",
        ),
        (b"\n\n", r"a\.csv: no column 'text'; its columns are none"),
        (
            b'\n"text" of,id\n1,x\n',
            r"a\.csv: line 2: the first row must name the columns, but has text after the quote",
        ),
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
    with pytest.raises(UserError, match="the first row has no column names"):
        read_corpus(tmp_path / "a.csv")


# --- Against the module csv -------------------------------------------------------------------------------

PIECES = ["x", "é€", "😀", ",", '"', '""', ',"', '",', '"\n', '\n"', "\n", "\r\n", "\r", " ", "word " * 3]


@st.composite
def written_tables(draw):
    """A table that the module csv wrote, with one place changed or none."""
    output = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(output, lineterminator=draw(st.sampled_from(["\n", "\r\n"])), quoting=quoting)
    cell = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
    writer.writerows(draw(st.lists(st.tuples(cell, cell), max_size=6)))
    text = output.getvalue()
    at = draw(st.integers(0, len(text)))
    changed = text[:at] + draw(st.sampled_from(PIECES)) + text[at + draw(st.integers(0, 1)) :]
    return draw(st.sampled_from([text, changed]))


tables = st.one_of(written_tables(), st.lists(st.sampled_from(PIECES), max_size=25).map("".join))


def strict_rows(text, quoting):
    """What the strict module csv makes of a text: (first line, number of lines, cells or None for an error)."""
    lines = text.split("\n")
    reader = csv.reader(
        [line + "\n" for line in (lines if lines[-1] else lines[:-1])],
        strict=True,
        quoting=csv.QUOTE_MINIMAL if quoting == "standard" else csv.QUOTE_NONE,
    )
    rows = []
    while True:
        before = reader.line_num
        try:
            row = next(reader, None)
        except csv.Error:
            row = None
        else:
            if row is None:
                return rows
        rows.append((before + 1, reader.line_num - before, row))


@settings(deadline=None)
@given(tables, st.sampled_from(["standard", "none"]), st.integers(1, 6), st.sampled_from([1, 2, 3, 8]))
@example('1,"a\nb\nc"\n2,d\n', "standard", 2, 8)
@example('1,"a\nb"\n"2\n2","d\ne"\n', "standard", 2, 8)
@example('1,"a"\r\r\n', "standard", 2, 1)
@example('1,"a\nb', "standard", 2, 1)
def test_rows_are_those_of_the_strict_module_csv(
    tmp_path_factory, read_corpus, text, quoting, max_field_lines, block_bytes
):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(b"a,text\n" + text.encode())
    rows = [row for row in strict_rows("a,text\n" + text, quoting)[1:] if row[2] != []]
    expected = [
        (row[1] if row and len(row) == 2 else None, line, lines if row is None or len(row) != 2 else 1)
        for line, lines, row in rows
    ]
    options = {"quoting": quoting, "max_field_lines": max_field_lines}
    long_field = any(cell.count("\n") >= max_field_lines for _, _, row in rows for cell in row or ())
    # How many lines the open field of a row with an error has, the module does not say.
    unknown = any(row is None and lines > max_field_lines for _, lines, row in rows)
    whole = outcome(read_corpus, path, **options)
    if not unknown:
        assert isinstance(whole, str) == long_field
        assert long_field or [(item.text, item.line, item.lines) for item in whole] == expected
    with pytest.MonkeyPatch.context() as patch:  # the streaming parser, from the first row on
        patch.setattr(files, "BLOCK_BYTES", block_bytes)
        patch.setattr(documents, "LONG_BYTES", 7)  # the header is just short enough
        parts = outcome(read_corpus, path, **options)
    keep = operator.attrgetter("text", "line", "lines", "offset", "repaired", "reason")
    assert parts == whole if isinstance(whole, str) else [*map(keep, parts)] == [*map(keep, whole)]


def outcome(read_corpus, path, **options):
    """The documents of a corpus, or the message of the error."""
    try:
        return read_corpus(path, **options)
    except UserError as error:
        return str(error)


def test_the_lines_of_a_long_row_come_together(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 200)
    monkeypatch.setattr(documents, "PART_BYTES", 1000)
    text = "a line, of many\n" * 500
    (tmp_path / "a.csv").write_text(f'text\n"{text}"\n')
    (source,) = discover([str(tmp_path / "a.csv")])
    document = next(read(cut(source, 1 << 20)[0], Reading(max_field_lines=501)))
    sizes = [len(part) for part in document.parts]
    assert sum(sizes) == len(text) and all(1000 <= size < 1020 for size in sizes[:-1])


def test_a_long_row_that_nobody_reads_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "LONG_BYTES", 20)
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"' + "a line of it\n" * 10 + '"\n2,short\n')
    (source,) = discover([str(path)])
    long, short = read(cut(source, 100)[0], Reading())
    assert isinstance(long, LongDocument) and long.size > 100 and short.text == b"short"

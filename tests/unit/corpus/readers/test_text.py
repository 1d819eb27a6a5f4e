import pytest

from gpt2dist.corpus import Piece, cut, discover, documents, files
from gpt2dist.errors import UserError


def test_a_text_file_is_one_document_byte_for_byte(tmp_path, read_corpus):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\rthree\n\n")
    (document,) = read_corpus(path, size=3)
    assert (document.text, document.line, document.offset, document.size) == ("one\r\ntwo\rthree\n\n", 1, 0, 16)


def test_broken_utf8_is_repaired_and_binaries_are_rejected(tmp_path, read_corpus):
    path = tmp_path / "a.txt"
    path.write_bytes(b"caf\xe9!")
    (document,) = read_corpus(path)
    assert (document.text, document.size, document.repaired) == ("caf\ufffd!", 5, True)
    path.write_bytes("text".encode("utf-16-le"))
    (document,) = read_corpus(path)
    assert (
        document.reason.startswith("binary, or text in another encoding (it has zero bytes); name the encoding")
        and document.size == 8
    )
    path.write_bytes(b"\xef\xbb\xbfmarked")
    (document,) = read_corpus(path)
    assert (document.text, document.offset, document.size) == ("marked", 3, 9)


@pytest.mark.parametrize("long_bytes", [1 << 20, 4])
@pytest.mark.parametrize("block_bytes", [1 << 20, 1, 2, 5])
def test_a_separator_cuts_a_file_into_documents(tmp_path, read_corpus, monkeypatch, long_bytes, block_bytes):
    monkeypatch.setattr(documents, "LONG_BYTES", long_bytes)
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "a.txt"
    path.write_text("one é<|end|>\n<|<|end|><|end|>a longer document, with <|end in it<|end|>last")
    seen = read_corpus(path, document_separator="<|end|>")
    assert [document.text for document in seen] == [
        "one é",
        "\n<|",
        "",
        "a longer document, with <|end in it",
        "last",
    ]
    assert [document.line for document in seen] == [1, 2, 3, 4, 5]
    data = path.read_bytes()
    assert all(data[document.offset :].startswith(document.text.encode()) for document in seen)
    assert sum(document.size for document in seen) == len(data)
    if long_bytes == 4 and block_bytes < 4:
        assert seen[3].long
    path.write_text("one<|end|>")
    assert [document.text for document in read_corpus(path, document_separator="<|end|>")] == ["one"]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7])
def test_a_long_file_comes_in_parts_that_end_between_characters(tmp_path, read_corpus, monkeypatch, block_bytes):
    monkeypatch.setattr(documents, "LONG_BYTES", 5)
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    data = "aé€😀".encode() * 3 + b"\xe2\x82 \xf0\x9f\x98 \xff \xc3(" + "€".encode() + b"\xf0\x9f"
    (tmp_path / "a.txt").write_bytes(data)
    (document,) = read_corpus(tmp_path / "a.txt")
    assert document.long and document.repaired == 5 and document.size == len(data)
    assert document.text == data.decode(errors="replace")
    (tmp_path / "a.txt").write_bytes(b"long binary\0")
    (document,) = read_corpus(tmp_path / "a.txt")
    assert document.size == 12 and ("binary" in document.reason or document.long)


def test_a_text_file_is_never_cut_and_an_empty_file_has_no_piece(tmp_path):
    (tmp_path / "a.txt").write_text("x" * 100)
    (tmp_path / "b.txt").write_text("")
    first, second = discover([str(tmp_path)])
    assert cut(first, 10) == [Piece(first.path, "text", "", 0, 100, 100)]
    assert cut(second, 10) == []


def test_a_file_that_went_away(tmp_path, read_piece):
    with pytest.raises(
        UserError, match=r"gone\.txt: cannot be read \(No such file.*run the job again to resume it"
    ):
        read_piece(Piece(str(tmp_path / "gone.txt"), "text", "", 0, 1, 1))

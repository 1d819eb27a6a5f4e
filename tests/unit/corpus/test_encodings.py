"""Names of encodings, where files in them can be cut, and guesses."""

import encodings
import pkgutil

import pytest

from gpt2dist.corpus.encodings import (
    Transcoder,
    can_cut_at_line_feeds,
    canonical_name,
    decode_utf8,
    guess,
    has_utf8_lines,
)
from gpt2dist.corpus.utf8 import count_characters, repair
from gpt2dist.errors import UserError

CHINESE = "".join(f"第{n}篇文章，讲的是一件小事。\n" for n in range(50))
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 20
FRENCH = "L'été dernier, à la forêt, nous avons mangé des crêpes près du château où naît l'élève.\n" * 20


@pytest.mark.parametrize(
    ("name", "canonical"),
    [("GBK", "gbk"), ("Latin-1", "iso8859-1"), ("shift-jis", "shift_jis"), ("utf8", None), ("UTF-8-SIG", None)],
)
def test_one_name_for_each_encoding(name, canonical):
    assert canonical_name(name) == canonical


@pytest.mark.parametrize(
    "name", ["nonsense", "", "hex", "rot13", "zip", "idna", "unicode_escape", "a\0b", "\udcff"]
)
def test_what_is_no_text_encoding_is_refused(name):
    with pytest.raises(UserError, match="unknown text encoding; use one such as gb18030"):
        canonical_name(name)


def names():
    for module in pkgutil.iter_modules(encodings.__path__):
        try:
            name = canonical_name(module.name)
        except (UserError, AttributeError):
            continue
        if name is not None:
            yield name


@pytest.mark.parametrize("name", sorted(set(names())))
def test_a_file_is_cut_only_where_the_byte_10_is_a_line_feed_whatever_precedes_it(name):
    if not can_cut_at_line_feeds(name):
        return
    for lead in range(256):
        for data in (bytes([lead]), bytes([0x81, lead]), bytes([lead, 0xD4])):
            text = (data + b"\nx\n").decode(name, "replace")
            assert text.endswith("\nx\n") and text.count("\n") == 2 + data.count(b"\n")


def test_encodings_that_can_and_cannot_be_cut():
    able = ["gb18030", "gbk", "shift_jis", "cp932", "big5", "euc_jp", "iso8859-1", "cp1252", "koi8-r", "ascii"]
    unable = ["utf-16", "utf-16-le", "utf-32-be", "utf-7", "iso2022_jp", "hz", "cp037"]
    assert [can_cut_at_line_feeds(name) for name in able] == [True] * len(able)
    assert [can_cut_at_line_feeds(name) for name in unable] == [False] * len(unable)


@pytest.mark.parametrize(
    ("encoding", "data", "text"),
    [
        ("gbk", "中".encode("gbk") + b"\xff" + "文".encode("gbk"), "中\ufffd文"),
        ("shift_jis", "表".encode("shift_jis") + b"\x81", "表\ufffd"),  # cut off
        ("ascii", b"a\xc3\xa9", "a\ufffd\ufffd"),  # never the é that these bytes are in UTF-8
        ("utf-16-le", b"a\0\0\xd8b\0", "a\ufffdb"),
        ("utf-7", b"a+2AA-b", "a\ufffdb"),  # a lone surrogate, which Python's decoder lets through
        ("gbk", "\ufffd".encode("gb18030"), None),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 100])
def test_what_is_invalid_is_counted_and_replaced_downstream(encoding, data, text, step):
    transcoder = Transcoder(encoding)
    parts = [transcoder.feed(data[at : at + step]) for at in range(0, len(data), step)]
    repaired, count = repair(b"".join(parts) + transcoder.feed(b"", final=True))
    if text is not None:
        assert (repaired.decode(), count) == (text, text.count("\ufffd"))
    assert count > 0


@pytest.mark.parametrize("encoding", ["iso2022_jp", "iso2022_kr", "iso2022_jp_ext"])
@pytest.mark.parametrize("gap", [*range(1, 20), 40])
def test_escapes_without_an_end_in_blocks_of_any_size(encoding, gap):
    data = (b"\x1b" + b"[31m" * gap)[: gap + 1] * 12 + b" end\n"
    for step in (1, 3, 8, 17, 64):
        transcoder = Transcoder(encoding)
        parts = [transcoder.feed(data[at : at + step]) for at in range(0, len(data), step)]
        text = b"".join([*parts, transcoder.feed(b"", final=True)])
        assert repair(text)[0].decode() == data.decode(encoding, "replace")


def test_a_replacement_character_of_the_corpus_itself_is_not_counted():
    assert repair("a\ufffdb".encode() + b"\xff") == ("a\ufffdb\ufffd".encode(), 1)


def test_invalid_utf8_is_decoded_to_lone_surrogates():
    assert decode_utf8(b"\xe4\xb8 \xff\xff" + "é".encode()) == "\udcff \udcff\udcffé"
    assert decode_utf8("a\ufffd".encode() + b"\xe4\xb8 \xff") == "a\ufffd\udcff \udcff"


@pytest.mark.parametrize("text", ["", "abc", "é€😀" * 5, "é€😀a" * 5000])
def test_characters_are_counted(text):
    assert count_characters(text.encode()) == len(text)


@pytest.mark.parametrize(
    ("text", "encoding", "guessed"),
    [
        (CHINESE, "gbk", "gb18030"),
        (CHINESE, "utf-16-le", "utf_16_le"),
        (JAPANESE, "shift_jis", "cp932"),
        (FRENCH, "latin-1", "cp1252"),
    ],
)
def test_the_encoding_is_guessed(text, encoding, guessed):
    found = guess(text.encode(encoding))
    assert found[0].encoding == guessed and text.startswith(found[0].text[:20])
    assert guess(b'{"text": "' + text.encode(encoding) + b'"}')[0].encoding == guessed


def test_only_invalid_lines_count_for_a_guess():
    lines = ["日本語 — UTF-8\n".encode()] * 100 + [FRENCH.encode("cp1252")]
    assert guess(b"".join(lines))[0].encoding == "cp1252"
    assert guess("valid — UTF-8\n".encode()) == [] == guess(b"ASCII\n" * 100)
    assert guess(CHINESE.encode("gbk") + b"\xff\n")[0].encoding == "gb18030"
    assert guess((FRENCH.replace("\n", "") * 100).encode("latin-1"))[0].encoding == "cp1252"  # one long line
    assert guess(CHINESE.encode(), "gbk")[0].encoding == "utf-8"


def test_a_file_of_two_encodings_is_recognized():
    assert has_utf8_lines((JAPANESE + FRENCH).encode() + FRENCH.encode("cp1252"))
    for text, encoding in ((CHINESE, "gbk"), (JAPANESE, "shift_jis"), (FRENCH, "cp1252"), ("ASCII", "ascii")):
        assert not has_utf8_lines(text.encode(encoding))

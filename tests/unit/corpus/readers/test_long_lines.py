import json
import random

import pytest

from gpt2dist.corpus import BadDocumentError
from gpt2dist.corpus.readers.jsonl import parse
from gpt2dist.corpus.readers.long_lines import _RUN, text_parts


def scan(line, field, size):
    """The text of a line that comes in chunks of `size` bytes, or None where it is bad; and whether repaired."""
    chunks = (line[start : start + size] for start in range(0, len(line), size))
    parts, text = text_parts(chunks, field), b""
    try:
        while True:
            part = next(parts)
            part.decode()  # valid by itself
            text += part
    except StopIteration as end:
        return text, end.value
    except BadDocumentError:
        return None


def expected(line, field):
    try:
        return parse(line, field)
    except BadDocumentError:
        return None


class Maker:
    """Makes random lines of JSON, in all ways that it can be written."""

    STRINGS = (
        "",
        "x",
        'quote " and \\',
        "é€😀",
        "\n\t\b",
        "\ud800",
        "\udc00\ud83d",
        "😀",
        "\\ud83d",
        "\ufffd",
        "a.b",
    )
    SCALARS = ("0", "-1", "1.5e+10", "1E5", "true", "false", "null", "NaN", "-Infinity")

    def __init__(self, seed):
        self.random = random.Random(seed)

    def line(self):
        content = b"{" + self.member("text") + b"}"
        if self.random.random() < 0.6:  # spoil it
            at = self.random.randrange(len(content))
            junk = self.random.choice(
                [b"", b'"', b"\\", b",", b"}", b"\xe9", b"\xf0\x9f", b"\x00", b"1", b"\\u12", b"\\ud83d"]
            )
            content = content[:at] + junk + content[at + self.random.randrange(3) :]
        return content

    def member(self, field):
        pairs = [self.string(f"key{i}") + b":" + self.value(2) for i in range(self.random.randrange(3))]
        nested = b"{" + self.space() + self.pair("b") + b"}"
        kinds = [
            self.pair(field),
            self.string("a") + self.space() + b":" + nested,
            self.string("a") + b":" + self.value(1),
        ]
        pairs.insert(self.random.randrange(len(pairs) + 1), self.random.choice(kinds))
        return b",".join(self.space() + pair + self.space() for pair in pairs)

    def pair(self, key):
        value = self.string() if self.random.random() < 0.9 else self.value(1)
        return self.string(key) + self.space() + b":" + self.space() + value

    def value(self, depth):
        kind = self.random.randrange(4 if depth else 2)
        if kind == 0:
            return self.random.choice(self.SCALARS).encode()
        if kind == 1:
            return self.string()
        values = [self.value(depth - 1) for _ in range(self.random.randrange(3))]
        if kind == 2:
            return b"[" + self.space() + (self.space() + b",").join(values) + b"]"
        return b"{" + b",".join(self.string(f"{i}") + b":" + value for i, value in enumerate(values)) + b"}"

    def string(self, text=None):
        if text is None:
            text = "".join(self.random.choices(self.STRINGS, k=self.random.randrange(6)))
        if self.random.random() < 0.4:
            return json.dumps(text).encode()
        if self.random.random() < 0.4:
            return b'"%b"' % b"".join(
                b"\\u%04x" % ord(character) for character in text if ord(character) < 1 << 16
            )
        return json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def space(self):
        return self.random.choice([b"", b"", b" ", b"\t\r\n "])


@pytest.mark.parametrize("seed", range(8))
def test_a_line_in_chunks_reads_as_in_one_go(seed):
    maker, good = Maker(seed), 0
    for _ in range(400):
        line = maker.line()
        for field in ("text", "a.b"):
            want = expected(line, field)
            good += want is not None
            for size in (1, 2, 3, 5, 11, 1 << 20):
                got = scan(line, field, size)
                if got != want and want is not None and got is not None:
                    # Whole lines count as repaired where any of it is broken and the text has U+FFFD.
                    assert got[0] == want[0] and "\ufffd" in want[0].decode() and want[1], (line, field, size)
                else:
                    assert got == want, (line, field, size)
    assert good > 100


@pytest.mark.parametrize(
    "line, reason",
    [
        ('["text"]', "not a JSON object but list (`jq -c '.[]' FILE` makes a line of each element of an array)"),
        ("[", "not a JSON object but list (`jq"),
        ("17", "not a JSON object but a number"),
        ('{"content": "x", "id": 1}', "no field 'text'; its fields are 'content', 'id'"),
        ('{"text": 7}', "field 'text' is a number, not a string"),
        ('{"text": {"a": 1}}', "field 'text' is dict, not a string"),
        ('{"text": "a", "text": "b"}', "field 'text' occurs twice; remove one"),
        ('{"text": "a"} {', "not JSON: extra data after the object at byte 14 of the line"),
        (
            '{"text": "a',
            "not JSON: an unterminated string, an invalid escape or an unescaped control character at byte 11",
        ),
        (
            '{"text": "a\tb"}',
            "not JSON: an unterminated string, an invalid escape or an unescaped control character at byte 11",
        ),
        (
            '{"text": "a\\qb"}',
            "not JSON: an unterminated string, an invalid escape or an unescaped control character at byte 11",
        ),
        ('{"a": [1 2], "text": ""}', "not JSON: no ] at byte 9"),
        ('{"a": 01, "text": ""}', "not JSON: no value at byte 6"),
        ('{"a" 1, "text": ""}', "not JSON: no : at byte 5"),
        ('{"a": ' + "[" * 200_000, "not JSON: nesting too deep at byte 100007"),
        ('{"a": ' + "1" * 2_000_000, "not JSON: a number too long at byte 6"),
        ('{"' + "k" * 2_000_000, "not JSON: a key too long"),
    ],
    ids=lambda value: value[:40],
)
def test_bad_long_lines_say_why(line, reason):
    with pytest.raises(BadDocumentError) as error:
        list(text_parts(iter([line.encode()]), "text"))
    assert str(error.value).startswith(reason)


@pytest.mark.parametrize(
    "line, text",
    [
        (b'{"a.b": "whole", "a": {"b": "nested"}}', "whole"),
        (b'{"a": {"c": 1}, "a.b": "whole"}', "whole"),
        (b'{"a": 5, "a.b": "whole"}', "whole"),
        (b'{"a": null, "a": {"b": "nested"}}', "nested"),
    ],
)
def test_the_whole_name_goes_before_nested_keys_in_a_long_line_too(line, text):
    assert "".join([part.decode() for part in text_parts(iter([line]), "a.b")]) == text
    assert parse(line, "a.b") == (text.encode(), False)


@pytest.mark.parametrize(
    "line",
    [
        b'{"a": {"b": "nested"}, "a.b": "whole"}',
        b'{"a": {"b": "one"}, "a": {"b": "two"}}',
        b'{"a": {"b": "one", "b": "two"}}',
        b'{"a.b": "one", "a.b": "two"}',
    ],
)
def test_a_long_line_in_which_another_text_was_meant_is_refused(line):
    with pytest.raises(BadDocumentError, match="occurs twice; remove one"):
        list(text_parts(iter([line]), "a.b"))


def end_of_run(data):
    """Where the characters and whole escapes at the start of `data` end, one by one."""
    at = 0
    while at < len(data) and data[at] >= 0x20 and data[at] != ord('"'):
        if data[at] != ord("\\"):
            at += 1
        elif data[at + 1 : at + 2] and data[at + 1] in b'"\\/bfnrt':
            at += 2
        elif len(digits := data[at + 2 : at + 6]) == 4 and data[at + 1] == ord("u"):
            if not set(digits) <= set(b"0123456789abcdefABCDEF"):
                break
            at += 6
        else:
            break
    return at


def test_escapes_are_taken_whole_on_every_python():
    """Possessive quantifiers of Python 3.11.0 to 3.11.4 took a backslash that begins no escape."""
    draw = random.Random(0)
    for _ in range(30_000):
        data = bytes(draw.choices(b'a"\\u012fn\x01', k=draw.randrange(15)))
        assert _RUN.match(data).end() == end_of_run(data), data


def test_a_megabyte_of_escapes_is_matched_in_a_few_bytes():
    import tracemalloc

    data = b"\\n" * (1 << 19)
    tracemalloc.start()
    try:
        assert _RUN.match(data).end() == len(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()

"""Small files that are there whole or not at all."""

import errno
import hashlib
import json
import os

import pytest

from gpt2dist import atomic_io


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    atomic_io.write_json(path, {"a": "old"})
    seen = []
    replace = os.replace

    def look(source, target, **options):
        seen.append(json.loads(path.read_bytes()))
        replace(source, target, **options)

    monkeypatch.setattr(os, "replace", look)
    atomic_io.write_json(path, {"a": "€"})
    assert seen == [{"a": "old"}], "until the last moment readers see the old one"
    assert path.read_text(encoding="utf-8") == '{\n "a": "€"\n}\n'
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, operation):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "a"
    atomic_io.write_text(path, "old")
    monkeypatch.setattr(os, operation, full)
    with pytest.raises(OSError, match="No space left"):
        atomic_io.write_lines(path, ["new", "lines"])
    assert (path.read_text(), names(tmp_path)) == ("old", ["a"])


def test_lines_that_cannot_be_made_leave_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        atomic_io.write_lines(tmp_path / "a", (str(1 // number) for number in (2, 1, 0)))
    assert names(tmp_path) == []


def test_the_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert atomic_io.sha256_of(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_json_has_no_infinity():
    values = {"a": float("inf"), "b": float("nan"), "c": 1.5, "d": "nan", "e": None, "f": 3}
    assert atomic_io.finite(values) == {"a": None, "b": None, "c": 1.5, "d": "nan", "e": None, "f": 3}

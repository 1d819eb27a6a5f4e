import gzip
import io
import os

import pytest

from gpt2dist.corpus import discover, spool, with_versions
from gpt2dist.errors import UserError


def names(sources):
    return [source.path.rsplit("/", 1)[1] for source in sources]


def test_discover_takes_files_directories_and_globs_once_and_sorted(tmp_path):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("b.txt", "a.TXT", "code.py", "sub/c.jsonl", "sub/deep/d.rst", ".hidden.txt", ".git/e.txt"):
        (tmp_path / name).write_text("x")
    directory = str(tmp_path)
    assert names(discover([directory])) == ["a.TXT", "b.txt", "c.jsonl", "d.rst"]
    assert names(discover([directory + "/sub/../b.txt", directory, directory + "/b.txt"])) == names(
        discover([directory])
    )
    assert names(discover([directory], suffixes=(".py",))) == ["code.py"]
    assert names(discover([directory + "/**/*.py", directory + "/sub/**/*.rst"])) == ["code.py", "d.rst"]
    assert names(discover([directory], exclude=[tmp_path / "sub"])) == ["a.TXT", "b.txt"]


@pytest.mark.parametrize(
    "name, format, compression",
    [
        ("a.txt", "text", ""),
        ("a.py", "text", ""),
        ("noname", "text", ""),
        ("a.md.zst", "text", "zst"),
        ("a.jsonl", "jsonl", ""),
        ("a.JSONL.GZ", "jsonl", "gz"),
        ("a.ndjson.bz2", "jsonl", "bz2"),
        ("a.gz", "text", "gz"),
        ("c4-train.json.gz", "jsonl", "gz"),
        ("a.csv.xz", "csv", "xz"),
        ("a.tsv", "tsv", ""),
        ("a.Parquet", "parquet", ""),
        ("a.arrow", "arrow", ""),
    ],
)
def test_the_name_of_a_file_says_its_format_and_compression(tmp_path, name, format, compression):
    content = gzip.compress(b"{}") if name.endswith(".json.gz") else b"x"  # .json files are looked into
    (tmp_path / name).write_bytes(content)
    (source,) = discover([str(tmp_path / name)])
    assert (source.format, source.compression, source.size) == (format, compression, len(content))


def test_a_format_that_is_given_goes_before_the_name(tmp_path):
    (tmp_path / "dump.gz").write_text("x")
    (source,) = discover([str(tmp_path / "dump.gz")], format="jsonl")
    assert (source.format, source.compression) == ("jsonl", "gz")


def test_a_directory_gives_all_formats_that_are_read(tmp_path):
    for name in (
        "a.jsonl.gz",
        "b.CSV.ZST",
        "c.parquet",
        "d.arrow",
        "e.txt.bz2",
        "f.tsv.xz",
        "g.zip",
        "h.gz",
        "i.parquet.gz",
    ):
        (tmp_path / name).write_text("x")
    assert "".join(name[0] for name in names(discover([str(tmp_path)]))) == "abcdef"


def test_the_version_of_a_file_changes_with_it(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    before = with_versions(discover([str(path)]))
    assert with_versions(discover([str(path)])) == before
    path.write_text("y")
    assert with_versions(discover([str(path)]))[0].version != before[0].version


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert names(discover([str(tmp_path / "a[1].txt")])) == ["a[1].txt"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing.txt", r"missing\.txt: no such file or directory"),
        ("*.xyz", "this pattern matches no file"),
        ("empty", r"no file in this directory ends in a suffix that is read; .*--suffix"),
        ("a.zip", r"a\.zip: \.zip files are not read; unpack or convert it"),
        ("a.tar.gz", r"\.tar files are not read"),
        ("a.parquet.gz", r"parquet files are compressed within; unpack the \.gz first"),
    ],
)
def test_discover_refuses(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    for file in ("a.zip", "a.tar.gz", "a.parquet.gz"):
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=message):
        discover([str(tmp_path / name)])


def test_a_directory_without_the_suffixes_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"no file in this directory ends in \.py \.c; "):
        discover([str(tmp_path)], suffixes=(".py", ".c"))


def test_standard_input_is_what_the_caller_says(tmp_path):
    spooled = spool(io.BytesIO(b"x"), tmp_path / "stdin", "text")
    assert discover(["-"], standard_input=spooled) == [spooled]
    with pytest.raises(UserError, match="-: standard input is not taken here; put it into a file first"):
        discover(["-"])


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: a pipe or device, .* give it as standard input \(-\)"):
        discover([str(tmp_path / "pipe")])

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import subprocess

import pytest
import zstandard

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
        ("empty", r"no file in this directory ends in a known suffix; .*--suffix"),
        ("a.zip", r"a\.zip: \.zip files are not supported; unpack or convert it"),
        ("a.tar.gz", r"\.tar files are not supported"),
        ("a.parquet.gz", r"parquet files are not compressed as a whole; unpack the \.gz first"),
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
    with pytest.raises(UserError, match="-: standard input is not accepted here; save it to a file first"):
        discover(["-"])


def said_of(*inputs, **options):
    """The names that are found, and what is said of the rest."""
    said = []
    return names(discover([str(path) for path in inputs], on_info=said.append, **options)), said


def test_what_a_directory_has_beside_is_counted_in_one_line(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".git").mkdir()
    for number in range(9):
        (tmp_path / f"{number}.pdf").touch()
    for name in (
        "a.txt",
        "sub/b.txt",
        "x.py",
        "sub/y.PY",
        ".hidden.txt",
        "README",
        "s.tar.gz",
        ".git/c.txt",
        "z.doc",
    ):
        (tmp_path / name).touch()
    kinds = "9 .pdf, 2 .py, 2 hidden, 1 .doc, 1 .tar.gz, 1 of other kinds"
    assert said_of(tmp_path) == (["a.txt", "b.txt"], [f"ignored 16 files: {kinds}"])
    (tmp_path / "sub/y.PY").unlink()
    assert said_of(tmp_path / "sub") == (["b.txt"], [])
    assert said_of(tmp_path / "[as]*[tb]")[1] == ["ignored 1 file: 1 directory"]
    os.mkfifo(tmp_path / "sub/p.txt")
    assert said_of(tmp_path / "sub") == (["b.txt"], ["ignored 1 file: 1 pipe or device"])


def test_the_names_of_c4_dolma_and_others(tmp_path):
    (tmp_path / "deep").mkdir()
    lines = b'{"text": "a"}\n{"text": "b"}\n'
    packed = {"gz": gzip.compress, "zst": zstandard.compress, "xz": lzma.compress, "bz2": bz2.compress, "": bytes}
    expected = []
    for suffix, pack in packed.items():
        for name in ("c4-train.00000-of-01024.json", "deep/cc_en_head-0000.JSON", "00.jsonl", "deep/1.ndjson"):
            path = tmp_path / f"{name}.{suffix}".rstrip(".")
            path.write_bytes(pack(lines))
            expected.append(path.name)
    found, said = said_of(tmp_path)
    assert sorted(found) == sorted(expected) and said == []
    assert {source.format for source in discover([str(tmp_path)])} == {"jsonl"}


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
@pytest.mark.parametrize("content", [b'[{"text": "a"}]', b'\xef\xbb\xbf \n[\n {"text": "a"}\n]\n', b"[]"])
def test_a_json_array_is_refused_with_a_command_that_makes_lines_of_it(tmp_path, suffix, content):
    pack = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix]
    path = tmp_path / f"it's all.json{suffix}"
    path.write_bytes(pack(content))
    for inputs in (path, tmp_path):
        with pytest.raises(
            UserError, match=r"all\.json.*: a JSON array, but a corpus needs one document per line"
        ) as raised:
            discover([str(inputs)])
    command = str(raised.value).split("convert it: ")[1].split("; or ")[0]
    if shutil.which("jq") is None:
        assert f"jq -c '.[]' {'>' if suffix else ''}" in command
        return
    subprocess.run(command, shell=True, check=True)
    path.unlink()
    assert names(discover([str(tmp_path)])) == ["it's all.jsonl"]


def test_metadata_in_a_directory_is_counted_and_a_named_one_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"text": "a"}\n')
    (tmp_path / "info.json").write_text(json.dumps({"name": "it", "license": None}, indent=2))
    (tmp_path / "empty.json").touch()
    assert said_of(tmp_path) == (
        ["a.json", "empty.json"],
        ["ignored 1 file: 1 .json of one object over several lines"],
    )
    with pytest.raises(UserError, match=r"info\.json: its JSON spans lines, .* convert it: jq -c '\.' /"):
        discover([str(tmp_path / "info.json")])


@pytest.mark.parametrize(("codec", "encoding"), [("utf-16", None), ("utf-16-be", "utf-16-be")])
def test_json_in_another_encoding_is_looked_into(tmp_path, codec, encoding):
    (tmp_path / "a.json").write_text('{"text": "中"}\n', encoding=codec)
    (tmp_path / "info.json").write_text(json.dumps({"name": "it"}, indent=2), encoding=codec)
    said = []
    assert names(discover([str(tmp_path)], encoding=encoding, on_info=said.append)) == ["a.json"]
    assert said == ["ignored 1 file: 1 .json of one object over several lines"]
    (tmp_path / "all.json").write_text('[{"text": "中"}]', encoding=codec)
    with pytest.raises(UserError, match=r"all\.json: a JSON array"):
        discover([str(tmp_path)], encoding=encoding)


def test_a_damaged_json_file_is_named(tmp_path):
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b"{}")[:-9])
    with pytest.raises(UserError, match=r"a\.json\.gz: damaged"):
        discover([str(tmp_path)])


@pytest.mark.parametrize("marker", ["manifest.json", "plan.json"])
def test_datasets_of_our_own_are_skipped_and_said(tmp_path, marker):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "data/mine").mkdir(parents=True)
    for name in ("sources.jsonl", marker, "pieces.jsonl"):
        (tmp_path / "data/mine" / name).touch()
    skipped = [f"skipped {tmp_path}/data/mine: a dataset directory, or the unfinished work on one"]
    assert said_of(tmp_path) == said_of(tmp_path / "**/*.jsonl") == (["a.jsonl"], skipped)
    with pytest.raises(
        UserError, match="mine: a dataset directory is not a corpus; name the files that it was made"
    ):
        discover([str(tmp_path / "data/mine")])
    assert said_of(tmp_path / "data/mine/s*.jsonl")[0] == ["sources.jsonl"]  # who names them wants them


def test_the_output_is_not_read_however_it_is_named(tmp_path):
    for name in ("a.jsonl", "out/b.jsonl", "out/deep/c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to("out")
    exclude = [tmp_path / "out"]
    for inputs in ([tmp_path], [tmp_path / "**/*.jsonl"], [tmp_path / "*.jsonl"]):
        assert said_of(*inputs, exclude=exclude) == (["a.jsonl"], [])
    for pattern in ("*/b.jsonl", "out/*.jsonl", "link/*.jsonl", "out/deep/*"):
        with pytest.raises(UserError, match="this pattern matches no file"):
            discover([str(tmp_path / pattern)], exclude=exclude)
    for name in ("out/b.jsonl", "out/deep/c.jsonl", "link/b.jsonl"):
        with pytest.raises(UserError, match=r"\.jsonl: is inside the output; choose another input or output"):
            discover([str(tmp_path / name)], exclude=exclude)
    with pytest.raises(UserError, match="out: a dataset directory is not a corpus"):
        discover([str(tmp_path / "out")], exclude=exclude)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: a pipe or device, .* pass it as standard input \(-\)"):
        discover([str(tmp_path / "pipe")])

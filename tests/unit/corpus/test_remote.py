import bz2
import gzip
import http.server
import json
import lzma
import threading
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile

from gpt2dist.corpus import Piece, discover, files, storage
from gpt2dist.errors import UserError


@pytest.fixture(params=["memory", "file"])
def base(request, tmp_path):
    """The URL of an empty directory."""
    yield f"memory://{tmp_path}" if request.param == "memory" else f"file://{tmp_path}"
    system = fsspec.filesystem("memory")
    if system.exists(str(tmp_path)):
        system.rm(str(tmp_path), recursive=True)


def write(url, data):
    with fsspec.open(url, "wb", auto_mkdir=True) as file:
        file.write(data)


def names(inputs, base, **options):
    return [source.path.removeprefix(base + "/") for source in discover(inputs, **options)]


def test_files_directories_and_globs(base):
    for name in ("b.txt", "a.TXT", "code.py", "sub/c.jsonl.gz", "sub/deep/d.rst", ".hidden.txt", ".git/e.txt"):
        write(f"{base}/{name}", b"x")
    everything = ["a.TXT", "b.txt", "sub/c.jsonl.gz", "sub/deep/d.rst"]
    assert names([base], base) == names([base + "/", base + "/b.txt"], base) == everything
    assert names([base], base, suffixes=(".py",)) == ["code.py"]
    assert names([base + "/**/*.rst", base + "/*.txt"], base) == ["b.txt", "sub/deep/d.rst"]
    (source,) = discover([base + "/sub/c.jsonl.gz"])
    assert (source.format, source.compression, source.size) == ("jsonl", "gz", 1) and source.version


@pytest.fixture
def web_server(tmp_path):
    """The URL of a web server's directory; and the files that it was asked for, by method."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *args):
            asked.append((self.command, self.path))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_the_listing_of_a_web_server_has_no_sizes_so_each_file_is_asked(web_server, tmp_path):
    pytest.importorskip("aiohttp")
    url, asked = web_server
    for number in range(40):
        (tmp_path / f"{number:02d}.jsonl").write_text("x" * number)
    (tmp_path / "notes.md").write_text("not asked for")
    for corpus in (f"{url}/*.jsonl", f"{url}/"):
        asked.clear()
        found = discover([corpus], suffixes=(".jsonl",) if corpus.endswith("/") else ())
        assert [(source.path, source.size) for source in found] == [
            (f"{url}/{number:02d}.jsonl", number) for number in range(40)
        ]
        assert sorted(path for method, path in asked if method == "HEAD" and path[1:3].isdigit()) == [
            f"/{number:02d}.jsonl" for number in range(40)
        ]
        assert not [path for method, path in asked if method == "GET" and path[1:3].isdigit()]
    assert ("HEAD", "/notes.md") not in asked


def test_a_file_that_comes_short_is_refused(monkeypatch, read_piece):
    class Short(AbstractBufferedFile):
        """A file that claims more bytes than its server sends."""

        def _fetch_range(self, start, end):
            return (b'{"text": "line"}\n' * 100)[start:end]

    system = SimpleNamespace(open=lambda path, mode: Short(None, path, mode, cache_type="none", size=2000))
    monkeypatch.setattr(storage, "filesystem", lambda url: (system, "a.jsonl"))
    with pytest.raises(UserError, match=r"x://a\.jsonl: cannot be read \(received only the first 1,700 of 2,000"):
        read_piece(Piece("x://a.jsonl", "jsonl", "", 0, 2000, 2000))


def test_the_version_changes_with_the_content(base):
    write(base + "/a.txt", b"x")
    before = discover([base])
    assert discover([base]) == before
    write(base + "/a.txt", b"y")
    assert discover([base])[0].version != before[0].version


def test_what_is_read_is_as_from_this_machine(base, tmp_path, read_corpus, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 50)
    texts = [f"text {i} " + "é" * (i % 7) for i in range(50)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    table = pa.table({"text": texts})
    pq.write_table(table, tmp_path / "local.parquet", row_group_size=10)
    with pa.ipc.new_file(tmp_path / "local.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=10)
    write(base + "/a.jsonl", lines)
    write(base + "/a.parquet", (tmp_path / "local.parquet").read_bytes())
    write(base + "/a.arrow", (tmp_path / "local.arrow").read_bytes())
    write(base + "/a.txt", "|".join(texts).encode())
    write(base + "/a.csv", b"text\n" + "\n".join(texts).encode())
    packed = {"gz": gzip.compress, "zst": zstandard.compress, "xz": lzma.compress, "bz2": bz2.compress}
    for suffix, compress in packed.items():
        write(f"{base}/a.jsonl.{suffix}", compress(lines))
    for name in (
        "a.jsonl",
        "a.parquet",
        "a.arrow",
        "a.txt",
        "a.csv",
        *(f"a.jsonl.{suffix}" for suffix in packed),
    ):
        for size in (100, 1 << 40):
            seen = read_corpus(f"{base}/{name}", size, document_separator="|")
            assert [document.text for document in seen] == texts
            first = 2 if name == "a.csv" else 1  # after the header
            assert [document.line for document in seen] == list(range(first, first + 50))


@pytest.mark.parametrize(
    "name, message",
    [
        ("missing.txt", r"missing\.txt: no such file or directory"),
        ("*.xyz", "this pattern matches no file"),
        ("sub", r"no file in this directory ends in a known suffix; .*--suffix"),
        ("sub/a.zip", r"\.zip files are not supported"),
    ],
)
def test_discover_refuses(base, name, message):
    write(base + "/sub/a.zip", b"x")
    with pytest.raises(UserError, match=message):
        discover([f"{base}/{name}"])


def test_a_file_that_went_away(base, read_piece):
    with pytest.raises(UserError, match=r"gone\.txt: cannot be read \(.*run the job again to resume it"):
        read_piece(Piece(base + "/gone.txt", "text", "", 0, 1, 1))


def test_a_protocol_that_needs_another_package(monkeypatch):
    def refuse(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(UserError, match=r"s3://bucket/a\.txt: Install s3fs to access S3 \(with pip"):
        discover(["s3://bucket/a.txt"])


def test_a_protocol_that_nobody_knows():
    with pytest.raises(UserError, match=r"nope://bucket/a\.txt: Protocol not known: nope"):
        discover(["nope://bucket/a.txt"])


class Flaky(MemoryFileSystem):
    """Fails in ways of its own, as libraries of the network do."""

    protocol = "flaky"

    class Error(Exception):
        pass

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def info(self, path, **kwargs):
        if "unlisted" in path:
            raise self.Error("no route to host")
        return super().info(path, **kwargs) | ({"size": None} if "endless" in path else {})

    def _open(self, path, *args, **kwargs):
        file = super()._open(path, *args, **kwargs)

        def fail(*_):
            raise self.Error("connection reset")

        file.read = fail
        return file


@pytest.fixture
def flaky():
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    system = fsspec.filesystem("memory")
    system.pipe(
        {
            "/flaky/a.jsonl": b"{}",
            "/flaky/a.txt.gz": b"{}",
            "/flaky/a.parquet": b"x" * 100,
            "/flaky/endless": b"x",
        }
    )
    yield
    system.rm("/flaky", recursive=True)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt.gz", "a.parquet"])
def test_what_fails_on_the_way_is_told_with_the_file(flaky, read_corpus, name):
    with pytest.raises(
        UserError, match=rf"flaky:///flaky/{name}: cannot be read \(connection reset\); run the job again"
    ):
        read_corpus(f"flaky:///flaky/{name}")


def test_what_cannot_be_listed_and_what_has_no_size(flaky):
    with pytest.raises(UserError, match=r"flaky://unlisted: cannot be listed \(no route to host\)"):
        discover(["flaky://unlisted"])
    with pytest.raises(
        UserError, match="endless: the server does not report the size of this file; download it first"
    ):
        discover(["flaky:///flaky/endless"])

"""The identity of a corpus is its content: copies are the same, edits are not, whatever their times say."""

import os
import shutil
from pathlib import Path

import pytest

from gpt2dist.corpus import content_sha256, discover, identity, with_versions
from gpt2dist.errors import UserError


def of(*inputs):
    return content_sha256(with_versions(discover([str(path) for path in inputs])))


def edit(path, content):
    """Replaces the content and keeps the time of modification."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.fixture
def corpus(tmp_path):
    for name in ("a.txt", "b.jsonl", "sub/c.txt"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(f"the content of {name}")
    return tmp_path / "corpus"


def test_a_copy_is_the_same_corpus(corpus, tmp_path):
    before = of(corpus)
    os.utime(corpus / "a.txt", (1, 1))
    assert of(corpus) == before
    shutil.copytree(corpus, tmp_path / "elsewhere/again", copy_function=shutil.copyfile)
    assert of(tmp_path / "elsewhere/again") == before
    shutil.rmtree(corpus)
    shutil.copytree(tmp_path / "elsewhere/again", corpus)
    assert of(corpus) == before == of(corpus / "*.txt", corpus / "sub", corpus / "b.jsonl")


def test_another_content_name_or_order_is_another_corpus(corpus):
    seen = {of(corpus)}
    edit(corpus / "a.txt", b"the content of A.txt")
    seen.add(of(corpus))
    (corpus / "b.jsonl").rename(corpus / "b.txt")  # another format
    seen.add(of(corpus))
    (corpus / "sub/c.txt").rename(corpus / "c.txt")
    seen.add(of(corpus))
    (corpus / "empty.txt").touch()
    seen.add(of(corpus))
    assert len(seen) == 5


def test_what_is_read_of_large_files(tmp_path, monkeypatch):
    """Blocks at even distances, with the first and the last byte; the whole of what is within the limit."""
    monkeypatch.setattr(identity, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(identity, "LEAST_OF_A_FILE", 1 << 10)
    paths = [tmp_path / f"{number}.txt" for number in range(500)]  # 2 KiB of each: blocks of 32 bytes
    for path in paths:
        path.write_bytes(b"a" * 2048)
    large = tmp_path / "large.txt"
    content = bytearray(b"a" * 20_000)
    large.write_bytes(content)

    def version():
        found = {source.path: source.version for source in with_versions(discover([str(tmp_path)]))}
        assert found[str(paths[0])].startswith("sha256:") and found[str(large)].startswith("sampled-2048:")
        return found[str(large)]

    seen = {version()}
    for place in (0, 31, 19_999):
        content[place] = ord("b")
        edit(large, content)
        seen.add(version())
    assert len(seen) == 4
    content[500] = ord("b")  # the second block starts at 316
    edit(large, content)
    assert version() in seen  # what is between two blocks is not looked at
    large.write_bytes(content + b"a")
    assert version() not in seen


@pytest.mark.parametrize(
    ("files", "limit"),
    [(0, 64 << 20), (1, 64 << 20), (64, 64 << 20), (65, 32 << 20), (128, 32 << 20), (1 << 20, 64 << 10)],
)
def test_the_limit_of_a_file(files, limit):
    assert identity._limit(files) == limit
    assert identity._limit(files) * files <= max(identity.MOST_BYTES, files << 16)


def test_within_a_process_an_unchanged_file_is_read_once(corpus, monkeypatch):
    read, really = [], open

    def opening(path, mode):
        read.append(Path(path).name)
        return really(path, mode)

    identity._hash.cache_clear()
    monkeypatch.setattr(identity, "open", opening, raising=False)
    before = of(corpus)
    assert of(corpus) == before and sorted(read) == ["a.txt", "b.jsonl", "c.txt"]
    edit(corpus / "a.txt", (corpus / "a.txt").read_bytes())  # its time of change is another
    assert of(corpus) == before and sorted(read) == ["a.txt", "a.txt", "b.jsonl", "c.txt"]


def test_a_saved_dataset_is_known_by_its_files(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    before = of(tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "copy/saved")
    assert of(tmp_path / "copy/saved") == before
    (file,) = (tmp_path / "saved").glob("*.arrow")
    edit(file, file.read_bytes().replace(b"one", b"ONE"))
    assert of(tmp_path / "saved") != before


def test_files_that_cannot_be_read_are_named_together_before_any_work(corpus, monkeypatch):
    def refuse(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))

    identity._hash.cache_clear()
    monkeypatch.setattr(identity, "open", refuse, raising=False)
    (corpus / "d.txt").write_text("d")
    with pytest.raises(UserError) as raised:
        of(corpus)
    shown = ", ".join(f"{corpus}/{name} (Permission denied)" for name in ("a.txt", "b.jsonl", "d.txt"))
    assert str(raised.value) == (
        f"cannot be read: {shown} and 1 more; make them readable, or name inputs without them"
    )

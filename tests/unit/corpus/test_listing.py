"""A listing is the sorted sources with their versions, whatever is held in memory; and what has changed since."""

import os
import random
import shutil
from dataclasses import replace

import pytest

from gpt2dist import atomic_io
from gpt2dist.corpus import Source, content_sha256, directories, discover, list_corpus, listing, with_versions
from gpt2dist.corpus.identity import change_of
from gpt2dist.corpus.listing import Listing
from gpt2dist.errors import UserError


@pytest.fixture
def corpus(tmp_path):
    for number in range(60):
        path = tmp_path / "corpus" / f"{number % 3}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {number}")
    (tmp_path / "corpus" / "line\nbreak.txt").write_text("a name on two lines")
    (tmp_path / "corpus" / os.fsdecode(b"not-utf8-\xff.txt")).write_text("a name that is not UTF-8")
    return tmp_path / "corpus"


@pytest.fixture(params=["in memory", "in files"])
def storage(request, monkeypatch):
    if request.param == "in files":
        monkeypatch.setattr(listing, "SORTED_TOGETHER", 7)
        monkeypatch.setattr(listing, "BLOCK", 3)
        monkeypatch.setattr(listing, "IN_MEMORY", 100)
        monkeypatch.setattr(directories, "SORTED_TOGETHER", 5)


def test_it_is_what_discover_finds(corpus, storage):
    inputs = [str(corpus), f"{corpus}/**/*1.txt", str(corpus / "0/9.txt")]
    found, expected = list_corpus(inputs), with_versions(discover(inputs))
    assert [*found] == [*found] == expected and len(found) == 62
    lines = "".join(listing.line(source) + "\n" for source in expected)
    assert found.facts == {
        "files": 62,
        "bytes": sum(source.size for source in expected),
        "listing_sha256": atomic_io.sha256_of_text(lines),
        "content_sha256": content_sha256(expected),
    }


def test_of_equal_paths_the_last_is_taken(storage):
    sources = [Source(f"memory://{number % 40:02d}", "text", "", number, "") for number in range(100)]
    random.Random(0).shuffle(sources)
    expected = {source.path: source for source in sources}
    assert [*Listing(sources)] == [expected[path] for path in sorted(expected)]


def test_no_sources():
    assert Listing([]).facts["content_sha256"] == content_sha256([]) and len(Listing([])) == 0


def test_temporary_files_have_no_name(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "IN_MEMORY", 1)
    (tmp_path / "disk").mkdir()
    found = list_corpus([str(corpus)], directory=tmp_path / "disk")
    assert len([*found]) == 62 and not list((tmp_path / "disk").iterdir())


def test_a_long_listing_reports_its_progress(monkeypatch):
    monkeypatch.setattr(listing, "SHOWN_EVERY", 40)
    said = []
    Listing([Source(f"memory://{number}", "text", "", 1, "") for number in range(100)], on_info=said.append)
    found = [f"listing the corpus: found {number} files" for number in (40, 80)]
    assert said == found + [f"listing the corpus: hashed {number} of 100 files" for number in (40, 80)]


def test_an_encoding_that_cannot_be_used(corpus):
    (corpus / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"--encoding gbk: .*b\.parquet is parquet, a format that determines"):
        list_corpus([str(corpus)], encoding="gbk")


def test_a_saved_dataset_that_was_copied_has_not_changed(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(tmp_path / "saved")
    ((source, stamp),) = list_corpus([str(tmp_path / "saved")]).stamped()
    assert change_of(source, stamp) == ""
    shutil.copytree(tmp_path / "saved", tmp_path / "copy")
    copy = replace(source, path=str(tmp_path / "copy"))  # other inodes and times, as on another host
    assert change_of(copy, stamp) == ""
    (file,) = (tmp_path / "copy").glob("*.arrow")
    file.write_bytes(file.read_bytes().replace(b"one", b"ONE"))
    assert change_of(copy, stamp) == "its content is another"


def test_a_large_file_that_was_copied_has_not_changed(tmp_path, monkeypatch):
    """Of which only blocks are hashed, whose size depended on the number of files."""
    monkeypatch.setattr("gpt2dist.corpus.identity.MOST_BYTES", 1 << 12)
    monkeypatch.setattr("gpt2dist.corpus.identity.LEAST_OF_A_FILE", 1 << 10)
    (tmp_path / "a.txt").write_bytes(bytes(range(1, 201)) * 100)
    ((source, stamp),) = list_corpus([str(tmp_path / "a.txt")]).stamped()
    assert source.version.startswith("sampled-4096:")
    monkeypatch.undo()
    shutil.copy(tmp_path / "a.txt", tmp_path / "b.txt")
    assert change_of(replace(source, path=str(tmp_path / "b.txt")), stamp) == ""

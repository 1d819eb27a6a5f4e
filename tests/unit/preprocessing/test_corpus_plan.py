"""The corpus of a job is listed once for all of its processes, and each source is compared with the list."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from gpt2dist import atomic_io
from gpt2dist.corpus import list_corpus
from gpt2dist.errors import UserError
from gpt2dist.preprocessing import check, corpus_plan, driver, prepare, prepare_part
from gpt2dist.preprocessing.corpus_plan import CorpusPlan
from gpt2dist.preprocessing.tasks import plan_tasks
from tests.support.jobs import content, job


@pytest.fixture
def calls(corpus, monkeypatch):
    """Counts the scans of directories, and the stats of and access to each path of the corpus."""
    counts = {"scan": 0, "stat": 0}

    def counting(kind, function):
        def call(path=".", *rest, **options):
            if not isinstance(path, int) and os.fspath(path).startswith(str(corpus)):
                counts[kind] += 1
            return function(path, *rest, **options)

        return call

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, counting("scan", getattr(os, name)))
    monkeypatch.setattr(os, "stat", counting("stat", os.stat))
    return counts


def test_a_corpus_is_listed_once(tmp_path, corpus, tokenizer, small_tasks, calls):
    """21 files: two stats each to list them, one after reading, by each task that reads a part of them."""
    made = job(corpus, tokenizer, tmp_path / "out")
    parts = len(plan_tasks(list_corpus([str(corpus)])))
    calls.update(scan=0, stat=0)
    prepare(made)
    assert calls["scan"] == 1
    assert 3 * 21 <= calls["stat"] <= 3 * 21 + parts + 30


def test_an_array_of_100_lists_the_corpus_once(tmp_path, corpus, tokenizer, small_tasks, calls):
    array = job(corpus, tokenizer, tmp_path / "out")
    for index in range(100):
        prepare_part(array, index, 100)
    assert calls["scan"] == 1
    stats = calls["stat"]
    prepare(array, finish=True)
    assert calls["scan"] == 1 and calls["stat"] == stats
    prepare(job(corpus, tokenizer, tmp_path / "one"))
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_parts_at_the_same_time_wait_for_the_list(tmp_path, corpus, tokenizer, small_tasks, monkeypatch):
    """One lists; the other waits until the lock is free, as it also is when the first one was killed."""
    listed, said, list_sources = [], [], driver.list_sources
    monkeypatch.setattr(corpus_plan, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(driver, "list_sources", lambda *args: (listed.append(1), list_sources(*args))[1])
    array = job(corpus, tokenizer, tmp_path / "out")
    array.build.mkdir()
    lock = (array.build / "listing.lock").open("a")
    assert atomic_io.try_lock(lock.fileno())
    parts = [
        threading.Thread(target=prepare_part, args=(array, index, 2), kwargs={"on_info": said.append})
        for index in (0, 1)
    ]
    for part in parts:
        part.start()
    while sum("waiting for its list" in text for text in list(said)) < 2:
        time.sleep(0.01)
    assert not listed
    lock.close()
    for part in parts:
        part.join()
    assert len(listed) == 1
    prepare(array, finish=True, on_info=said.append)
    assert any(text.startswith("the corpus was listed at ") and ": 21 files (" in text for text in said)


def test_a_part_with_other_inputs_lists_them(tmp_path, corpus, tokenizer, small_tasks):
    prepare_part(job(corpus, tokenizer, tmp_path / "out"), 0, 2)
    corpus.rename(tmp_path / "elsewhere")
    moved = job(tmp_path / "elsewhere", tokenizer, tmp_path / "out")
    prepare_part(moved, 1, 2)
    prepare(moved, finish=True)
    assert str(tmp_path / "elsewhere/a.jsonl") in (tmp_path / "out/sources.jsonl").read_text()
    (tmp_path / "elsewhere/a.jsonl").write_text("changed")
    other = job(tmp_path / "elsewhere/a.jsonl", tokenizer, tmp_path / "out")
    with pytest.raises(UserError, match=r"out: holds another dataset: another corpus \(20 gone: .*, 1 changed: "):
        prepare_part(other, 0, 2)


def test_a_part_whose_inputs_do_not_exist_leaves_nothing(tmp_path, tokenizer):
    with pytest.raises(UserError, match="nowhere: no such file or directory"):
        prepare_part(job(tmp_path / "nowhere", tokenizer, tmp_path / "out"), 0, 2)
    assert not (tmp_path / "out.partial").exists()


def test_the_stored_tasks_are_those_that_are_planned(tmp_path, corpus, tokenizer, small_tasks):
    (corpus / "empty.txt").touch()
    made = job(corpus, tokenizer, tmp_path / "out")
    listing = corpus_plan.list_sources(made)
    stored = CorpusPlan.store(made, listing)
    planned = plan_tasks(listing)
    assert len(stored.tasks) == len(planned) == check(made) > 5
    for ours, other in zip(stored.tasks, planned, strict=True):
        assert (ours.number, ours.first_piece, ours.size) == (other.number, other.first_piece, other.size)
        assert tuple(ours.pieces) == other.pieces and len(ours.pieces) == len(other.pieces)
        assert {piece.path for piece in other.pieces} == {source.path for source, _ in ours.pieces.sources()}
    assert [*stored] == [*listing] and stored.facts == listing.facts


@pytest.mark.parametrize("damage", ["{", "{}", '{"facts": {}, "tasks": [], "size": 0}', ""])
def test_a_damaged_list_is_made_again(tmp_path, corpus, tokenizer, small_tasks, damage):
    made = job(corpus, tokenizer, tmp_path / "out")
    prepare_part(made, 0, 2)
    (marker,) = made.build.glob("worklist/*/done.json")
    marker.write_text(damage)
    if not damage:
        marker.unlink()
        marker.with_name("corpus.jsonl").write_text("half of a")
    prepare_part(made, 1, 2)
    prepare(made, finish=True)
    prepare(job(corpus, tokenizer, tmp_path / "one"))
    assert content(tmp_path / "out") == content(tmp_path / "one")


def test_a_line_of_the_list_that_is_damaged(tmp_path, corpus, tokenizer, small_tasks):
    made = job(corpus, tokenizer, tmp_path / "out")
    prepare_part(made, 0, 2)
    (path,) = made.build.glob("worklist/*/corpus.jsonl")
    path.write_bytes(path.read_bytes().replace(b'"', b"x", 1))
    with pytest.raises(
        UserError, match=rf"{path}: cannot be read .*; remove the unfinished work \(rm -r {made.build}"
    ):
        prepare(made)


# --- Changes ----------------------------------------------------------------------------------------------


def edited(path):
    path.write_bytes(path.read_bytes().replace(b"A text", b"B text"))


def removed(path):
    path.unlink()


def cut(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (edited, "its content is another"),
        (cut, "its content is another"),
        (removed, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_a_file_that_changes_after_the_listing_is_named(tmp_path, corpus, tokenizer, monkeypatch, change, reason):
    run = driver.run_task

    def changing(job, task):
        change(corpus / "text07.txt")
        return run(job, task)

    monkeypatch.setattr(driver, "run_task", changing)
    message = (
        rf"^{corpus}/text07\.txt: {reason}: the corpus changed while it was read; remove the unfinished work "
    )
    with pytest.raises(UserError, match=message):
        prepare(job(corpus, tokenizer, tmp_path / "out"))


def test_a_file_that_changes_between_the_parts_of_an_array_is_named(tmp_path, corpus, tokenizer, small_tasks):
    array = job(corpus, tokenizer, tmp_path / "out")
    prepare_part(array, 0, 100)
    edited(corpus / "text19.txt")
    with pytest.raises(
        UserError, match=r"text19\.txt: its content is another: the corpus changed while it was read"
    ):
        for index in range(1, 100):
            prepare_part(array, index, 100)


def test_a_file_that_is_only_touched_has_not_changed(tmp_path, corpus, tokenizer, monkeypatch):
    run = driver.run_task

    def touching(job, task):
        for path in corpus.iterdir():
            os.utime(path, (1, 1))
        return run(job, task)

    monkeypatch.setattr(driver, "run_task", touching)
    prepare(job(corpus, tokenizer, tmp_path / "out"))


def test_a_file_that_appears_later_is_not_read(tmp_path, corpus, tokenizer, monkeypatch):
    run = driver.run_task

    def adding(job, task):
        (corpus / "later.txt").write_text("a later text")
        return run(job, task)

    monkeypatch.setattr(driver, "run_task", adding)
    made = job(corpus, tokenizer, tmp_path / "out")
    assert prepare(made).sources["files"] == 21
    with pytest.raises(UserError, match=r"another corpus \(1 new: .*/later\.txt"):
        prepare(made)


def test_a_file_at_a_url_that_changes_is_noticed(tmp_path, tokenizer, monkeypatch):
    import fsspec

    system = fsspec.filesystem("memory")
    for name in "ab":
        system.pipe(f"/changing/{name}.txt", b"a text in memory, " + name.encode())
    made = job("memory://changing", tokenizer, tmp_path / "out")
    first = prepare(made)
    assert first.totals("train").documents == 2
    run = driver.run_task

    def changing(job, task):
        system.pipe("/changing/b.txt", b"another text")
        return run(job, task)

    monkeypatch.setattr(driver, "run_task", changing)
    with pytest.raises(UserError, match=r"memory:///?changing/b\.txt: the corpus changed while it was read"):
        prepare(replace(made, output=tmp_path / "other"))


# --- Memory -----------------------------------------------------------------------------------------------


def test_the_memory_of_a_listing_does_not_grow_with_the_files(tmp_path):
    """In a process of its own, which lists files that do not exist: their URLs are not looked at."""
    code = """
import sys
from gpt2dist.corpus import Listing, Source
from gpt2dist.memory import peak_resident_bytes

def sources(count):
    for number in range(count):
        yield Source(f"memory://a/long/path/of/a/file/{number * 7919 % count:09d}.txt", "text", "", 1, "v" * 64)

Listing(sources(50_000))
before = peak_resident_bytes()
listing = Listing(sources(400_000))
assert len(listing) == 400_000
print((peak_resident_bytes() - before) // 400_000)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 50  # bytes a file; a list of them takes 600


def test_the_memory_of_a_driver_does_not_grow_with_the_files(tmp_path):
    """In a process of its own: one task with many files, of which the last is rejected."""
    code = """
import json, sys
from pathlib import Path
from gpt2dist.corpus import Listing, Source
from gpt2dist.memory import peak_resident_bytes
from gpt2dist.preprocessing import PreprocessingJob, assembly, driver
from gpt2dist.preprocessing.corpus_plan import CorpusPlan
from gpt2dist.preprocessing.tasks import load_rejections, task_folder

FILES = 100_000
job = PreprocessingJob(("memory://a",), "tokenizer", Path(sys.argv[1]))
job.running.mkdir(parents=True)
names = (f"memory://a/long/path/of/a/file/{number:09d}.txt" for number in range(FILES))
(task,) = CorpusPlan.store(job, Listing(Source(name, "text", "", 1, "v" * 64) for name in names)).tasks
folder = task_folder(job, task)
folder.mkdir(parents=True)
done = {"shards": [], "left_out": {"rejected": 1}, "repaired": 0, "lines": [1] * FILES}
(folder / "done.json").write_text(json.dumps(done))
rejected = {"piece": FILES - 1, "line": 1, "lines": 1, "offset": 0, "bytes": 1, "reason": "no text"}
(folder / "rejected.jsonl").write_text(json.dumps(rejected))
sampled = []
driver.read = lambda piece, reading: sampled.append(piece.path) or iter(())

before = peak_resident_bytes()
assert list(driver._samples(job, [task])) == []
assert sum(1 for _ in assembly._piece_lines(job, [task])) == FILES
(line,) = assembly._listing(job, [task], load_rejections)
grown = (peak_resident_bytes() - before) // FILES
print(json.dumps([grown, len(sampled), sampled[-1], json.loads(line)["file"]]))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, samples, *last = json.loads(found.stdout)
    assert grown < 150  # bytes a file, for the numbers of lines; a list of the pieces takes 800
    assert samples == driver.SAMPLE_PIECES
    assert last == ["memory://a/long/path/of/a/file/000099999.txt"] * 2

"""The whole way from corpus to dataset directory, its independence of workers and interruptions, its refusals."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gpt2dist.corpus import Reading, discover, files
from gpt2dist.corpus import documents as documents_module
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.errors import RunError, UserError
from gpt2dist.preprocessing import PreprocessingJob, assembly, driver, prepare
from gpt2dist.preprocessing import tasks as tasks_module
from gpt2dist.preprocessing.tasks import plan_tasks
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, import_gpt2, train_bpe, train_char


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    train_bpe(["the quick brown fox jumps over the lazy dog " * 5], 280).save(directory)
    return directory


@pytest.fixture
def small_tasks(monkeypatch):
    """Many tasks from a small corpus; reaches tasks planned in this process, which is where they are planned."""
    monkeypatch.setattr(tasks_module, "MIN_TASK_BYTES", 2000)


@pytest.fixture
def corpus(tmp_path):
    directory = tmp_path / "corpus"
    directory.mkdir()
    lines = [json.dumps({"text": f"document {i} é " + "word " * (i % 40)}) for i in range(300)]
    (directory / "a.jsonl").write_text("\n".join(lines) + "\n" + lines[0] + "\n")
    for i in range(20):
        (directory / f"text{i:02d}.txt").write_text(f"A text file, number {i}.\r\n" * (i + 1))
    return directory


def job(corpus, tokenizer, output, **options):
    return PreprocessingJob(inputs=(str(corpus),), tokenizer=str(tokenizer), output=Path(output), **options)


def content(directory):
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def documents(manifest, split):
    tokenizer = Tokenizer.load(manifest.directory)
    shards = [Shard(manifest.directory / record.name) for record in manifest.shards_of(split)]
    return [tokenizer.decode(shard.document(i)) for shard in shards for i in range(shard.documents)]


def test_every_document_comes_back_in_order(tmp_path, corpus, tokenizer):
    manifest = prepare(job(corpus, tokenizer, tmp_path / "out"))
    expected = [json.loads(line)["text"] for line in (corpus / "a.jsonl").read_text().splitlines()]
    expected += [path.read_bytes().decode() for path in sorted(corpus.glob("*.txt"))]
    assert documents(manifest, "train") == [text + END_OF_TEXT for text in expected]
    totals = manifest.totals("train")
    assert totals.documents == 321
    assert totals.bytes == sum(len(text.encode()) for text in expected)
    assert totals.words == sum(len(text.split()) for text in expected)
    assert totals.tokens == sum(len(Shard(tmp_path / "out" / shard.name)) for shard in manifest.shards)
    assert manifest == Manifest.load(tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == [
        "manifest.json",
        "pieces.jsonl",
        "rejected.jsonl",
        "sources.jsonl",
        "tokenizer.json",
        "tokenizer_config.json",
        "train-00000.bin",
        "train-00000.idx",
        "train-00000.origins",
    ]
    assert not (tmp_path / "out.partial").exists()


def test_split_is_by_the_hash_of_the_content(tmp_path, corpus, tokenizer):
    manifest = prepare(job(corpus, tokenizer, tmp_path / "out", val_fraction=0.3))
    for split, wanted in (("train", False), ("val", True)):
        for text in documents(manifest, split):
            digest = hashlib.sha256(text.removesuffix(END_OF_TEXT).encode()).digest()
            assert (int.from_bytes(digest[:8], "big") / 2**64 < 0.3) is wanted
    train, val = documents(manifest, "train"), documents(manifest, "val")
    assert not set(train) & set(val)
    assert len(train) + len(val) == 321 and 60 < len(val) < 130
    equal = [text for text in train + val if text.startswith("document 0 ")]
    assert len(equal) == 2  # both copies, on one side


def test_workers_and_interruptions_change_no_byte(tmp_path, corpus, tokenizer, small_tasks, monkeypatch):
    options = {"val_fraction": 0.2, "shard_tokens": 400}
    one = prepare(job(corpus, tokenizer, tmp_path / "one", **options))
    assert len(one.shards) > 10
    assert all(shard.tokens <= 400 or shard.documents == 1 for shard in one.shards)

    prepare(job(corpus, tokenizer, tmp_path / "two", workers=2, **options))

    runs = []
    run = driver.run_task

    def interrupted(job, task):
        runs.append(task.number)
        if len(runs) == 4:
            (job.running / "tasks-00003-dead").mkdir()
            (job.running / "tasks-00003-dead" / "train-00000.bin").write_bytes(b"half")
            raise KeyboardInterrupt
        return run(job, task)

    monkeypatch.setattr(driver, "run_task", interrupted)
    resumed = job(corpus, tokenizer, tmp_path / "resumed", **options)
    with pytest.raises(KeyboardInterrupt):
        prepare(resumed)
    assert not (tmp_path / "resumed").exists()
    (tmp_path / "resumed.partial" / "tasks" / "00001" / "train-00000.bin").write_bytes(b"")  # and a damaged one
    done = len(list((tmp_path / "resumed.partial" / "tasks").iterdir())) - 1
    said, before = [], len(runs)
    prepare(resumed, on_info=said.append)
    assert {1, 3} <= set(runs[before:]) and not {0, 2} & set(runs[before:])
    assert f"resuming: {done} of {len(set(runs))} tasks are done" in said

    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "resumed")


def test_interrupted_while_files_get_their_names(tmp_path, corpus, tokenizer, small_tasks, monkeypatch):
    prepare(job(corpus, tokenizer, tmp_path / "one"))
    move, moves = assembly._move, []

    def interrupted(source, target):
        move(source, target)
        moves.append(target)
        if len(moves) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(assembly, "_move", interrupted)
    two = job(corpus, tokenizer, tmp_path / "two")
    with pytest.raises(KeyboardInterrupt):
        prepare(two)
    prepare(two)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_killed_and_run_again(tmp_path):
    """A real process with real workers, killed with SIGKILL in the middle; its orphans end by themselves."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    word = " " + "".join(chr(97 + i * i % 26) for i in range(99))  # one token, so that megabytes take no time
    train_bpe([word * 50], 360).save(tmp_path / "tokenizer")
    for i in range(10):
        (corpus / f"{i}.txt").write_text(f"{i}" + word * 41_000)  # two do not fit into one task
    arguments = [
        "preprocess",
        str(corpus),
        "--tokenizer",
        str(tmp_path / "tokenizer"),
        "--workers",
        "2",
        "--output",
    ]
    program = [sys.executable, "-m", "gpt2dist", *arguments]
    process = subprocess.Popen([*program, str(tmp_path / "killed")], stderr=subprocess.PIPE)
    tasks = tmp_path / "killed.partial" / "tasks"
    deadline = time.monotonic() + 60
    while not list(tasks.glob("*/done.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # ends when the last worker has closed standard error
    assert not (tmp_path / "killed").exists()
    again = subprocess.run([*program, str(tmp_path / "killed")], capture_output=True, text=True, check=True)
    assert "resuming: " in again.stderr
    prepare(job(corpus, tmp_path / "tokenizer", tmp_path / "whole"))
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_ctrl_c_stops_all_workers_and_keeps_what_is_done(tmp_path):
    train_bpe(["some words"], 257).save(tmp_path / "tokenizer")
    (tmp_path / "b.jsonl").write_text((json.dumps({"text": "some words " * 20}) + "\n") * 100_000)
    program = [sys.executable, "-m", "gpt2dist", "preprocess", str(tmp_path / "b.jsonl"), "--workers", "2"]
    program += ["--tokenizer", str(tmp_path / "tokenizer"), "--output", str(tmp_path / "out")]
    process = subprocess.Popen(
        program,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that were started in the background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not list((tmp_path / "out.partial" / "running").glob("*/*.bin.*.tmp")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = f"what is done is kept in {tmp_path}/out.partial: run the same command again to resume"
    assert error.splitlines()[-1] == f"gpt2dist preprocess: interrupted; {kept}" and "Traceback" not in error


def die(job, task):
    os.kill(os.getpid(), signal.SIGKILL)


def test_dead_worker_is_a_clear_failure(tmp_path, corpus, tokenizer, small_tasks, monkeypatch):
    monkeypatch.setattr(driver, "_run_and_name", die)
    with pytest.raises(RunError, match="run the same command again to resume"):
        prepare(job(corpus, tokenizer, tmp_path / "out", workers=2))


def test_tasks_depend_on_the_files_alone(corpus, small_tasks):
    sources = discover([str(corpus)])
    tasks = plan_tasks(sources)
    assert [task.number for task in tasks] == list(range(len(tasks))) and len(tasks) > 5
    assert sum(task.size for task in tasks) == sum(source.size for source in sources)


def test_run_again_has_nothing_to_do(tmp_path, corpus, tokenizer):
    first = prepare(job(corpus, tokenizer, tmp_path / "out"))
    before = content(tmp_path / "out")
    said = []
    assert prepare(job(corpus, tokenizer, tmp_path / "out", workers=2), on_info=said.append) == first
    assert "nothing to do" in said[0] and content(tmp_path / "out") == before


def test_a_corpus_is_known_again_by_its_content(tmp_path, corpus, tokenizer, small_tasks, monkeypatch):
    """Touched, copied, moved: nothing is done again. Edited within its size and time: another corpus."""
    first = prepare(job(corpus, tokenizer, tmp_path / "out"))
    for path in corpus.iterdir():
        os.utime(path, (1, 1))
    said = []
    assert prepare(job(corpus, tokenizer, tmp_path / "out"), on_info=said.append) == first
    shutil.copytree(corpus, tmp_path / "moved/corpus", copy_function=shutil.copyfile)
    assert prepare(job(tmp_path / "moved/corpus", tokenizer, tmp_path / "out"), on_info=said.append) == first
    assert ["nothing to do" in text for text in said] == [True, True]
    edited = corpus / "text03.txt"
    edited.write_text(edited.read_text().replace("A text", "B text"))
    os.utime(edited, (1, 1))
    with pytest.raises(UserError, match=r"another corpus \(1 changed: .*/corpus/text03\.txt …\)"):
        prepare(job(corpus, tokenizer, tmp_path / "out"))
    with pytest.raises(UserError, match=r"another corpus \(1 changed: text03\.txt …\)"):  # moved and edited
        shutil.copy(edited, tmp_path / "moved/corpus")
        prepare(job(tmp_path / "moved/corpus", tokenizer, tmp_path / "out"))


def test_unfinished_work_goes_on_with_a_copy_of_the_corpus(tmp_path, corpus, tokenizer, small_tasks, monkeypatch):
    prepare(job(corpus, tokenizer, tmp_path / "whole"))
    run, runs = driver.run_task, []

    def interrupted(job, task):
        runs.append(task.number)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return run(job, task)

    with monkeypatch.context() as patched:
        patched.setattr(driver, "run_task", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(corpus, tokenizer, tmp_path / "out"))
    corpus.rename(tmp_path / "elsewhere")
    said = []
    prepare(job(tmp_path / "elsewhere", tokenizer, tmp_path / "out"), on_info=said.append)
    assert any(text.startswith("resuming: ") for text in said)
    same = {name for name, data in content(tmp_path / "whole").items() if content(tmp_path / "out")[name] == data}
    assert set(content(tmp_path / "whole")) - same == {"manifest.json", "pieces.jsonl", "sources.jsonl"}
    assert str(tmp_path / "elsewhere/a.jsonl") in (tmp_path / "out/pieces.jsonl").read_text()


def test_a_dataset_of_0_1_is_known_again(tmp_path, corpus, tokenizer):
    """It has no hash of the contents, and times of modification for versions."""
    manifest = prepare(job(corpus, tokenizer, tmp_path / "out"))
    lines = [json.loads(line) for line in (tmp_path / "out/sources.jsonl").read_text().splitlines()]
    listing = "".join(
        json.dumps(line | {"version": str(Path(line["path"]).stat().st_mtime_ns)}) + "\n" for line in lines
    )
    (tmp_path / "out/sources.jsonl").write_text(listing)
    sources = {key: manifest.sources[key] for key in ("files", "bytes")}
    sources["listing_sha256"] = hashlib.sha256(listing.encode()).hexdigest()
    replace(manifest, sources=sources).save(tmp_path / "out")
    said = []
    prepare(job(corpus, tokenizer, tmp_path / "out"), on_info=said.append)
    assert "nothing to do" in said[0]
    (corpus / "text03.txt").touch()
    with pytest.raises(UserError, match="holds another dataset: another corpus"):
        prepare(job(corpus, tokenizer, tmp_path / "out"))


def test_output_within_the_corpus_is_not_read(tmp_path, corpus, tokenizer):
    first = prepare(job(corpus, tokenizer, corpus / "out"))
    assert prepare(job(corpus, tokenizer, corpus / "out")) == first


def test_output_that_holds_something_else_is_left_alone(tmp_path, corpus, tokenizer):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"out: exists and is not a dataset directory; choose another --output"):
        prepare(job(corpus, tokenizer, output))
    shutil.rmtree(output)
    output.mkdir()  # an empty one is fine
    prepare(job(corpus, tokenizer, output))
    with pytest.raises(UserError, match=r"out: holds another dataset: --val-fraction 0\.0 there, 0\.5 here"):
        prepare(job(corpus, tokenizer, output, val_fraction=0.5))
    (corpus / "new.txt").write_text("x")
    with pytest.raises(UserError, match=r"another corpus \(1 new: .*new\.txt …\)"):
        prepare(job(corpus, tokenizer, output))


def test_a_link_gets_the_dataset_where_it_points_to(tmp_path, corpus, tokenizer):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/dataset")
    prepare(job(corpus, tokenizer, tmp_path / "link"))
    assert (tmp_path / "disk/dataset/manifest.json").is_file() and (tmp_path / "link").is_symlink()
    said = []
    prepare(job(corpus, tokenizer, tmp_path / "link"), on_info=said.append)
    assert "nothing to do" in said[0]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["dataset"]


@pytest.mark.parametrize("where", ["corpus/a.jsonl", "corpus/a.jsonl/deep/out", ".", "mounted", "x" * 250])
def test_output_that_cannot_be_made_is_refused_before_any_work(tmp_path, corpus, monkeypatch, where):
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "mounted")
    before = sorted(tmp_path.rglob("*"))
    message = r"--output: .* (is a file; name a directory|is a mount point, .*|\(File name too long\); .*)$"
    message = message if where != "." else "exists and is not a dataset directory"
    with pytest.raises(UserError, match=message):
        prepare(job(corpus, "no-tokenizer", tmp_path / where))
    assert sorted(tmp_path.rglob("*")) == before


def test_a_build_directory_that_cannot_become_the_dataset(tmp_path, corpus, monkeypatch):
    (tmp_path / "out.partial").touch()
    with pytest.raises(
        UserError, match=r"out\.partial: the unfinished work belongs here, and this is no directory"
    ):
        prepare(job(corpus, "no-tokenizer", tmp_path / "out"))
    (tmp_path / "out.partial").unlink()
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk only")
    (tmp_path / "out.partial").symlink_to("/dev/shm")
    with pytest.raises(UserError, match=r"out\.partial: is on another disk than .*/out, .*; remove this link or"):
        prepare(job(corpus, "no-tokenizer", tmp_path / "out"))


def test_unfinished_work_of_another_job_is_left_alone(tmp_path, corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(driver, "run_task", lambda job, task: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(job(corpus, tokenizer, tmp_path / "out"))
    train_bpe(["x"], 257).save(tmp_path / "other")
    with pytest.raises(UserError, match=r"unfinished work of another job: another tokenizer. Remove it \(rm -r "):
        prepare(job(corpus, tmp_path / "other", tmp_path / "out"))
    stranger = tmp_path / "stranger.partial"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="exists and is not the work of gpt2dist"):
        prepare(job(corpus, tokenizer, tmp_path / "stranger"))


def test_two_at_once_in_one_place(tmp_path, corpus, tokenizer, monkeypatch):
    def second(one, task):
        prepare(job(corpus, tokenizer, tmp_path / "out"))

    monkeypatch.setattr(driver, "run_task", second)
    with pytest.raises(UserError, match="another gpt2dist preprocess is at work here"):
        prepare(job(corpus, tokenizer, tmp_path / "out"))


def test_corpus_that_changes_under_way(tmp_path, corpus, tokenizer, monkeypatch):
    run = driver.run_task

    def change(job, task):
        (corpus / "text00.txt").write_text("changed")
        return run(job, task)

    monkeypatch.setattr(driver, "run_task", change)
    with pytest.raises(UserError, match=r"the corpus changed while it was read; .*rm -r .*out\.partial"):
        prepare(job(corpus, tokenizer, tmp_path / "out"))


def test_rejected_repaired_and_empty(tmp_path, tokenizer, small_tasks):
    path = tmp_path / "a.jsonl"
    good = b'{"text": "fine, fine, fine, fine, fine"}\n'
    path.write_bytes(good * 200 + b"{broken\n" + good * 200 + b'{"text": ""}\n{"text": "caf\xe9"}\n{"text": 1}\n')
    manifest = prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.01))
    assert manifest.left_out == {"rejected": 2, "empty": 1, "too_short": 0, "too_long": 0}
    assert manifest.repaired == 1
    assert manifest.totals("train").documents == 401
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(line["file"], line["line"]) for line in lines] == [(str(path), 201), (str(path), 404)]
    assert lines[0]["reason"].startswith("not JSON") and lines[1]["reason"] == "field 'text' is int, not a string"


def test_long_lines_that_cannot_be_read_are_rejected(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(documents_module, "LONG_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    deep, cut, good = b'{"x": ' + b"[" * 150_000, b'{"text": "' + b"x" * 5000, b'{"text": "ok ok"}'
    path.write_bytes(b"\n".join([deep, cut, *[good] * 100]))
    manifest = prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.1))
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (2, 100)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(line["line"], line["reason"].partition(" at ")[0]) for line in lines] == [
        (1, "not JSON: nesting too deep"),
        (2, "not JSON: a string that is cut off or holds what must be escaped"),
    ]


def test_a_file_with_many_empty_documents_is_named(tmp_path, tokenizer, small_tasks):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": "a"}\n' * 1000 + '{"text": ""}\n' * 120)
    (tmp_path / "corpus" / "b.jsonl").write_text('{"text": "b"}\n' * 100 + '{"text": ""}\n' * 50)
    (tmp_path / "corpus" / "c.jsonl").write_text('{"text": "c"}\n' * 100 + '{"text": ""}\n' * 10)
    warnings = []
    manifest = prepare(job(tmp_path / "corpus", tokenizer, tmp_path / "out"), on_warning=warnings.append)
    assert manifest.left_out["empty"] == 180
    (warning,) = [text for text in warnings if "empty" in text]
    assert warning.startswith(
        f"{tmp_path}/corpus/a.jsonl: 120 of its 1,120 documents are empty and were skipped, and so is a large "
        "part of 1 other file(s). If that is not what you expect, the file is damaged, or --text-field names"
    )
    (tmp_path / "corpus" / "a.jsonl").unlink()
    (tmp_path / "corpus" / "b.jsonl").unlink()
    prepare(job(tmp_path / "corpus", tokenizer, tmp_path / "few"), on_warning=warnings.append)
    assert not any("c.jsonl" in text for text in warnings)


def test_too_many_rejected(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 20 + '{"content": "x"}\n' * 5)
    with pytest.raises(UserError) as caught:
        prepare(job(path, tokenizer, tmp_path / "out"))
    message = str(caught.value)
    assert "5 of 25 documents cannot be read, more than --max-bad-fraction 0.001 allows" in message
    for line in (21, 22, 23):
        assert f"{path}:{line}: no field 'text'; its fields are 'content'" in message
    assert "larger --max-bad-fraction" in message and ":24:" not in message
    manifest = prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.5))  # goes on
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (5, 20)


def test_a_rejection_counts_as_many_documents_as_it_has_lines(tmp_path, tokenizer):
    source = tmp_path / "a.tsv"
    source.write_text("text\n" + "fine\n" * 50 + '"open\nfine\nfine" here\n' + "fine\n" * 50)
    with pytest.raises(UserError) as caught:
        prepare(job(source, tokenizer, tmp_path / "out", max_bad_fraction=0.02))
    assert "3 of 103 documents cannot be read" in str(caught.value)
    assert "a.tsv:52: text after the quote that closes a field (--quoting none" in str(caught.value)
    assert "ordinary characters) (3 lines)" in str(caught.value)
    manifest = prepare(job(source, tokenizer, tmp_path / "out", max_bad_fraction=0.03))
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (3, 100)
    (line,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (line["line"], line["lines"], line["offset"], line["bytes"]) == (52, 3, 255, 22)


def test_few_rejections_with_many_bytes_are_said(tmp_path, tokenizer):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "fine"}\n' * 99 + "not JSON " * 187 + "\n")
    said = []
    prepare(job(source, tokenizer, tmp_path / "out", max_bad_fraction=0.4), on_warning=said.append)
    (warning,) = said
    assert warning.startswith("the rejected lines or rows hold 50.0% of the bytes of the corpus; see ")


def test_quoting_belongs_to_the_job(tmp_path, tokenizer, monkeypatch):
    def texts(manifest):
        return [text.removesuffix(END_OF_TEXT) for text in documents(manifest, "train")]

    monkeypatch.setattr(tasks_module, "MIN_TASK_BYTES", 1)
    for name in "ab":
        (tmp_path / f"{name}.tsv").write_text('text\n"one"\n"two\nlines"\n')
    inputs = str(tmp_path / "*.tsv")
    standard = prepare(job(inputs, tokenizer, tmp_path / "out"))
    assert texts(standard) == ["one", "two\nlines"] * 2
    assert (standard.options["quoting"], standard.options["max_field_lines"]) == ("standard", 100)
    none = Reading(quoting="none")
    with pytest.raises(UserError, match="holds another dataset: --quoting standard there, none here"):
        prepare(job(inputs, tokenizer, tmp_path / "out", reading=none))
    with pytest.raises(UserError, match="--max-field-lines 100 there, 9 here"):
        prepare(job(inputs, tokenizer, tmp_path / "out", reading=Reading(max_field_lines=9)))
    path = tmp_path / "out" / "manifest.json"
    older = json.loads(path.read_text())
    del older["options"]["quoting"], older["options"]["max_field_lines"]  # version 0.1 did not write them
    del older["manifest_sha256"]
    path.write_text(json.dumps(older))
    assert texts(prepare(job(inputs, tokenizer, tmp_path / "out"))) == ["one", "two\nlines"] * 2

    # The field comes after the samples on which the encoder is checked, so the task of a.tsv is done.
    (tmp_path / "b.tsv").write_text("text\n" + "x\n" * 99 + '"two\nlines\n"\n')
    short = Reading(max_field_lines=2)
    with pytest.raises(UserError, match=r"b\.tsv: line 101: a quoted field starts here"):
        prepare(job(inputs, tokenizer, tmp_path / "other", reading=short))
    with pytest.raises(UserError, match="holds the unfinished work of another job: --quoting standard there"):
        prepare(job(inputs, tokenizer, tmp_path / "other", reading=none))
    with pytest.raises(UserError, match=r"b\.tsv: line 101"):
        prepare(job(tmp_path / "b.tsv", tokenizer, tmp_path / "only", reading=short))
    assert not (tmp_path / "only.partial").exists()  # no task is done, so the next command can differ
    manifest = prepare(job(tmp_path / "b.tsv", tokenizer, tmp_path / "only", reading=none))
    assert texts(manifest) == ["x"] * 99 + ['"two', "lines", '"']


def test_wrong_text_field_fails_after_the_first_part(tmp_path, tokenizer, small_tasks, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "some text of a document"}\n' * 2000)
    runs, run = [], driver.run_task
    monkeypatch.setattr(driver, "run_task", lambda job, task: (runs.append(task), run(job, task))[1])
    with pytest.raises(UserError, match="cannot be read"):
        prepare(job(path, tokenizer, tmp_path / "out", workers=1))
    assert not (tmp_path / "out.partial").exists()  # so that the mended command just runs
    assert len(runs) < len(plan_tasks(discover([str(path)]))) / 2


def test_a_bad_corpus_stops_long_before_its_end(tmp_path, tokenizer, small_tasks, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(('{"text": "some text of a document"}\n' + '{"text": 1}\n') * 2000)
    runs, run = [], driver.run_task
    monkeypatch.setattr(driver, "run_task", lambda job, task: (runs.append(task), run(job, task))[1])
    with pytest.raises(UserError, match=r"of [\d,]+ documents cannot be read, more than --max-bad-fraction 0.1 "):
        prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.1))
    assert len(runs) < len(plan_tasks(discover([str(path)]))) / 2
    prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.5))  # goes on


def test_a_huge_bad_line_before_many_good_ones_stops_nothing(tmp_path, tokenizer, small_tasks):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": ' + "[" * 100_000 + "\n" + '{"text": "ok ok"}\n' * 2000)
    manifest = prepare(job(path, tokenizer, tmp_path / "out"))
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (1, 2000)


def test_character_that_the_tokenizer_lacks_rejects_the_document(tmp_path, small_tasks):
    train_char(["abc "]).save(tmp_path / "char")
    for number, text in enumerate(["abc", "a d c", "cab"]):
        (tmp_path / f"{number}.txt").write_text(text)
    manifest = prepare(job(f"{tmp_path}/*.txt", tmp_path / "char", tmp_path / "out", max_bad_fraction=0.5))
    assert documents(manifest, "train") == ["abc" + END_OF_TEXT, "cab" + END_OF_TEXT]
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["file"].endswith("1.txt")
    assert json.loads(line)["reason"] == "'d' (U+0064) is not in the character-level tokenizer"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"val_fraction": 1.0}, r"--val-fraction 1\.0: must be at least 0 and below 1"),
        ({"val_fraction": -0.1}, r"--val-fraction -0\.1"),
        ({"max_bad_fraction": 2.0}, r"--max-bad-fraction 2\.0: must be between 0 and 1"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"shard_tokens": 0}, "--shard-tokens 0: must be at least 1"),
    ],
)
def test_options_out_of_range(tmp_path, corpus, tokenizer, options, message):
    with pytest.raises(UserError, match=message):
        prepare(job(corpus, tokenizer, tmp_path / "out", **options))


def test_nothing_to_train_on(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(UserError, match=r"no documents to train on: all 1 fell into val; lower --val-fraction"):
        prepare(job(tmp_path / "a.txt", tokenizer, tmp_path / "out", val_fraction=0.9999))
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(
        UserError, match="no documents to train on: the corpus has none, only empty files or blank"
    ):
        prepare(job(tmp_path / "b.txt", tokenizer, tmp_path / "empty"))
    lines = [json.dumps({"text": text}) for text in ("", "ab", "abc", "x" * 50)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    why = "of 4 documents, 1 empty, 2 shorter than --min-chars 10, 1 longer than --max-chars 20; change these"
    with pytest.raises(UserError, match=f"no documents to train on: {why}"):
        prepare(job(tmp_path / "c.jsonl", tokenizer, tmp_path / "filtered", min_chars=10, max_chars=20))
    assert not list(tmp_path.glob("*.partial"))  # so that the mended command just runs


def test_all_rejected_says_why(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    bad = ['{"content": "x"}', '{"text": 1}', "{broken", '{"content": "y"}', "[1]"]
    path.write_text("\n".join(bad * 400) + "\n")
    with pytest.raises(UserError) as raised:
        prepare(job(path, tokenizer, tmp_path / "out"))
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("2,000 of 2,000 documents cannot be read")
    said = lines[lines.index("All were rejected:") + 1 :]
    assert said[2].startswith("  400: not JSON: ") and said[2].endswith(f" (first at {path}:3)")
    assert [said[0], said[1], *said[3:]] == [
        f"  800: no field 'text'; its fields are 'content' (first at {path}:1)",
        f"  400: field 'text' is int, not a string (first at {path}:2)",
        "  400: not a JSON object but list (`jq -c '.[]' FILE` makes a line of each element of an array) "
        f"(first at {path}:5)",
        "Name the field of the text with --text-field, or check the inputs",
    ]


@pytest.mark.parametrize(("texts", "warned"), [(1, True), (200, False)])
def test_a_validation_split_that_stays_empty_is_said(tmp_path, tokenizer, texts, warned):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(texts)))
    said = [[], []]
    for warnings in said:  # the second time there is nothing to do
        prepare(job(path, tokenizer, tmp_path / "out", val_fraction=0.1), on_warning=warnings.append)
    assert said[0] == said[1] and len(said[0]) == warned
    if warned:
        assert said[0][0].startswith(
            "--val-fraction 0.1 set no document aside, so there is no split val: documents "
        )
        assert "and the corpus has 1. Raise the fraction, cut the text files" in said[0][0]


@pytest.mark.parametrize(
    ("content", "name", "warning"),
    [
        ("one||two", "a.txt", ""),
        ("one|two||", "a.txt", "'||' never occurs between two documents: 1 text file(s) stay whole. (Lines of"),
        ('{"text": "one||two"}', "a.jsonl", "'||' has no effect: it cuts text files, and the corpus has none"),
    ],
)
def test_a_separator_that_never_occurs_is_said(tmp_path, tokenizer, content, name, warning):
    (tmp_path / name).write_text(content)
    said = []
    options = {"reading": Reading(document_separator="||")}
    prepare(job(tmp_path / name, tokenizer, tmp_path / "out", **options), on_warning=said.append)
    assert len(said) == bool(warning)
    assert not warning or said[0].startswith(f"--document-separator {warning}")


def test_wikitext_as_one_document_is_287644_tokens_and_end_of_text(tmp_path, shared_data):
    import_gpt2(shared_data / "encoder.json", shared_data / "vocab.bpe").save(tmp_path / "gpt2")
    lines = (shared_data / "wikitext2.test.raw").read_bytes().decode().splitlines(keepends=True)
    # As everybody's GPT-2 evaluation joins it: Hugging Face has a row per line, an empty one for a blank line.
    joined = "\n\n".join(line if line.strip() else "" for line in lines)
    source = tmp_path / "wikitext.txt"
    source.write_bytes(joined.encode())
    manifest = prepare(job(source, tmp_path / "gpt2", tmp_path / "out"))
    shard = Shard(tmp_path / "out" / "train-00000")
    assert manifest.totals("train").tokens == len(shard) == 287_644 + 1
    assert shard.tokens[-1] == 50256 and manifest.dtype == "uint16"
    assert manifest.totals("train").bytes == source.stat().st_size

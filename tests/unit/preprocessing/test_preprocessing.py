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

from gpt2dist.corpus import discover
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.errors import RunError, UserError
from gpt2dist.preprocessing import assembly, driver, prepare
from gpt2dist.preprocessing.tasks import plan_tasks
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT, import_gpt2, train_bpe
from tests.support.jobs import content, documents, job


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
    kept = f"finished work is kept in {tmp_path}/out.partial: run the same command again to resume"
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
    with pytest.raises(UserError, match=r"out\.partial: not a directory, but the unfinished work needs one here"):
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
    with pytest.raises(UserError, match="exists and was not created by gpt2dist"):
        prepare(job(corpus, tokenizer, tmp_path / "stranger"))


def test_two_at_once_in_one_place(tmp_path, corpus, tokenizer, monkeypatch):
    def second(one, task):
        prepare(job(corpus, tokenizer, tmp_path / "out"))

    monkeypatch.setattr(driver, "run_task", second)
    with pytest.raises(UserError, match="another gpt2dist preprocess is using this directory"):
        prepare(job(corpus, tokenizer, tmp_path / "out"))


def test_corpus_that_changes_under_way(tmp_path, corpus, tokenizer, monkeypatch):
    run = driver.run_task

    def change(job, task):
        (corpus / "text00.txt").write_text("changed")
        return run(job, task)

    monkeypatch.setattr(driver, "run_task", change)
    with pytest.raises(UserError, match=r"the corpus changed while it was read; .*rm -r .*out\.partial"):
        prepare(job(corpus, tokenizer, tmp_path / "out"))


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

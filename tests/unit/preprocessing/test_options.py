"""What shapes a dataset beside the corpus: filters, normalizers, deduplication, long documents, and more."""

import gzip
import io
import json
import random
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gpt2dist import atomic_io
from gpt2dist.corpus import Reading
from gpt2dist.corpus import documents as corpus_types
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.dataset.provenance import ORIGIN
from gpt2dist.errors import UserError
from gpt2dist.preprocessing import PreprocessingJob, assembly, deduplication, driver, prepare
from gpt2dist.preprocessing import tasks as tasks_module
from gpt2dist.preprocessing import worker as worker_module
from gpt2dist.tokenizer.encoder import REFERENCE
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, train_char
from tests.support.jobs import content


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def run(source, tokenizer, output, **options):
    return prepare(PreprocessingJob((str(source),), str(tokenizer), Path(output), **options))


def documents(manifest, split="train"):
    tokenizer = Tokenizer.load(manifest.directory)
    shards = [Shard(manifest.directory / record.name) for record in manifest.shards if record.split == split]
    texts = [tokenizer.decode(shard.document(i)) for shard in shards for i in range(shard.documents)]
    assert all(text.endswith(END_OF_TEXT) for text in texts)
    return [text.removesuffix(END_OF_TEXT) for text in texts]


@pytest.fixture
def small_tasks(monkeypatch):
    monkeypatch.setattr(tasks_module, "MIN_TASK_BYTES", 1500)


def test_lengths(tmp_path, tokenizer):
    texts = ["", "é", "ab", "日本語", "abcd", "abcde"]
    manifest = run(
        write_lines(tmp_path / "a.jsonl", texts), tokenizer, tmp_path / "out", min_chars=2, max_chars=4
    )
    assert documents(manifest) == ["ab", "日本語", "abcd"]
    assert manifest.left_out == {"rejected": 0, "empty": 1, "too_short": 1, "too_long": 1}


@pytest.mark.parametrize(
    "options, message",
    [
        ({"min_chars": -1}, "--min-chars -1, --max-chars None: no document satisfies both"),
        ({"min_chars": 5, "max_chars": 4}, "--min-chars 5, --max-chars 4: no document satisfies both"),
        ({"memory_per_worker": 1 << 20}, "--memory-per-worker: 1 MiB is too little, a worker needs 512 MiB"),
        (
            {"normalizer": "nowhere:clean"},
            "--normalizer nowhere:clean: cannot be imported .*write module:function",
        ),
        ({"normalizer": "json:nothing"}, "--normalizer json:nothing: cannot be imported"),
        ({"normalizer": "json"}, "--normalizer json: cannot be imported"),
        ({"scheduler": "tcp://127.0.0.1:1"}, "--scheduler tcp://127.0.0.1:1: no Dask scheduler answers there"),
    ],
)
def test_refusals(tmp_path, tokenizer, options, message, monkeypatch):
    if "scheduler" in options:
        distributed = pytest.importorskip("distributed", reason="Dask is an extra")
        client = distributed.Client
        monkeypatch.setattr(distributed, "Client", lambda *a, **k: client(*a, **k | {"timeout": 1}))
    with pytest.raises(UserError, match=message):
        run(write_lines(tmp_path / "a.jsonl", ["a text"]), tokenizer, tmp_path / "out", **options)


def test_dask_that_is_not_installed(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(
        UserError, match=r"--scheduler: needs Dask; install it with pip install 'gpt2dist\[dask\]'"
    ):
        run(write_lines(tmp_path / "a.jsonl", ["a"]), tokenizer, tmp_path / "out", scheduler="tcp://x:1")


def test_normalizer(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "mytools.py").write_text(
        "def clean(text):\n    return text.replace('\\r\\n', '\\n').strip()\n"
        "def fail(text):\n    return 1 / 0\n"
        "def number(text):\n    return 7\n"
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    source = write_lines(tmp_path / "a.jsonl", [" a\r\nb ", "  ", "c"])
    manifest = run(source, tokenizer, tmp_path / "out", normalizer="mytools:clean")
    assert documents(manifest) == ["a\nb", "c"] and manifest.left_out["empty"] == 1
    assert manifest.options["normalizer"] == "mytools:clean"
    with pytest.raises(UserError, match=r"mytools:fail: failed at .*a\.jsonl:1 \(ZeroDivisionError"):
        run(source, tokenizer, tmp_path / "fail", normalizer="mytools:fail")
    with pytest.raises(UserError, match=r"mytools:number: failed at .*a\.jsonl:1 .*turn any text into text"):
        run(source, tokenizer, tmp_path / "number", normalizer="mytools:number")


def test_bad_text_can_stop_the_job(tmp_path, tokenizer, small_tasks):
    good = b'{"text": "fine, and not to be mended"}\n'
    (tmp_path / "a.jsonl").write_bytes(good + b'{"text": "half \\ud83d"}\n')
    with pytest.raises(
        UserError, match=r"a\.jsonl:2: 'half �': text that is not Unicode .*--on-bad-text replace"
    ):
        run(tmp_path / "a.jsonl", tokenizer, tmp_path / "out", on_bad_text="fail")
    (tmp_path / "b.jsonl").write_bytes(good * 100 + b'{"text": "caf\xe9"}\n')
    with pytest.raises(UserError, match=rf"b\.jsonl, byte {100 * len(good)}: 'caf�': text that is not Unicode"):
        run(tmp_path / "b.jsonl", tokenizer, tmp_path / "late", on_bad_text="fail")
    manifest = run(tmp_path / "b.jsonl", tokenizer, tmp_path / "mended")
    assert manifest.repaired == 1 and documents(manifest)[-1] == "caf\ufffd"


def repeating_texts(count, seed):
    draw = random.Random(seed)
    return [f"text {draw.randint(0, count // 2)} " * draw.randint(1, 2) for _ in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_deduplication_keeps_the_first(tmp_path, tokenizer, small_tasks, workers, monkeypatch):
    monkeypatch.setattr(deduplication, "BLOCK_DOCUMENTS", 7)
    texts = repeating_texts(400, seed=workers)
    source = write_lines(tmp_path / "a.jsonl", texts)
    (tmp_path / "b.txt").write_text(texts[5])  # a duplicate in another file
    options = {"val_fraction": 0.2, "deduplicate": True, "shard_tokens": 600}
    manifest = run(f"{tmp_path}/[ab].*", tokenizer, tmp_path / "out", workers=workers, **options)
    first = list(dict.fromkeys(texts))
    kept = documents(manifest), documents(manifest, "val")
    assert sorted(kept[0] + kept[1]) == sorted(first)
    for part in kept:
        assert [text for text in first if text in set(part)] == part  # in the order of the corpus
    assert manifest.left_out["duplicate"] == len(texts) + 1 - len(first)
    totals = [manifest.totals(split) for split in ("train", "val")]
    assert sum(total.bytes for total in totals) == sum(len(text.encode()) for text in first)
    assert sum(total.words for total in totals) == sum(len(text.split()) for text in first)
    lines = source.read_text().splitlines()
    for record in manifest.shards:
        origins = np.fromfile(tmp_path / "out" / f"{record.name}.origins", ORIGIN)
        shard, tokenize = Shard(tmp_path / "out" / record.name), Tokenizer.load(tokenizer)
        for number, origin in enumerate(origins):
            text = tokenize.decode(shard.document(number)).removesuffix(END_OF_TEXT)
            place = source.read_bytes()[origin["offset"] :].split(b"\n")[0].decode()
            assert json.loads(place)["text"] == text and lines.index(place) == texts.index(text)


def test_deduplication_is_the_same_for_any_number_of_workers_and_buckets(
    tmp_path, tokenizer, small_tasks, monkeypatch
):
    source = write_lines(tmp_path / "a.jsonl", repeating_texts(400, seed=3))
    run(source, tokenizer, tmp_path / "one", deduplicate=True)
    run(source, tokenizer, tmp_path / "two", deduplicate=True, workers=2)
    monkeypatch.setattr(deduplication, "BUCKET_SHARE", 1 << 22)
    remove, calls = deduplication.remove_from_task, []

    def interrupted(job, task, first):
        calls.append(task.number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        remove(job, task, first)

    monkeypatch.setattr(deduplication, "remove_from_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tokenizer, tmp_path / "resumed", deduplicate=True)
    run(source, tokenizer, tmp_path / "resumed", deduplicate=True)
    assert content(tmp_path / "one") == content(tmp_path / "two") == content(tmp_path / "resumed")


@pytest.fixture
def small_is_long(monkeypatch):
    monkeypatch.setattr(corpus_types, "LONG_BYTES", 2000)
    monkeypatch.setattr("gpt2dist.corpus.files.BLOCK_BYTES", 700)


def long_corpus(directory):
    draw = random.Random(0)
    words = ["one ", "two, ", "日本。", "é\n", "don't ", "  ", "x1 "]
    texts = ["".join(draw.choices(words, k=draw.randint(1, 1500))) for _ in range(30)]
    write_lines(directory / "a.jsonl", texts[:20])
    for number, text in enumerate(texts[20:]):
        (directory / f"b{number}.txt").write_text(text, newline="")
    return texts


def test_long_documents_are_as_short_ones(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "c").mkdir()
    texts = long_corpus(tmp_path / "c")
    options = {"val_fraction": 0.3, "shard_tokens": 3000}
    short = run(tmp_path / "c", tokenizer, tmp_path / "short", **options)
    monkeypatch.setattr(corpus_types, "LONG_BYTES", 2000)
    monkeypatch.setattr("gpt2dist.corpus.files.BLOCK_BYTES", 700)
    spilled = []
    spill = worker_module._Work._spill
    monkeypatch.setattr(
        worker_module._Work, "_spill", lambda self, *args: spilled.append(1) or spill(self, *args)
    )
    long = run(tmp_path / "c", tokenizer, tmp_path / "long", **options)
    assert len(spilled) > 20
    assert content(tmp_path / "short") == content(tmp_path / "long")
    assert short == long and sorted(documents(long) + documents(long, "val")) == sorted(texts)


def test_long_documents_go_through_all_filters(tmp_path, small_is_long, tokenizer):
    long = "a word, " * 500
    texts = ["short", long, long, "x" * 3000, long + "other"]
    source = write_lines(tmp_path / "a.jsonl", texts)
    manifest = run(source, tokenizer, tmp_path / "out", deduplicate=True, max_chars=4002)
    assert documents(manifest) == ["short", long, "x" * 3000]
    totals = manifest.totals("train")
    assert (totals.words, totals.lm_eval_words) == (1 + 1000 + 1, 1 + 1001 + 1)  # `long` ends with a space
    assert manifest.left_out == {"rejected": 0, "empty": 0, "too_short": 0, "too_long": 1, "duplicate": 1}
    (tmp_path / "bad.jsonl").write_text(
        '{"text": "' + "y " * 2000 + '\n{"text": "after"}\n{"text": "", "n": "' + "z" * 3000 + '"}\n'
    )
    manifest = run(tmp_path / "bad.jsonl", tokenizer, tmp_path / "bad", max_bad_fraction=0.5)
    assert documents(manifest) == ["after"] and manifest.left_out["empty"] == 1
    (line,) = map(json.loads, (tmp_path / "bad" / "rejected.jsonl").read_text().splitlines())
    assert line["line"] == 1 and line["reason"].startswith("not JSON")


def test_long_documents_that_cannot_be_taken(tmp_path, small_is_long, tokenizer, monkeypatch):
    source = write_lines(tmp_path / "a.jsonl", ["word " * 800, "é" * 3000, "after"])
    monkeypatch.setattr("gpt2dist.tokenizer.encoder.MAX_STRETCH", 4000)
    manifest = run(source, tokenizer, tmp_path / "out", max_bad_fraction=0.5)
    assert documents(manifest) == ["word " * 800, "after"]
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "out/rejected.jsonl").read_text().splitlines()]
    assert reasons == ["a stretch of 4,000 bytes has no place to cut it at"]
    manifest = run(source, tokenizer, tmp_path / "normal", max_bad_fraction=0.9, normalizer="builtins:str")
    assert documents(manifest) == ["after"]
    reasons = [
        json.loads(line)["reason"] for line in (tmp_path / "normal/rejected.jsonl").read_text().splitlines()
    ]
    assert set(reasons) == {"too long for a normalizer or filter, which takes whole documents"}
    monkeypatch.setattr(worker_module, "MAX_DOCUMENT_TOKENS", 900)
    manifest = run(source, tokenizer, tmp_path / "huge", max_bad_fraction=0.9)
    assert "more than a shard can index as one document" in (tmp_path / "huge/rejected.jsonl").read_text()
    monkeypatch.setattr(worker_module, "MAX_DOCUMENT_TOKENS", 10**6)
    train_char(["word after"]).save(tmp_path / "char")
    manifest = run(source, tmp_path / "char", tmp_path / "chars", max_bad_fraction=0.9)
    assert documents(manifest) == ["word " * 800, "after"]
    assert "(U+00E9) is not in the character-level" in (tmp_path / "chars/rejected.jsonl").read_text()


def test_standard_input(tmp_path, tokenizer, monkeypatch):
    lines = write_lines(tmp_path / "a.jsonl", ["one", "two"]).read_bytes() + b"broken\n"

    def read_stdin(data, output, **options):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        said = []
        job = PreprocessingJob(("-",), str(tokenizer), tmp_path / output, max_bad_fraction=0.5, **options)
        return prepare(job, on_info=said.append, on_warning=said.append), said

    with monkeypatch.context() as killed:  # after the dataset was renamed, before its build directory was deleted
        killed.setattr(assembly, "shutil", SimpleNamespace(rmtree=lambda path: None))
        manifest, _ = read_stdin(lines, "out")
    assert (tmp_path / "out.partial/plan.json").exists()
    assert documents(manifest) == ["one", "two"]
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text())["file"] == "-"
    assert json.loads((tmp_path / "out" / "pieces.jsonl").read_text())["path"] == "-"
    with (tmp_path / "out.partial/lock").open("a") as lock:  # as the run that is just deleting it does
        assert atomic_io.try_lock(lock.fileno())
        assert read_stdin(lines, "out")[0] == manifest
        assert (tmp_path / "out.partial/plan.json").exists()
    again, said = read_stdin(lines, "out")
    assert again == manifest and "nothing to do" in said[0] and not (tmp_path / "out.partial").exists()
    with pytest.raises(UserError, match=r"holds another dataset: another corpus \(1 changed: - …\)"):
        read_stdin(lines + lines, "out")
    zipped, _ = read_stdin(gzip.compress(lines), "zipped")
    assert documents(zipped) == ["one", "two"]
    text, _ = read_stdin(b"one\n\ntwo", "text", format="text", reading=Reading(document_separator="\n\n"))
    assert documents(text) == ["one", "two"]
    with pytest.raises(UserError, match="-: standard input cannot be read together with other inputs"):
        prepare(PreprocessingJob(("-", str(tmp_path)), str(tokenizer), tmp_path / "both"))
    with pytest.raises(UserError, match="--task-index: not with standard input"):
        driver.prepare_part(PreprocessingJob(("-",), str(tokenizer), tmp_path / "part"), 0, 2)


def test_an_encoder_that_disagrees_is_told_of_and_replaced(tmp_path, tokenizer, monkeypatch):
    source = write_lines(tmp_path / "a.jsonl", ["one", "two"])
    right = run(source, tokenizer, tmp_path / "right")
    monkeypatch.setattr(driver, "choose_encoder", lambda tokenizer, samples: (REFERENCE, "they disagree"))
    said = []
    other = prepare(
        PreprocessingJob((str(source),), str(tokenizer), tmp_path / "other"),
        on_info=said.append,
        on_warning=said.append,
    )
    assert said[0].startswith("they disagree; falling back to tokenizers")
    assert other.fingerprint == right.fingerprint


def test_every_format_goes_through(tmp_path, tokenizer):
    """The readers have their own tests; here: that origins lead back to the row in each."""
    import pyarrow
    import pyarrow.parquet

    texts = [f"document {number}" for number in range(50)]
    folder = tmp_path / "c"
    folder.mkdir()
    write_lines(folder / "a.jsonl", texts[:10])
    (folder / "b.csv").write_text("n,text\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts[10:20])))
    table = pyarrow.table({"text": texts[20:40]})
    pyarrow.parquet.write_table(table, folder / "c.parquet", row_group_size=3)
    with gzip.open(folder / "d.jsonl.gz", "wt") as file:
        file.write("".join(json.dumps({"text": text}) + "\n" for text in texts[40:]))
    manifest = run(folder, tokenizer, tmp_path / "out")
    assert documents(manifest) == texts
    pieces = [json.loads(line) for line in (tmp_path / "out" / "pieces.jsonl").read_text().splitlines()]
    origins = np.fromfile(tmp_path / "out" / "train-00000.origins", ORIGIN)
    names = [Path(pieces[origin["piece"]]["path"]).name for origin in origins]
    assert Counter(names) == {"a.jsonl": 10, "b.csv": 10, "c.parquet": 20, "d.jsonl.gz": 10}
    rows = [pieces[origin["piece"]]["first_line"] + origin["line"] for origin in origins]
    assert rows[:10] == list(range(1, 11)) and rows[20:40] == list(range(1, 21))
    assert (Manifest.load(tmp_path / "out").fingerprint) == manifest.fingerprint

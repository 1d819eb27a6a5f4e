"""Deduplication in runs and buckets: the first of equal documents is kept, however the work is divided."""

import json
import random

import numpy as np
import pytest

from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.preprocessing import deduplication, prepare
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT
from tests.support.jobs import content, documents, job

MANY = 1 << 22
"""A share of the memory with which a run has ten documents, and every ten documents have a bucket."""


def texts_with_repeats(count, seed=0):
    draw = random.Random(seed)
    return [
        "the same " * 3 if draw.random() < 0.3 else f"text {draw.randint(0, count // 2)}" for _ in range(count)
    ]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts_with_repeats(500)))
    return path


def folders(output, pattern):
    return sorted(path.name for path in output.with_name(f"{output.name}.partial").glob(pattern))


def test_the_first_is_kept_in_any_division(tmp_path, source, tokenizer, small_tasks, monkeypatch):
    expected = [text + END_OF_TEXT for text in dict.fromkeys(texts_with_repeats(500))]
    results = []
    for name, workers, share in (("one", 1, 16), ("many", 1, MANY), ("two", 2, MANY)):
        monkeypatch.setattr(deduplication, "BUCKET_SHARE", share)
        options = {"deduplicate": True, "workers": workers}
        manifest = prepare(job(source, tokenizer, tmp_path / name, **options))
        assert documents(manifest, "train") == expected
        assert manifest.left_out["duplicate"] == 500 - len(expected)
        results.append(content(tmp_path / name))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("function", ["sort_task", "search_bucket", "remove_from_task"])
def test_interrupted_in_each_round(tmp_path, source, tokenizer, small_tasks, monkeypatch, function):
    prepare(job(source, tokenizer, tmp_path / "whole", deduplicate=True))
    monkeypatch.setattr(deduplication, "BUCKET_SHARE", MANY)
    do, calls, stops = getattr(deduplication, function), [], [4]

    def interrupted(*arguments):
        if len(calls) in stops:
            stops.clear()
            raise KeyboardInterrupt
        calls.append(arguments)
        do(*arguments)

    monkeypatch.setattr(deduplication, function, interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(job(source, tokenizer, tmp_path / "out", deduplicate=True))
    prepare(job(source, tokenizer, tmp_path / "out", deduplicate=True))
    made = [str(arguments[1:]) for arguments in calls]
    assert len(set(made)) == len(made) > 5, "no call that was done is repeated"
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_another_number_of_buckets_begins_again(tmp_path, source, tokenizer, small_tasks, monkeypatch):
    prepare(job(source, tokenizer, tmp_path / "whole", deduplicate=True))
    output, found = tmp_path / "out", []

    def interrupted(*arguments):
        found.extend(folders(output, "duplicates*"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deduplication, "search_bucket", interrupted)
        patched.setattr(deduplication, "BUCKET_SHARE", MANY)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(source, tokenizer, output, deduplicate=True))
    assert set(found) == {"duplicates-00047"}
    found.clear()
    with monkeypatch.context() as patched:
        patched.setattr(deduplication, "remove_from_task", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(job(source, tokenizer, output, deduplicate=True))
    assert set(found) == {"duplicates"}
    assert folders(output, "duplicates/bucket-*") == ["bucket-00000"]
    prepare(job(source, tokenizer, output, deduplicate=True))
    assert content(output) == content(tmp_path / "whole")


def test_flags_of_an_older_version_are_not_used(tmp_path, source, tokenizer, small_tasks, monkeypatch):
    """It left a file with a byte per document, where there is a folder now."""
    prepare(job(source, tokenizer, tmp_path / "whole", deduplicate=True))
    find = deduplication._find

    def after_an_older_version(job, tasks):
        (job.build / "duplicates").write_bytes(b"\1" * 500)
        find(job, tasks)

    monkeypatch.setattr(deduplication, "_find", after_an_older_version)
    prepare(job(source, tokenizer, tmp_path / "out", deduplicate=True))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_text_in_every_other_document_does_not_fill_its_bucket(
    tmp_path, source, tokenizer, small_tasks, monkeypatch
):
    """It comes once from each run, so the memory for a bucket stays within its share."""
    monkeypatch.setattr(deduplication, "BUCKET_SHARE", MANY // 10)  # runs of 100 documents
    sizes = []
    sort = deduplication._sorted

    def measured(entries):
        sizes.append(len(entries))
        return sort(entries)

    monkeypatch.setattr(deduplication, "_sorted", measured)
    path = tmp_path / "b.jsonl"
    path.write_text('{"text": "the same"}\n' * 2000 + "".join(f'{{"text": "{n}"}}\n' for n in range(2000)))
    prepare(job(path, tokenizer, tmp_path / "out", deduplicate=True))
    assert max(sizes) <= 106  # 2^30 / (2^22 / 10) / 24


@pytest.mark.parametrize(("documents_at_once", "tokens_at_once"), [(1, 10**6), (5, 10**6), (10**6, 1), (7, 30)])
def test_kept_documents_are_copied_in_blocks_of_any_size(
    tmp_path, source, tokenizer, monkeypatch, documents_at_once, tokens_at_once
):
    manifest = prepare(job(source, tokenizer, tmp_path / "out"))
    (record,) = manifest.shards
    monkeypatch.setattr(deduplication, "BLOCK_DOCUMENTS", documents_at_once)
    monkeypatch.setattr(deduplication, "BLOCK_TOKENS", tokens_at_once)
    kept = np.random.default_rng(0).random(record.documents) < 0.5
    facts = np.zeros(record.documents, deduplication.FACTS)
    facts["bytes"] = np.arange(record.documents)
    facts.tofile(tmp_path / "out" / f"{record.name}{deduplication.FACTS_SUFFIX}")
    (tmp_path / "copy").mkdir()
    copied = deduplication._copy_kept(record, tmp_path / "out", tmp_path / "copy", kept)
    before, after = Shard(tmp_path / "out" / record.name), Shard(tmp_path / "copy" / record.name)
    assert copied.documents == after.documents == kept.sum()
    assert copied.bytes == np.flatnonzero(kept).sum()
    for number, old in enumerate(np.flatnonzero(kept)):
        assert np.array_equal(after.document(number), before.document(old))

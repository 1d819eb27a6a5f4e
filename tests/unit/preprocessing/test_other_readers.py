"""What preprocess writes is read by others: a reader made from the specification, and Megatron-core's own.

And every text comes back as it was, of all scripts and of no script at all.
"""

import json
import random
import struct
import zipfile
from itertools import pairwise

import numpy as np
import pytest

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.preprocessing import tasks as tasks_module
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, import_gpt2, train_bpe

CODES = {4: np.dtype("<i4"), 8: np.dtype("<u2")}


def read_by_the_specification(prefix):
    """The documents of a shard, by the table of Megatron-core's format and the standard library."""
    index = prefix.with_name(prefix.name + ".idx").read_bytes()
    data = prefix.with_name(prefix.name + ".bin").read_bytes()
    assert index[:9] == b"MMIDIDX\0\0"
    version, code, sequences, boundaries = struct.unpack_from("<QBQQ", index, 9)
    assert version == 1
    lengths = struct.unpack_from(f"<{sequences}i", index, 34)
    pointers = struct.unpack_from(f"<{sequences}q", index, 34 + 4 * sequences)
    documents = struct.unpack_from(f"<{boundaries}q", index, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * boundaries
    assert documents[0] == 0 and documents[-1] == sequences
    width = CODES[code].itemsize
    assert pointers[-1] + lengths[-1] * width == len(data)
    letter = {2: "H", 4: "i"}[width]
    texts = [
        list(struct.unpack_from(f"<{length}{letter}", data, pointer))
        for length, pointer in zip(lengths, pointers, strict=True)
    ]
    return [
        [token for sequence in texts[first:last] for token in sequence] for first, last in pairwise(documents)
    ]


def random_texts(count, seed):
    draw = random.Random(seed)
    planes = [(0, 0x7F), (0x80, 0x7FF), (0x800, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)]
    return [
        "".join(chr(draw.randint(*draw.choice(planes))) for _ in range(draw.randint(1, 60))) for _ in range(count)
    ]


def prepared(home, texts, tokenizer, **options):
    (home / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return prepare(PreprocessingJob((str(home / "a.jsonl"),), str(tokenizer), home / "dataset", **options))


@pytest.fixture(scope="module", params=["u16", "i32"])
def dataset(request, tmp_path_factory):
    """A dataset of several shards, its texts by split, and its tokenizer; i32 takes a vocabulary of 70,000."""
    home = tmp_path_factory.mktemp(request.param)
    texts = random_texts(400, 1)
    tokenizer = train_bpe(texts, 300)
    if request.param == "i32":
        content = json.loads(tokenizer.to_json())
        vocabulary = content["model"]["vocab"]
        vocabulary |= {f"Ġunused{number}": number for number in range(len(vocabulary), 70_000)}
        content["added_tokens"][0]["id"] = 70_000
        (home / "tokenizer").mkdir()
        (home / "tokenizer" / "tokenizer.json").write_text(json.dumps(content))
    else:
        tokenizer.save(home / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks_module, "MIN_TASK_BYTES", 20_000)
        manifest = prepared(home, texts, home / "tokenizer", val_fraction=0.2, shard_tokens=4000)
    assert np.dtype(manifest.dtype).itemsize == {"u16": 2, "i32": 4}[request.param]
    assert len(manifest.shards) > 6
    return manifest, texts, Tokenizer.load(home / "tokenizer")


def test_the_format_by_its_specification(dataset):
    manifest, texts, tokenizer = dataset
    documents = [
        document
        for record in manifest.shards
        for document in read_by_the_specification(manifest.directory / record.name)
    ]
    expected = [[*tokenizer.encode(text).tolist(), tokenizer.end_of_text_id] for text in texts]
    assert sorted(documents) == sorted(expected)


def test_megatron_core_reads_it(dataset):
    """Runs where megatron-core is installed (`pip install --no-deps megatron-core`)."""
    indexed_dataset = pytest.importorskip(
        "megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed"
    )
    manifest, _, _ = dataset
    for record in manifest.shards:
        prefix = manifest.directory / record.name
        theirs, ours = indexed_dataset.IndexedDataset(str(prefix), mmap=True), Shard(prefix)
        assert len(theirs) == ours.documents == len(theirs.document_indices) - 1
        for number in range(ours.documents):
            assert theirs[number].dtype == ours.dtype
            assert np.array_equal(theirs[number], ours.document(number))


def decoded(manifest):
    tokenizer = Tokenizer.load(manifest.directory)
    shards = [Shard(manifest.directory / record.name) for record in manifest.shards]
    texts = [tokenizer.decode(shard.document(number)) for shard in shards for number in range(shard.documents)]
    return [text.removesuffix(END_OF_TEXT) for text in texts]


def test_random_unicode_comes_back(tmp_path):
    texts = random_texts(1500, 2)
    train_bpe(texts[:300], 400).save(tmp_path / "tokenizer")
    manifest = prepared(tmp_path, texts, tmp_path / "tokenizer")
    assert decoded(manifest) == texts and manifest.repaired == 0
    for number, text in enumerate(texts[:400]):
        (tmp_path / f"{number:04d}.txt").write_text(text, encoding="utf-8", newline="")
    job = PreprocessingJob(
        (f"{tmp_path}/*.txt",), str(tmp_path / "tokenizer"), tmp_path / "files", max_bad_fraction=1
    )
    kept = [text.removeprefix("\ufeff") for text in texts[:400] if "\0" not in text]
    assert decoded(prepare(job)) == [text for text in kept if text]


def test_the_declaration_of_human_rights_in_all_languages_comes_back(tmp_path, shared_data):
    with zipfile.ZipFile(shared_data / "udhr.zip") as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        files = {name: archive.read(name) for name in names}
    texts = []
    for name, data in files.items():
        for encoding in (name.rpartition("-")[2].replace("_", "-"), "utf-8"):
            try:
                texts.append(data.decode(encoding))
                break
            except (LookupError, UnicodeDecodeError):
                continue
    assert len(texts) > 200
    import_gpt2(shared_data / "encoder.json", shared_data / "vocab.bpe").save(tmp_path / "gpt2")
    train_bpe(texts[::20], 1000).save(tmp_path / "small")
    (tmp_path / "by-small").mkdir()
    assert decoded(prepared(tmp_path / "by-small", texts, tmp_path / "small")) == texts
    manifest = prepared(tmp_path, texts, tmp_path / "gpt2")
    assert decoded(manifest) == texts
    assert manifest.totals("train").bytes == sum(len(text.encode()) for text in texts)
    assert manifest.totals("train").words == sum(len(text.split()) for text in texts)
    assert Manifest.load(tmp_path / "dataset").repaired == 0

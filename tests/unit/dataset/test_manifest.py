import json
import subprocess
import sys

import pytest

from gpt2dist.dataset.manifest import Manifest, ShardRecord, Totals
from gpt2dist.dataset.provenance import SourceLocation
from gpt2dist.errors import UserError


def record(name, tokens=10):
    return ShardRecord(name, name.split("-")[0], tokens, 2, 30, 6, {"bin": "b" + name, "idx": "i" + name})


def manifest(*names):
    return Manifest(
        tokenizer_fingerprint="t",
        vocab_size=300,
        end_of_text_id=299,
        dtype="uint16",
        options={"val_fraction": 0.1},
        sources={"files": 1, "bytes": 99},
        shards=tuple(record(name) for name in names),
    )


def test_round_trip(tmp_path):
    saved = manifest("train-00000", "train-00001", "val-00000")
    saved.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded == saved and loaded.directory == saved.directory == tmp_path
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.splits == ("train", "val")
    assert loaded.totals("train") == Totals(tokens=20, documents=4, bytes=60, words=12)
    assert [shard.name for shard in loaded.shards_of("val")] == ["val-00000"]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_fingerprint_depends_on_the_order_of_the_shards_and_the_tokenizer():
    first, second = manifest("train-00000", "train-00001"), manifest("train-00001", "train-00000")
    assert first.fingerprint != second.fingerprint
    assert manifest("train-00000").fingerprint == manifest("train-00000").fingerprint


def test_split_that_is_not_there(tmp_path):
    manifest("train-00000").save(tmp_path)
    with pytest.raises(UserError, match=r"no split 'val'; it has train; .*--val-fraction"):
        Manifest.load(tmp_path).shards_of("val")


def test_no_directory_and_no_manifest(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        Manifest.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"not a dataset directory.*gpt2dist preprocess"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON: "),
        ("[1]", "a list instead of an object"),
        ('{"format_version": 1}', r"malformed \(tokenizer_fingerprint is missing\)"),
        ("\xff", "not UTF-8 at byte 0"),
        ("[" * 9999, "nested too deeply"),
    ],
)
def test_malformed(tmp_path, text, reason):
    (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"manifest\.json: {reason}.*; copy the dataset again"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": "300"}, "vocab_size: it should be a valid integer"),
        ({"end_of_text_id": 300}, "end_of_text_id 300 is not below vocab_size 300"),
        ({"dtype": "object"}, "dtype 'object' is not one of uint8, "),
        ({"left_out": {"empty": None}}, "left_out.empty: it should be a valid integer"),
        ({"sources": {"files": "ten"}}, "files is 'ten'"),
        ({"shards": {}}, "shards: it should be a valid array"),
        ({"shards.0": {"tokens": -1}}, "shards.0: tokens is -1"),
        ({"shards.0": {"documents": 1.5}}, "shards.0.documents: it should be a valid integer"),
        ({"shards.0": {"format": "arrow"}}, "shards.0: format 'arrow' is not one of megatron, "),
        ({"shards.0": {"name": "../train"}}, "'../train' is not the name of a shard"),
        ({"shards.0": {"path": "/a\0b"}}, "is not the name of a shard"),
        ({"shards.0": {"sha256": {"idx": "i"}}}, "the shard train-00000 has no sha256.bin"),
    ],
)
def test_each_value_has_its_type_and_range(tmp_path, changes, reason):
    manifest("train-00000").save(tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    content["shards"][0] |= changes.pop("shards.0", {})
    path.write_text(json.dumps(content | changes))
    with pytest.raises(UserError) as raised:
        Manifest.load(tmp_path)
    assert reason in str(raised.value) and str(raised.value).startswith(f"{path}: malformed (")


def test_unknown_version_and_changed_content(tmp_path):
    manifest("train-00000").save(tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format_version": 7}))
    with pytest.raises(UserError, match="format version 7"):
        Manifest.load(tmp_path)
    content["shards"][0]["sha256"]["bin"] = "other"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="changed after it was written"):
        Manifest.load(tmp_path)


def test_loads_without_numpy_and_tokenizers():
    code = "import sys, gpt2dist.dataset.manifest; print({'numpy', 'tokenizers', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_location_shows_its_first_byte_also_where_that_is_0():
    assert str(SourceLocation("a.txt", 1, 0)) == "a.txt:1 (byte 0)"
    assert str(SourceLocation("a.txt", 9, 12_345)) == "a.txt:9 (byte 12,345)"
    assert str(SourceLocation("a.parquet", 1, None)) == "a.parquet:1"

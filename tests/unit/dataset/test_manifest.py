import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

from gpt2dist.dataset.manifest import Manifest, ShardRecord, Totals, without_sha256
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
    counted = dataclasses.replace(saved.shards[0], lm_eval_words=7)
    assert dataclasses.replace(saved, shards=(counted,)).totals("train").lm_eval_words == 7
    partly = dataclasses.replace(saved, shards=(counted, saved.shards[1]))
    assert partly.totals("train").lm_eval_words is None
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


def edit(path, *keys, value):
    """Changes one value of a manifest, and nothing else."""
    content = json.loads(path.read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("shards", 0, "bytes"), 60),
        (("shards", 0, "words"), 7),
        (("vocab_size",), 301),
        (("end_of_text_id",), 5),
        (("totals", "train", "tokens"), 11),
        (("left_out", "empty"), 1),
        (("options", "val_fraction"), 0.2),
        (("a_key_of_the_future",), 1),
        (("manifest_sha256",), ""),
        (("manifest_sha256",), None),
    ],
)
def test_an_edit_is_noticed(tmp_path, keys, value):
    manifest("train-00000", "val-00000").save(tmp_path)
    path = tmp_path / "manifest.json"
    edit(path, *keys, value=value)
    with pytest.raises(
        UserError,
        match=rf"^{path}: was changed after it was written \(its manifest_sha256 differs\); restore it from a "
        rf"copy, or preprocess .* `gpt2dist inspect {tmp_path} --verify` lists .* on purpose, add --seal",
    ):
        Manifest.load(tmp_path)
    opened = Manifest.load(tmp_path, changed=True)
    assert opened.sha256 == (json.loads(path.read_text())["manifest_sha256"] or "")


def test_the_hash_is_of_the_content_not_of_its_form(tmp_path):
    manifest("train-00000").save(tmp_path)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items())), indent=7))
    assert Manifest.load(tmp_path).sha256 == content["manifest_sha256"]
    del content["manifest_sha256"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert Manifest.load(tmp_path).sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_manifest_without_the_hash_opens_with_a_note(tmp_path):
    paths = [tmp_path / "old", tmp_path / "new"]
    for path in paths:
        path.mkdir()
        manifest("train-00000").save(path)
    content = json.loads((paths[0] / "manifest.json").read_text())
    del content["manifest_sha256"]
    (paths[0] / "manifest.json").write_text(json.dumps(content))
    old, new = map(Manifest.load, paths)
    assert (old.sha256, old.fingerprint) == ("", new.fingerprint)
    assert without_sha256([new]) == ""
    assert without_sha256([old, new, old]) == (
        f"{paths[0]}: manifest.json has no manifest_sha256 (version 0.1 wrote none), so a change to it would go "
        f"unnoticed; `gpt2dist inspect {paths[0]} --verify --seal` checks it and adds one"
    )


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("vocab_size",), True, "vocab_size: should be a whole number of at least 0, not True"),
        (("shards", 1, "tokens"), True, r"shards\.1\.tokens: should be a whole number of at least 0, not True"),
        (("shards", 0, "bytes"), -1, r"shards\.0\.bytes: should be a whole number"),
        (("shards", 0, "words"), 1.0, r"shards\.0\.words: should be a whole number"),
        (
            ("shards", 0, "split"),
            "val",
            r"shards\.0\.name: 'train-00000' is not the name of a shard of the split 'val'",
        ),
        (("shards", 0, "split"), "test", r"shards\.0\.split: 'test' is not one of train, val"),
        (("shards", 0, "format"), "csv", r"shards\.0\.format: 'csv' is not one of megatron, nanogpt, llmc"),
        (("shards", 0, "sha256", "idx"), 5, r"shards\.0\.sha256: should be an object of strings"),
        (("shards", 0, "path"), None, r"shards\.0\.path: should be a string, not None"),
        (("end_of_text_id",), 300, "end_of_text_id: 300 is not below vocab_size 300"),
        (("dtype",), "float32", "dtype: 'float32' is not one of uint8, "),
        (("sources", "files"), True, "sources: files and bytes should be whole numbers"),
        (("left_out",), {"empty": True}, "left_out: should be an object of whole numbers"),
        (("options", "shard_tokens"), "many", r"options\.shard_tokens: should be a whole number"),
        (("options",), [], "options: should be an object, not "),
        (("shards", 0, "name"), "../train", r"shards\.0\.name: '\.\./train' is not the name of a shard"),
        (("shards", 0, "path"), "/a\0b", r"shards\.0\.path: '/a\\x00b' is not the path of a file"),
        (("shards", 0, "sha256"), {"idx": "i"}, r"shards\.0\.sha256: has no bin"),
        (("shards", 1, "name"), "train-00000", r"shards\.1\.name: 'train-00000' is not"),
        (("shards",), 2 * [dataclasses.asdict(record("train-00000"))], "shards: two have the same name"),
        (("listings",), {"a/b": "s"}, "listings: 'a/b' is not the name of a file"),
        (("shards",), 7, "TypeError"),
    ],
)
def test_values_of_wrong_types_and_ranges_also_without_a_hash(tmp_path, keys, value, message):
    manifest("train-00000", "val-00000").save(tmp_path)
    path = tmp_path / "manifest.json"
    edit(path, *keys, value=value)
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"manifest\.json: malformed \({message}"):
        Manifest.load(tmp_path)


def test_loads_without_numpy_and_tokenizers():
    code = "import sys, gpt2dist.dataset.manifest; print({'numpy', 'tokenizers', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_location_shows_its_first_byte_also_where_that_is_0():
    assert str(SourceLocation("a.txt", 1, 0)) == "a.txt:1 (byte 0)"
    assert str(SourceLocation("a.txt", 9, 12_345)) == "a.txt:9 (byte 12,345)"
    assert str(SourceLocation("a.parquet", 1, None)) == "a.parquet:1"


def test_a_manifest_without_changes_of_text_says_that_every_byte_was_kept(tmp_path):
    manifest("train-00000").save(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    del content["text_changes"], content["manifest_sha256"]  # as version 0.1 wrote it
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert Manifest.load(tmp_path).text_changes == {}


@pytest.mark.parametrize(
    "changes",
    [
        None,
        [],
        5,
        {"documents": 3},
        {"lossy": 1},
        {"normalizer": "NFC", "documents": True},
        {"lossy": "x", "documents": -1},
    ],
)
def test_malformed_changes_of_text(tmp_path, changes):
    manifest("train-00000").save(tmp_path)
    content = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(content | {"text_changes": changes}))
    with pytest.raises(UserError, match=r"manifest.json: malformed \(text_changes"):
        Manifest.load(tmp_path)

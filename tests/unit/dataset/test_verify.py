"""`inspect --verify` finds each kind of damage, and names the file."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from gpt2dist import cli
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.provenance import ORIGIN
from gpt2dist.dataset.verify import token_bytes, verify
from gpt2dist.errors import UserError
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.preprocessing import tasks as tasks_module
from gpt2dist.tokenizer.tokenizer import train_bpe


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset of several shards, with rejected documents."""
    home = tmp_path_factory.mktemp("verify")
    texts = [f"a text with number {number}, é" for number in range(300)]
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (home / "a.jsonl").write_text("".join(lines[:150]) + "broken\n" + "".join(lines[150:]))
    train_bpe(texts, 300).save(home / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks_module, "MIN_TASK_BYTES", 3000)
        job = PreprocessingJob(
            (str(home / "a.jsonl"),), str(home / "tokenizer"), home / "dataset", val_fraction=0.2
        )
        prepare(dataclasses.replace(job, max_bad_fraction=0.1, shard_tokens=800))
    return home / "dataset"


@pytest.fixture
def dataset(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "dataset")


def problems(dataset):
    """What is found, a line each."""
    with pytest.raises(
        UserError, match="damaged; copy the dataset again, or preprocess the corpus again"
    ) as caught:
        verify(Manifest.load(dataset))
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def resealed(dataset, number=0, **changes):
    """Changes the record of a shard, and the fingerprint with it, as one who means it would."""
    manifest = Manifest.load(dataset)
    shards = list(manifest.shards)
    shards[number] = dataclasses.replace(shards[number], **changes)
    Manifest(
        **{
            item.name: getattr(manifest, item.name)
            for item in dataclasses.fields(Manifest)
            if item.name not in ("shards", "directory", "sha256")
        }
        | {"shards": tuple(shards)}
    ).save(dataset)


def rewrite(path, place, value, dtype=np.uint16):
    data = np.fromfile(path, dtype)
    data[place] = value
    data.tofile(path)


def test_a_whole_one(whole):
    read = []
    manifest = Manifest.load(whole)
    verify(manifest, read.append)
    assert sum(read) == token_bytes(manifest) == sum(path.stat().st_size for path in whole.glob("*.bin"))
    assert len(manifest.shards) > 6


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_do_not_matter(whole, block, monkeypatch):
    monkeypatch.setattr("gpt2dist.dataset.verify.BLOCK", block)
    verify(Manifest.load(whole))


@pytest.mark.parametrize(
    "name",
    [
        *("train-00001.bin", "train-00001.idx", "train-00001.origins", "val-00000.bin"),
        *("sources.jsonl", "pieces.jsonl", "rejected.jsonl"),
    ],
)
def test_a_flipped_bit(dataset, name):
    data = bytearray((dataset / name).read_bytes())
    data[len(data) // 2] ^= 1
    (dataset / name).write_bytes(data)
    found = problems(dataset)
    assert any(line.startswith(f"{dataset / name}: its content differs from what was written") for line in found)
    assert all(str(dataset / name.split(".")[0]) in line for line in found)


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".origins"])
def test_a_missing_and_a_truncated_file(dataset, suffix):
    (dataset / f"train-00000{suffix}").unlink()
    path = dataset / f"train-00001{suffix}"
    path.write_bytes(path.read_bytes()[:-4])
    found = problems(dataset)
    assert found[0] == f"{dataset / f'train-00000{suffix}'}: missing"
    assert str(dataset / "train-00001") in found[1]


def test_all_problems_are_counted(dataset):
    for path in [*dataset.glob("*.idx"), *dataset.glob("*.origins")]:
        path.unlink()
    found = problems(dataset)
    assert len(found) == 11 and found[10].startswith("… and ")


def test_counts_of_the_manifest(dataset):
    record = Manifest.load(dataset).shards[0]
    resealed(dataset, bytes=record.bytes + 1)
    assert problems(dataset) == [
        f"{dataset / 'train-00000.bin'}: its tokens encode {record.bytes:,} bytes of text, the manifest says "
        f"{record.bytes + 1:,}"
    ]
    resealed(dataset, bytes=record.bytes, words=record.words + 1)
    assert problems(dataset) == [
        f"{dataset / 'train-00000.bin'}: its tokens encode {record.words:,} words of text, the manifest says "
        f"{record.words + 1:,}"
    ]
    resealed(dataset, words=record.words, documents=record.documents + 1)
    assert "the manifest says" in problems(dataset)[0]


def rewritten(dataset, changes, keep_hash=True):
    """Changes entries of manifest.json, and drops its hash unless it is to be found wrong."""
    path = dataset / "manifest.json"
    content = json.loads(path.read_text()) | changes
    if not keep_hash:
        del content["manifest_sha256"]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 301}, "manifest.json: vocab_size is 301, that of the tokenizer is 300"),
        ({"end_of_text_id": 7}, "manifest.json: end_of_text_id is 7, that of the tokenizer is 299"),
        ({"dtype": "int32"}, "train-00000.bin: holds tokens of uint16, the manifest says int32"),
        ({"totals": {}}, "manifest.json: totals are {}, and those of its shards {'train': {'tokens': "),
        ({"left_out": {"rejected": 0}}, "rejected.jsonl: lists 1 rejected documents, the manifest says 0"),
        ({"left_out": {"rejected": 0}, "listings": {}}, "pieces.jsonl: the manifest has no sha256 of it"),
        ({"sources": {"files": 2}}, "sources.jsonl: its files are 1, the manifest says 2"),
        ({"text_changes": {"lossy": "x"}}, "manifest.json: text_changes says 'lossy', which is not true of the "),
        ({"options": {"adopted": "nanogpt"}}, "train-00000.bin: has the format megatron, unlike the dataset"),
    ],
)
def test_what_else_the_manifest_says(dataset, changes, message):
    rewritten(dataset, changes, keep_hash=False)
    assert problems(dataset)[0].startswith(f"{dataset}/{message}")


def test_the_hash_of_the_corpus(dataset):
    sources = json.loads((dataset / "manifest.json").read_text())["sources"]
    rewritten(dataset, {"sources": sources | {"content_sha256": "0" * 64}}, keep_hash=False)
    assert problems(dataset) == [
        f"{dataset / 'sources.jsonl'}: its content_sha256 are {sources['content_sha256']}, the manifest says "
        f"{'0' * 64}"
    ]


def test_a_listing_that_is_no_listing(dataset):
    path = dataset / "sources.jsonl"
    path.write_text('{"path": "a"}\n')
    content = json.loads((dataset / "manifest.json").read_text())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rewritten(dataset, {"listings": content["listings"] | {"sources.jsonl": digest}}, keep_hash=False)
    assert problems(dataset) == [
        f"{path}, line 1: size is not a number; copy the dataset again, or preprocess the corpus again"
    ]


def test_a_hash_of_a_shard_that_is_left_out(dataset):
    record = Manifest.load(dataset).shards[0]
    resealed(dataset, sha256={kind: record.sha256[kind] for kind in ("bin", "idx")})
    assert problems(dataset) == [f"{dataset / 'train-00000.origins'}: the manifest has no sha256 of it"]


def test_a_manifest_that_was_changed_on_purpose_is_sealed(dataset, capsys):
    path = dataset / "manifest.json"
    rewritten(dataset, {"repaired": 3})
    changed = f"{path}: was changed after it was written (its manifest_sha256 differs)"
    assert cli.main(["inspect", str(dataset)]) == 2
    assert changed in capsys.readouterr().err
    assert cli.main(["inspect", str(dataset), "--verify"]) == 2
    assert (
        f"{changed}, but it agrees with the files; restore it from a copy, or accept it as it "
        f"is with `gpt2dist inspect {dataset} --verify --seal`"
    ) in capsys.readouterr().err
    assert cli.main(["inspect", str(dataset), "--seal"]) == 2
    assert "--seal needs --verify" in capsys.readouterr().err
    assert cli.main(["inspect", str(dataset), "--verify", "--seal", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest_sha256"] == Manifest.load(dataset).sha256
    assert Manifest.load(dataset).repaired == 3


def test_a_manifest_that_cannot_be_written(dataset, monkeypatch):
    def refuse(self, directory):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Manifest, "save", refuse)
    with pytest.raises(UserError, match=r"manifest\.json: cannot be written \(Permission denied\); give write"):
        verify(Manifest.load(dataset), seal=True)


def test_a_manifest_that_disagrees_is_not_sealed(dataset, capsys):
    content = json.loads((dataset / "manifest.json").read_text())
    content["shards"][0]["bytes"] *= 2
    rewritten(dataset, content)
    before = (dataset / "manifest.json").read_bytes()
    assert cli.main(["inspect", str(dataset), "--verify"]) == 2
    shown = capsys.readouterr().err
    assert "manifest_sha256 differs" in shown and "bytes of text, the manifest says" in shown
    assert cli.main(["inspect", str(dataset), "--verify", "--seal"]) == 2
    shown = capsys.readouterr().err
    assert "manifest_sha256 differs" not in shown and "bytes of text, the manifest says" in shown
    assert (dataset / "manifest.json").read_bytes() == before


def test_an_old_manifest_is_verified_with_a_note_and_sealed(dataset, capsys):
    before = Manifest.load(dataset).sha256
    rewritten(dataset, {}, keep_hash=False)
    assert cli.main(["inspect", str(dataset), "--verify"]) == 0
    assert (
        capsys.readouterr().err.count(f"gpt2dist inspect: {dataset}: manifest.json has no manifest_sha256") == 1
    )
    assert cli.main(["inspect", str(dataset), "--verify", "--seal"]) == 0
    assert "has no manifest_sha256" not in capsys.readouterr().err
    assert Manifest.load(dataset).sha256 == before


def rehash(dataset, number, kind):
    record = Manifest.load(dataset).shards[number]
    found = hashlib.sha256((dataset / f"{record.name}.{kind}").read_bytes()).hexdigest()
    resealed(dataset, number, sha256=record.sha256 | {kind: found})


def test_tokens_that_break_the_rules(dataset):
    path = dataset / "train-00000.bin"
    right = np.fromfile(path, np.uint16)
    rewrite(path, 3, 299)  # end-of-text within a document
    rehash(dataset, 0, "bin")
    found = problems(dataset)
    assert f"{path}: at token 3 end-of-text and the end of a document do not coincide" in found
    right.tofile(path)
    (end, *_) = np.flatnonzero(right == 299)
    rewrite(path, end, 5)  # a document without its end
    rehash(dataset, 0, "bin")
    assert f"{path}: at token {end} end-of-text and the end" in "\n".join(problems(dataset))
    right.tofile(path)
    rewrite(path, 7, 300)
    rehash(dataset, 0, "bin")
    assert f"{path}: token 7 is 300, and the vocabulary has 300" in problems(dataset)


def test_two_indices_that_were_swapped(dataset):
    first, second = dataset / "train-00000.idx", dataset / "train-00001.idx"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two), second.write_bytes(one)
    found = "\n".join(problems(dataset))
    assert f"{first}: its content differs" in found and f"{second}: its content differs" in found


def test_the_limit_on_shards(dataset):
    manifest = Manifest.load(dataset)
    manifest.options["shard_tokens"] = 100
    with pytest.raises(
        UserError, match=r"train-00000\.bin: holds \d+ tokens in several documents, more than shard_"
    ):
        verify(manifest)


def test_origins_that_lead_nowhere(dataset):
    path = dataset / "train-00000.origins"
    origins = np.fromfile(path, ORIGIN)
    origins["piece"][1] = 10**6
    origins.tofile(path)
    rehash(dataset, 0, "origins")
    assert problems(dataset) == [f"{path}: refers to places that {dataset / 'pieces.jsonl'} does not have"]


def test_what_lies_beside_the_shards(dataset):
    (dataset / "sources.jsonl").unlink()
    (dataset / "rejected.jsonl").write_text("")
    for suffix in (".bin", ".idx", ".origins"):
        (dataset / f"train-99999{suffix}").write_bytes(b"")
    assert sorted(problems(dataset)) == [
        f"{dataset / 'rejected.jsonl'}: its content differs from what was written (sha256)",
        f"{dataset / 'sources.jsonl'}: missing",
        *(f"{dataset / f'train-99999{suffix}'}: not in the manifest" for suffix in (".bin", ".idx", ".origins")),
    ]


def test_origins_that_are_cut_off(dataset):
    path = dataset / "train-00000.origins"
    path.write_bytes(path.read_bytes()[:-7])
    rehash(dataset, 0, "origins")
    assert f"{path}: has " in problems(dataset)[0] and "documents have 20 each" in problems(dataset)[0]


def test_another_tokenizer(dataset):
    train_bpe(["other words"], 290).save(dataset)
    assert problems(dataset) == [
        f"{dataset / 'tokenizer.json'}: not the tokenizer that the dataset was made with"
    ]
    (dataset / "tokenizer.json").write_text("{")
    (dataset / "train-00001.idx").unlink()
    found = problems(dataset)
    assert "not a tokenizer of the tokenizers library" in found[0]
    assert found[1] == f"{dataset / 'train-00001.idx'}: missing"  # the shards are looked at all the same

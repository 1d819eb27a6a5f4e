import json
from dataclasses import replace
from types import SimpleNamespace

import datasets
import fsspec
import pyarrow as pa
import pytest

from gpt2dist.corpus import cut, discover
from gpt2dist.corpus.readers.hub import HubDataset
from gpt2dist.errors import UserError

TEXTS = [f"text {i} é" for i in range(40)]


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def table():
    return datasets.Dataset.from_dict({"text": TEXTS, "meta": [{"text": text.upper()} for text in TEXTS]})


@pytest.mark.parametrize("size", [1, 500, 1 << 40])
def test_a_saved_dataset(tmp_path, read_corpus, table, size):
    table.save_to_disk(tmp_path / "saved", num_shards=3)
    seen = read_corpus(tmp_path / "saved", size)
    assert [(document.text, document.line) for document in seen] == list(zip(TEXTS, range(1, 41), strict=True))
    (source,) = discover([str(tmp_path / "saved")])
    assert (source.format, source.path) == ("datasets", str(tmp_path / "saved"))
    assert sum(document.size for document in seen) == source.size > 1000
    assert len(cut(source, size)) == {1: 40, 500: source.size // 500, 1 << 40: 1}[size]
    upper = read_corpus(tmp_path / "saved", size, text_field="meta.text")
    assert [document.text for document in upper] == [text.upper() for text in TEXTS]


def test_the_rows_that_a_saved_dataset_selects(tmp_path, read_corpus, table):
    table.select([7, 3, 5]).save_to_disk(tmp_path / "saved")
    assert [document.text for document in read_corpus(tmp_path / "saved", 1)] == [TEXTS[i] for i in (7, 3, 5)]


def test_the_splits_of_saved_datasets(tmp_path, read_corpus, table):
    part = table.select(range(5))
    datasets.DatasetDict(train=table, validation=part).save_to_disk(tmp_path / "saved")
    assert [document.text for document in read_corpus(tmp_path / "saved")] == TEXTS
    assert [document.text for document in read_corpus(tmp_path / "saved" / "validation")] == TEXTS[:5]
    datasets.DatasetDict(test=part, validation=part).save_to_disk(tmp_path / "others")
    with pytest.raises(
        UserError, match=r"others: has no split 'train' but test, validation; name one, such as .*/test"
    ):
        discover([str(tmp_path / "others")])


def test_saved_datasets_in_a_directory_are_no_arrow_files(tmp_path, table):
    table.save_to_disk(tmp_path / "corpus" / "saved")
    (tmp_path / "corpus" / "a.txt").write_text("x")
    sources = discover([str(tmp_path / "corpus")])
    assert [(source.format, source.path.rsplit("/", 1)[1]) for source in sources] == [
        ("text", "a.txt"),
        ("datasets", "saved"),
    ]
    assert discover([str(tmp_path / "corpus" / "sav*")]) == sources[1:]
    assert len(discover([str(tmp_path / "corpus")], suffixes=(".txt",))) == 1


def test_a_damaged_saved_dataset(tmp_path, table, read_corpus):
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").write_bytes(b"x" * 100)
    with pytest.raises(UserError, match=r"saved: damaged, or not a saved dataset \(.*save it again"):
        read_corpus(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"saved: damaged, or not a saved dataset \(.*save it again"):
        discover([str(tmp_path / "saved")])


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda data: data.replace(b"\x12\0\0\0\x1b\0\0\0", b"\x12\0\0\0\x05\0\0\0"),
            r"saved: damaged, .*Offset invariant",
        ),
        (lambda data: data[:-8], r"00000-of-00001\.arrow: damaged, .*its end is missing"),
        (lambda data: data + data, r"00000-of-00001\.arrow: damaged, .* bytes follow the end of its stream"),
    ],
)
def test_damage_in_the_rows_of_a_saved_dataset(tmp_path, table, read_corpus, damage, message):
    table.select_columns("text").save_to_disk(tmp_path / "saved")
    path = tmp_path / "saved" / "data-00000-of-00001.arrow"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(UserError, match=message):
        read_corpus(tmp_path / "saved")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"{}", b'{"_data_files": 5}', b"\xff", b"", b"null"])
def test_a_saved_dataset_with_damaged_json(tmp_path, table, read_corpus, name, content):
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / name).write_bytes(content)
    if name == "dataset_info.json" and content in (b"{}", b'{"_data_files": 5}'):
        assert len(read_corpus(tmp_path / "saved")) == len(TEXTS)  # it needs none of its keys
        return
    with pytest.raises(UserError, match=r"saved: damaged, or not a saved dataset \(.*save it again"):
        read_corpus(tmp_path / "saved")


@pytest.fixture
def folder(tmp_path):
    """A directory that `load_dataset` takes: 4 files, so 4 shards."""
    (tmp_path / "folder").mkdir()
    for shard in range(4):
        rows = [{"text": text, "meta": {"text": text.upper()}} for text in TEXTS[shard * 10 : shard * 10 + 10]]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "folder" / f"train-{shard}.jsonl").write_text(lines)
    (tmp_path / "folder" / "validation.jsonl").write_text(
        '{"text": "held out", "meta": null}\n{"text": null, "meta": null}\n'
    )
    return tmp_path / "folder"


def test_a_streamed_dataset(folder, read_corpus):
    seen = read_corpus(f"datasets:{folder}")
    assert [document.text for document in seen] == TEXTS
    assert [document.line for document in seen] == list(range(1, 41))
    upper = read_corpus(f"datasets:{folder}", text_field="meta.text")
    assert [document.text for document in upper] == [text.upper() for text in TEXTS]
    (source,) = discover([f"datasets:{folder}"])
    assert source.path == f"datasets:{folder},split=train"
    assert source.size == sum(path.stat().st_size for path in folder.glob("train-*"))
    assert sum(document.size for document in seen) == source.size
    assert len(cut(source, 1 << 40)) == 1 and len(cut(source, 1)) == 4
    assert [document.text for document in read_corpus(f"datasets:{folder}", 1)] == TEXTS
    assert len(cut(replace(source, size=0), 1 << 40)) == 4  # where the hub does not say
    held_out, rejected = read_corpus(f"datasets:{folder},split=validation")
    assert held_out.text == "held out"
    assert (rejected.line, rejected.reason) == (2, "field 'text' is NoneType, not a string")


def test_the_version_of_a_streamed_dataset_changes_with_its_files(folder):
    before = discover([f"datasets:{folder}"])
    assert discover([f"datasets:{folder}"]) == before
    (folder / "train-0.jsonl").write_text('{"text": "other"}\n')
    assert discover([f"datasets:{folder}"])[0].version != before[0].version


@pytest.mark.parametrize(
    "options, message",
    [
        (",split=nope", r"split=nope: cannot be loaded \(.*nope"),
        (",config=nope", r"config=nope,split=train: cannot be loaded \(.*nope"),
        ("/missing", r"missing,split=train: cannot be loaded \("),
        (",text=x", r"not of the form datasets:NAME\[@REVISION\]\[,config=CONFIG\]\[,split=SPLIT\]"),
        (",split", "not of the form"),
        (
            ",split=train,split=validation",
            "an option is given twice; to read two splits or conf.*, give two inputs",
        ),
    ],
)
def test_datasets_that_cannot_be_loaded(folder, read_corpus, options, message):
    with pytest.raises(UserError, match=message):
        read_corpus(f"datasets:{folder}{options}")


def test_a_streamed_dataset_that_fails_half_way(folder, read_corpus):
    with open(folder / "train-2.jsonl", "a") as file:
        file.write('{"text": "cut')
    with pytest.raises(
        UserError, match=r"split=train: cannot be read further \(.*a file is damaged: get it again"
    ):
        read_corpus(f"datasets:{folder}")


def test_the_size_of_a_shard_without_rows_is_not_lost(tmp_path, read_corpus):
    (tmp_path / "folder").mkdir()
    for shard, texts in enumerate((["a", "b"], [], ["c"])):
        table = pa.table({"text": pa.array(texts, pa.string())})
        with pa.ipc.new_stream(tmp_path / "folder" / f"train-{shard}.arrow", table.schema) as writer:
            writer.write_table(table)
    seen = read_corpus(f"datasets:{tmp_path / 'folder'}")
    assert [document.text for document in seen] == ["a", "b", "c"]
    stored = sum(path.stat().st_size for path in (tmp_path / "folder").iterdir())
    assert sum(document.size for document in seen) == stored


def test_a_streamed_dataset_without_the_column(folder, read_corpus):
    with pytest.raises(
        UserError, match=r"no column 'content'; its columns are 'text', 'meta'; name the text column"
    ):
        read_corpus(f"datasets:{folder}", text_field="content")


@pytest.mark.parametrize("name", ["datasets:user/name", "datasets:user/name@main"])
def test_a_name_on_the_hub_is_pinned_to_a_commit(monkeypatch, name):
    class Files(list):
        origin_metadata = (("user/name", "0123456789" * 4),) * 2

    config = SimpleNamespace(name="default", data_files={"train": Files(["memory://hub/a", "memory://hub/b"])})
    builder = SimpleNamespace(hash="x", config=config)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: builder)
    fsspec.filesystem("memory").pipe({"/hub/a": b"12345", "/hub/b": b"678"})
    (source,) = discover([name])
    assert source.path == f"datasets:user/name@{'0123456789' * 4},split=train" and source.size == 8
    fsspec.filesystem("memory").rm("/hub", recursive=True)


@pytest.mark.parametrize(
    "text, parsed",
    [
        ("datasets:user/name", HubDataset("user/name")),
        ("datasets:name@v1.0,config=en,split=test", HubDataset("name", "v1.0", "en", "test")),
        ("datasets:user/name,split=validation", HubDataset("user/name", split="validation")),
    ],
)
def test_names_of_datasets(text, parsed):
    assert HubDataset.parse(text) == parsed
    assert HubDataset.parse(str(parsed)) == parsed

"""Datasets made with tokenizers of all kinds: where documents end, which bytes count, what is said."""

import json

import numpy as np
import pytest
import tokenizers

from gpt2dist.dataset.megatron_format import Shard
from gpt2dist.dataset.verify import verify
from gpt2dist.errors import RunError, UserError
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.preprocessing.atomic_output import MARKER
from gpt2dist.preprocessing.tasks import load_result
from gpt2dist.tokenizer.round_trip import RoundTrip, TextChanges
from gpt2dist.tokenizer.text_changes import described
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, train_bpe
from tests.support import other_tokenizers
from tests.support.other_tokenizers import TEXTS, saved

DOCUMENTS = [
    *TEXTS,
    f"a {END_OF_TEXT} b",
    "a </s> [SEP] b",
    "plain words",
    "plain words here and there",
    "x \u4e2d\u6587 \u9fa5",
]
KINDS = {"gpt_neox": None, "qwen2": None, "roberta": None, "bert": "[SEP]", "t5": "</s>", "llama2": "</s>"}


def made(name, directory):
    return saved(getattr(other_tokenizers, name)(), directory / name, KINDS[name])


def run(home, tokenizer, texts=DOCUMENTS, warnings=None, **options):
    (home / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    job = PreprocessingJob((str(home / "a.jsonl"),), str(tokenizer), home / "dataset", **options)
    return prepare(job, on_warning=(warnings if warnings is not None else []).append)


@pytest.mark.parametrize("name", KINDS)
def test_documents_end_once_and_count_the_bytes_of_the_source(tmp_path, name):
    directory = made(name, tmp_path)
    warnings = []
    manifest = run(tmp_path, directory, warnings=warnings, lossy=True)
    theirs = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    shard = Shard(manifest.directory / "train-00000")
    decoded = []
    for number in range(len(DOCUMENTS)):
        ids = shard.document(number)
        assert np.flatnonzero(ids == manifest.end_of_text_id).tolist() == [len(ids) - 1]
        if number < len(TEXTS):
            assert ids[:-1].tolist() == theirs.encode(DOCUMENTS[number], add_special_tokens=False).ids
        decoded.append(theirs.decode(ids[:-1].tolist(), skip_special_tokens=False))
    assert manifest.totals("train").bytes == sum(len(text.encode()) for text in DOCUMENTS)
    changed = sum(ours != text for ours, text in zip(decoded, DOCUMENTS, strict=True))
    assert manifest.text_changes["documents"] == changed
    verify(manifest)
    (said,) = warnings
    assert said.endswith("; the manifest counts the changed documents")
    unknown = {"bert": "[UNK]", "t5": "<unk>", "llama2": "<unk>"}.get(name)
    if unknown:
        count = int(np.count_nonzero(shard.tokens == theirs.token_to_id(unknown)))
        assert manifest.text_changes["unknown_tokens"] == count
        assert (count == 0) == (name == "llama2")
    if name in ("gpt_neox", "qwen2"):
        assert manifest.text_changes == {"normalizer": "NFC", "documents": 1}


@pytest.mark.parametrize("name", ["bert", "t5", "llama2", "roberta"])
def test_lossy_tokenizers_are_refused_before_any_work(tmp_path, name):
    with pytest.raises(UserError, match=r"may lose some of the text.*add --lossy"):
        run(tmp_path, made(name, tmp_path))
    assert not list(tmp_path.glob("dataset*"))


def test_end_of_text_that_is_not_special_gives_the_same_dataset(tmp_path):
    content = json.loads(train_bpe(TEXTS, 300).to_json())
    datasets = []
    for special in (True, False):
        content["added_tokens"][0]["special"] = special
        home = tmp_path / str(special)
        tokenizer = saved(tokenizers.Tokenizer.from_str(json.dumps(content)), home / "tokenizer")
        datasets.append(run(home, tokenizer))
        verify(datasets[-1])
    data = [(manifest.directory / "train-00000.bin").read_bytes() for manifest in datasets]
    assert data[0] == data[1] and datasets[0].text_changes == datasets[1].text_changes == {}


def test_a_dataset_of_an_exact_tokenizer_says_nothing(tmp_path):
    train_bpe(TEXTS, 300).save(tmp_path / "tokenizer")
    warnings = []
    manifest = run(tmp_path, tmp_path / "tokenizer" / "tokenizer.json", warnings=warnings)
    assert manifest.text_changes == {} and warnings == [] and described({}) == ""


def test_a_task_that_version_0_1_finished_is_read(tmp_path):
    result = {"shards": [], "left_out": {"rejected": 0}, "repaired": 0, "lines": [3]}
    (tmp_path / MARKER).write_text(json.dumps(result))
    assert load_result(tmp_path).text_changes == TextChanges()


# --- The comparison ---------------------------------------------------------------------------------------


def test_lost_bytes_of_an_exact_tokenizer_stop_the_job():
    tokenizer = train_bpe(TEXTS, 300)
    texts = [b"plain words", b"", "日本".encode()]
    ids, lengths = tokenizer.encode_batch([text.decode() for text in texts])
    assert RoundTrip(tokenizer).compare(texts, ids, lengths) == TextChanges()
    with pytest.raises(RunError, match=r"the text '日本' … represent 5 bytes, but it has 6"):
        RoundTrip(tokenizer).compare(texts, ids[:-1], lengths - [0, 0, 1])


def test_changed_texts_are_counted(tmp_path):
    tokenizer = Tokenizer.load(made("gpt_neox", tmp_path))
    texts = ["e\u0301", "", "é", "cafe\u0301 \u212b", "plain"]
    ids, lengths = tokenizer.encode_batch(texts)
    found = RoundTrip(tokenizer).compare([text.encode() for text in texts], ids, lengths)
    assert found == TextChanges(documents=2)


def test_no_texts_are_compared():
    tokenizer = train_bpe(TEXTS, 300)
    nothing = np.zeros(0, np.int64)
    assert RoundTrip(tokenizer).compare([], nothing, nothing) == TextChanges()
    assert RoundTrip(tokenizer).compare([b""], nothing, np.zeros(1, np.int64)) == TextChanges()

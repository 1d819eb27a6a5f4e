"""BERT's vocab.txt, against transformers' BertTokenizer."""

import pytest

from gpt2dist.errors import UserError
from gpt2dist.tokenizer.bert import import_bert
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support import other_tokenizers
from tests.support.other_tokenizers import TEXTS


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    backend = other_tokenizers.bert()
    names = [backend.id_to_token(number) for number in range(backend.get_vocab_size())]
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return path


def test_ids_are_those_of_bert_tokenizer(vocabulary, tmp_path):
    from transformers import AutoTokenizer, BertTokenizer

    theirs = BertTokenizer.from_pretrained(str(vocabulary.parent))
    ours = import_bert(vocabulary)
    ours.save(tmp_path)
    loaded, auto = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.end_of_text, loaded.fingerprint) == ("[SEP]", ours.fingerprint)
    for text in [*TEXTS, "今天x天气ＡＢ", " \u0301e"]:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text).tolist() == loaded.encode(text).tolist() == ids
        assert auto(text, add_special_tokens=False)["input_ids"] == ids
    assert ours.encode("[SEP]").tolist() != [ours.end_of_text_id]


def test_windows_line_ends_are_no_part_of_a_token(vocabulary, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(vocabulary.read_bytes().replace(b"\n", b"\r\n"))
    assert import_bert(path).fingerprint == import_bert(vocabulary).fingerprint


@pytest.mark.parametrize(
    "content, message",
    [
        (None, r"cannot be read as a vocabulary"),
        (b"\xff\xfe", r"cannot be read as a vocabulary"),
        (b'{"a": 0}', r"has no \[UNK\], so it is not BERT's vocab.txt.*--merges vocab.bpe"),
        (b"[UNK]\na\n", r"has no \[SEP\]"),
        (b"[UNK]\n[SEP]\na\nb\na\n", r"lists 'a' twice"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        import_bert(path)


def test_a_directory_with_vocab_txt_alone(vocabulary):
    with pytest.raises(UserError, match=r"it has BERT's vocab\.txt; `gpt2dist tokenizer import --vocab"):
        Tokenizer.load(vocabulary.parent)

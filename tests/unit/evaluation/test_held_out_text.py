import dataclasses
import json

import numpy as np
import pytest

from gpt2dist.corpus import Reading
from gpt2dist.corpus.word_count import count_words
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.evaluation.evaluate import require_same_tokenizer
from gpt2dist.evaluation.held_out_text import HeldOut, read_texts
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_bpe, train_char

TEXTS = [
    "The first one.",
    "",
    "Zwei: äöü\u2003😀 .",
    "x",
    "the last of the texts, which is longer than the others",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(TEXTS * 4, 290)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    return path


def tokens_of(text):
    stream = text.stream(prefix=False)
    return stream.read(np.array([0]), len(stream))[0].tolist()


def flatten(lists):
    return [item for each in lists for item in each]


def documents_of(windows_of):
    """The tokens that the windows predict, by the window's place; each owns its last ones."""
    stream, windows = windows_of
    numbers = np.arange(len(windows))
    read = stream.read(windows.starts(numbers), windows.sequence_length + 1)
    ends, owned = windows.predicted(numbers), windows.owned(numbers)
    return [row[1 + end - count : 1 + end].tolist() for row, end, count in zip(read, ends, owned, strict=True)]


def test_texts_are_what_preprocess_makes_of_them(tokenizer, corpus, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    prepare(
        PreprocessingJob(
            (str(corpus),), str(tmp_path / "tokenizer"), tmp_path / "dataset", reading=Reading("body")
        )
    )
    dataset = HeldOut.of_dataset(Manifest.load(tmp_path / "dataset"), "train")
    texts = HeldOut.of_texts(read_texts([str(corpus)], Reading("body")), tokenizer)
    assert sorted(tokens_of(texts)) == sorted(tokens_of(dataset))
    assert texts.totals == dataset.totals
    counts = count_words([text.encode() for text in TEXTS if text])
    assert (texts.totals.words, texts.totals.lm_eval_words) == tuple(int(count.sum()) for count in counts)
    assert (texts.end_of_text_id, texts.tokenizer) == (dataset.end_of_text_id, dataset.tokenizer)


def test_per_document_scores_the_text_and_nothing_else(tokenizer):
    text = HeldOut.of_texts(TEXTS, tokenizer)
    encoded = [tokenizer.encode(each).tolist() for each in TEXTS if each]
    assert documents_of(text.windows(100, 100, prefix=True, per_document=True)) == encoded
    without = documents_of(text.windows(100, 100, prefix=False, per_document=True))
    assert without == [tokens[1:] for tokens in encoded if len(tokens) > 1]


def test_per_document_needs_nothing_but_the_stream_of_a_dataset(tiny_dataset):
    manifest = Manifest.load(tiny_dataset)
    text = HeldOut.of_dataset(manifest, "val")
    end = manifest.end_of_text_id
    stream = TokenStream.open(manifest, "val")
    expected = "\n".join(map(str, stream.read(np.array([0]), len(stream))[0])).split(f"\n{end}")
    got = documents_of(text.windows(4000, 1, prefix=True, per_document=True))
    assert got == [[int(token) for token in each.split()] for each in expected if each]


def test_windows_never_cross_a_document(tokenizer):
    text = HeldOut.of_texts(TEXTS, tokenizer)
    for prefix in (True, False):
        pieces = documents_of(text.windows(5, 2, prefix, per_document=True))
        assert max(map(len, pieces)) <= 5
        assert tokenizer.end_of_text_id not in flatten(pieces)
        flat = [token for each in TEXTS if each for token in tokenizer.encode(each).tolist()[not prefix :]]
        assert flatten(pieces) == flat


def test_a_file_whose_documents_have_no_end_cannot_be_scored_per_document(make_dataset):
    text = HeldOut.of_dataset(Manifest.load(make_dataset(val=[90, 40])), "val")
    with pytest.raises(
        UserError, match=r"has 2 documents but 1 by its end-of-text tokens.*score it as one stream"
    ):
        text.windows(8, 4, prefix=True, per_document=True)


def test_the_fingerprint_tells_texts_borders_and_tokenizers_apart(tokenizer):
    of = lambda *texts, by=tokenizer: HeldOut.of_texts(texts, by).fingerprint  # noqa: E731
    assert of("ab", "c") == of("ab", "c")
    assert len({of("ab", "c"), of("a", "bc"), of("abc"), of("ab", "c", by=train_char(["abc"]))}) == 4


def test_a_detokenizer_changes_the_tokens_but_not_what_is_counted(tokenizer):
    original = ' = Title = \n " quoted " , 1 @,@ 000 '
    text = HeldOut.of_texts([original], tokenizer, "wikitext")
    assert tokenizer.decode(tokens_of(text)[:-1]) == ' = Title =\n"quoted", 1,000 '
    assert (text.totals.bytes, text.totals.words) == (len(original), len(original.split()) + 2)
    assert text.detokenizer == "wikitext"


def test_nothing_to_score_is_told(tokenizer):
    with pytest.raises(UserError, match="books: contains no text"):
        HeldOut.of_texts(["", ""], tokenizer, name="books")
    one = HeldOut.of_texts(["x"], tokenizer, name="books")
    with pytest.raises(UserError, match="books: no document has two tokens"):
        one.windows(8, 4, prefix=False, per_document=True)
    alone = HeldOut("books", [np.array([3], np.uint16)], one.totals, 0, "", "")
    with pytest.raises(UserError, match="books: has a single token"):
        alone.windows(8, 4, prefix=False, per_document=False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"text": "a"}\n{"other": 1}\n', "corpus.jsonl:2: .*fix it, or `gpt2dist preprocess`"),
        (b'{"text": "a\xff"}\n', "corpus.jsonl:1: is not Unicode .1 characters are not valid UTF-8; --encoding"),
        (b'{"text": "a"', "corpus.jsonl:1: "),
        (b'{"other": "' + b"a" * (9 << 20) + b'"}\n', "corpus.jsonl:1: "),
    ],
)
def test_a_text_that_cannot_be_read_is_an_error_rather_than_left_out(tmp_path, content, reason):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason):
        list(read_texts([str(path)], Reading()))


def test_texts_in_other_encodings(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes('{"text": "あいう"}\n'.encode("shift_jis"))
    assert list(read_texts([str(path)], Reading(encoding="shift_jis"))) == ["あいう"]
    with pytest.raises(UserError, match=r"corpus.jsonl:1: is not Unicode .* are not valid ascii"):
        list(read_texts([str(path)], Reading(encoding="ascii")))
    (tmp_path / "a.txt").write_text("あいう", encoding="utf-16")
    assert list(read_texts([str(tmp_path / "a.txt")], Reading())) == ["あいう"]


def test_a_table_with_a_stray_quote_is_an_error_and_can_be_read_without_quoting(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\none\n"two\nthree\n')
    with pytest.raises(UserError, match=r"a\.tsv:3: a quote that is never closed .*--quoting none"):
        list(read_texts([str(path)], Reading()))
    with pytest.raises(UserError, match=r"a\.tsv: line 3: a quoted field starts here and does not end within 1 "):
        list(read_texts([str(path)], Reading(max_field_lines=1)))
    assert list(read_texts([str(path)], Reading(quoting="none"))) == ["one", '"two', "three"]


def test_a_long_text_comes_whole(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("word " * (2 << 20))
    assert list(read_texts([str(path)], Reading())) == ["word " * (2 << 20)]


def test_a_tokenizer_by_characters_names_one_that_it_lacks():
    with pytest.raises(UserError, match="'é'"):
        HeldOut.of_texts(["né"], train_char(["n"]))


def test_the_same_tokenizer_has_the_same_fingerprint_when_saved(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert HeldOut.of_texts(["x"], Tokenizer.load(tmp_path)).tokenizer == tokenizer.fingerprint


@pytest.mark.parametrize("changes", [{"vocab_size": 400}, {"end_of_text_id": 2}])
def test_a_manifest_that_contradicts_its_tokenizer(changes):
    tokenizer = train_char(["abc"])
    text = dataclasses.replace(HeldOut.of_texts(["abc"], tokenizer, name="data"), vocab_size=4)
    require_same_tokenizer(text, tokenizer, "model")
    said = {"vocab_size": 4, "end_of_text_id": 3} | changes
    message = "data: its manifest says vocab_size {} and end_of_text_id {}, its tokenizer has 4 and 3; copy the"
    with pytest.raises(UserError, match=message.format(*said.values())):
        require_same_tokenizer(dataclasses.replace(text, **said), tokenizer, "model")

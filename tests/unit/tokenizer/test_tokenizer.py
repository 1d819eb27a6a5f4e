import json

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from gpt2dist.errors import UserError
from gpt2dist.tokenizer.analysis import BYTE_ALPHABET
from gpt2dist.tokenizer.tokenizer import (
    END_OF_TEXT,
    Tokenizer,
    UnknownCharacterError,
    import_gpt2,
    train_bpe,
    train_char,
)

TEXTS = ["def f(x):\n    return x\r\n", "naïve café, 日本語 😀\t", "the theory of the thing " * 3]


@pytest.fixture(scope="module")
def gpt2(shared_data):
    return import_gpt2(shared_data / "encoder.json", shared_data / "vocab.bpe")


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 300)


def auto_tokenizer(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def byte_level(vocabulary=None):
    backend = tokenizers.Tokenizer(
        models.BPE(vocabulary or {c: i for i, c in enumerate(sorted(BYTE_ALPHABET))}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def test_gpt2_ids_that_are_known(gpt2):
    assert gpt2.encode("Hello, I'm a language model,").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert gpt2.encode("Welcome to New York City").tolist() == [14618, 284, 968, 1971, 2254]
    assert (gpt2.vocab_size, gpt2.end_of_text_id) == (50257, 50256)


def test_tinyshakespeare_is_338025_tokens(gpt2, shared_data):
    text = (shared_data / "tinyshakespeare.txt").read_bytes().decode()
    ids = gpt2.encode(text)
    assert ids.size == 338_025
    assert gpt2.decode(ids) == text


def test_end_of_text_written_in_a_text_is_ordinary_text(bpe, gpt2):
    for tokenizer in (bpe, gpt2, train_char([END_OF_TEXT])):
        ids = tokenizer.encode(f"a{END_OF_TEXT}b".replace("a", "<").replace("b", ">"))
        assert tokenizer.end_of_text_id not in ids
        assert tokenizer.decode(ids) == f"<{END_OF_TEXT}>"
    assert bpe.decode([bpe.end_of_text_id]) == END_OF_TEXT


def test_trained_bpe(bpe):
    assert bpe.vocab_size == 300 and bpe.end_of_text_id == 299
    for text in [*TEXTS, "", "\x00\u202e unseen Ω  \n\n"]:
        assert bpe.decode(bpe.encode(text)) == text
    flat, lengths = bpe.encode_batch(["", TEXTS[0], TEXTS[1]])
    assert flat.dtype == np.uint32 and lengths.dtype == np.int64
    assert lengths.tolist() == [0, bpe.encode(TEXTS[0]).size, bpe.encode(TEXTS[1]).size]
    assert flat.tolist() == [*bpe.encode(TEXTS[0]), *bpe.encode(TEXTS[1])]
    assert train_bpe(TEXTS, 300).fingerprint == bpe.fingerprint


def test_bpe_refuses_fewer_entries_than_bytes():
    assert train_bpe(TEXTS, 257).vocab_size == 257
    with pytest.raises(UserError, match="--vocab-size 256: must be at least 257"):
        train_bpe(TEXTS, 256)


def test_char(tmp_path):
    tokenizer = train_char(["ba \n", "\r."])
    assert tokenizer.vocab_size == 7 and tokenizer.end_of_text_id == 6
    assert tokenizer.encode("\n\r .ab").tolist() == [0, 1, 2, 3, 4, 5]
    text = "a  b . \r\n\n ab"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokenizer.save(tmp_path)
    assert Tokenizer.load(tmp_path).encode(text).tolist() == tokenizer.encode(text).tolist()


def test_char_never_drops_an_unknown_character(tmp_path):
    train_char(["ab"]).save(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.unknown_characters("abéc") == ["c", "é"]
    with pytest.raises(
        UnknownCharacterError, match=r"'c' \(U\+0063\), 'é' \(U\+00E9\) are not in this character"
    ):
        tokenizer.encode_batch(["ab", "abéc"])


@pytest.mark.parametrize("beside_gpt2", [False, True])
@pytest.mark.parametrize("kind", ["bpe", "char", "gpt2"])
def test_auto_tokenizer_gives_equal_ids(tmp_path, request, bpe, kind, beside_gpt2):
    spaced = "a  . b , c ' t do n't"
    text = "".join(TEXTS) + spaced
    if kind == "gpt2":
        tokenizer = request.getfixturevalue("gpt2")
    else:
        tokenizer = bpe if kind == "bpe" else train_char([text])
    tokenizer.save(tmp_path)
    if beside_gpt2:
        config = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": tokenizer.vocab_size}
        (tmp_path / "config.json").write_text(json.dumps(config))
    auto = auto_tokenizer(tmp_path)
    assert auto(text)["input_ids"] == tokenizer.encode(text).tolist()
    assert auto.decode(tokenizer.encode(spaced), skip_special_tokens=True) == spaced
    assert auto.eos_token_id == auto.bos_token_id == tokenizer.end_of_text_id
    assert len(auto) == tokenizer.vocab_size
    auto.save_pretrained(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").fingerprint == tokenizer.fingerprint


def test_fingerprint_does_not_depend_on_formatting(tmp_path, bpe):
    bpe.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items()))))
    assert Tokenizer.load(tmp_path).fingerprint == bpe.fingerprint
    assert train_bpe(TEXTS, 299).fingerprint != bpe.fingerprint


def test_end_of_text_named_by_the_configuration(tmp_path):
    backend = byte_level()
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="no end-of-text token"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    assert Tokenizer.load(tmp_path).end_of_text_id == 256
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: malformed"):
        Tokenizer.load(tmp_path)


def test_load_refuses_what_is_no_tokenizer(tmp_path):
    with pytest.raises(UserError, match=r"not a directory with tokenizer.json: it is a path"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"not a directory with tokenizer.json, and it could not be downloaded "):
        Tokenizer.load("nobody/nothing")  # HF_HUB_OFFLINE is set in conftest.py
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer of the tokenizers library"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_is_named_by_its_file_too(tmp_path, bpe):
    bpe.save(tmp_path)
    assert Tokenizer.load(tmp_path / "tokenizer.json").fingerprint == bpe.fingerprint
    renamed = (tmp_path / "tokenizer.json").rename(tmp_path / "mine.json")
    assert Tokenizer.load(renamed).fingerprint == bpe.fingerprint
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "Ġ"}')  # the file beside it counts
    assert Tokenizer.load(renamed).end_of_text == "Ġ"
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not a tokenizer of the tokenizers library"):
        Tokenizer.load(tmp_path / "tokenizer_config.json")


def test_added_tokens_that_the_library_would_renumber_are_refused(tmp_path, bpe):
    bpe.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 5000, "content": "<far>"})
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"'<far>' the id 5000, but the tokenizers library assigns 300"):
        Tokenizer.load(path)


def test_ids_with_holes_are_refused():
    backend = byte_level({c: 2 * i for i, c in enumerate(sorted(BYTE_ALPHABET))})
    backend.add_special_tokens([END_OF_TEXT])
    with pytest.raises(UserError, match=r"ids below .* have no token"):
        Tokenizer(backend)


def test_import_refuses_other_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        import_gpt2(tmp_path / "encoder.json", tmp_path / "vocab.bpe")
    (tmp_path / "encoder.json").write_text("[1]")
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\na b\n")
    with pytest.raises(UserError, match="not GPT-2's vocabulary and merges"):
        import_gpt2(tmp_path / "encoder.json", tmp_path / "vocab.bpe")
    (tmp_path / "encoder.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    with pytest.raises(UserError, match=r"has no '<\|endoftext\|>'"):
        import_gpt2(tmp_path / "encoder.json", tmp_path / "vocab.bpe")

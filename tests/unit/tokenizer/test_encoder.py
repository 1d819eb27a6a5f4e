"""The fast encoder against `tokenizers`, its fallback, and the places where a long text may be cut."""

import random
import sys

import numpy as np
import pytest
import tokenizers

from gpt2dist.tokenizer import encoder as encoder_module
from gpt2dist.tokenizer.encoder import (
    FAST,
    HARD_TEXTS,
    REFERENCE,
    FastEncoder,
    ReferenceEncoder,
    UncuttableError,
    choose_encoder,
    cut_long_text,
    resident_bytes,
)
from gpt2dist.tokenizer.tokenizer import Tokenizer, import_gpt2, train_bpe, train_char
from tests.support import other_tokenizers
from tests.support.other_tokenizers import saved

WORDS = [
    "the ",
    "it's",
    "I'd",
    "'",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "42",
    "½",
    "é",
    "e\u0301",
    "日本",
    "。",
    "😀",
    "—",
    "x_1",
]
WORDS += [
    "<|endoftext|>",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\x1c",
    "Ⅷ",
    "!?",
    "'s",
    "'LL",
    "ß",
    "안녕",
    "ก็",
    "\ufeff",
]


def random_texts(count, length, seed=0):
    draw = random.Random(seed)
    return ["".join(draw.choices(WORDS, k=draw.randint(0, length))) for _ in range(count)]


@pytest.fixture(scope="module")
def small():
    return train_bpe(random_texts(300, 60, seed=1), 400)


@pytest.fixture(scope="module")
def gpt2(shared_data):
    return import_gpt2(shared_data / "encoder.json", shared_data / "vocab.bpe")


def assert_equal(tokenizer, texts):
    texts = [text.encode() for text in texts]
    (ids, lengths), (expected, expected_lengths) = (
        encoder.encode_batch(texts) for encoder in (FastEncoder(tokenizer), ReferenceEncoder(tokenizer))
    )
    assert ids.dtype == expected.dtype == np.uint32
    assert np.array_equal(lengths, expected_lengths) and np.array_equal(ids, expected)


def test_fast_equals_reference(small):
    assert_equal(small, [])
    assert_equal(small, ["", "", "a", ""])
    assert_equal(small, [text.decode() for text in HARD_TEXTS])
    assert_equal(small, random_texts(500, 60))


def test_fast_equals_reference_with_gpt2s_vocabulary(gpt2):
    assert_equal(gpt2, random_texts(2000, 60))
    assert gpt2.end_of_text_id not in FastEncoder(gpt2).encode_batch([b"a <|endoftext|> b"])[0]


def test_fast_equals_reference_on_every_character(gpt2):
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert_equal(gpt2, [f"a{character}b {character}" for character in characters[::7]])


def test_fast_is_chosen_where_it_agrees(small):
    assert choose_encoder(small, [b"some text", "日本".encode()]) == (FAST, "")


def test_characters_are_left_to_the_reference():
    assert choose_encoder(train_char(["abc"]), [b"abc"]) == (REFERENCE, "")


def test_a_fast_encoder_that_disagrees_is_not_taken(small, monkeypatch):
    right = FastEncoder.encode_batch

    def wrong(self, texts):
        ids, lengths = right(self, texts)
        ids = ids.copy()
        ids[np.cumsum(lengths)[-1] - 1] += 1
        return ids, lengths

    monkeypatch.setattr(FastEncoder, "encode_batch", wrong)
    name, why = choose_encoder(small, [b"a sample", b"the last one"])
    assert name == REFERENCE and why.endswith("does not agree with the reference on the text 'the last one'")


def test_a_fast_encoder_that_fails_is_not_taken(small, monkeypatch):
    def fail(self):
        raise ValueError("unknown pre-tokenizer")

    monkeypatch.setattr(FastEncoder, "_load_backend", fail)
    name, why = choose_encoder(small, [])
    assert name == REFERENCE and "cannot load this tokenizer (ValueError: unknown pre-tokenizer)" in why


@pytest.mark.parametrize(
    ("memory", "others", "room"),
    [
        (1000, 200, 200),  # a quarter of what is left
        (1000, 600, 100),
        (500, 460, 32),  # little is left
        (500, 2000, 32),  # nothing is left: the cache is not what fills the memory
    ],
)
def test_the_fast_encoder_is_made_anew_when_it_has_grown(small, monkeypatch, memory, others, room):
    """In MiB, with a cache that grows by 1 MiB a batch: it is emptied beyond `room`."""
    cache, loads, load = 0, [], FastEncoder._load_backend

    def loading(self):
        nonlocal cache
        cache = 0
        loads.append(batch)
        return load(self)

    monkeypatch.setattr(FastEncoder, "_load_backend", loading)
    monkeypatch.setattr(encoder_module, "resident_bytes", lambda: (others + cache) << 20)
    batch, found = 0, []
    encoder = FastEncoder(small, memory=memory << 20)
    for batch in range(1, 450):  # noqa: B007
        cache += 1
        found.append(encoder.encode_batch([b"one two"])[0])
    assert loads == list(range(0, 450, room + 1))
    assert all(np.array_equal(ids, found[0]) for ids in found)


def test_the_memory_of_this_process_is_known():
    assert resident_bytes() > 10_000_000


@pytest.mark.parametrize("part_size", [1, 3, 17, 64])
def test_stretches_give_the_tokens_of_the_whole(small, part_size, monkeypatch):
    reference, cuts = ReferenceEncoder(small), 0
    for text in random_texts(150, 80, seed=part_size):
        parts = [text[at : at + part_size].encode() for at in range(0, len(text), part_size)]
        monkeypatch.setattr(encoder_module, "_BLOCK_BYTES", 8 + len(text) % 9)
        stretches = list(cut_long_text(parts, small))
        assert b"".join(stretches) == text.encode()
        cuts += len(stretches)
        if stretches:
            ids, _ = reference.encode_batch(stretches)
            assert np.array_equal(ids, reference.encode_batch([text.encode()])[0]), text
    assert cuts > 400


@pytest.mark.parametrize(
    "parts",
    [
        [b"x" * 40, b"\n"] * 30,  # the only places to cut are between two parts
        [("é" * 20).encode(), " ü".encode()] * 30,
        [b"x" * 10 + b"\n" + b"x" * 80] * 30,  # and far from the end of a part
        [b"\n" + b"x" * 90] * 30,
    ],
)
def test_a_text_is_cut_wherever_it_has_a_border(small, monkeypatch, parts):
    monkeypatch.setattr(encoder_module, "MAX_STRETCH", 100)
    monkeypatch.setattr(encoder_module, "_BLOCK_BYTES", 16)
    stretches = list(cut_long_text(parts, small))
    whole = b"".join(parts)
    assert b"".join(stretches) == whole and 25 < len(stretches) < 62
    ids, _ = ReferenceEncoder(small).encode_batch(stretches)
    assert np.array_equal(ids, small.encode(whole.decode()))


def test_stretches_of_real_text(gpt2, shared_data):
    text = (shared_data / "wikitext2.test.raw").read_bytes().decode()[:400_000]
    parts = [text[at : at + 5000].encode() for at in range(0, len(text), 5000)]
    stretches = list(cut_long_text(parts, gpt2))
    assert len(stretches) > 1
    ids, _ = FastEncoder(gpt2).encode_batch(stretches)
    assert np.array_equal(ids, gpt2.encode(text))


def test_a_text_without_a_border_is_refused(small, monkeypatch):
    monkeypatch.setattr(encoder_module, "MAX_STRETCH", 1 << 20)
    with pytest.raises(UncuttableError, match="a stretch of 1,048,576 bytes has no place to cut it at"):
        list(cut_long_text([b"a" * 600_000] * 3, small))
    # where characters are tokens, all places are good
    char = train_char(["a"])
    assert list(cut_long_text([b"a" * 600_000] * 3, char)) == [b"a" * 600_000] * 3


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    home = tmp_path_factory.mktemp("others")
    return {
        name: Tokenizer.load(saved(getattr(other_tokenizers, name)(), home / name))
        for name in ("gpt_neox", "qwen2", "roberta")
    }


SPECIAL_WORDS = [
    *WORDS,
    "<tool_call>",
    "</tool_call>",
    "<tool_",
    " " * 9,
    " " * 30,
    "\u0301",
    "\u1112\u1161",
    "\u212b",
]


@pytest.mark.parametrize("name", ["gpt_neox", "qwen2"])
def test_fast_equals_reference_with_normalizers_and_added_tokens(others, name, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "WORDS", SPECIAL_WORDS)
    assert choose_encoder(others[name], [b"some text"]) == (FAST, "")
    assert_equal(others[name], random_texts(1500, 40))


@pytest.mark.parametrize("name", ["gpt_neox", "qwen2"])
def test_texts_that_a_normalizer_changes_are_left_to_the_reference(others, name):
    """U+0898 is of Unicode 14, by which gigatoken reorders marks, and `tokenizers` does not."""
    marks = ["\u0898\u0301\u0323", "e\u0301", "\u0323\u0301", "\u1112\u1161\u11ab", "\u212b", "\u0344", "é"]
    assert_equal(others[name], ["", *marks, "plain", *(f"a{mark}b <tool_call>{mark}" for mark in marks)])
    assert_equal(others[name], ["e\u0301", "\u212b"])
    draw = random.Random(0)
    alphabet = [*marks, "a", " ", "  ", "<tool_call>", "\u0338", ">", "가", "\u11a8"]
    assert_equal(others[name], ["".join(draw.choices(alphabet, k=draw.randint(0, 6))) for _ in range(1000)])


def test_added_tokens_that_the_normalizer_changes(tmp_path):
    backend = other_tokenizers.gpt_neox()
    backend.add_tokens([tokenizers.AddedToken("e\u0301!", normalized=True)])
    name, why = choose_encoder(Tokenizer.load(saved(backend, tmp_path)), [])
    assert name == REFERENCE and why == "the tokenizer's normalizer NFC changes its own added tokens"


def test_lossy_tokenizers_and_other_normalizers_are_left_to_the_reference(others, tmp_path):
    assert choose_encoder(others["roberta"], [b"abc"]) == (REFERENCE, "")
    backend = other_tokenizers.gpt_neox()
    backend.normalizer = tokenizers.normalizers.Lowercase()
    name, why = choose_encoder(Tokenizer.load(saved(backend, tmp_path)), [b"abc"])
    assert name == REFERENCE and "does not support the tokenizer's normalizer Lowercase" in why


def test_an_added_token_that_the_fast_encoder_takes_otherwise_is_found(tmp_path):
    backend = other_tokenizers.qwen2()
    backend.add_tokens([tokenizers.AddedToken("<w>", single_word=True, normalized=False)])
    tokenizer = Tokenizer.load(saved(backend, tmp_path))
    name, why = choose_encoder(tokenizer, [])
    texts = [text.encode() for text in ("a<w>b", "a <w> b", "<w>", "_<w>", "é<w>.")]
    same = np.array_equal(
        FastEncoder(tokenizer).encode_batch(texts)[0], ReferenceEncoder(tokenizer).encode_batch(texts)[0]
    )
    assert name == (FAST if same else REFERENCE), why


@pytest.mark.parametrize("part_size", [1, 7, 33])
def test_stretches_with_a_normalizer_and_added_tokens(others, part_size, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "WORDS", SPECIAL_WORDS)
    reference = ReferenceEncoder(others["gpt_neox"])
    for text in random_texts(150, 80, seed=part_size):
        parts = [text[at : at + part_size].encode() for at in range(0, len(text), part_size)]
        stretches = list(cut_long_text(parts, others["gpt_neox"]))
        assert b"".join(stretches) == text.encode()
        if stretches:
            ids, _ = reference.encode_batch(stretches)
            assert np.array_equal(ids, reference.encode_batch([text.encode()])[0]), text


@pytest.mark.parametrize("options", [{"content": "a b"}, {"content": "<x>", "single_word": True}])
def test_added_tokens_across_a_border_forbid_cuts(tmp_path, monkeypatch, options):
    backend = other_tokenizers.gpt_neox()
    backend.add_tokens([tokenizers.AddedToken(**options)])
    monkeypatch.setattr(encoder_module, "MAX_STRETCH", 10)
    with pytest.raises(UncuttableError, match="no place to cut it at"):
        list(cut_long_text([b"a b c d e f"], Tokenizer.load(saved(backend, tmp_path))))


def test_characters_after_a_normalizer_are_not_cut(tmp_path, monkeypatch):
    backend = tokenizers.Tokenizer.from_str(train_char(["abcdefé "]).to_json())
    backend.normalizer = tokenizers.normalizers.NFC()
    monkeypatch.setattr(encoder_module, "MAX_STRETCH", 10)
    with pytest.raises(UncuttableError, match="no place to cut it at"):
        list(cut_long_text([b"a b c d e f"], Tokenizer.load(saved(backend, tmp_path))))


def test_a_tokenizer_with_other_words_is_not_cut(small, monkeypatch, tmp_path):
    import json

    content = json.loads(small.to_json())
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{L}+\n*|[\s\S]"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        ],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    other = Tokenizer.load(tmp_path)
    assert other.is_byte_level and not other.cuts_as_gpt2
    monkeypatch.setattr(encoder_module, "MAX_STRETCH", 10)
    with pytest.raises(UncuttableError, match="which does not cut words as GPT-2's does"):
        list(cut_long_text([b"a b c d e f"], other))

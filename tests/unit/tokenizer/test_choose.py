"""Which tokenizers may make new data, and that a text never ends a document, whatever the tokenizer."""

import json
import random
import re

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from gpt2dist.errors import UserError
from gpt2dist.tokenizer.analysis import BYTE_ALPHABET
from gpt2dist.tokenizer.choose import choose_tokenizer
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT, Tokenizer, train_bpe, train_char
from tests.support import other_tokenizers
from tests.support.other_tokenizers import TEXTS, saved

HARD = [
    *TEXTS,
    f"a {END_OF_TEXT} b",
    f"{END_OF_TEXT}{END_OF_TEXT}\n",
    "a </s> [SEP] <|im_start|>user <|padding|> </s>",
    "<tool_call>x</tool_call>" + " " * 30 + "</s",
]
KINDS = {
    "gpt_neox": None,
    "qwen2": None,
    "roberta": None,
    "bert": "[SEP]",
    "t5": "</s>",
    "llama2": "</s>",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    home = tmp_path_factory.mktemp("others")
    return {name: saved(getattr(other_tokenizers, name)(), home / name, eos) for name, eos in KINDS.items()}


@pytest.fixture(scope="module")
def content():
    return json.loads(train_bpe(TEXTS, 300).to_json())


def written(tmp_path, content, eos_token=None):
    return saved(tokenizers.Tokenizer.from_str(json.dumps(content)), tmp_path / "changed", eos_token)


def added(number, name, **changes):
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": number, "content": name, **plain} | changes


@pytest.mark.parametrize("name", KINDS)
def test_a_text_that_spells_special_tokens_ends_no_document(made, name):
    tokenizer = Tokenizer.load(made[name])
    tokens, lengths = tokenizer.encode_batch(HARD)
    assert tokenizer.end_of_text_id not in tokens and lengths.min() > 0
    # The post-processor's [CLS] … [SEP] and <s> are not added.
    special = {token["id"] for token in json.loads(tokenizer.to_json())["added_tokens"] if token["special"]}
    assert not (special - {tokenizer.unknown_id}) & set(tokens.tolist())


@pytest.mark.parametrize("name", ["gpt_neox", "qwen2"])
def test_ids_are_those_of_the_library(made, name):
    directory = made[name]
    tokenizer = choose_tokenizer(directory)
    theirs = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == theirs.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == theirs.normalizer.normalize_str(text)
    theirs.encode_special_tokens = True
    for text in HARD:
        assert tokenizer.encode(text).tolist() == theirs.encode(text).ids
    assert tokenizer.text_changes == {"normalizer": "NFC"} and not tokenizer.losses


@pytest.mark.parametrize("name", ["bert", "t5", "llama2", "roberta"])
def test_lossy_tokenizers_give_the_ids_of_the_library(made, name):
    directory = made[name]
    tokenizer = choose_tokenizer(directory, lossy=True)
    theirs = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in TEXTS:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text).tolist() == ids
        assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
        joined = b"".join(tokenizer.token_bytes[number] for number in ids).decode()
        assert joined.removeprefix(" ") == tokenizer.decode(ids).removeprefix(" ")
    assert tokenizer.text_changes["lossy"]


@pytest.mark.parametrize(
    "name, why",
    [
        ("bert", "it is WordPiece, and neither byte-level nor character-level"),
        ("t5", "it is Unigram, and neither"),
        ("llama2", "it is BPE, and neither"),
        ("roberta", "its pre-tokenizer puts a space before each text"),
    ],
)
def test_lossy_tokenizers_are_taken_only_on_request(made, name, why):
    with pytest.raises(UserError, match=rf"{name}: may lose some of the text, since {why}.*add --lossy"):
        choose_tokenizer(made[name])
    assert choose_tokenizer(made[name], lossy=True).losses == Tokenizer.load(made[name]).losses


def test_decoding_after_a_prompt_joins_as_the_decoder_does(made):
    bert = Tokenizer.load(made["bert"])
    before, after = bert.encode("the quick"), bert.encode("brown fox")
    assert bert.decode(after) == "brown fox" and bert.decode_after(before, after) == " brown fox"
    neox = Tokenizer.load(made["gpt_neox"])
    assert neox.decode_after(neox.encode("the"), neox.encode(" fox")) == " fox"


# --- End-of-text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_end_of_text_that_is_not_special(tmp_path, kind):
    made = train_bpe(TEXTS, 300) if kind == "bpe" else train_char(HARD)
    content = json.loads(made.to_json())
    content["added_tokens"][0]["special"] = False
    tokenizer = choose_tokenizer(written(tmp_path, content))
    theirs = tokenizers.Tokenizer.from_str(json.dumps(content))
    assert tokenizer.end_of_text_id in theirs.encode(HARD[4]).ids  # what would end the document
    for text in HARD:
        assert tokenizer.encode(text).tolist() == made.encode(text).tolist()
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_vocabularies_from_which_whole_words_are_taken(tmp_path):
    content = json.loads(other_tokenizers.gpt_neox().to_str())
    content["model"]["ignore_merges"] = True
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    content["pre_tokenizer"]["use_regex"] = False
    directory = written(tmp_path, content)
    theirs = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert theirs.encode(END_OF_TEXT).ids == [0], "the library gives the word from the vocabulary"
    tokenizer = choose_tokenizer(directory)
    assert (
        0 not in tokenizer.encode(END_OF_TEXT) and tokenizer.decode(tokenizer.encode(END_OF_TEXT)) == END_OF_TEXT
    )


@pytest.mark.parametrize("eos_token, text", [("Ċ", "a line\nb"), ("Ġthe", "in the end"), ("e", "e")])
def test_end_of_text_that_is_an_ordinary_token_is_refused(tmp_path, content, eos_token, text):
    directory = written(tmp_path, content, eos_token)
    with pytest.raises(UserError, match=f"its end-of-text token '{eos_token}' also represents ordinary text"):
        choose_tokenizer(directory)
    # What exists already is opened, and the text that would end a document is refused.
    with pytest.raises(
        UserError, match=re.escape(f"encodes the text {text!r} as its end-of-text token {eos_token!r}")
    ):
        Tokenizer.load(directory).encode_batch(["x y", text])


def test_a_character_that_ends_documents_is_refused(tmp_path):
    made = json.loads(train_char(["ab\n"]).to_json())
    with pytest.raises(UserError, match="also represents ordinary text"):
        choose_tokenizer(written(tmp_path, made, "\n"))


def test_an_unknown_token_that_ends_documents_is_refused(tmp_path):
    directory = saved(other_tokenizers.bert(), tmp_path, "[UNK]")
    with pytest.raises(UserError, match=r"its end-of-text token '\[UNK\]' also represents unknown text"):
        choose_tokenizer(directory, lossy=True)


def test_a_lossy_tokenizer_without_an_unknown_token_is_refused(tmp_path):
    content = json.loads(other_tokenizers.t5().to_str())
    content["model"]["unk_id"] = None
    directory = written(tmp_path, content, "</s>")
    with pytest.raises(UserError, match="its Unigram model has no token for unknown text"):
        choose_tokenizer(directory, lossy=True)
    with pytest.raises(UserError, match=r"cannot encode a text .*use another tokenizer"):
        Tokenizer.load(directory).encode("☃")


def test_a_file_at_which_the_library_panics(tmp_path, content, monkeypatch):
    class PanicError(BaseException):
        """As pyo3's PanicException, which is no Exception."""

    def panic(text):
        raise PanicError("range end index 9 out of range")

    directory = written(tmp_path, content)
    monkeypatch.setattr(tokenizers.Tokenizer, "from_str", panic)
    with pytest.raises(UserError, match=r"not a tokenizer of the tokenizers library \(range end index 9"):
        Tokenizer.load(directory)


def test_a_tokenizer_without_end_of_text_names_its_special_tokens(tmp_path):
    directory = saved(other_tokenizers.bert(), tmp_path)
    with pytest.raises(UserError, match=r"Name another as eos_token .* \[PAD\], \[UNK\], \[CLS\]"):
        choose_tokenizer(directory, lossy=True)


# --- Settings that change or lose text --------------------------------------------------------------------


def test_random_merges_are_refused_for_new_data(tmp_path, content):
    model = content["model"] | {"dropout": 0.5}
    directory = written(tmp_path, content | {"model": model})
    with pytest.raises(UserError, match=r"skips merges at random \(dropout 0.5\).*set \"dropout\" to null"):
        choose_tokenizer(directory)
    opened, plain = Tokenizer.load(directory), Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))
    assert all(opened.encode(text).tolist() == plain.encode(text).tolist() for text in TEXTS * 3)


def test_truncation_padding_and_templates_add_nothing(tmp_path, content):
    end = content["added_tokens"][0]
    template = tokenizers.processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, end["id"])]
    )
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    backend.post_processor = template
    backend.enable_truncation(4)
    backend.enable_padding(pad_id=end["id"], pad_token=END_OF_TEXT, length=50)
    tokenizer = choose_tokenizer(saved(backend, tmp_path))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("normalizer", [{"type": "Sequence", "normalizers": []}, None])
def test_an_empty_normalizer_changes_nothing(tmp_path, content, normalizer):
    tokenizer = choose_tokenizer(written(tmp_path, content | {"normalizer": normalizer}))
    assert tokenizer.text_changes == {} and tokenizer.is_byte_level


def test_normalizers_are_named(tmp_path, content):
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Sequence([normalizers.Lowercase()])]
    )
    tokenizer = choose_tokenizer(saved(backend, tmp_path))
    assert tokenizer.text_changes == {"normalizer": "NFC, Lowercase"}
    assert tokenizer.decode(tokenizer.encode("Cafe\u0301")) == "caf\u00e9"


def test_characters_are_looked_up_after_the_normalizer(tmp_path):
    backend = tokenizers.Tokenizer.from_str(train_char(["abc\u00e9"]).to_json())
    backend.normalizer = normalizers.NFC()
    tokenizer = choose_tokenizer(saved(backend, tmp_path))
    assert tokenizer.unknown_characters("e\u0301") == [] and tokenizer.unknown_characters("e") == ["e"]
    assert tokenizer.decode(tokenizer.encode("ae\u0301")) == "a\u00e9"


def byte_level(vocabulary=None, **model):
    alphabet = {character: number for number, character in enumerate(sorted(BYTE_ALPHABET))}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary or alphabet, [], **model))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def with_part(name, value):
    backend = byte_level()
    setattr(backend, name, value)
    return backend


def with_added(**options):
    backend = byte_level()
    backend.add_tokens([AddedToken("<x>", **options)])
    return backend


def pre_tokenized(*rules):
    return with_part("pre_tokenizer", pre_tokenizers.Sequence([*rules, pre_tokenizers.ByteLevel(False)]))


@pytest.mark.parametrize(
    "backend, message",
    [
        (lambda: tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), "it is WordLevel, and neither"),
        (lambda: byte_level({"a": 0, "b": 1}), "its vocabulary lacks 254 of the 256 bytes"),
        (lambda: byte_level(continuing_subword_prefix="##"), "has the continuing_subword_prefix '##'"),
        (lambda: byte_level(end_of_word_suffix="</w>"), "has the end_of_word_suffix '</w>'"),
        (lambda: with_part("decoder", None), r"its decoder \(none\) does not give back the text"),
        (lambda: with_part("decoder", decoders.WordPiece()), r"its decoder \(WordPiece\) does not give back"),
        (lambda: with_added(lstrip=True), "its added token '<x>' takes the white space beside it"),
        (lambda: with_added(rstrip=True), "its added token '<x>' takes the white space beside it"),
        (lambda: pre_tokenized(pre_tokenizers.WhitespaceSplit()), "its pre-tokenizer WhitespaceSplit drops"),
        (lambda: pre_tokenized(pre_tokenizers.Split(Regex("[0-9]"), "removed")), "its pre-tokenizer Split drops"),
        (lambda: pre_tokenized(pre_tokenizers.Metaspace()), "its pre-tokenizer Metaspace drops or replaces"),
        (lambda: pre_tokenized(pre_tokenizers.ByteLevel(False)), "maps bytes to characters twice"),
    ],
)
def test_what_loses_text_is_found(tmp_path, backend, message):
    backend = backend()
    backend.add_special_tokens([END_OF_TEXT])
    with pytest.raises(UserError, match=message):
        choose_tokenizer(saved(backend, tmp_path))
    assert choose_tokenizer(saved(backend, tmp_path), lossy=True).losses


@pytest.mark.parametrize("behavior", ["removed", "merged_with_previous"])
def test_characters_that_are_not_kept_one_by_one(tmp_path, behavior):
    backend = tokenizers.Tokenizer.from_str(train_char(["ab"]).to_json())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior)
    with pytest.raises(UserError, match="it is WordLevel, and neither"):
        choose_tokenizer(saved(backend, tmp_path))


def test_an_added_token_that_other_text_gives_too(tmp_path, content):
    name = next(name for name in content["model"]["vocab"] if len(name) > 2 and name.startswith("Ġ"))
    tokens = [added(content["model"]["vocab"][name], name), *content["added_tokens"]]
    with pytest.raises(UserError, match=f"its added token '{name}' is also the token of other text"):
        choose_tokenizer(written(tmp_path, content | {"added_tokens": tokens}))


def test_ordinary_added_tokens_decode_to_themselves(tmp_path, content):
    names = ["<tool>", "Ω", "  ", "日本"]
    tokens = [added(300 + number, name) for number, name in enumerate(names)]
    tokenizer = choose_tokenizer(written(tmp_path, content | {"added_tokens": content["added_tokens"] + tokens}))
    text = "a <tool> Ω  b 日本 " + END_OF_TEXT
    ids = tokenizer.encode(text).tolist()
    assert {300, 301, 302, 303} < set(ids) and tokenizer.decode(ids) == text


# --- All settings together --------------------------------------------------------------------------------


BYTES_RULE = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NAMES = ["<x>", "  ", "th", "Ġthe", "é", "日本", "\n", "Ċ", "e\u0301", "</s>"]


def random_content(draw, content):
    """Return a tokenizer.json of random settings, many of which lose text or end documents."""
    bytes_rules = [BYTES_RULE] * 2 + [BYTES_RULE | {"use_regex": False}, BYTES_RULE | {"add_prefix_space": True}]
    behavior = draw.choice(["Isolated", "MergedWithNext", "Removed"])
    other_rules = [
        {"type": "Digits", "individual_digits": True},
        {"type": "Punctuation", "behavior": behavior},
        {"type": "Split", "pattern": {"String": "e"}, "behavior": behavior, "invert": False},
        {"type": "Whitespace"},
    ]
    rules = [*draw.sample(other_rules, draw.randint(0, 2)), draw.choice(bytes_rules)]
    decoder = content["decoder"]
    names = draw.sample(NAMES, draw.randint(0, 4))
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    options = [{flag: draw.random() < 0.1 for flag in flags} for _ in names]
    backend = tokenizers.Tokenizer.from_str(json.dumps(content))
    backend.add_tokens([AddedToken(name, **each) for name, each in zip(names, options, strict=True)])
    changed = json.loads(backend.to_str())
    for token in changed["added_tokens"]:
        if token["content"] == END_OF_TEXT:
            token["special"] = draw.random() < 0.5
    changed["model"] |= {
        "ignore_merges": draw.random() < 0.3,
        "byte_fallback": draw.random() < 0.2,
        "end_of_word_suffix": draw.choice([None, None, None, None, "", "</w>"]),
    }
    return changed | {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": rules},
        "normalizer": draw.choice([None, None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []}]),
        "decoder": draw.choice([decoder] * 8 + [None, {"type": "Sequence", "decoders": [decoder]}]),
    }


def test_what_is_taken_keeps_every_byte_and_ends_no_document(tmp_path, content):
    draw = random.Random(0)
    pieces = [*TEXTS, *NAMES, END_OF_TEXT, " <x> ", "</w>"]
    taken = 0
    for _ in range(50):
        changed = random_content(draw, content)
        eos_token = draw.choice([END_OF_TEXT, END_OF_TEXT, "</s>", "Ċ"])
        texts = ["".join(draw.choices(pieces, k=8)) for _ in range(6)]
        try:
            directory = written(tmp_path, changed, eos_token)
            tokenizer = choose_tokenizer(directory, lossy=draw.random() < 0.2)
        except UserError:
            continue
        taken += 1
        for text in texts:
            ids = tokenizer.encode(text)
            assert tokenizer.end_of_text_id not in ids
            if not tokenizer.text_changes:
                assert tokenizer.decode(ids) == text, changed
    assert taken >= 5

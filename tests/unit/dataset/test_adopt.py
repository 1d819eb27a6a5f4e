"""Token files of others, written here from the descriptions of their formats, and taken as they lie."""

import json
import random
import struct

import numpy as np
import pytest

from gpt2dist import cli
from gpt2dist.dataset.adopt import Adoption, adopt
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.dataset.provenance import StreamDocuments
from gpt2dist.dataset.verify import token_bytes, verify
from gpt2dist.errors import UserError
from gpt2dist.loading.token_stream import TokenStream
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.tokenizer.token_bytes import TokenBytes
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_bpe, train_char
from tests.support.runs import metrics, train, write_run


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A corpus, its tokenizer, our own dataset of it, and its documents as token ids."""
    home = tmp_path_factory.mktemp("adopt")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgé日😀", k=draw.randint(1, 6))) for _ in range(60)]
    gaps = [" ", "\n", "  ", "\u3000", "\u00a0"]
    texts = [
        draw.choice(["", *gaps])
        + "".join(draw.choice(words) + draw.choice(gaps) for _ in range(draw.randint(1, 60)))
        + draw.choice(["", "x"])
        for _ in range(300)
    ]
    (home / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train_bpe(texts, 330).save(home / "tokenizer")
    prepare(PreprocessingJob((str(home / "a.jsonl"),), str(home / "tokenizer"), home / "ours"))
    return home


@pytest.fixture(scope="module")
def documents(home):
    tokenizer = Tokenizer.load(home / "tokenizer")
    texts = [json.loads(line)["text"] for line in (home / "a.jsonl").read_text().splitlines()]
    return [tokenizer.encode(text) for text in texts], tokenizer.end_of_text_id


def write_nanogpt(path, documents, end):
    """As data/openwebtext/prepare.py: the end behind each document, then tofile."""
    np.concatenate([part for ids in documents for part in (ids, [end])]).astype(np.uint16).tofile(path)


def write_llmc(path, documents, end, magic=20240520, version=1, dtype=np.uint16):
    """As dev/data/data_common.py: 256 int32 of header, the end before each document."""
    tokens = np.concatenate([part for ids in documents for part in ([end], ids)]).astype(dtype)
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())


def write_megatron(prefix, sequences, boundaries, code=8, dtype=np.uint16):
    """As the builders of Megatron-core, Megatron-DeepSpeed and GPT-NeoX."""
    lengths = [len(ids) for ids in sequences]
    pointers = np.cumsum([0, *lengths[:-1]]) * np.dtype(dtype).itemsize if lengths else []
    prefix.with_name(prefix.name + ".bin").write_bytes(
        b"".join(np.asarray(ids, dtype).tobytes() for ids in sequences)
    )
    prefix.with_name(prefix.name + ".idx").write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, code, len(lengths), len(boundaries))
        + np.array(lengths, "<i4").tobytes()
        + np.array(pointers, "<i8").tobytes()
        + np.array(boundaries, "<i8").tobytes()
    )


def taken(home, output, *paths, format, **options):
    said = []
    adoption = Adoption(tuple(map(str, paths)), format, str(home / "tokenizer"), output, **options)
    return adopt(adoption, on_warning=said.append), said


def same_text(manifest, ours, split="train"):
    """Whether a split has the totals and, in one stream, the tokens of another dataset."""
    assert manifest.totals(split) == ours.totals("train")
    streams = TokenStream.open(manifest, split), TokenStream.open(ours, "train")
    read = [stream.read(np.array([0]), len(stream))[0] for stream in streams]
    assert np.array_equal(*read)


def test_nanogpt(home, documents, tmp_path):
    write_nanogpt(tmp_path / "train.bin", *documents)
    write_nanogpt(tmp_path / "val.bin", documents[0][:7], documents[1])
    manifest, said = taken(home, tmp_path / "out", tmp_path, format="nanogpt")
    assert said == [] and manifest == Manifest.load(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.bin"))
    same_text(manifest, Manifest.load(home / "ours"))
    assert manifest.totals("val").documents == 7
    found = StreamDocuments(manifest, "train").between(0, 10**9)
    assert [document.end - document.start for document in found] == [len(ids) + 1 for ids in documents[0]]


def test_the_split_is_by_name_or_as_is_said(home, documents, tmp_path):
    for name in ("a_train_10", "a_train_9", "a_val_1", "interval_2"):
        write_nanogpt(tmp_path / f"{name}.bin", documents[0][:3], documents[1])
    manifest, _ = taken(
        home, tmp_path / "out", f"{tmp_path}/a*.bin", format="nanogpt", val=(str(tmp_path / "a_train_10.bin"),)
    )
    paths = [(record.split, record.path.rpartition("/")[2]) for record in manifest.shards]
    assert paths == [("train", "a_train_9.bin"), ("val", "a_train_10.bin"), ("val", "a_val_1.bin")]
    manifest, _ = taken(home, tmp_path / "all", tmp_path / "interval_2.bin", format="nanogpt")
    assert manifest.splits == ("train",)


@pytest.mark.parametrize(
    "kind", [{}, {"magic": 20240801, "version": 7, "dtype": np.uint32}], ids=["16 bits", "32 bits"]
)
def test_llmc(home, documents, tmp_path, kind):
    write_llmc(tmp_path / "fineweb_train_000001.bin", *documents, **kind)
    manifest, _ = taken(home, tmp_path / "out", tmp_path, format="llmc")
    ours = Manifest.load(home / "ours").totals("train")
    assert manifest.totals("train") == ours
    stream = TokenStream.open(manifest, "train")
    assert stream.read(np.array([0]), 4)[0].tolist() == [documents[1], *documents[0][0][:3]]
    found = StreamDocuments(manifest, "train").between(0, 10**9)
    assert [document.end - document.start for document in found] == [len(ids) + 1 for ids in documents[0]]
    read: list[int] = []
    verify(manifest, read.append)
    assert sum(read) == token_bytes(manifest), "the progress of verify reaches its total"
    run = train(write_run(tmp_path, tmp_path / "out"), "run.stop_after_steps=2")
    assert len(metrics(run, "train/loss")) == 2


def test_megatron_and_neox(home, documents, tmp_path):
    ours = Manifest.load(home / "ours")
    sequences = [[*ids, documents[1]] for ids in documents[0]]
    write_megatron(tmp_path / "core", sequences, range(len(sequences) + 1))
    # GPT-NeoX's merge tool loses the boundaries; Megatron-DeepSpeed writes i32 for a large vocabulary.
    write_megatron(tmp_path / "neox", sequences, [0])
    write_megatron(tmp_path / "deepspeed", sequences, range(len(sequences) + 1), code=4, dtype=np.int32)
    for name in ("core.bin", "core.idx", "core", "neox", "deepspeed"):
        manifest, said = taken(home, tmp_path / "out" / name, tmp_path / name, format="megatron")
        assert said == []
        same_text(manifest, ours)
        found = StreamDocuments(manifest, "train").between(0, 10**9)
        assert [document.end - document.start for document in found] == [len(ids) for ids in sequences]


@pytest.mark.parametrize("dtype", ["int32", "uint32", "int64"])
def test_wider_tokens_without_a_header(home, documents, tmp_path, dtype):
    write_nanogpt(tmp_path / "train.bin", *documents)
    np.fromfile(tmp_path / "train.bin", np.uint16).astype(dtype).tofile(tmp_path / "train.bin")
    wide = "int64" if dtype == "int64" else "int32"
    zeros = "3 of every 4 tokens are" if dtype == "int64" else "every second token is"
    for given in ("", "uint16"):
        with pytest.raises(
            UserError,
            match=rf"train\.bin: read as 16 bits a token, {zeros} 0, as the upper parts of "
            rf"{wide[3:]}-bit tokens are; name the type of its tokens with --dtype {wide}$",
        ):
            taken(home, tmp_path / "out", tmp_path / "train.bin", format="nanogpt", dtype=given)
    manifest, said = taken(home, tmp_path / "out", tmp_path / "train.bin", format="nanogpt", dtype=dtype)
    assert said == [] and manifest.dtype == dtype
    same_text(Manifest.load(tmp_path / "out"), Manifest.load(home / "ours"))
    verify(manifest)


def test_narrow_tokens_are_not_wide_ones(home, documents, tmp_path):
    write_nanogpt(tmp_path / "train.bin", *documents)
    with pytest.raises(UserError, match=r"or its tokens are not of the type int32 \(--dtype\)"):
        taken(home, tmp_path / "out", tmp_path / "train.bin", format="nanogpt", dtype="int32")


def test_a_vocabulary_of_more_than_16_bits_needs_a_dtype(home, tmp_path, monkeypatch):
    tokenizer = Tokenizer.load(home / "tokenizer")
    tokenizer.vocab_size = 70_000
    monkeypatch.setattr(Tokenizer, "load", lambda source: tokenizer)
    for given, named in (("", "--dtype is missing, and nanoGPT's 16 bits"), ("uint16", "--dtype uint16")):
        with pytest.raises(UserError, match=f"{named}: cannot hold the 70,000 ids of .*: int32, uint32, int64"):
            taken(home, tmp_path / "out", tmp_path / "a.bin", format="nanogpt", dtype=given)


def test_every_second_character_may_be_the_same(tmp_path):
    tokenizer = train_char([" 0123456789"])
    tokenizer.save(tmp_path / "tokenizer")
    text = " ".join(random.Random(0).choices("0123456789", k=500))
    assert tokenizer.encode(text)[1] == 0
    tokenizer.encode(text).astype(np.uint16).tofile(tmp_path / "a.bin")
    with pytest.raises(UserError, match=r"with --dtype int32 \(or with --dtype uint16, if that is right\)$"):
        taken(tmp_path, tmp_path / "out", tmp_path / "a.bin", format="nanogpt")
    manifest, _ = taken(tmp_path, tmp_path / "out", tmp_path / "a.bin", format="nanogpt", dtype="uint16")
    assert manifest.totals("train").tokens == 999


def test_headers_that_name_another_dtype(home, documents, tmp_path):
    ids, end = documents
    wide = [np.asarray(each, np.uint32).view(np.uint16) for each in ids]
    write_llmc(tmp_path / "a.bin", [np.concatenate(wide)], end)
    write_megatron(tmp_path / "b", wide, range(len(wide) + 1))
    for name, format, what in (("a.bin", "llmc", "header"), ("b", "megatron", "index")):
        with pytest.raises(
            UserError, match=f"as the upper parts of 32-bit tokens are; its {what} names another type"
        ):
            taken(home, tmp_path / "out", tmp_path / name, format=format)


def test_files_of_other_formats_are_not_nanogpts(home, documents, tmp_path):
    write_llmc(tmp_path / "a.bin", *documents)
    write_megatron(tmp_path / "b", documents[0], range(len(documents[0]) + 1))
    np.save(tmp_path / "c.npy", np.concatenate(documents[0]).astype(np.uint16))
    (tmp_path / "c.npy").rename(tmp_path / "c.bin")
    for name, message in (
        ("a.bin", "a.bin: is a file of llm.c, which has a header; adopt it with --format llmc"),
        ("b.bin", "b.bin: is a file of Megatron, whose index is b.idx; adopt it with --format megatron"),
        (
            "c.bin",
            "c.bin: is a NumPy file, which has a header; write it with `array.tofile` instead of `np.save`",
        ),
    ):
        with pytest.raises(UserError, match=message):
            taken(home, tmp_path / "out", tmp_path / name, format="nanogpt")
    with pytest.raises(UserError, match="--dtype: files of llmc contain their dtype; omit the option"):
        taken(home, tmp_path / "out", tmp_path / "a.bin", format="llmc", dtype="uint16")
    assert not (tmp_path / "out").exists()


def test_several_sequences_and_empty_documents(home, documents, tmp_path):
    sequences = [documents[0][0], [*documents[0][1], documents[1]], [*documents[0][2], documents[1]]]
    write_megatron(tmp_path / "a", sequences, [0, 2, 2, 3])
    manifest, said = taken(home, tmp_path / "out", tmp_path / "a", format="megatron")
    assert said == [] and manifest.totals("train").documents == 3
    assert [found.number for found in StreamDocuments(manifest, "train").between(0, 10**9)] == [0, 2]


def test_missing_marks_are_told(home, documents, tmp_path):
    write_megatron(tmp_path / "a", documents[0], range(len(documents[0]) + 1))
    _, said = taken(home, tmp_path / "one", tmp_path / "a", format="megatron")
    assert "300 of 300 documents do not end with end-of-text" in said[0] and "--append-eod" in said[0]
    np.concatenate(documents[0]).astype(np.uint16).tofile(tmp_path / "b.bin")
    _, said = taken(home, tmp_path / "two", tmp_path / "b.bin", format="nanogpt")
    assert f"b.bin: holds no end-of-text (id {documents[1]}): it is one document, or was made with" in said[0]


def test_one_document_with_its_mark_needs_no_warning(home, documents, tmp_path):
    write_nanogpt(tmp_path / "a.bin", documents[0][:1], documents[1])
    write_llmc(tmp_path / "b.bin", documents[0][:1], documents[1])
    for name, format in (("a.bin", "nanogpt"), ("b.bin", "llmc")):
        manifest, said = taken(home, tmp_path / format, tmp_path / name, format=format)
        assert said == [] and manifest.totals("train").documents == 1


def test_training_is_the_same_as_on_our_own_files(home, documents, tmp_path):
    write_nanogpt(tmp_path / "train.bin", *documents)
    taken(home, tmp_path / "out", tmp_path / "train.bin", format="nanogpt")
    losses = []
    for name, dataset in (("a", home / "ours"), ("b", tmp_path / "out")):
        (tmp_path / name).mkdir()
        run = train(write_run(tmp_path / name, dataset), "run.stop_after_steps=3")
        losses.append(metrics(run, "train/loss"))
    assert losses[0] == losses[1]


def test_the_verb(home, documents, tmp_path, capsys):
    write_nanogpt(tmp_path / "train.bin", *documents)
    arguments = ["adopt", str(tmp_path), "--format", "nanogpt", "--tokenizer", str(home / "tokenizer")]
    arguments += ["--output", str(tmp_path / "out")]
    assert cli.main(arguments) == 0
    assert "adopted nanogpt" in capsys.readouterr().err
    for more in (
        ["--verify"],
        ["--document", "3"],
        ["--window", "2", "--sequence-length", "16", "--stride", "8"],
    ):
        assert cli.main(["inspect", str(tmp_path / "out"), *more]) == 0
    assert "document" in capsys.readouterr().out
    assert cli.main(arguments) == 2
    assert f"--output: {tmp_path / 'out'} is not empty; name a new directory" in capsys.readouterr().err
    (tmp_path / "train.bin").rename(tmp_path / "moved.bin")
    for command in (
        ["inspect", str(tmp_path / "out"), "--verify"],
        ["inspect", str(tmp_path / "out"), "--document", "3"],
    ):
        assert cli.main(command) == 2
        assert f"{tmp_path / 'train.bin'}: " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"train\.bin: no such file"):
        stream = TokenStream.open(Manifest.load(tmp_path / "out"), "train")
        stream.read(np.array([0]), 4)


def bad(tmp_path, documents):
    """Files that are refused, their format and why."""
    ids, end = documents

    def llmc(name, **kind):
        write_llmc(tmp_path / name, ids[:2], end, **kind)
        return tmp_path / name

    def raw(name, data):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    def megatron(name, sequences, *rest, **kind):
        write_megatron(tmp_path / name, sequences, *rest, **kind)
        return tmp_path / name

    cut = llmc("cut.bin")
    cut.write_bytes(cut.read_bytes()[:-2])
    wrong = megatron("overflow", ids[:3], range(4))
    index = bytearray(wrong.with_name("overflow.idx").read_bytes())
    index[34 + 12 : 34 + 12 + 16] = struct.pack("<qq", 0, -6)
    wrong.with_name("overflow.idx").write_bytes(index)
    raw("old.idx", b"TNTIDX\0\0" + b"\0" * 30), raw("old.bin", b"")
    modes = megatron("modes", ids[:3], range(4))
    with open(modes.with_name("modes.idx"), "ab") as file:
        file.write(b"\0\0\0")
    return {
        "nanogpt odd": (raw("odd.bin", b"abc"), "3 bytes are not a whole number of uint16 tokens"),
        "nanogpt empty": (raw("none.bin", b""), "0 bytes are not a whole number"),
        "nanogpt foreign": (
            raw("foreign.bin", np.array([1, 2, 50256], np.uint16).tobytes()),
            r"foreign\.bin: token 2 is 50256, and the tokenizer has 330 ids; most likely .* another tokenizer",
        ),
        "nanogpt missing": (tmp_path / "nowhere.bin", r"nowhere\.bin: no such file"),
        "nanogpt pattern": (f"{tmp_path}/x*.bin", "this pattern matches no file"),
        "llmc headerless": (raw("raw.bin", b"\1\0" * 600), "not a token file of llm.c .*--format nanogpt"),
        "llmc evaluation": (llmc("eval.bin", magic=20240522), "an evaluation file of llm.c"),
        "llmc cut": (cut, "its header describes .*it is cut short"),
        "megatron overflow": (wrong, "should start at byte .*some old writers overflowed"),
        "megatron old": (tmp_path / "old", "fairseq's old format"),
        "megatron modes": (modes, "a multimodal index"),
        "megatron float": (
            megatron("float", ids[:2], range(3), code=6, dtype=np.float64),
            "dtype code 6 is floating",
        ),
    }


KINDS = [
    *("nanogpt odd", "nanogpt empty", "nanogpt foreign", "nanogpt missing", "nanogpt pattern"),
    *("llmc headerless", "llmc evaluation", "llmc cut"),
    *("megatron overflow", "megatron old", "megatron modes", "megatron float"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_refusals(home, documents, tmp_path, kind):
    path, message = bad(tmp_path, documents)[kind]
    with pytest.raises(UserError, match=message):
        taken(home, tmp_path / "out", path, format=kind.split()[0])
    assert not (tmp_path / "out").exists()


def test_refusals_of_several_files(home, documents, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.idx file in this directory"):
        taken(home, tmp_path / "out", tmp_path / "empty", format="megatron")
    write_llmc(tmp_path / "a.bin", *documents)
    write_llmc(tmp_path / "b.bin", *documents, magic=20240801, version=7, dtype=np.uint32)
    with pytest.raises(UserError, match=r"a\.bin has uint16 tokens, .*b\.bin has uint32.*adopt them as two"):
        taken(home, tmp_path / "out", tmp_path, format="llmc")


def test_the_bytes_of_tokens(home):
    draw = random.Random(1)
    text = "".join(draw.choices("abé日😀 \n\x00\x7f\u00ad\u0143", k=500))
    char = train_char([text])
    for tokenizer in (Tokenizer.load(home / "tokenizer"), char):
        ids = tokenizer.encode(text)
        assert TokenBytes(tokenizer).join(ids) == text.encode()
        assert TokenBytes(tokenizer).lengths[ids].sum() == len(text.encode())
        with_end = np.append(ids, tokenizer.end_of_text_id)
        assert TokenBytes(tokenizer, b"|").join(with_end) == text.encode() + b"|"
    assert TokenBytes(char).join(np.zeros(0, np.int64)) == b""


def test_blocks_change_nothing(home, documents, tmp_path, monkeypatch):
    write_nanogpt(tmp_path / "train.bin", *documents)
    monkeypatch.setattr("gpt2dist.dataset.adopt.BLOCK", 3)
    monkeypatch.setattr("gpt2dist.dataset.flat_formats.BLOCK", 5)
    manifest, _ = taken(home, tmp_path / "out", tmp_path / "train.bin", format="nanogpt")
    assert manifest.totals("train") == Manifest.load(home / "ours").totals("train")

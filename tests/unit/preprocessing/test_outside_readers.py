"""Readers and filters from outside of the package, and web archives, through `gpt2dist preprocess`."""

import gzip
import json
import sys
from dataclasses import replace

import pytest

from gpt2dist import cli, registry
from gpt2dist.corpus import Piece, Reading, discover, file_formats, read
from gpt2dist.corpus.formats import format_of, reader
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.evaluation.held_out_text import read_texts
from gpt2dist.preprocessing import Skip, prepare, prepare_part
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT
from tests.support import toy_reader
from tests.support.archives import compressed, record, response, wet
from tests.support.jobs import documents, job

POEMS = "Header\n%\nroses\n%% a remark\n%\nviolets and tears\n%!\n%\nthe end"


def forget():
    registry._entry_points.cache_clear()
    reader.cache_clear()
    sys.modules["gpt2dist.corpus.formats"]._by_suffix.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The toy package, importable and with its entry point."""
    (tmp_path / "site").mkdir()
    toy_reader.install(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    forget()
    yield
    forget()
    sys.modules.pop("poems_of_tests", None)


@pytest.fixture
def module(package, tmp_path):
    """The toy package without its entry point: a module on the path."""
    (tmp_path / "site/poems-1.0.dist-info/entry_points.txt").unlink()
    forget()


def texts(manifest):
    return [text.removesuffix(END_OF_TEXT) for text in documents(manifest, "train")]


def preprocess(*words):
    assert cli.main(["preprocess", *map(str, words)]) == 0


def test_an_installed_reader_is_found_by_its_suffix_in_all_workers(
    package, tmp_path, tokenizer, small_tasks, capsys
):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(3):
        (corpus / f"{number}.poem").write_text(POEMS + f" of {number}. " * 200)
    (corpus / "3.poem.gz").write_bytes(gzip.compress(POEMS.encode()))
    (corpus / "4.poem.packed").write_text(POEMS)
    words = [corpus, "--tokenizer", tokenizer, "--output", tmp_path / "out", "--max-bad-fraction", 0.5]
    words += ["--workers", 2, "--filter", "poems_of_tests:not_sad", "--filter", "poems_of_tests:shouted"]
    preprocess(*words)
    manifest = Manifest.load(tmp_path / "out")
    ends = [f"THE END{f' OF {number}. ' * 200}" for number in range(3)]
    assert texts(manifest) == ["ROSES", ends[0], "ROSES", ends[1], "ROSES", ends[2], *["ROSES", "THE END"] * 2]
    skipped = {"filter: too sad": 5, "record: comment": 5, "rejected": 5}
    assert {key: count for key, count in manifest.left_out.items() if count} == skipped
    assert manifest.options["filter"] == ["poems_of_tests:not_sad", "poems_of_tests:shouted"]
    said = capsys.readouterr().err
    assert "skipped records that are not plain text: 5 comment\n" in said
    assert (
        "documents skipped: rejected 5, filter: too sad 5 (see " in said
        and "records without text: comment 5" in said
    )
    listed = [json.loads(line) for line in (tmp_path / "out/filtered.jsonl").read_text().splitlines()]
    assert [(each["file"], each["line"], each["reason"]) for each in listed] == [
        (str(corpus / name), 3, "too sad")
        for name in ("0.poem", "1.poem", "2.poem", "3.poem.gz", "4.poem.packed")
    ]
    assert cli.main(["inspect", str(tmp_path / "out"), "--verify"]) == 0
    pieces = [json.loads(line) for line in (tmp_path / "out/pieces.jsonl").read_text().splitlines()]
    assert {piece["format"] for piece in pieces} == {"poems"}
    preprocess(*words)
    assert "nothing to do" in capsys.readouterr().err
    assert cli.main(["preprocess", *map(str, words[:-2])]) == 2
    assert "--filter ['poems_of_tests:not_sad', 'poems_of_tests:shouted'] there" in capsys.readouterr().err


def test_a_reader_that_is_named_is_part_of_the_job(module, tmp_path, tokenizer, capsys):
    (tmp_path / "a.poem").write_text(POEMS)
    (tmp_path / "b.dat").write_text(POEMS)
    named = "poems_of_tests:Poems"
    words = [tmp_path / "b.dat", "--tokenizer", tokenizer, "--output", tmp_path / "out", "--workers", 1]
    words += ["--max-bad-fraction", 0.5]
    preprocess(*words, "--format", named)
    manifest = Manifest.load(tmp_path / "out")
    assert texts(manifest) == ["roses", "violets and tears", "the end"]
    assert json.loads((tmp_path / "out/sources.jsonl").read_text())["format"] == named
    capsys.readouterr()
    assert cli.main(["preprocess", *map(str, words)]) == 2
    assert "holds another dataset: another corpus (1 changed: " in capsys.readouterr().err
    # Its suffixes are searched for, too, and those of the other formats.
    assert [source.path for source in discover([str(tmp_path)], format=named)] == [str(tmp_path / "a.poem")]


def test_parts_of_a_job_find_the_reader_and_refuse_another(module, tmp_path, tokenizer, small_tasks):
    for number in range(2):
        (tmp_path / f"{number}.dat").write_text(POEMS.replace("%!", "%%") + " and" * 900)
    named = job(tmp_path / "*.dat", tokenizer, tmp_path / "out", format="poems_of_tests:Poems")
    prepare_part(named, 0, 2)
    with pytest.raises(UserError, match="holds the unfinished work of another job: another corpus"):
        prepare(replace(named, format="text"))
    with pytest.raises(
        UserError, match=r"unfinished work of another job: --filter None there, \['poems_of_tests:not_"
    ):
        prepare(replace(named, filters=("poems_of_tests:not_sad",)))
    prepare_part(named, 1, 2)
    manifest = prepare(named, finish=True)
    assert texts(manifest) == ["roses", "violets and tears", "the end" + " and" * 900] * 2


def test_a_worker_without_the_package_says_so():
    with pytest.raises(UserError, match=r"^format poems: unknown reader 'poems' \(known: text, jsonl"):
        next(read(Piece("/a.poem", "poems", "", 0, 1, 1), Reading()))


def test_the_other_commands_take_it(module, tmp_path, tokenizer, capsys):
    (tmp_path / "a.dat").write_text(POEMS.replace("%!", "%"))
    words = ["tokenizer", "train", tmp_path / "a.dat", "--kind", "char", "--output", tmp_path / "characters"]
    assert cli.main([*map(str, words), "--format", "poems_of_tests:Poems"]) == 0
    assert "skipped records that are not plain text: 1 comment\n" in capsys.readouterr().err
    said = []
    found = read_texts([str(tmp_path / "a.dat")], Reading(), format="poems_of_tests:Poems", on_info=said.append)
    assert list(found) == ["roses", "violets and tears", "", "the end"] and "1 comment" in said[0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "poem",
            "--format poem: unknown reader 'poem' (known: text, jsonl, csv, tsv, parquet, arrow, warc, datasets",
        ),
        ("poems_of_tests:NUMBER", "--format poems_of_tests:NUMBER: the reader poems_of_tests:NUMBER lacks"),
        ("poems_of_tests:Prose", "--format poems_of_tests:Prose: poems_of_tests:Prose cannot be imported"),
        ("datasets", "--format datasets: datasets need no --format; give datasets:NAME"),
    ],
)
def test_a_wrong_format_is_refused_before_any_work(module, tmp_path, tokenizer, capsys, name, message):
    words = [tmp_path / "missing.txt", "--tokenizer", tokenizer, "--output", tmp_path / "out", "--format", name]
    assert cli.main(["preprocess", *map(str, words)]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out.partial").exists()


def test_a_broken_package_is_named(package, tmp_path):
    (tmp_path / "site/poems_of_tests.py").write_text("1 / 0")
    (tmp_path / "a.txt").write_text("text")
    assert "poems" in file_formats()
    with pytest.raises(UserError, match=r"^format poems: poems_of_tests:Poems cannot be imported \(ZeroDivision"):
        discover([str(tmp_path / "a.txt")])


def test_a_reader_that_returns_no_number_is_told(module, tmp_path, tokenizer):
    (tmp_path / "a.poem").write_text(POEMS)
    wrong = job(tmp_path / "a.poem", tokenizer, tmp_path / "out", format="poems_of_tests:NoNumber")
    with pytest.raises(TypeError, match=r"the reader poems_of_tests:NoNumber returned NoneType; `Reader\.read`"):
        prepare(wrong)


def test_the_longest_suffix_wins(package):
    assert file_formats()[-1] == "poems"
    assert reader("poems").suffixes == (".poem", ".poem.packed")
    assert format_of("/a/b.poem.packed") == ("poems", "")
    assert format_of("/a/b.POEM.ZST") == ("poems", "zst")
    assert format_of("/a/b.txt.poem") == ("poems", "")


# --- Filters ----------------------------------------------------------------------------------------------


def write_lines(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("poems_of_tests:nothing", r"--filter poems_of_tests:nothing: cannot be imported \(AttributeError: .*"),
        ("poems_of_tests:NUMBER", "--filter poems_of_tests:NUMBER: is int, not a function; name a function"),
        (
            "poems_of_tests:forgets",
            r"forgets: failed at .*a\.jsonl:1 \(TypeError: it returned NoneType\); it must r",
        ),
        (
            "poems_of_tests:wordy",
            r"wordy: failed at .*:1 \(ValueError: the reason of Skip has more than 100 char",
        ),
        (
            "poems_of_tests:numbered",
            "--filter: gives more than 100 different reasons, such as 'number 100'. Each is",
        ),
    ],
)
def test_a_filter_that_cannot_be_used(module, tmp_path, tokenizer, name, message):
    source = write_lines(tmp_path / "a.jsonl", map(str, range(102)))
    with pytest.raises(UserError, match=message):
        prepare(job(source, tokenizer, tmp_path / "out", filters=(name,)))


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", None, 7])
def test_a_reason_is_printable_text(reason):
    with pytest.raises(ValueError, match="the reason of Skip must be printable text, not"):
        Skip(reason)


def test_a_filter_sees_normalized_text_but_no_empty_one(module, tmp_path, tokenizer):
    source = write_lines(tmp_path / "a.jsonl", ["a", "", "tears", "ab"])
    options = {"normalizer": "poems_of_tests:shouted", "filters": ("poems_of_tests:short",), "max_chars": 4}
    manifest = prepare(job(source, tokenizer, tmp_path / "out", **options))
    assert texts(manifest) == ["AB"]
    found = {"rejected": 0, "empty": 1, "too_short": 0, "too_long": 1, "filter: short: A": 1}
    assert manifest.left_out == found


def test_a_filter_that_skips_all_documents(module, tmp_path, tokenizer):
    source = write_lines(tmp_path / "a.jsonl", ["tears", "more tears"])
    message = r"no documents to train on: of 2 documents, 2 skipped by --filter \(too sad\); change these options"
    with pytest.raises(UserError, match=message):
        prepare(job(source, tokenizer, tmp_path / "out", filters=("poems_of_tests:not_sad",)))


def test_the_list_of_skipped_documents_is_verified(module, tmp_path, tokenizer, capsys):
    source = write_lines(tmp_path / "a.jsonl", ["tears", "smiles"])
    output = tmp_path / "out"
    prepare(job(source, tokenizer, output, filters=("poems_of_tests:not_sad",)))
    manifest = json.loads((output / "manifest.json").read_bytes())
    manifest["left_out"]["filter: too sad"] = 2
    (output / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["inspect", str(output), "--verify"]) == 2
    assert "filtered.jsonl: lists 1 documents, the manifest says 2" in capsys.readouterr().err
    del manifest["listings"]["filtered.jsonl"]
    (output / "manifest.json").write_text(json.dumps(manifest))
    assert cli.main(["inspect", str(output), "--verify"]) == 2
    assert "filtered.jsonl: the manifest has no sha256 of it" in capsys.readouterr().err


# --- Web archives -----------------------------------------------------------------------------------------


def test_web_archives_become_a_dataset(tmp_path, tokenizer, capsys):
    pytest.importorskip("warcio", reason="warcio is an extra")
    pages = ["the first page\n", "the second: ä €", "the third"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.warc.wet.gz").write_bytes(compressed(wet(pages)))
    plain = [response(b"plain text"), response(b"<p>", "text/html"), record("request", b"", "application/http")]
    (tmp_path / "in/b.warc").write_bytes(b"".join(plain))
    words = [tmp_path / "in", "--tokenizer", tokenizer, "--output", tmp_path / "out", "--workers", 1]
    preprocess(*words)
    manifest = Manifest.load(tmp_path / "out")
    assert texts(manifest) == [*pages, "plain text"]
    said = capsys.readouterr().err
    assert (
        "skipped records that are not plain text: 1 request, 1 text/html. Text is not extracted from HTML" in said
    )
    assert "records without text: text/html 1, request 1" in said
    assert cli.main(["inspect", str(tmp_path / "out"), "--verify"]) == 0


def test_an_archive_without_text_is_refused(tmp_path, tokenizer):
    pytest.importorskip("warcio", reason="warcio is an extra")
    (tmp_path / "a.warc.gz").write_bytes(compressed([response(b"<p>", "text/html")] * 3))
    message = (
        r"no documents to train on: the corpus has none, only records that are not plain text: 3 text/html\."
    )
    with pytest.raises(UserError, match=message):
        prepare(job(tmp_path / "a.warc.gz", tokenizer, tmp_path / "out"))
    words = ["tokenizer", "train", tmp_path / "a.warc.gz", "--kind", "char", "--output", tmp_path / "characters"]
    assert cli.main(list(map(str, words))) == 2

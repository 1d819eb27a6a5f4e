"""What a job says of damage, of what it skipped, and of options without an effect."""

import json

import pytest

from gpt2dist.corpus import Reading, discover, files
from gpt2dist.corpus import documents as documents_module
from gpt2dist.errors import UserError
from gpt2dist.preprocessing import driver, prepare
from gpt2dist.preprocessing import tasks as tasks_module
from gpt2dist.preprocessing.tasks import plan_tasks
from gpt2dist.tokenizer.tokenizer import END_OF_TEXT, train_char
from tests.support.jobs import documents, job


def test_rejected_repaired_and_empty(tmp_path, tokenizer, small_tasks):
    path = tmp_path / "a.jsonl"
    good = b'{"text": "fine, fine, fine, fine, fine"}\n'
    path.write_bytes(good * 200 + b"{broken\n" + good * 200 + b'{"text": ""}\n{"text": "caf\xe9"}\n{"text": 1}\n')
    manifest = prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.01))
    assert manifest.left_out == {"rejected": 2, "empty": 1, "too_short": 0, "too_long": 0}
    assert manifest.repaired == 1
    assert manifest.totals("train").documents == 401
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(line["file"], line["line"]) for line in lines] == [(str(path), 201), (str(path), 404)]
    assert lines[0]["reason"].startswith("not JSON") and lines[1]["reason"] == "field 'text' is int, not a string"


def test_long_lines_that_cannot_be_read_are_rejected(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(documents_module, "LONG_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    deep, cut, good = b'{"x": ' + b"[" * 150_000, b'{"text": "' + b"x" * 5000, b'{"text": "ok ok"}'
    path.write_bytes(b"\n".join([deep, cut, *[good] * 100]))
    manifest = prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.1))
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (2, 100)
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [(line["line"], line["reason"].partition(" at ")[0]) for line in lines] == [
        (1, "not JSON: nesting too deep"),
        (2, "not JSON: an unterminated string, an invalid escape or an unescaped control character"),
    ]


def test_a_file_with_many_empty_documents_is_named(tmp_path, tokenizer, small_tasks):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": "a"}\n' * 1000 + '{"text": ""}\n' * 120)
    (tmp_path / "corpus" / "b.jsonl").write_text('{"text": "b"}\n' * 100 + '{"text": ""}\n' * 50)
    (tmp_path / "corpus" / "c.jsonl").write_text('{"text": "c"}\n' * 100 + '{"text": ""}\n' * 10)
    warnings = []
    manifest = prepare(job(tmp_path / "corpus", tokenizer, tmp_path / "out"), on_warning=warnings.append)
    assert manifest.left_out["empty"] == 180
    (warning,) = [text for text in warnings if "empty" in text]
    assert warning.startswith(
        f"{tmp_path}/corpus/a.jsonl: 120 of its 1,120 documents are empty and were skipped, and so is a large "
        "part of 1 other file(s). If that is not what you expect, the file is damaged, or --text-field names"
    )
    (tmp_path / "corpus" / "a.jsonl").unlink()
    (tmp_path / "corpus" / "b.jsonl").unlink()
    prepare(job(tmp_path / "corpus", tokenizer, tmp_path / "few"), on_warning=warnings.append)
    assert not any("c.jsonl" in text for text in warnings)


def test_too_many_rejected(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 20 + '{"content": "x"}\n' * 5)
    with pytest.raises(UserError) as caught:
        prepare(job(path, tokenizer, tmp_path / "out"))
    message = str(caught.value)
    assert "5 of 25 documents cannot be read, more than --max-bad-fraction 0.001 allows" in message
    for line in (21, 22, 23):
        assert f"{path}:{line}: no field 'text'; its fields are 'content'" in message
    assert "larger --max-bad-fraction" in message and ":24:" not in message
    manifest = prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.5))  # goes on
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (5, 20)


def test_a_rejection_counts_as_many_documents_as_it_has_lines(tmp_path, tokenizer):
    source = tmp_path / "a.tsv"
    source.write_text("text\n" + "fine\n" * 50 + '"open\nfine\nfine" here\n' + "fine\n" * 50)
    with pytest.raises(UserError) as caught:
        prepare(job(source, tokenizer, tmp_path / "out", max_bad_fraction=0.02))
    assert "3 of 103 documents cannot be read" in str(caught.value)
    assert "a.tsv:52: text after the quote that closes a field (--quoting none" in str(caught.value)
    assert "ordinary characters) (3 lines)" in str(caught.value)
    manifest = prepare(job(source, tokenizer, tmp_path / "out", max_bad_fraction=0.03))
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (3, 100)
    (line,) = map(json.loads, (tmp_path / "out" / "rejected.jsonl").read_text().splitlines())
    assert (line["line"], line["lines"], line["offset"], line["bytes"]) == (52, 3, 255, 22)


def test_few_rejections_with_many_bytes_are_said(tmp_path, tokenizer):
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "fine"}\n' * 99 + "not JSON " * 187 + "\n")
    said = []
    prepare(job(source, tokenizer, tmp_path / "out", max_bad_fraction=0.4), on_warning=said.append)
    (warning,) = said
    assert warning.startswith("the rejected lines or rows hold 50.0% of the bytes of the corpus; see ")


def test_quoting_belongs_to_the_job(tmp_path, tokenizer, monkeypatch):
    def texts(manifest):
        return [text.removesuffix(END_OF_TEXT) for text in documents(manifest, "train")]

    monkeypatch.setattr(tasks_module, "MIN_TASK_BYTES", 1)
    for name in "ab":
        (tmp_path / f"{name}.tsv").write_text('text\n"one"\n"two\nlines"\n')
    inputs = str(tmp_path / "*.tsv")
    standard = prepare(job(inputs, tokenizer, tmp_path / "out"))
    assert texts(standard) == ["one", "two\nlines"] * 2
    assert (standard.options["quoting"], standard.options["max_field_lines"]) == ("standard", 100)
    none = Reading(quoting="none")
    with pytest.raises(UserError, match="holds another dataset: --quoting standard there, none here"):
        prepare(job(inputs, tokenizer, tmp_path / "out", reading=none))
    with pytest.raises(UserError, match="--max-field-lines 100 there, 9 here"):
        prepare(job(inputs, tokenizer, tmp_path / "out", reading=Reading(max_field_lines=9)))
    path = tmp_path / "out" / "manifest.json"
    older = json.loads(path.read_text())
    del older["options"]["quoting"], older["options"]["max_field_lines"]  # version 0.1 did not write them
    del older["manifest_sha256"]
    path.write_text(json.dumps(older))
    assert texts(prepare(job(inputs, tokenizer, tmp_path / "out"))) == ["one", "two\nlines"] * 2

    # The field comes after the samples on which the encoder is checked, so the task of a.tsv is done.
    (tmp_path / "b.tsv").write_text("text\n" + "x\n" * 99 + '"two\nlines\n"\n')
    short = Reading(max_field_lines=2)
    with pytest.raises(UserError, match=r"b\.tsv: line 101: a quoted field starts here"):
        prepare(job(inputs, tokenizer, tmp_path / "other", reading=short))
    with pytest.raises(UserError, match="holds the unfinished work of another job: --quoting standard there"):
        prepare(job(inputs, tokenizer, tmp_path / "other", reading=none))
    with pytest.raises(UserError, match=r"b\.tsv: line 101"):
        prepare(job(tmp_path / "b.tsv", tokenizer, tmp_path / "only", reading=short))
    assert not (tmp_path / "only.partial").exists()  # no task is done, so the next command can differ
    manifest = prepare(job(tmp_path / "b.tsv", tokenizer, tmp_path / "only", reading=none))
    assert texts(manifest) == ["x"] * 99 + ['"two', "lines", '"']


def test_wrong_text_field_fails_after_the_first_part(tmp_path, tokenizer, small_tasks, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text('{"content": "some text of a document"}\n' * 2000)
    runs, run = [], driver.run_task
    monkeypatch.setattr(driver, "run_task", lambda job, task: (runs.append(task), run(job, task))[1])
    with pytest.raises(UserError, match="cannot be read"):
        prepare(job(path, tokenizer, tmp_path / "out", workers=1))
    assert not (tmp_path / "out.partial").exists()  # so that the mended command just runs
    assert len(runs) < len(plan_tasks(discover([str(path)]))) / 2


def test_a_bad_corpus_stops_long_before_its_end(tmp_path, tokenizer, small_tasks, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text(('{"text": "some text of a document"}\n' + '{"text": 1}\n') * 2000)
    runs, run = [], driver.run_task
    monkeypatch.setattr(driver, "run_task", lambda job, task: (runs.append(task), run(job, task))[1])
    with pytest.raises(UserError, match=r"of [\d,]+ documents cannot be read, more than --max-bad-fraction 0.1 "):
        prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.1))
    assert len(runs) < len(plan_tasks(discover([str(path)]))) / 2
    prepare(job(path, tokenizer, tmp_path / "out", max_bad_fraction=0.5))  # goes on


def test_a_huge_bad_line_before_many_good_ones_stops_nothing(tmp_path, tokenizer, small_tasks):
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": ' + "[" * 100_000 + "\n" + '{"text": "ok ok"}\n' * 2000)
    manifest = prepare(job(path, tokenizer, tmp_path / "out"))
    assert (manifest.left_out["rejected"], manifest.totals("train").documents) == (1, 2000)


def test_character_that_the_tokenizer_lacks_rejects_the_document(tmp_path, small_tasks):
    train_char(["abc "]).save(tmp_path / "char")
    for number, text in enumerate(["abc", "a d c", "cab"]):
        (tmp_path / f"{number}.txt").write_text(text)
    manifest = prepare(job(f"{tmp_path}/*.txt", tmp_path / "char", tmp_path / "out", max_bad_fraction=0.5))
    assert documents(manifest, "train") == ["abc" + END_OF_TEXT, "cab" + END_OF_TEXT]
    (line,) = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(line)["file"].endswith("1.txt")
    assert json.loads(line)["reason"] == "'d' (U+0064) is not in the character-level tokenizer"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"val_fraction": 1.0}, r"--val-fraction 1\.0: must be at least 0 and below 1"),
        ({"val_fraction": -0.1}, r"--val-fraction -0\.1"),
        ({"max_bad_fraction": 2.0}, r"--max-bad-fraction 2\.0: must be between 0 and 1"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"shard_tokens": 0}, "--shard-tokens 0: must be at least 1"),
    ],
)
def test_options_out_of_range(tmp_path, corpus, tokenizer, options, message):
    with pytest.raises(UserError, match=message):
        prepare(job(corpus, tokenizer, tmp_path / "out", **options))


def test_nothing_to_train_on(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("a text")
    with pytest.raises(UserError, match=r"no documents to train on: all 1 fell into val; lower --val-fraction"):
        prepare(job(tmp_path / "a.txt", tokenizer, tmp_path / "out", val_fraction=0.9999))
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(
        UserError, match="no documents to train on: the corpus has none, only empty files or blank"
    ):
        prepare(job(tmp_path / "b.txt", tokenizer, tmp_path / "empty"))
    lines = [json.dumps({"text": text}) for text in ("", "ab", "abc", "x" * 50)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    why = "of 4 documents, 1 empty, 2 shorter than --min-chars 10, 1 longer than --max-chars 20; change these"
    with pytest.raises(UserError, match=f"no documents to train on: {why}"):
        prepare(job(tmp_path / "c.jsonl", tokenizer, tmp_path / "filtered", min_chars=10, max_chars=20))
    assert not list(tmp_path.glob("*.partial"))  # so that the mended command just runs


def test_all_rejected_says_why(tmp_path, tokenizer):
    path = tmp_path / "a.jsonl"
    bad = ['{"content": "x"}', '{"text": 1}', "{broken", '{"content": "y"}', "[1]"]
    path.write_text("\n".join(bad * 400) + "\n")
    with pytest.raises(UserError) as raised:
        prepare(job(path, tokenizer, tmp_path / "out"))
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("2,000 of 2,000 documents cannot be read")
    said = lines[lines.index("All were rejected:") + 1 :]
    assert said[2].startswith("  400: not JSON: ") and said[2].endswith(f" (first at {path}:3)")
    assert [said[0], said[1], *said[3:]] == [
        f"  800: no field 'text'; its fields are 'content' (first at {path}:1)",
        f"  400: field 'text' is int, not a string (first at {path}:2)",
        "  400: not a JSON object but list (`jq -c '.[]' FILE` makes a line of each element of an array) "
        f"(first at {path}:5)",
        "Name the field of the text with --text-field, or check the inputs",
    ]


@pytest.mark.parametrize(("texts", "warned"), [(1, True), (200, False)])
def test_a_validation_split_that_stays_empty_is_said(tmp_path, tokenizer, texts, warned):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(texts)))
    said = [[], []]
    for warnings in said:  # the second time there is nothing to do
        prepare(job(path, tokenizer, tmp_path / "out", val_fraction=0.1), on_warning=warnings.append)
    assert said[0] == said[1] and len(said[0]) == warned
    if warned:
        assert said[0][0].startswith(
            "--val-fraction 0.1 set no document aside, so there is no split val: documents "
        )
        assert "and the corpus has 1. Raise the fraction, cut the text files" in said[0][0]


@pytest.mark.parametrize(
    ("content", "name", "warning"),
    [
        ("one||two", "a.txt", ""),
        (
            "one|two||",
            "a.txt",
            "'||' never occurs between two documents: 1 text file(s) are not split. (Lines of",
        ),
        ('{"text": "one||two"}', "a.jsonl", "'||' has no effect: it cuts text files, and the corpus has none"),
    ],
)
def test_a_separator_that_never_occurs_is_said(tmp_path, tokenizer, content, name, warning):
    (tmp_path / name).write_text(content)
    said = []
    options = {"reading": Reading(document_separator="||")}
    prepare(job(tmp_path / name, tokenizer, tmp_path / "out", **options), on_warning=said.append)
    assert len(said) == bool(warning)
    assert not warning or said[0].startswith(f"--document-separator {warning}")

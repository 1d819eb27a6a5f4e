"""Text that is not UTF-8: the share that stops the job, and --encoding."""

import io
import json
import sys

import pytest

from gpt2dist.corpus import Reading, documents
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.errors import UserError
from gpt2dist.preprocessing import PreprocessingJob, driver, prepare
from gpt2dist.preprocessing import tasks as tasks_module

LINES = [f"第{n}篇文章，讲的是一件小事。" for n in range(200)]


@pytest.fixture
def run(tmp_path, tokenizer):
    """Prepares a corpus in DIR/out; returns the manifest. What was said is in `run.said`."""

    def prepare_(*inputs, output="out", encoding=None, **options):
        prepare_.said = []
        reading = Reading(encoding=encoding)
        job = PreprocessingJob(
            tuple(map(str, inputs)), str(tokenizer), tmp_path / output, reading=reading, **options
        )
        return prepare(job, on_warning=prepare_.said.append)

    return prepare_


def json_lines(texts, encoding="utf-8"):
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode(encoding)


def refusal(call):
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_a_corpus_in_another_encoding_stops_and_then_is_read_in_it(tmp_path, run):
    path = tmp_path / "a.txt"
    path.write_bytes("\n".join(LINES).encode("gb18030"))
    said = refusal(lambda: run(path))
    decoded = path.read_bytes().decode(errors="replace")
    replaced = decoded.count("\ufffd")
    count = f"{replaced:,} of {len(decoded):,} characters are not valid UTF-8"
    assert said.startswith(
        f"{count} and would become U+FFFD, more than --max-replaced-fraction 0.001 allows. The first:"
    )
    assert f"\n  {path}:1: '{decoded[:10]}" in said
    assert "The encoding there may be one of these:\n  gb18030: '第0篇文章，讲的是一件小事。" in said
    assert "such as --encoding gb18030." in said and "raise --max-replaced-fraction" in said
    assert not (tmp_path / "out.partial").exists()  # so that the corrected command just runs
    manifest = run(path, encoding="gb18030")
    assert manifest.options["encoding"] == "gb18030" and manifest.repaired == 0 and run.said == []
    path.write_text("\n".join(LINES))
    assert run(path, output="utf8").fingerprint == manifest.fingerprint
    path.write_text("\n".join(LINES), encoding="utf-16")
    assert run(path, output="utf16").fingerprint == manifest.fingerprint  # by its byte-order mark


def test_another_encoding_is_another_dataset(tmp_path, run):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    run(tmp_path / "a.txt", encoding="iso8859-1")
    assert "holds another dataset: --encoding iso8859-1 there, None here" in refusal(
        lambda: run(tmp_path / "a.txt")
    )
    said = refusal(lambda: run(tmp_path / "a.txt", encoding="cp1252"))
    assert "holds another dataset: --encoding iso8859-1 there, cp1252 here" in said
    assert Manifest.load(tmp_path / "out").options["encoding"] == "iso8859-1"


def test_unfinished_work_in_another_encoding_is_not_resumed(tmp_path, run, monkeypatch):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    with monkeypatch.context() as killed:
        killed.setattr(driver, "assemble", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "a.txt", encoding="iso8859-1")
    said = refusal(lambda: run(tmp_path / "a.txt", encoding="cp1252"))
    assert "holds the unfinished work of another job: --encoding iso8859-1 there, cp1252 here" in said


def test_a_few_bad_characters_are_told_and_more_stop_the_job(tmp_path, run):
    good = json_lines(["a text that is fine " * 20] * 50)
    path = tmp_path / "a.jsonl"
    path.write_bytes(good + b'{"text": "caf\xe9 cr\xe8me"}\n')
    manifest = run(path)
    assert (manifest.repaired, manifest.totals("train").documents) == (1, 51)
    message = "2 characters that are not valid became U+FFFD, in 1 documents. The first: "
    assert run.said == [f"{message}{path}:51: 'caf\ufffd cr\ufffdme'"]
    path.write_bytes(good + 20 * b'{"text": "caf\xe9 cr\xe8me"}\n')
    said = refusal(lambda: run(path, output="more"))
    assert "40 of 20,200 characters are not valid UTF-8" in said and said.count(f"{path}:5") == 3
    assert 'cp1252: \'{"text": "café crème"}' in said
    assert f"which resumes from here. For any other change, remove the unfinished work (rm -r {tmp_path}" in said
    done = tmp_path / "more.partial/tasks/00000/done.json"
    assert json.loads(done.read_text())["replaced"] == 40
    assert run(path, output="more", max_replaced_fraction=0.01).repaired == 20  # resumes
    assert refusal(lambda: run(path, output="x", max_replaced_fraction=1.5)).startswith(
        "--max-replaced-fraction 1.5: must be between 0 and 1"
    )


def test_a_damaged_corpus_stops_long_before_its_end(tmp_path, run, monkeypatch):
    monkeypatch.setattr(tasks_module, "MIN_TASK_BYTES", 1500)
    (tmp_path / "a.jsonl").write_bytes(json_lines(LINES * 10, "gbk"))
    runs, do = [], driver.run_task
    monkeypatch.setattr(driver, "run_task", lambda job, task: (runs.append(task), do(job, task))[1])
    assert "characters are not valid UTF-8" in refusal(lambda: run(tmp_path / "a.jsonl"))
    assert len(runs) < 5
    manifest = run(tmp_path / "a.jsonl", encoding="gbk")  # cut into as many tasks
    assert len(runs) > 40 and manifest.totals("train").documents == 2000
    (tmp_path / "b.jsonl").write_bytes(json_lines(LINES * 10))
    assert run(tmp_path / "b.jsonl", output="utf8").totals("train") == manifest.totals("train")


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_long_documents_count_too(tmp_path, run, monkeypatch, name):
    monkeypatch.setattr(documents, "LONG_BYTES", 200)
    monkeypatch.setattr("gpt2dist.corpus.files.BLOCK_BYTES", 70)
    text = "one two three " * 100
    data = text.encode() + b"caf\xe9" + text.encode()
    (tmp_path / name).write_bytes(b'{"text": "' + data + b'"}\n' if name == "a.jsonl" else data)
    said = refusal(lambda: run(tmp_path / name, max_replaced_fraction=0.0001))
    assert f"1 of {len(data):,} characters are not valid UTF-8" in said and "caf\ufffd" in said
    assert run(tmp_path / name).repaired == 1 and "1 characters that are not valid" in run.said[0]


def test_bad_bytes_in_an_encoding_are_bad_text(tmp_path, run):
    (tmp_path / "a.jsonl").write_bytes(json_lines(LINES, "gbk") + b'{"text": "\xff"}\n')
    said = refusal(lambda: run(tmp_path / "a.jsonl", encoding="gbk", on_bad_text="fail"))
    assert f"a.jsonl:{len(LINES) + 1}: '\ufffd': text that is not Unicode (invalid gbk, or half of a" in said
    assert run(tmp_path / "a.jsonl", output="kept", encoding="gbk").repaired == 1
    said = refusal(lambda: run(tmp_path / "a.jsonl", output="wrong", encoding="shift_jis"))
    assert "characters are not valid shift_jis" in said and "\n  gb18030: " in said
    (tmp_path / "b.txt").write_text(LINES[0])
    said = refusal(lambda: run(tmp_path / "b.txt", output="utf8", encoding="gbk"))
    assert "b.txt: is UTF-8, which --encoding gbk would misread" in said


def test_lines_of_two_encodings_are_to_be_converted(tmp_path, run):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["crème brûlée"] * 50, "cp1252") + json_lines(LINES))
    said = refusal(lambda: run(tmp_path / "a.jsonl"))
    assert "Some lines are UTF-8; convert the others. Their encoding may be one of these:\n  cp1252: " in said
    assert "--encoding NAME" not in said


def test_rejected_lines_suggest_the_encoding_too(tmp_path, run):
    (tmp_path / "a.jsonl").write_bytes(json_lines(LINES, "utf-16-le"))
    said = refusal(lambda: run(tmp_path / "a.jsonl"))
    assert "documents cannot be read" in said and "such as --encoding utf_16_le" in said
    assert run(tmp_path / "a.jsonl", encoding="utf-16-le").totals("train").documents == len(LINES)


def test_standard_input(tmp_path, run, monkeypatch):
    data = json_lines(["表ソ能", "あ"], "shift_jis")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run("-", encoding="shift_jis").totals("train").bytes == len("表ソ能あ".encode())
    said = refusal(lambda: run("-", output="x", encoding="shift_jis", format="parquet"))
    assert said.startswith(
        "--encoding shift_jis: - is parquet, a format that determines the encoding of its text"
    )
    assert not (tmp_path / "x.partial").exists()


@pytest.mark.parametrize("options", [{}, {"min_chars": 3}, {"normalizer": "builtins:str"}, {"deduplicate": True}])
def test_characters_are_those_that_were_read_whatever_is_done_with_them(tmp_path, run, monkeypatch, options):
    texts = ["é", "a text", "", "第一", "a text", "第一篇文章" * 1000]
    (tmp_path / "a.jsonl").write_bytes(json_lines(texts))
    results = []
    assemble = driver.assemble

    def keep(job, tokenizer, tasks, identity):
        results.extend(tasks_module.load_result(tasks_module.task_folder(job, task)) for task in tasks)
        return assemble(job, tokenizer, tasks, identity)

    monkeypatch.setattr(driver, "assemble", keep)
    run(tmp_path / "a.jsonl", **options)
    assert [(result.characters, result.replaced) for result in results] == [(len("".join(texts)), 0)]

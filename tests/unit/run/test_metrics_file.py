import json

import pytest

from gpt2dist.errors import RunError
from gpt2dist.run import metrics_file as metrics_module
from gpt2dist.run.metrics_file import Metrics, cut_back, read, read_tail


def write(path, *lines):
    metrics = Metrics(path)
    for line in lines:
        metrics.write(line)
    metrics.close()


def test_a_line_is_an_object_with_step_time_and_tags(tmp_path):
    line = {"step": 3, "time": 12.346, "train/loss": 2.5, "samples/0": "ü\n"}
    write(tmp_path / "m.jsonl", line)
    assert [json.loads(text) for text in (tmp_path / "m.jsonl").read_text().splitlines()] == [line]


def test_nothing_is_cut_from_what_is_not_there(tmp_path):
    assert list(cut_back(tmp_path / "m.jsonl", 0, True)) == []
    assert not (tmp_path / "m.jsonl").exists()


def test_what_lies_beyond_the_checkpoint_is_dropped(tmp_path):
    path = tmp_path / "m.jsonl"
    lines = [{"step": step, "time": 0.0, "train/loss": float(step)} for step in range(1, 6)]
    write(path, *lines)
    assert list(cut_back(path, 3, True)) == read(path) == lines[:3]
    write(path, {"step": 4, "time": 1.0, "train/loss": 40.0})
    assert [line["train/loss"] for line in read(path)] == [1.0, 2.0, 3.0, 40.0]


def test_a_line_that_a_crash_tore_off_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "a": 2}\n{"step": 2, "a"')
    assert read(path) == [{"step": 1, "a": 2}]
    cut_back(path, 1, True)
    assert path.read_text() == '{"step": 1, "a": 2}\n'


def test_a_tear_through_a_character_is_a_tear_too(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes('{"step": 1, "a": 2}\n{"step": 2, "samples/0": "ü'.encode()[:-1])
    cut_back(path, 1, True)
    write(path, {"step": 2, "a": 3})
    assert [line["a"] for line in read(path)] == [2, 3]


def test_a_sample_with_characters_that_end_lines_elsewhere_survives_a_resume(tmp_path):
    path, text = tmp_path / "m.jsonl", "a\u2028b\x85c\x1cd\r\ne"
    write(path, {"step": 1, "samples/0": text}, {"step": 2, "a": 1})
    cut_back(path, 1, True)
    assert [line["samples/0"] for line in read(path)] == [text]


def test_every_line_is_json_also_when_training_diverges(tmp_path):
    values = {"train/loss": float("nan"), "train/grad_norm": float("inf"), "train/lr": 0.5}
    write(tmp_path / "m.jsonl", {"step": 1, **values})
    line = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=lambda name: f"{name} is no JSON")
    assert (line["train/loss"], line["train/grad_norm"], line["train/lr"]) == (None, None, 0.5)


def test_an_observation_that_was_cut_short_is_made_again(tmp_path):
    path = tmp_path / "m.jsonl"
    # of two validation sets the second was not reached
    write(path, {"step": 1, "train/loss": 3.0}, {"step": 1, "eval/first/loss": 2.0})
    cut_back(path, 1, False)
    assert read(path) == [{"step": 1, "train/loss": 3.0}]


@pytest.mark.parametrize("tail_bytes", [1, 40, 10**6])
def test_the_tail_goes_back_to_a_line_with_the_tag_and_has_whole_lines_only(tmp_path, monkeypatch, tail_bytes):
    monkeypatch.setattr(metrics_module, "TAIL_BYTES", tail_bytes)
    path = tmp_path / "m.jsonl"
    write(path, *({"step": step, "train/loss": float(step)} for step in range(1, 10)))
    write(path, *({"step": 9, f"samples/{number}": "ein süßer Text"} for number in range(50)))
    with path.open("ab") as file:
        file.write(b'{"step": 10, "train/loss": 1')
    tail = read_tail(path, "train/loss")
    assert tail == read(path)[-len(tail) :]
    assert any("train/loss" in line for line in tail)
    assert read_tail(path, "train/accuracy") == read(path)


@pytest.mark.parametrize("what", ["run", "run/m.jsonl"])
def test_a_deleted_run_directory_ends_the_run_at_the_next_line(tmp_path, what):
    (tmp_path / "run").mkdir()
    metrics = Metrics(tmp_path / "run/m.jsonl")
    metrics.write({"step": 1, "time": 0.0})
    (tmp_path / what).rename(tmp_path / "elsewhere")
    with pytest.raises(RunError) as ended:
        metrics.write({"step": 2, "time": 0.0})
    metrics.close()
    assert str(ended.value).startswith(
        f"{tmp_path / what}: was deleted or moved while the run trained, so that its"
    )


def test_a_replaced_file_is_continued(tmp_path):
    path = tmp_path / "m.jsonl"
    metrics = Metrics(path)
    metrics.write({"step": 1, "time": 0.0})
    (tmp_path / "new").write_text(path.read_text())
    (tmp_path / "new").replace(path)
    metrics.write({"step": 2, "time": 0.0})
    metrics.close()
    assert [line["step"] for line in read(path)] == [1, 2]

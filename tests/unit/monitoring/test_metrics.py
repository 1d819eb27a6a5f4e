import json

import pytest

from gpt2dist.monitoring import metrics as metrics_module
from gpt2dist.monitoring.metrics import Metrics, read, read_tail


class Recorder:
    """A mirror that remembers what it was told."""

    def __init__(self):
        self.lines, self.closed = [], False

    def write(self, line):
        self.lines.append(line)

    def rebuild(self, lines):
        self.lines = list(lines)

    def close(self):
        self.closed = True


def test_a_line_is_an_object_with_step_time_and_tags(tmp_path):
    mirror = Recorder()
    metrics = Metrics(tmp_path / "m.jsonl", 0, True, [mirror])
    metrics.write(3, 12.34567, {"train/loss": 2.5, "samples/0": "ü\n"})
    metrics.close()
    (line,) = (tmp_path / "m.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 3, "time": 12.346, "train/loss": 2.5, "samples/0": "ü\n"}
    assert mirror.lines == [json.loads(line)]
    assert mirror.closed


def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint_and_mirrors_follow(tmp_path):
    path = tmp_path / "m.jsonl"
    before = Metrics(path, 0, True, [])
    for step in range(1, 6):
        before.write(step, 0, {"train/loss": float(step)})
    before.close()
    mirror = Recorder()
    after = Metrics(path, 3, True, [mirror])
    after.write(4, 1, {"train/loss": 40.0})
    after.close()
    assert [(line["step"], line["train/loss"]) for line in read(path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 40.0),
    ]
    assert mirror.lines == read(path)


def test_mirrors_get_again_what_they_may_have_lost(tmp_path):
    path = tmp_path / "m.jsonl"
    before = Metrics(path, 0, True, [])
    before.write(1, 0, {"a": 1})
    before.close()
    mirror = Recorder()
    Metrics(path, 1, True, [mirror]).close()
    assert mirror.lines == read(path) != []


def test_a_line_that_a_crash_tore_off_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "a": 2}\n{"step": 2, "a"')
    assert read(path) == [{"step": 1, "a": 2}]
    Metrics(path, 1, True, []).close()
    assert path.read_text() == '{"step": 1, "a": 2}\n'


def test_a_tear_through_a_character_is_a_tear_too(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes('{"step": 1, "a": 2}\n{"step": 2, "samples/0": "ü'.encode()[:-1])
    metrics = Metrics(path, 1, True, [])
    metrics.write(2, 0.0, {"a": 3})
    metrics.close()
    assert [line["a"] for line in read(path)] == [2, 3]


def test_a_sample_with_characters_that_end_lines_elsewhere_survives_a_resume(tmp_path):
    path, text = tmp_path / "m.jsonl", "a\u2028b\x85c\x1cd\r\ne"
    before = Metrics(path, 0, True, [])
    before.write(1, 0.0, {"samples/0": text})
    before.write(2, 0.0, {"a": 1})
    before.close()
    Metrics(path, 1, True, []).close()
    assert [line["samples/0"] for line in read(path)] == [text]


def test_every_line_is_json_also_when_training_diverges(tmp_path):
    mirror = Recorder()
    metrics = Metrics(tmp_path / "m.jsonl", 0, True, [mirror])
    metrics.write(1, 0.0, {"train/loss": float("nan"), "train/grad_norm": float("inf"), "train/lr": 0.5})
    metrics.close()
    line = json.loads((tmp_path / "m.jsonl").read_text(), parse_constant=lambda name: f"{name} is no JSON")
    assert (line["train/loss"], line["train/grad_norm"], line["train/lr"]) == (None, None, 0.5)
    assert mirror.lines[0]["train/grad_norm"] == float("inf")  # TensorBoard can show it


def test_an_observation_that_was_cut_short_is_made_again(tmp_path):
    path = tmp_path / "m.jsonl"
    before = Metrics(path, 0, True, [])
    before.write(1, 0.0, {"train/loss": 3.0})
    before.write(1, 0.0, {"eval/first/loss": 2.0})  # the second set was not reached
    before.close()
    Metrics(path, 1, False, []).close()
    assert [set(line) - {"step", "time"} for line in read(path)] == [{"train/loss"}]


@pytest.mark.parametrize("tail_bytes", [1, 40, 10**6])
def test_the_tail_goes_back_to_a_line_with_the_tag_and_has_whole_lines_only(tmp_path, monkeypatch, tail_bytes):
    monkeypatch.setattr(metrics_module, "TAIL_BYTES", tail_bytes)
    path = tmp_path / "m.jsonl"
    metrics = Metrics(path, 0, True, [])
    for step in range(1, 10):
        metrics.write(step, 0, {"train/loss": float(step)})
    for number in range(50):
        metrics.write(9, 0, {f"samples/{number}": "ein süßer Text"})
    metrics.close()
    with path.open("ab") as file:
        file.write(b'{"step": 10, "train/loss": 1')
    tail = read_tail(path, "train/loss")
    assert tail == read(path)[-len(tail) :]
    assert any("train/loss" in line for line in tail)
    assert read_tail(path, "train/accuracy") == read(path)

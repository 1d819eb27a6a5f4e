import json
import random

import pytest

from gpt2dist.errors import RunError, UserError
from gpt2dist.run import metrics_file as metrics_module
from gpt2dist.run.metrics_file import Metrics, MetricsHistory, cut_back, read, read_tail
from tests.support.histories import bytes_read, history_of


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


def scattered(draw, path):
    """Lines whose steps often repeat or jump, some of them long, with malformed ones in between."""
    lines, step = [], 0
    with path.open("w") as file:
        for number in range(draw.choice([0, 1, 3, 50, 400])):
            step += draw.choice([0, 1, 1, 5])
            tag, pad = draw.choice(["train/loss", "eval/a/loss"]), "x" * draw.choice([0, 10, 300, 9000])
            lines.append({"step": step, "time": float(number), tag: draw.random(), "samples/0": pad})
            file.write(json.dumps(lines[-1]) + "\n")
            file.write(draw.choice(["", "", "", "garbage\n", "\n", "{}\n", "\0\0\n"]))
    return lines, step


@pytest.mark.parametrize("seed", range(20))
def test_a_history_is_divided_at_any_step_and_read_in_either_direction(tmp_path, seed):
    draw, path = random.Random(seed), tmp_path / "m.jsonl"
    lines, last = scattered(draw, path)
    history = MetricsHistory(path)
    assert list(history) == lines and list(reversed(history)) == lines[::-1]
    assert list(history.containing("eval/a/")) == [line for line in lines if "eval/a/loss" in line]
    for step in range(0, last + 3, 1 + last // 20):
        before, others = history.split(step)
        assert list(before) == [line for line in lines if line["step"] < step]
        assert list(others) == [line for line in lines if line["step"] >= step]
        assert list(reversed(others)) == list(others)[::-1]
        assert history.at(step) == [line for line in lines if line["step"] == step]
    with path.open("ab") as file:
        file.write(draw.choice([b"", b'{"step": 1', b"\0\0\0"]))
    step = draw.randrange(last + 2)
    kept = cut_back(path, step, True)
    assert list(kept) == read(path) == [line for line in lines if line["step"] <= step]
    assert path.read_bytes()[-1:] in (b"", b"\n")


def test_a_last_line_that_lacks_only_its_newline_is_kept(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "a": 2}\n{"step": 2, "a": 3}')
    assert [line["a"] for line in cut_back(path, 2, True)] == [2, 3]
    write(path, {"step": 3, "a": 4})
    assert [line["a"] for line in read(path)] == [2, 3, 4]


def test_what_a_resume_reads_does_not_depend_on_the_length_of_the_run(tmp_path, monkeypatch):
    found = {}
    for count in (2000, 200_000):
        lines = ({"step": step, "time": 1.0, "train/loss": 2.0} for step in range(10**6 - count, 10**6))
        path = history_of(tmp_path, lines).path
        with bytes_read(monkeypatch) as counted:
            kept = cut_back(path, 999_900, True)
            assert [line["step"] for line in kept.split(999_899)[1]] == [999_899, 999_900]
            assert next(reversed(kept))["step"] == 999_900
        found[count] = counted.total, counted.opened
    assert found[2000] == found[200_000]
    assert found[2000][0] < 2**19


def test_a_file_that_cannot_be_cut_is_named_with_the_way_out(tmp_path):
    (tmp_path / "m.jsonl").mkdir()
    with pytest.raises(UserError) as refusal:
        cut_back(tmp_path / "m.jsonl", 1, True)
    assert str(refusal.value) == (
        f"{tmp_path}/m.jsonl: not a regular file; move it away: the run then starts a new one"
    )

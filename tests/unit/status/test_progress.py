import json

from gpt2dist.status.progress import read_progress


def test_the_progress_follows_from_the_last_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "time": 10.5 + step, "train/loss": float(step)} for step in range(1, 100)]
    lines.append({"step": 99, "time": 400, "samples/0": 'say "train/loss": 1', "time/step_max_rank": 3})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_text(text + '{"step": 101, "time": 402.5, "train/loss": 1')  # a line that is being written
    progress = read_progress(path)
    assert progress.last == lines[98]
    assert progress.times == [*(10.5 + step for step in range(1, 100)), 400]
    assert progress.trained == [(step, 10.5 + step) for step in range(1, 100)]


def test_without_a_file_all_is_empty(tmp_path):
    assert read_progress(tmp_path / "metrics.jsonl") == ({}, [], [], [])

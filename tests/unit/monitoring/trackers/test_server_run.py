import json
import math

import pytest

from gpt2dist.errors import UserError
from gpt2dist.monitoring.trackers.server_run import BestLosses, ServerRun
from gpt2dist.run.metrics_file import Metrics, read


def test_a_tracker_knows_its_run_and_what_it_sent_at_the_next_start(tmp_path):
    first = ServerRun(tmp_path, "wandb")
    assert first.id is None
    first.begin("abc")
    first.note(3, {"train/loss": 0.1, "time/step": 2.0})
    second = ServerRun(tmp_path, "wandb")
    assert second.id == "abc" and ServerRun(tmp_path, "mlflow").id is None
    assert not second.is_new(3, {"train/loss": 0.1, "time/step": 5.0})  # only measured anew
    assert second.is_new(4, {"train/loss": 0.1}) and second.is_new(3, {"train/loss": 0.2})
    assert second.is_new(3, {"samples/0": "text"})


def test_a_new_run_has_been_sent_nothing(tmp_path):
    server_run = ServerRun(tmp_path, "wandb")
    server_run.begin("abc")
    server_run.note(3, {"a": 0.1})
    server_run.begin("def")
    for each in (server_run, ServerRun(tmp_path, "wandb")):
        assert each.id == "def" and each.is_new(3, {"a": 0.1})


def test_values_are_known_again_after_they_went_through_the_file(tmp_path):
    line = {"step": 3, "time": 0.5, "train/loss": 1 / 3, "b": math.nan, "c": math.inf, "progress/tokens": 2**40}
    server_run = ServerRun(tmp_path, "wandb")
    server_run.begin("abc")
    server_run.note(3, {tag: value for tag, value in line.items() if tag not in ("step", "time")})
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write(line)
    metrics.close()
    (found,) = read(tmp_path / "metrics.jsonl")
    values = {tag: v for tag, v in found.items() if tag not in ("step", "time") and v is not None}
    assert values == {"train/loss": 1 / 3, "progress/tokens": 2**40} and not server_run.is_new(3, values)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("run.json", b"{}", "run.json lacks the text id"),
        ("run.json", b'{"id": 7}', "run.json lacks the text id"),
        ("run.json", b"{", "not JSON"),
        ("run.json", b"\xff", "not UTF-8"),
        ("sent", None, "not a regular file"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, name, content, problem):
    ServerRun(tmp_path, "wandb").begin("abc")
    path = tmp_path / "trackers/wandb" / name
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        ServerRun(tmp_path, "wandb")
    message = str(refusal.value)
    assert message.startswith(f"{path.parent}: ") and problem in message
    assert message.endswith("; move it away: wandb then begins a new run with the whole history")


def test_a_truncated_record_of_what_was_sent_only_sends_again(tmp_path):
    server_run = ServerRun(tmp_path, "wandb")
    server_run.begin("abc")
    for step in (1, 2):
        server_run.note(step, {"a": 1.0})
    path = tmp_path / "trackers/wandb/sent"
    path.write_bytes(path.read_bytes()[:-5])
    again = ServerRun(tmp_path, "wandb")
    assert not again.is_new(1, {"a": 1.0}) and again.is_new(2, {"a": 1.0})


def test_the_lowest_loss_of_each_set_and_the_first_step_with_it():
    best = BestLosses()
    assert best.update(1, {"train/loss": 1.0}) == {}
    assert best.update(2, {"eval/a/loss": 3.0, "eval/a/perplexity": 2.0}) == {
        "best/a/loss": 3.0,
        "best/a/step": 2,
    }
    assert best.update(3, {"eval/b/loss": 9.0}) == {"best/b/loss": 9.0, "best/b/step": 3}
    assert best.update(4, {"eval/a/loss": 2.0}) == {"best/a/loss": 2.0, "best/a/step": 4}
    assert best.update(5, {"eval/a/loss": 2.5}) == best.update(6, {"eval/a/loss": 2.0})
    assert best.update(7, {"eval/a/loss": 2.0}) == {"best/a/loss": 2.0, "best/a/step": 4}
    assert best.update(8, {"eval/a/loss": math.nan}) == {}


def test_the_id_is_json_that_people_can_read(tmp_path):
    ServerRun(tmp_path, "mlflow").begin("abc")
    assert json.loads((tmp_path / "trackers/mlflow/run.json").read_text()) == {"id": "abc"}

import json
import sys

import pytest

from gpt2dist.monitoring.trackers import TRACKERS, Trackers
from gpt2dist.monitoring.trackers import wandb as module
from tests.support.histories import history_of
from tests.support.tracker_libraries import Wandb, offline_records

SETTINGS = {"model.n_layer": 2, "optimizer.lr": 0.1}


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the library; at first online."""
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    library = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", library)
    return library


def line(step, **values):
    return {"step": step, "time": 100.0 + step, **(values or {"train/loss": 1 / step})}


def start(run, history=(), settings=SETTINGS):
    trackers = Trackers({"wandb": module.WeightsAndBiases})
    trackers.start(settings, run, history_of(run, history))
    return trackers


def track(run, lines, history=(), kill=False):
    """A start of a run that sends lines."""
    trackers = start(run, history)
    for each in lines:
        trackers.send(each)
    if not kill:
        trackers.close(failed=False)


def steps(rows):
    return [row["step"] for row in rows if "train/loss" in row]


def test_it_is_known_by_its_name_where_the_library_is(monkeypatch):
    monkeypatch.setattr("gpt2dist.registry._is_installed", lambda package: package == "wandb")
    assert TRACKERS.get("wandb") is module.WeightsAndBiases


def test_a_row_has_the_values_with_the_step_as_the_axis(wandb, tmp_path):
    track(tmp_path, [line(1), line(1, **{"eval/val/loss": 2.0}), line(2, **{"samples/0": "a <b>\n&"})])
    (options,) = wandb.starts
    assert {key: options[key] for key in ("project", "name", "config", "resume", "dir")} == {
        **{
            "project": "gpt2dist",
            "name": tmp_path.name,
            "config": SETTINGS,
            "resume": "allow",
            "dir": str(tmp_path),
        }
    }
    assert wandb.run.metrics == {"step": None, "*": "step"} and wandb.run.finished == 0
    assert wandb.rows[options["id"]] == [
        {"train/loss": 1.0, "step": 1, "_timestamp": 101.0},
        {"eval/val/loss": 2.0, "best/val/loss": 2.0, "best/val/step": 1, "step": 1, "_timestamp": 101.0},
        {"samples/0": "<pre>a &lt;b&gt;\n&amp;</pre>", "step": 2, "_timestamp": 102.0},
    ]


def test_all_starts_of_a_run_directory_are_one_run_and_each_step_is_there_once(wandb, tmp_path):
    lines = [line(step) for step in range(1, 7)]
    track(tmp_path, lines[:4])
    track(tmp_path, lines[2:], history=lines[:2])  # as after a resume from step 2
    track(tmp_path, [], history=lines)
    assert len({options["id"] for options in wandb.starts}) == 1 == len(wandb.rows)
    assert [options["name"] for options in wandb.starts] == [tmp_path.name, None, None]
    assert steps(*wandb.rows.values()) == [1, 2, 3, 4, 5, 6]


def test_a_step_that_goes_another_way_is_sent_as_well(wandb, tmp_path):
    track(tmp_path, [line(1), line(2)])
    track(tmp_path, [line(2, **{"train/loss": 9.0})], history=[line(1)])
    (rows,) = wandb.rows.values()
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 1.0), (2, 0.5), (2, 9.0)]


def test_what_a_killed_process_may_not_have_uploaded_is_sent_again(wandb, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    trackers = start(tmp_path)
    for step in (1, 2, 3):
        now[0] += 100
        trackers.send(line(step))  # at 300 seconds, what is older than 180 has arrived
    wandb.rows[wandb.starts[0]["id"]][1:] = []
    track(tmp_path, [line(4)], history=[line(1), line(2), line(3)])
    assert steps(*wandb.rows.values()) == [1, 2, 3, 4]


def test_a_tracker_that_is_added_later_gets_the_history(wandb, tmp_path):
    track(tmp_path, [line(3)], history=[line(1), line(2)])
    assert steps(*wandb.rows.values()) == [1, 2, 3]


def test_a_run_that_the_server_lost_is_sent_whole(wandb, tmp_path):
    track(tmp_path, [line(1), line(2)])
    wandb.rows.clear()
    track(tmp_path, [line(3)], history=[line(1), line(2)])
    assert steps(*wandb.rows.values()) == [1, 2, 3]


def test_offline_each_start_records_the_whole_run(wandb, tmp_path):
    wandb.mode = "offline"
    track(tmp_path, [line(1), line(2)], kill=True)
    track(tmp_path, [line(2), line(3)], history=[line(1)])
    first, second = wandb.starts
    assert first["id"] == second["id"] and first["resume"] is second["resume"] is None
    assert steps(wandb.rows[first["id"]]) == [1, 2, 3]


def test_the_variables_of_the_library_are_honoured(wandb, tmp_path, monkeypatch):
    values = {"WANDB_PROJECT": "p", "WANDB_NAME": "n", "WANDB_DIR": "/d", "WANDB_RUN_ID": "i"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    track(tmp_path, [])
    assert [wandb.starts[0][key] for key in ("project", "name", "dir", "id")] == list(values.values())


def test_the_summary_names_the_best_checkpoint_and_a_failure_has_an_exit_code(wandb, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best").write_text("step-00000004")
    start(tmp_path).close(failed=True)
    assert wandb.run.summary == {"best/checkpoint": "step-00000004"} and wandb.run.finished == 1


def test_the_library_records_one_run_offline(tmp_path, monkeypatch):
    """Read back what W&B wrote."""
    wandb = pytest.importorskip("wandb", reason="W&B is an extra: pip install 'gpt2dist[wandb]'")
    from wandb.proto import wandb_internal_pb2 as protocol

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    lines = [line(1), line(1, **{"samples/0": "<b>"}), line(2), line(2, **{"eval/val/loss": 3.0}), line(3)]
    for name, sent, history in (("one", lines[:4], []), ("two", lines[2:], lines[:2])):
        (
            tmp_path / name
        ).mkdir()  # the name of W&B's directory has seconds, of which the two starts may share one
        monkeypatch.setenv("WANDB_DIR", str(tmp_path / name))
        track(tmp_path, sent, history)
    wandb.teardown()  # its process may close the files after `finish`
    paths = [*tmp_path.glob("one/wandb/offline-run-*/*.wandb"), *tmp_path.glob("two/wandb/offline-run-*/*.wandb")]
    starts = [[protocol.Record.FromString(data) for data in offline_records(path)] for path in paths]
    first, second = ([each.run for each in records if each.HasField("run")] for records in starts)
    identity = json.loads((tmp_path / "trackers/wandb/run.json").read_text())["id"]
    assert {each.run_id for each in (*first, *second)} == {identity}
    settings = {item.key: json.loads(item.value_json) for item in second[0].config.update}
    assert settings == settings | SETTINGS
    rows = [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in each.history.item}
        for each in starts[1]
        if each.HasField("history")
    ]
    assert [(row["step"], row["_timestamp"]) for row in rows] == [(each["step"], each["time"]) for each in lines]
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [1, 1 / 2, 1 / 3]
    assert (rows[3]["best/val/loss"], rows[3]["best/val/step"]) == (3.0, 2)
    (page,) = tmp_path.glob("two/wandb/offline-run-*/files/media/html/samples/*.html")
    assert "<pre>&lt;b&gt;</pre>" in page.read_text()

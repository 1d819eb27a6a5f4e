import sys

import pytest

from gpt2dist.errors import UserError
from gpt2dist.monitoring.trackers import TRACKERS, Trackers
from gpt2dist.monitoring.trackers import mlflow as module
from tests.support.histories import history_of
from tests.support.tracker_libraries import MLflow

SETTINGS = {"model.n_layer": 2, "optimizer.lr": 0.1}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def mlflow(monkeypatch):
    """A stand-in for the library."""
    library = MLflow()
    for name, each in library.modules().items():
        monkeypatch.setitem(sys.modules, name, each)
    return library


def line(step, **values):
    return {"step": step, "time": 100.0 + step, **(values or {"train/loss": 1 / step})}


def start(run, history=(), settings=SETTINGS):
    trackers = Trackers({"mlflow": module.MLflow})
    trackers.start(settings, run, history_of(run, history))
    return trackers


def track(run, lines, history=(), settings=SETTINGS):
    """A start of a run that sends lines."""
    trackers = start(run, history, settings)
    for each in lines:
        trackers.send(each)
    trackers.close(failed=False)


def test_it_is_known_by_its_name_where_the_library_is(monkeypatch):
    monkeypatch.setattr("gpt2dist.registry._is_installed", lambda package: package == "mlflow")
    assert TRACKERS.get("mlflow") is module.MLflow


def test_a_run_has_parameters_metrics_files_and_an_end(mlflow, tmp_path):
    (tmp_path / "config.yaml").write_text("model: {}")
    evaluation = {"eval/val/loss": 2.0, "progress/tokens": 9}
    lines = [
        line(1, **{"train/loss": 3.0, "progress/tokens": 9}),
        line(1, **evaluation),
        line(2, **{"samples/0": "ü"}),
    ]
    track(tmp_path, lines)
    (run,) = mlflow.runs.values()
    assert mlflow.experiments == ["gpt2dist"] and (run.name, run.status) == (tmp_path.name, "FINISHED")
    assert run.params == {"model.n_layer": "2", "optimizer.lr": "0.1"}
    assert run.metrics == {
        "train/loss": [(1, 3.0, 101000)],
        "progress/tokens": [(1, 9, 101000)],
        "eval/val/loss": [(1, 2.0, 101000)],
        "best/val/loss": [(1, 2.0, 101000)],
        "best/val/step": [(1, 1, 101000)],
    }
    assert run.files == {"config.yaml": "model: {}", "samples/0/step-00000002.txt": "ü"}


def test_all_starts_of_a_run_directory_are_one_run_and_each_step_is_there_once(mlflow, tmp_path):
    lines = [line(step) for step in range(1, 7)]
    track(tmp_path, lines[:4])
    track(tmp_path, lines[2:], history=lines[:2])  # as after a resume from step 2
    (run,) = mlflow.runs.values()
    assert [(step, value) for step, value, _ in run.metrics["train/loss"]] == [(n, 1 / n) for n in range(1, 7)]
    assert mlflow.experiments == ["gpt2dist"]  # a run stays where it began


def test_a_tracker_that_is_added_later_gets_the_history(mlflow, tmp_path):
    track(tmp_path, [line(3)], history=[line(1), line(2)])
    assert [step for step, *_ in mlflow.runs["run0"].metrics["train/loss"]] == [1, 2, 3]


def test_a_long_history_goes_in_few_requests(mlflow, tmp_path):
    numbers = {f"tag{number}": 1.0 for number in range(7)}
    history = [line(step, **(numbers if step % 1000 else {"samples/0": "a"})) for step in range(1, 2001)]
    track(tmp_path, [], history)
    (run,) = mlflow.runs.values()
    assert [step for step, *_ in run.metrics["tag6"]] == [step for step in range(1, 2001) if step % 1000]
    assert len(run.files) == 2
    tracker, _ = start(tmp_path, history)._at_work["mlflow"]
    before = mlflow.requests
    tracker._waiting.extend(
        module._Line(step, numbers, [(tag, 1.0, 0, step) for tag in numbers]) for step in range(300)
    )
    tracker._work()
    assert mlflow.requests - before == 3  # 142 lines of 7 metrics in a request


def test_a_parameter_that_changes_becomes_a_tag_and_a_new_one_is_added(mlflow, tmp_path):
    track(tmp_path, [line(1)])
    changed = {"model.n_layer": 2, "optimizer.lr": 0.2, "batch.accumulation": 4}
    track(tmp_path, [line(2)], history=[line(1)], settings=changed)
    (run,) = mlflow.runs.values()
    assert run.params == {"model.n_layer": "2", "optimizer.lr": "0.1", "batch.accumulation": "4"}
    assert run.tags == {"changed.optimizer.lr": "0.2 from step 1"}


def test_any_number_of_parameters_and_any_name(mlflow, tmp_path):
    settings = {f"data.train.{number}.weight": 1.0 for number in range(250)} | {"data.train.0.größe?": 1}
    track(tmp_path, [line(1, **{"probe/ä(1)": 1.0})], settings=settings)
    (run,) = mlflow.runs.values()
    assert len(run.params) == 251 and run.params["data.train.0.größe_"] == "1"
    assert list(run.metrics) == ["probe/ä_1_"]


def test_the_variables_of_the_library_choose_the_experiment(mlflow, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    track(tmp_path, [])
    assert mlflow.experiments == [] and len(mlflow.runs) == 1


def test_a_server_that_fails_disables_the_tracker_and_the_next_start_sends_what_it_lacks(
    mlflow, tmp_path, caplog
):
    trackers = start(tmp_path)
    trackers.send(line(1))
    ((tracker, _),) = trackers._at_work.values()
    tracker._sender.submit(lambda: None).result()  # the first line has arrived
    mlflow.fails = True
    trackers.send(line(2))
    tracker._sender.submit(lambda: None).result()
    trackers.send(line(3))
    assert trackers._at_work == {}
    assert "mlflow failed (ConnectionError: the server is gone) and is disabled" in caplog.text
    mlflow.fails = False  # and in the same process, where the run of the first start is still active
    track(tmp_path, [line(4)], history=[line(1), line(2), line(3)])
    (run,) = mlflow.runs.values()
    assert [step for step, *_ in run.metrics["train/loss"]] == [1, 2, 3, 4]


def test_a_server_that_fails_at_the_end_is_told(mlflow, tmp_path, caplog):
    trackers = start(tmp_path)
    mlflow.fails = True
    trackers.send(line(1))
    trackers.close(failed=True)
    assert "mlflow failed (ConnectionError: the server is gone)" in caplog.text
    assert mlflow.runs["run0"].status == "FAILED"


def test_a_store_without_the_run_is_refused_with_the_ways_out(mlflow, tmp_path):
    track(tmp_path, [line(1)])
    mlflow.runs.clear()
    with pytest.raises(UserError) as refusal:
        start(tmp_path)
    assert str(refusal.value) == (
        "monitoring.trackers: mlflow: sqlite:///mlflow.db does not give the run run0 of the earlier starts (Run "
        "with id=run0 not found); set MLFLOW_TRACKING_URI to their store, or move "
        f"{tmp_path}/trackers/mlflow away to begin a new run with the whole history"
    )


def test_a_tag_names_the_best_checkpoint(mlflow, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/best").write_text("step-00000004")
    track(tmp_path, [])
    assert mlflow.runs["run0"].tags == {"best.checkpoint": "step-00000004"}


def test_the_library_keeps_one_run_in_a_local_store(tmp_path, monkeypatch):
    """Read back what MLflow stored."""
    mlflow = pytest.importorskip("mlflow", reason="MLflow is an extra: pip install 'gpt2dist[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="a local store needs all of MLflow: pip install 'gpt2dist[mlflow]'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "gpt2"
    run.mkdir()
    (run / "config.yaml").write_text("model: {}")
    odd = {"eval/val/loss": 2.0, "train/loss": float("inf"), "a": float("nan"), "probe/ä(1)": 1.0}
    lines = [line(1), line(1, **{"samples/0": "ü"}), line(2), line(2, **odd), line(3)]
    track(run, lines[:4])
    track(run, lines[2:], history=lines[:2], settings=SETTINGS | {"optimizer.lr": 0.2})
    client = mlflow.MlflowClient()
    (found,) = client.search_runs([client.get_experiment_by_name("gpt2dist").experiment_id])
    identity, data = found.info.run_id, found.data
    assert (found.info.run_name, found.info.status) == ("gpt2", "FINISHED")
    assert data.params == {"model.n_layer": "2", "optimizer.lr": "0.1"}
    assert data.tags["changed.optimizer.lr"] == "0.2 from step 1"
    losses = client.get_metric_history(identity, "train/loss")
    assert [(each.step, each.timestamp) for each in losses] == [
        (1, 101000),
        (2, 102000),
        (2, 102000),
        (3, 103000),
    ]
    assert data.metrics["train/loss"] == 1 / 3 and data.metrics["best/val/loss"] == 2.0
    assert data.metrics["probe/ä_1_"] == 1.0
    assert {each.path for each in client.list_artifacts(identity)} == {"config.yaml", "samples"}
    (sample,) = client.list_artifacts(identity, "samples/0")
    assert sample.path == "samples/0/step-00000001.txt"

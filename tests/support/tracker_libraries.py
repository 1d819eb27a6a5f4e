"""Stand-ins for the libraries wandb and mlflow, with a server in memory; and a reader of W&B's offline files."""

import struct
import types
from collections import defaultdict
from pathlib import Path


class WandbRun:
    """A W&B run of one process; its rows go to the server."""

    def __init__(self, identity, rows, resumed):
        self.id, self.resumed, self.summary, self._rows = identity, resumed, {}, rows
        self.metrics = {}
        self.finished = None

    def define_metric(self, name, step_metric=None, hidden=None):
        self.metrics[name] = step_metric

    def log(self, row):
        self._rows.append(row)

    def finish(self, exit_code):
        self.finished = exit_code


class Wandb(types.ModuleType):
    """The module wandb. `rows` is what the server has, by run id. `starts` has the arguments of each `init`."""

    def __init__(self, mode="online"):
        super().__init__("wandb")
        self.mode, self.rows, self.starts, self.run = mode, {}, [], None

    def setup(self):
        return types.SimpleNamespace(settings=types.SimpleNamespace(mode=self.mode))

    def init(self, **options):
        self.starts.append(options)
        resumed = self.mode == "online" and options["resume"] == "allow" and options["id"] in self.rows
        if not resumed:
            self.rows[options["id"]] = []
        self.run = WandbRun(options["id"], self.rows[options["id"]], resumed)
        return self.run

    def Html(self, file):
        return file.read()


class MlflowException(Exception):
    """What mlflow raises."""


class MLflow(types.ModuleType):
    """The module mlflow and its client. `runs` is the store, by run id."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.experiments, self.fails, self._active = {}, [], False, None
        self.requests = 0
        self.exceptions = types.SimpleNamespace(MlflowException=MlflowException)
        self.entities = types.ModuleType("mlflow.entities")
        self.entities.Metric = lambda key, value, timestamp, step: (key, value, timestamp, step)
        self.entities.Param = lambda key, value: (key, value)

    def modules(self):
        return {"mlflow": self, "mlflow.entities": self.entities}

    def MlflowClient(self):
        return self

    def get_tracking_uri(self):
        return "sqlite:///mlflow.db"

    def set_experiment(self, name):
        self.experiments.append(name)

    def active_run(self):
        return self._active and types.SimpleNamespace(info=types.SimpleNamespace(run_id=self._active))

    def start_run(self, run_id, run_name):
        if self._active:
            raise MlflowException(f"Run with UUID {self._active} is already active")
        run_id = run_id or f"run{len(self.runs)}"
        run = self.runs.setdefault(
            run_id, types.SimpleNamespace(name=run_name, params={}, metrics=defaultdict(list), tags={}, files={})
        )
        run.status = "RUNNING"
        self._active = run_id
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

    def get_run(self, run_id):
        if run_id not in self.runs:
            raise MlflowException(f"Run with id={run_id} not found")
        return types.SimpleNamespace(data=self.runs[run_id])

    def log_batch(self, run_id, metrics=(), params=()):
        if self.fails:
            raise ConnectionError("the server is gone")
        assert len(params) <= 100 and len(metrics) <= 1000
        self.requests += 1
        self.runs[run_id].params |= dict(params)
        for key, value, timestamp, step in metrics:
            self.runs[run_id].metrics[key].append((step, value, timestamp))

    def set_tag(self, run_id, key, value):
        self.runs[run_id].tags[key] = value

    def log_text(self, run_id, text, path):
        self.runs[run_id].files[path] = text

    def log_artifact(self, run_id, path):
        self.runs[run_id].files[Path(path).name] = Path(path).read_text()

    def end_run(self, status="FINISHED"):
        self.runs[self._active].status, self._active = status, None


def offline_records(path):
    """Yield the records of a .wandb file as bytes: a log of LevelDB in blocks of 32 KiB after a header."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 2**15 - place % 2**15) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        place += 7 + length
        record += data[place - length : place]
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""

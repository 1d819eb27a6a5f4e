"""A tracker for tests: writes what it is told into calls.jsonl in the run directory."""

import json
import os


class FileTracker:
    """Appends each call to calls.jsonl in the run directory. A method that TRACKER_FAILS_IN names raises."""

    def start(self, hyperparameters, run, history):
        self._file = (run / "calls.jsonl").open("a")
        self._note("start", hyperparameters, str(run), len(list(history)))

    def log(self, step, time, values):
        self._note("log", step, time, values)

    def text(self, step, time, tag, text):
        self._note("text", step, time, tag, text)

    def close(self, failed):
        self._note("close", failed)
        self._file.close()

    def _note(self, *call):
        self._file.write(json.dumps(call) + "\n")
        self._file.flush()
        if os.environ.get("TRACKER_FAILS_IN") == call[0]:
            raise ConnectionError("the server is gone")


def calls_of(run):
    """Return the calls that a run's FileTracker recorded."""
    return [json.loads(line) for line in (run / "calls.jsonl").read_text().splitlines()]


class MemoryTracker:
    """Records its calls; the method named by `fails_in` raises."""

    def __init__(self, fails_in=""):
        self.calls, self.fails_in = [], fails_in

    def _note(self, *call):
        self.calls.append(call)
        if call[0] == self.fails_in:
            raise ConnectionError("the server is gone")

    def start(self, hyperparameters, run, history):
        self._note("start", hyperparameters, run, list(history))

    def log(self, *what):
        self._note("log", *what)

    def text(self, *what):
        self._note("text", *what)

    def close(self, *what):
        self._note("close", *what)

"""A tracker for tests: writes what it is told into diary.jsonl in the run directory."""

import json
import os


class Diary:
    """Remembers everything. Where DIARY_FAILS_IN names a method, that raises."""

    def start(self, hyperparameters, run, history):
        self._file = (run / "diary.jsonl").open("a")
        self._note("start", hyperparameters, str(run), len(history))

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
        if os.environ.get("DIARY_FAILS_IN") == call[0]:
            raise ConnectionError("the server is gone")


def entries(run):
    """The calls of a run's diary."""
    return [json.loads(line) for line in (run / "diary.jsonl").read_text().splitlines()]

"""Training hooks for tests, named from outside: they write what they are called with into the run directory."""

import json
import os

import torch

from gpt2dist.training.hooks import Hook


class CountingHook(Hook):
    """Appends each call to hook-RANK.jsonl in the run directory. HOOK_FAILS_IN=RANK:CALL raises in that call."""

    def start(self, trainer):
        self._rank = trainer.world.rank
        self._file = (trainer.config.output_dir / f"hook-{self._rank}.jsonl").open("a")
        self._note("start", trainer.step)

    def after_step(self, trainer, result):
        torch.rand(3)  # must not move the training's random numbers
        self._note("step", trainer.step, float(result.skipped))

    def after_log(self, trainer, values):
        self._note("log", trainer.step, values["train/loss"])

    def after_evaluation(self, trainer, values):
        self._note("evaluation", trainer.step, next(iter(values)))

    def after_save(self, trainer, checkpoint):
        self._note("save", checkpoint.name, (checkpoint / "manifest.json").is_file())

    def close(self, failed):
        self._note("close", failed)
        self._file.close()

    def _note(self, *call):
        self._file.write(json.dumps(call) + "\n")
        self._file.flush()
        if os.environ.get("HOOK_FAILS_IN") == f"{self._rank}:{call[0]}":
            raise ConnectionError("the server is gone")


class EvaluatingHook(CountingHook):
    """Evaluates something of its own every five steps."""

    def evaluate(self, trainer):
        if trainer.is_due(5):
            trainer.poll()
            tokens = torch.arange(8).view(2, 4)
            yield {"own/logits": trainer.engine.logits(tokens).sum().item(), "own/step": trainer.step}


def calls_of_hook(run, rank=0):
    """Return the calls that a run's CountingHook recorded on a rank."""
    return [json.loads(line) for line in (run / f"hook-{rank}.jsonl").read_text().splitlines()]

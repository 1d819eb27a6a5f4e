"""Run nanoGPT's train.py unchanged, and score its model on a whole validation set: for `time_to_loss.py`.

    python tools/bench/nanogpt_run.py CHECKOUT RECIPE.yaml CURVE.jsonl SEED OVERRIDES.json NANOGPT'S ARGUMENTS …

The recipe is a configuration of gpt2dist, which a JSON list of overrides changes. It names the datasets, whose
tokens nanoGPT receives, and how to score. Where train.py would save a checkpoint, the model is scored instead,
and the step, the CPU time and the loss are written.
"""

import json
import pickle
import runpy
import sys
import tempfile
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gpt2dist.config import Config
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.distributed.world import World
from gpt2dist.evaluation.held_out_text import HeldOut, default_split
from gpt2dist.evaluation.perplexity import score
from gpt2dist.loading.token_stream import LazyShard
from gpt2dist.model.loss import counted_mask

DATASET = "recipe"
"""Name of the data for nanoGPT."""


class Scorer:
    """Replacement of `torch.save` in train.py, called with each checkpoint.

    Args:
        config: The recipe.
        curve: File for the results, one JSON line each.
    """

    def __init__(self, config: Config, curve: Path):
        self.config = config
        self.curve = curve
        (validation,) = config.data.validation
        dataset = Manifest.load(Path(validation.path).resolve())  # train.py runs in another directory
        self.text = HeldOut.of_dataset(dataset, default_split(dataset))
        self.world = World(0, 0, 1, torch.device("cpu"))
        self.paused = 0.0
        self.began = 0.0

    def __call__(self, checkpoint: dict[str, Any], path: str) -> None:
        """Score a checkpoint; the time of this does not count."""
        import model  # nanoGPT's

        now = time.process_time()
        gpt = model.GPT(model.GPTConfig(**checkpoint["model_args"]))
        gpt.load_state_dict(checkpoint["model"])
        gpt.eval()

        def forward(tokens: Tensor, counted_from: Tensor, counted_to: Tensor) -> tuple[Tensor, Tensor]:
            inputs, targets = tokens[:, :-1].long(), tokens[:, 1:].long()
            logits, _ = gpt(inputs, targets)
            nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
            counted = counted_mask(targets, counted_from, counted_to)
            return nll.where(counted, 0), logits.argmax(-1) == targets

        length, how = self.config.data.sequence_length, self.config.evaluation
        sums = score(forward, self.text, length, how.stride or length, how.batch_size, self.world)
        line = {
            "step": checkpoint["iter_num"],
            "cpu_seconds": now - self.began - self.paused,
            "loss": sums.nll_sum / sums.targets,
        }
        with self.curve.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.paused += time.process_time() - now


def write_data(config: Config, home: Path) -> None:
    """Write train.bin, val.bin and meta.pkl as nanoGPT reads them."""
    home.mkdir(parents=True)
    (training,), (validation,) = config.data.train, config.data.validation
    for name, path in (("train", training.path), ("val", validation.path)):
        dataset = Manifest.load(Path(path).resolve())
        records = dataset.shards_of("train" if name == "train" else default_split(dataset))
        shards = [np.asarray(LazyShard(dataset, record, shuffled=False)) for record in records]
        np.concatenate(shards).astype(np.uint16).tofile(home / f"{name}.bin")
    (home / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": dataset.vocab_size}))


def main() -> None:
    """Train one run."""
    checkout, recipe, curve = (Path(word).resolve() for word in sys.argv[1:4])
    seed, overrides, arguments = int(sys.argv[4]), json.loads(sys.argv[5]), sys.argv[6:]
    if not (checkout / "train.py").is_file():
        sys.exit(f"--nanogpt: there is no {checkout}/train.py; give a checkout of nanoGPT")
    config = Config.read(recipe, *overrides)
    scorer = Scorer(config, curve)
    with tempfile.TemporaryDirectory() as home:
        write_data(config, Path(home) / "data" / DATASET)
        for name in ("configurator.py", "config"):
            (Path(home) / name).symlink_to(checkout / name)
        sys.path.insert(0, str(checkout))
        forced = ["--always_save_checkpoint=True", f"--dataset={DATASET}", "--out_dir=out"]
        sys.argv = ["train.py", *arguments, *forced]
        save, seeded = torch.save, torch.manual_seed

        def start(number: int) -> None:
            """Seed, as train.py asks for just before it builds the model."""
            seeded(number + seed)
            scorer.began = time.process_time()

        with chdir(home):  # where train.py looks for its files
            torch.save, torch.manual_seed = scorer, start
            try:
                runpy.run_path(str(checkout / "train.py"), run_name="__main__")
            finally:
                torch.save, torch.manual_seed = save, seeded


if __name__ == "__main__":
    main()

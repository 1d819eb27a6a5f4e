"""The loss curve of a small run on a CPU, as it was when the numerics were last changed on purpose.

After such a change: `python -m tests.golden.test_cpu_loss` prints the new curve; say why in CHANGELOG.md.
"""

import json
import random
import tempfile
from pathlib import Path

import pytest

from tests.support.runs import metrics, train, write_run

GOLDEN = Path(__file__).with_name("cpu_loss.json")


def golden_run(home: Path) -> Path:
    """A run on numbers from a fixed generator, character by character: no trained tokenizer is involved."""
    from gpt2dist.preprocessing import PreprocessingJob, prepare
    from gpt2dist.tokenizer.tokenizer import train_char

    draw = random.Random(7)
    text = "".join(
        f"{a} + {b} = {a + b}\n" for a, b in ((draw.randrange(99), draw.randrange(99)) for _ in range(500))
    )
    (home / "sums.txt").write_text(text)
    train_char([text]).save(home / "tokenizer")
    prepare(PreprocessingJob((str(home / "sums.txt"),), str(home / "tokenizer"), home / "dataset"))
    return train(write_run(home, home / "dataset"), "model.dropout=0.1", "zero.stage=1", world_size=2)


def test_the_loss_curve_is_the_golden_one(tmp_path):
    golden = json.loads(GOLDEN.read_text())
    run = golden_run(tmp_path)
    # Processors differ in the last bits, and twenty steps carry them on; a changed formula shows more.
    assert metrics(run, "train/loss") == pytest.approx(golden["train/loss"], abs=2e-4)
    assert metrics(run, "train/lr") == pytest.approx(golden["train/lr"], rel=1e-12)
    assert metrics(run, "progress/tokens") == golden["progress/tokens"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        run = golden_run(Path(home))
        curves = {tag: metrics(run, tag) for tag in ("train/loss", "train/lr", "progress/tokens")}
    GOLDEN.write_text(json.dumps(curves, indent=1) + "\n")
    print(GOLDEN.read_text())

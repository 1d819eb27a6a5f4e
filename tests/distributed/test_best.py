"""The best checkpoint and the early end of a run, with real ranks and, mostly, made-up losses."""

import json

import pytest

from gpt2dist.status.status import read_status
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, train_here, train_with_signal, weights_of, write_run

COMMON = ["model.dropout=0.1", "schedule.total_steps=12"]
BEST = ["evaluation.every_steps=2", "checkpoint={keep_best: eval/val/loss, keep_last: 1}"]
LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: float("nan"), 10: 2.0, 12: 1.0}


def train_with_losses(config, overrides, losses):
    """Train with these losses of the validation by step."""
    from gpt2dist.training.evaluator import Evaluator

    Evaluator._score_all = lambda self, trainer: {"val": {"loss": losses[trainer.step]}}
    train_here(config, overrides)


def kept(run):
    found = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    return found, *((run / "checkpoints" / name).read_text().strip() for name in ("best", "latest"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_ends_when_its_patience_does_and_goes_on_without_it_bit_by_bit(tiny_dataset, tmp_path, ranks):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    whole = train(config, *COMMON, f"run.output_dir={tmp_path}/whole", world_size=ranks)

    run = tmp_path / "run"
    early = [*COMMON, *BEST, "evaluation.patience=3"]
    for _ in range(2):  # the second start ends at once
        run_ranks(train_with_losses, ranks, config, early, LOSSES)
        assert kept(run) == (["step-00000004", "step-00000010"], "step-00000004", "step-00000010")
        assert metrics(run, "train/loss") == metrics(whole, "train/loss")[:10]
        assert not (run / "stopped.json").exists()
        status = read_status(run)
        assert (status.state, status.step, status.best.step) == ("finished", 10, 4)
        assert status.reason == (
            "ended early: eval/val/loss has not improved in 3 evaluations (evaluation.patience: 3); the best is "
            "step-00000004 with 2.0000"
        )

    run_ranks(train_with_losses, ranks, config, [*COMMON, *BEST], LOSSES)
    assert kept(run) == (["step-00000012"], "step-00000012", "step-00000012")
    assert metrics(run, "train/loss") == metrics(whole, "train/loss")
    assert not (run / "finished.json").exists()
    ours, theirs = (run_ranks(weights_of, 1, each / "checkpoints/step-00000012")[0] for each in (run, whole))
    assert ours == theirs


def test_an_evaluation_that_a_stop_interrupted_may_be_the_best(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    overrides = [*COMMON, *BEST, "evaluation.every_steps=5", "batch.micro_batch_size=1"]
    run_ranks(train_with_signal, 2, config, overrides, 0, 4 * 5 + 2)  # the third batch of the first evaluation
    run = tmp_path / "run"
    assert json.loads((run / "stopped.json").read_text())["step"] == 5
    assert not (run / "checkpoints/best").exists()
    run_ranks(train_with_losses, 2, config, overrides, {5: 1.0, 10: 2.0, 12: 2.0})
    assert kept(run) == (["step-00000005", "step-00000012"], "step-00000005", "step-00000012")


def test_a_run_that_goes_back_forgets_the_best_of_what_it_abandons(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    overrides = [*COMMON, *BEST, "checkpoint.keep_last=9", "checkpoint.every_steps=2"]
    run_ranks(train_with_losses, 1, config, [*overrides, "run.stop_after_steps=6"], LOSSES | {6: 1.5})
    run = tmp_path / "run"
    assert kept(run)[1:] == ("step-00000006", "step-00000006")
    (run / "checkpoints/step-00000006/manifest.json").unlink()
    run_ranks(train_with_losses, 1, config, [*overrides, "run.stop_after_steps=8"], LOSSES)
    assert kept(run)[1:] == ("step-00000004", "step-00000008")

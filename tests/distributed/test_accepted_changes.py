"""Runs that go on with other data, another batch or another optimizer, on real ranks."""

import json
import statistics

import pytest

from gpt2dist.commands.trace import load_plan, trace
from gpt2dist.errors import UserError
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train_here, weights_of, write_run

COMMON = ["batch.micro_batch_size=2", "schedule.total_steps=20", "checkpoint.keep_last=9"]
DATA = ["data.stride=16"]
BATCH = ["batch.global_batch_size=16"]
SGD = ["optimizer.kind=tests.support.sgd_and_adamw:SgdAndAdamW"]
PEAK, DECAY, STEPS = 2e-3, 0.1, 6
EMBEDDINGS = ("transformer.wte.weight", "transformer.wpe.weight")


def accept(*kinds):
    return f"checkpoint.accept_changes=[{', '.join(kinds)}]"


def go_on_with_other_data(config, home):
    """Train ten steps; go on with other windows, in one part and in two; start afresh from the weights."""
    train_here(config, [*COMMON, f"run.output_dir={home}/base", "run.stop_after_steps=10"])
    middle = f"{home}/base/checkpoints/step-00000010"
    resume = [*COMMON, *DATA, f"checkpoint.resume={middle}"]
    try:
        train_here(config, [*resume, f"run.output_dir={home}/whole", accept("batch", "optimizer")])
        refused = ""
    except UserError as error:
        refused = str(error)
    train_here(config, [*resume, f"run.output_dir={home}/whole", accept("data"), "run.stop_after_steps=14"])
    train_here(config, [*resume, f"run.output_dir={home}/parts", accept("data"), "run.stop_after_steps=12"])
    train_here(config, [*COMMON, *DATA, f"run.output_dir={home}/parts", "run.stop_after_steps=14"])
    fresh = [*DATA, *COMMON, f"model.init_from={middle}", f"run.output_dir={home}/fresh"]
    train_here(config, [*fresh, "run.stop_after_steps=1"])
    return refused


def test_other_data_starts_at_its_first_sample_with_all_else_kept(tiny_dataset, tmp_path):
    refused, _ = run_ranks(go_on_with_other_data, 2, write_run(tmp_path, tiny_dataset), tmp_path)
    assert refused.startswith("data.stride (was 12): changed since") and "accept_changes=[data]" in refused
    losses, parts = (metrics(tmp_path / name, "train/loss") for name in ("whole", "parts"))
    assert losses == parts and len(losses) == 4
    # A new run that starts from these weights reads the same windows.
    assert losses[0] == metrics(tmp_path / "fresh", "train/loss")[0]
    assert metrics(tmp_path / "whole", "train/epoch")[0] == metrics(tmp_path / "fresh", "train/epoch")[0]
    assert metrics(tmp_path / "whole", "train/lr")[0] < metrics(tmp_path / "fresh", "train/lr")[0] * 5
    states = [
        json.loads((tmp_path / f"{name}/checkpoints/step-00000014/trainer_state.json").read_text())
        for name in ("whole", "parts")
    ]
    assert states[0] == states[1]
    assert (states[0]["step"], states[0]["consumed_samples"]) == (14, 14 * 8)
    assert states[0]["origin"]["step"] == 10 and states[0]["origin"]["data_from"] == 80


def go_on_with_another_batch(config, home):
    """Train ten steps, then four of twice the size, in the same run directory."""
    train_here(config, [*COMMON, "run.stop_after_steps=10"])
    train_here(config, [*COMMON, *BATCH, accept("batch"), "run.stop_after_steps=14"])


def test_another_batch_goes_on_at_the_same_sample(tiny_dataset, tmp_path):
    run_ranks(go_on_with_another_batch, 2, write_run(tmp_path, tiny_dataset), tmp_path)
    run = tmp_path / "run"
    state = json.loads((run / "checkpoints/step-00000014/trainer_state.json").read_text())
    assert state["consumed_samples"] == 10 * 8 + 4 * 16
    samples = []
    for step in range(1, 15):
        found = trace(load_plan(run, step), step)
        assert len(found) == (8 if step <= 10 else 16)
        samples += [window["sample"] for window in found]
    assert samples == list(range(144))
    tokens = metrics(run, "progress/tokens")
    assert tokens[13] - tokens[9] > 1.9 * (tokens[9] - tokens[5])


def go_on_with_another_optimizer(config, home, stage):
    """Train with SGD on matrices, then a step with AdamW on everything; return the weights before and after."""
    words = [*COMMON, f"zero.stage={stage}", "schedule.kind=constant", "schedule.warmup_steps=0"]
    words += [f"run.output_dir={home}/stage-{stage}"]
    train_here(config, [*words, *SGD, f"run.stop_after_steps={STEPS}"])
    train_here(config, [*words, accept("optimizer"), f"run.stop_after_steps={STEPS + 1}"])
    train_here(config, [*words, f"run.stop_after_steps={STEPS + 3}"])
    steps = (STEPS, STEPS + 1)
    return [weights_of(home / f"stage-{stage}/checkpoints/step-{step:08d}") for step in steps]


@pytest.fixture(scope="module")
def after_sgd(tiny_dataset, tmp_path_factory):
    home = tmp_path_factory.mktemp("sgd")
    config = write_run(home, tiny_dataset)
    return home, {
        stage: run_ranks(go_on_with_another_optimizer, 2, config, home, stage)[0] for stage in (0, 1, 3)
    }


def test_restarted_state_counts_its_own_updates(after_sgd):
    """The first update of a new AdamW is ±lr per element, and later ones are not."""
    home, weights = after_sgd
    for stage, (before, after) in weights.items():
        moved = {}
        for name, values in before.items():
            decay = DECAY if name.endswith(".weight") and ".ln_" not in name else 0
            change = [abs(b - a + PEAK * decay * a) for a, b in zip(values, after[name], strict=True)]
            moved[name] = statistics.median(change) / PEAK
        matrices = {name for name in moved if ".c_" in name and name.endswith("weight")}
        state = json.loads(
            (home / f"stage-{stage}/checkpoints/step-{STEPS + 3:08d}/trainer_state.json").read_text()
        )
        # The group of all matrices starts anew, since AdamW had no state for those of the blocks.
        assert state["restarted"] == dict.fromkeys(sorted({*matrices, *EMBEDDINGS}), STEPS)
        for name in matrices:
            assert moved[name] == pytest.approx(1, abs=0.02), (stage, name)
        assert all(moved[name] < 0.9 for name in moved if name.endswith("bias") and "c_fc" in name)


def test_the_other_optimizer_is_the_same_at_each_stage(after_sgd):
    home, _ = after_sgd
    losses = {stage: metrics(home / f"stage-{stage}", "train/loss") for stage in (0, 1, 3)}
    assert len(losses[0]) == STEPS + 3
    for stage in (1, 3):
        assert losses[stage] == pytest.approx(losses[0], rel=1e-5)

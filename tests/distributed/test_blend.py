"""A run on several datasets: the same at any world size, resumed bit by bit, with epochs for each."""

import json

import pytest

from gpt2dist.loading.mixture import Mixture
from gpt2dist.preflight import resolve
from tests.support.ranks import RankFailedError
from tests.support.runs import metrics, train, write_run

STEPS, GLOBAL = 20, 8


@pytest.fixture
def run_file(tiny_dataset, second_dataset, tmp_path):
    return write_run(tmp_path, tiny_dataset, blend={tiny_dataset: 0.4, second_dataset: 0.6})


def test_a_blend_is_the_same_at_any_world_size(run_file, tmp_path):
    alone = train(run_file, f"run.output_dir={tmp_path}/alone", "batch.micro_batch_size=8")
    together = train(run_file, f"run.output_dir={tmp_path}/together", "zero.stage=2", world_size=2)
    assert metrics(together, "train/loss") == pytest.approx(metrics(alone, "train/loss"), abs=1e-5)
    assert metrics(together, "progress/tokens") == metrics(alone, "progress/tokens")
    assert metrics(alone, "train/loss")[-1] < metrics(alone, "train/loss")[0] - 0.3


@pytest.mark.parametrize("weight", [0.4, 0.400_000_001], ids=["a short period", "a long period"])
def test_a_blend_resumes_bit_by_bit(run_file, tmp_path, weight):
    common = ["batch.micro_batch_size=2", "model.dropout=0.1", f"data.train.0.weight={weight}"]
    whole = train(run_file, *common, f"run.output_dir={tmp_path}/whole", world_size=2)
    parts = f"run.output_dir={tmp_path}/parts"
    train(run_file, *common, parts, "run.stop_after_steps=9", world_size=2)
    halves = train(run_file, *common, parts, world_size=2)
    assert metrics(halves, "train/loss") == metrics(whole, "train/loss")
    hashes = []
    for run in (halves, whole):
        files = json.loads((run / f"checkpoints/step-{STEPS:08d}/manifest.json").read_text())["files"]
        hashes.append({name: file["sha256"] for name, file in files.items() if name.endswith(".safetensors")})
    assert hashes[0] == hashes[1]


def test_epochs_are_recorded_per_dataset(run_file):
    run = train(run_file, "batch.micro_batch_size=8")
    _, plan = resolve(run_file, [], 1)
    mixture = Mixture([len(each.windows) for each in plan.datasets], (2, 3), 1337)
    expected = [mixture.epochs(GLOBAL * (step + 1)) for step in range(STEPS)]
    assert metrics(run, "train/epoch/dataset") == [epochs[0] for epochs in expected]
    assert metrics(run, "train/epoch/second") == [epochs[1] for epochs in expected]
    assert metrics(run, "train/epoch") == []


def test_a_blend_does_not_go_on_with_other_weights(run_file, second_dataset):
    train(run_file, "run.stop_after_steps=3")
    with pytest.raises(
        RankFailedError, match=rf"UserError: data.train: .*{second_dataset} is 1 of 2, was 3 of 5"
    ):
        train(run_file, "data.train.0.weight=0.5", "data.train.1.weight=0.5")

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gpt2dist.config import Config
from gpt2dist.distributed.world import World
from gpt2dist.run.end_markers import write_stopped
from gpt2dist.training.setup import _ended_at_once, summary

PLAN = SimpleNamespace(
    shape=SimpleNamespace(parameters=1000),
    total_steps=5,
    accumulation=2,
    sequence_length=32,
    stride=16,
    datasets=[SimpleNamespace(name="a")],
    epochs=lambda each: 0.5,
)


@pytest.mark.parametrize(
    ("run", "device", "computed"),
    [
        ({}, "cpu", "fp32, on cpu"),
        ({"allow_tf32": True}, "cpu", "fp32, on cpu"),
        ({"allow_tf32": True}, "cuda", "fp32, TF32, on cuda"),
        ({"deterministic": True}, "cpu", "fp32, deterministic, on cpu"),
        ({"allow_tf32": True, "deterministic": True}, "cuda", "fp32, TF32, deterministic, on cuda"),
    ],
)
def test_a_run_says_how_it_computes(run, device, computed):
    config = Config.model_validate({"run": {"name": "tiny", "output_dir": Path("out"), **run}})
    text = summary(config, PLAN, World(0, 0, 1, torch.device(device)))
    assert text.endswith(f"\nZeRO stage 1, {computed}; writing out")


@pytest.mark.parametrize("saved", [False, True])
def test_a_second_signal_after_everything_is_saved_is_no_failure(tmp_path, saved):
    """It only cuts off a call of `checkpoint.on_commit`, which the next start repeats."""
    if saved:
        write_stopped(tmp_path, "SIGTERM", 5, 9)
    _ended_at_once(tmp_path, World(0, 0, 1, torch.device("cpu")), "SIGTERM")
    assert (tmp_path / "failed.json").exists() is not saved

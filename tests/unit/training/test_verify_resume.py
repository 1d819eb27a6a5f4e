import json
from types import SimpleNamespace

import pytest
import torch

from gpt2dist.config import Config
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError
from gpt2dist.training import verify_resume as module
from gpt2dist.training.verify_resume import _differences, verify_resume

TENSORS = ("model.safetensors", "optimizer-00001-of-00001.safetensors")


def write_training(run, saved, losses, digest="e3b0"):
    """Writes what `verify-resume` reads of a training: its losses by step, and the hashes of a checkpoint."""
    checkpoint = run / f"checkpoints/step-{saved:08d}"
    checkpoint.mkdir(parents=True)
    records = {name: {"bytes": 0, "sha256": digest} for name in ("config.json", *TENSORS, "trainer_state.json")}
    for file in records:
        (checkpoint / file).touch()
    (checkpoint / "manifest.json").write_text(json.dumps({"format_version": 3, "files": records}))
    lines = [{"step": step, "train/loss": loss} for step, loss in losses.items()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_step_that_only_one_of_them_has_is_a_difference(tmp_path):
    write_training(tmp_path / "whole", 4, {1: 2.0, 2: 2.0, 3: 5})
    write_training(tmp_path / "halves", 4, {1: 2.0, 3: 6, 4: 2.0})
    assert _differences(tmp_path / "whole", tmp_path / "halves", 4, "resumed") == [
        "step 3: train/loss 5 uninterrupted, 6 resumed",
        "step 2: only uninterrupted",
        "step 4: only resumed",
    ]


@pytest.fixture
def verified(monkeypatch, tmp_path):
    """Calls `verify_resume`; returns what was trained up to which step, and the differences or the error."""

    def call(device, deterministic=False, different=()):
        trained = []

        def train(config, plan, world):
            name, stop = config.run.output_dir.name, config.run.stop_after_steps
            trained.append((name, stop))
            loss = 3.0 if name in different else 2.0
            write_training(config.run.output_dir, stop, dict.fromkeys(range(1, stop + 1), loss), str(loss))

        monkeypatch.setattr(module, "train", train)
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
        config = Config.model_validate({"run": {"output_dir": tmp_path, "deterministic": deterministic}})
        try:
            found = verify_resume(config, SimpleNamespace(total_steps=9), World(0, 0, 1, torch.device(device)), 2)
        except RunError as error:
            return trained, str(error)
        return trained, found

    return call


WHOLE, AGAIN, HALVES = ("whole", 4), ("again", 4), [("halves", 2), ("halves", 4)]
LINES = [*(f"step {n}: train/loss 2.0 uninterrupted, 3.0 NAME" for n in range(1, 5))]
LINES += [f"{name} differs at step 4" for name in TENSORS]


@pytest.mark.parametrize(("device", "deterministic"), [("cpu", False), ("cpu", True), ("cuda", True)])
def test_where_results_repeat_an_equal_resume_needs_no_second_training(verified, tmp_path, device, deterministic):
    assert verified(device, deterministic) == ([WHOLE, *HALVES], [])
    assert not (tmp_path / "verify-resume").exists()


def test_a_gpu_first_shows_that_it_repeats_its_results(verified):
    assert verified("cuda") == ([WHOLE, AGAIN, *HALVES], [])


def test_a_gpu_that_does_not_repeat_its_results_is_named_and_no_resume_is_blamed(verified, tmp_path):
    trained, message = verified("cuda", different=("again", "halves"))
    assert trained == [WHOLE, AGAIN]
    assert message == (
        "this run is not deterministic on NVIDIA H100: two trainings of 4 steps without a stop differ, so a "
        "resume cannot be compared with them; set run.deterministic=true and try again; see "
        + "\n  ".join([f"{tmp_path}/verify-resume", *LINES]).replace("NAME", "repeated")
    )


@pytest.mark.parametrize(("device", "deterministic"), [("cpu", False), ("cuda", True)])
def test_a_difference_elsewhere_is_explained_by_a_second_training(verified, device, deterministic):
    trained, found = verified(device, deterministic, different=("halves",))
    assert trained == [WHOLE, *HALVES, AGAIN]
    assert found == [line.replace("NAME", "resumed") for line in LINES]
    trained, message = verified(device, deterministic, different=("halves", "again"))
    assert trained == [WHOLE, *HALVES, AGAIN]
    assert "differ, so a resume cannot be compared with them" in message
    way_out = (
        "run.deterministic is set, so look for another cause" if deterministic else "set run.deterministic=true"
    )
    assert way_out in message


def test_its_trainings_call_nothing_of_the_user(tmp_path):
    named = {"checkpoint": {"on_commit": "my:upload"}, "run": {"hooks": ("my:Hook",)}}
    part = module._part(Config.model_validate(named), tmp_path, 2)
    assert part.checkpoint.on_commit is None and part.run.hooks == () and part.monitoring.trackers == ()


def test_the_compared_trainings_go_to_their_last_step_and_mark_no_best(tmp_path):
    settings = {"checkpoint": {"keep_best": "eval/val/loss"}, "evaluation": {"every_steps": 5, "patience": 3}}
    part = module._part(Config.model_validate(settings), tmp_path, 10)
    assert (part.checkpoint.keep_best, part.evaluation.patience, part.evaluation.every_steps) == (None, None, 5)

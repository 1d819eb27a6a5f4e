"""What a run refuses or gives up on after the preflight, in one message each."""

import json
import shutil

import numpy as np
import pytest
import torch

from gpt2dist.config import Config
from gpt2dist.distributed import launch_environment
from gpt2dist.errors import UserError
from gpt2dist.training import engine
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import train, write_run


def test_a_diverged_run_stops_and_says_so(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    with pytest.raises(
        RankFailedError,
        match=r"RunError: the loss is (nan|inf) at step \d+: training has diverged; lower .* start again: the "
        "run has no checkpoint yet, and starts at its first step",
    ):
        train(config, "optimizer.lr=1e30", "optimizer.clip_grad_norm=0")


def train_without_fp16(config, overrides):
    from deepspeed.accelerator import get_accelerator

    from tests.support.runs import train_here

    type(get_accelerator()).is_fp16_supported = lambda self: False
    train_here(config, overrides)


def test_fp16_where_the_device_has_none(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    with pytest.raises(
        RankFailedError, match=r"UserError: precision: fp16 is not supported on this device \(cpu\); set"
    ):
        run_ranks(train_without_fp16, 1, config, ["precision=fp16"])


@pytest.mark.parametrize("precision", ["bf16", "autocast_bf16"])
def test_bf16_on_a_gpu_that_only_emulates_it(monkeypatch, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.raises(UserError, match=r"precision: this GPU has no bf16; set precision to fp16 or fp32"):
        engine._check_precision(precision, torch.device("cuda"))


def test_raw_keys_that_deepspeed_refuses_at_its_start(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    said = (
        r"UserError: zero.deepspeed: DeepSpeed does not start with the keys prescale_gradients \(AssertionError: "
        r"pre-scale gradients is not yet supported with ZeRO.* enabled\); correct or remove them"
    )
    with pytest.raises(RankFailedError, match=said):
        train(config, "zero.stage=2", "zero.deepspeed.prescale_gradients=true")


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        ({}, ValueError("ours")),
        ({"checkpoint": {}}, torch.OutOfMemoryError("memory")),
        ({"checkpoint": {}}, UserError("told already")),
    ],
)
def test_what_raw_keys_did_not_cause_stays_as_it_was(raw, error):
    with pytest.raises(type(error)) as raised, engine._raw_keys_refused(Config(zero={"deepspeed": raw})):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("error", [Exception("legacy"), NotImplementedError("mix"), KeyError("key")])
def test_every_type_that_deepspeed_raises_is_one_message(error):
    raw = {"zero_optimization": {"zenflow": {"a": 1}}}
    refused = pytest.raises(UserError, match=r"does not start with the keys zero_optimization\.zenflow\.a")
    with refused, engine._raw_keys_refused(Config(zero={"deepspeed": raw})):
        raise error


def test_checkpoints_none_of_which_is_whole_are_not_trained_over(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run = train(config, "run.stop_after_steps=3")
    (run / "checkpoints/step-00000003/manifest.json").unlink()
    with pytest.raises(
        RankFailedError, match=r"UserError: no checkpoint in .*checkpoints is complete; move that directory"
    ):
        train(config)


def test_a_tokenizer_that_changed_is_refused(tiny_dataset, tmp_path):
    from gpt2dist.preprocessing import PreprocessingJob, prepare
    from gpt2dist.tokenizer.tokenizer import train_bpe

    config = write_run(tmp_path, tiny_dataset)
    train(config, "run.stop_after_steps=3")
    corpus = tiny_dataset.parent / "corpus"
    train_bpe([path.read_text() for path in sorted(corpus.iterdir())], 290).save(tmp_path / "tokenizer")
    prepare(PreprocessingJob((str(corpus),), str(tmp_path / "tokenizer"), tmp_path / "other"))
    with pytest.raises(
        RankFailedError, match=r"other was made with another tokenizer than the data that .*step-00000003"
    ):
        train(config, f"data.train=[{{path: {tmp_path}/other}}]")


def test_an_id_beyond_the_vocabulary_is_told_with_its_place(tiny_dataset, tmp_path):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    tokens = np.fromfile(dataset / "train-00000.bin", np.uint16)
    tokens[200::1000] = 300
    tokens.tofile(dataset / "train-00000.bin")
    with pytest.raises(
        RankFailedError,
        match=r"RankUserError: \S+/dataset/train-00000\.bin: token \d*,?200 \(document \d+ of train, its token "
        r"\d+\) is 300, and the vocabulary has 300 ids",
    ):
        train(write_run(tmp_path, dataset), world_size=2)


def test_a_manifest_that_contradicts_the_tokenizer_is_refused(tiny_dataset, tmp_path):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    content = json.loads((dataset / "manifest.json").read_text()) | {"end_of_text_id": 5}
    del content["manifest_sha256"]  # as version 0.1 wrote it
    (dataset / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(
        RankFailedError,
        match=r"UserError: \S+/dataset: its manifest says vocab_size 300 and end_of_text_id 5, its tokenizer "
        "has 300 and 299; copy the dataset again",
    ):
        train(write_run(tmp_path, dataset))


def test_lost_weights_are_not_saved_over_good_ones(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run = train(config, "run.stop_after_steps=2")
    options = ["monitoring.log_every_steps=100", "checkpoint.every_steps=1", "checkpoint.keep_last=1"]
    with pytest.raises(
        RankFailedError,
        match=r"RunError: the loss is (nan|inf) at step \d+: training has diverged; .* resumes from its newest",
    ):
        train(config, *options, "optimizer.lr=1e30", "optimizer.clip_grad_norm=0")
    whole = [path.name for path in (run / "checkpoints").glob("step-*")]
    assert len(whole) == 1 and not whole[0].endswith(".tmp")


def test_an_older_checkpoint_is_not_resumed_beside_a_newer_one(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run = train(config, "checkpoint.every_steps=2", "run.stop_after_steps=4")
    older = run / "checkpoints/step-00000002"
    before = (run / "config.yaml").read_text()
    # By its steps, and not by its name: a copy may have any.
    for named in (older, shutil.copytree(older, tmp_path / "zz-copy")):
        with pytest.raises(
            RankFailedError, match=r"UserError: checkpoint.resume: .* holds a newer checkpoint \(step-00000004\)"
        ):
            train(config, f"checkpoint.resume={named}")
    assert (run / "config.yaml").read_text() == before
    there = f"run.output_dir={tmp_path}/elsewhere"
    elsewhere = train(config, f"checkpoint.resume={older}", there, "run.stop_after_steps=5")
    train(config, "checkpoint.resume=latest", there)
    assert (elsewhere / "checkpoints/latest").read_text() == "step-00000020\n"
    copy = train(config, f"checkpoint.resume={run}", f"run.output_dir={tmp_path}/copy", "run.stop_after_steps=5")
    assert json.loads((copy / "starts/001/environment.json").read_text())["step"] == 4


def test_a_prompt_with_an_unknown_character_is_told_before_the_first_step(tmp_path):
    from gpt2dist.preprocessing import PreprocessingJob, prepare
    from gpt2dist.tokenizer.tokenizer import train_char

    (tmp_path / "text.txt").write_text("abcd " * 200)
    train_char(["abcd "]).save(tmp_path / "tokenizer")
    prepare(PreprocessingJob((str(tmp_path / "text.txt"),), str(tmp_path / "tokenizer"), tmp_path / "data"))
    config = write_run(tmp_path, tmp_path / "data")
    with pytest.raises(RankFailedError, match=r"UserError: monitoring\.samples\.prompts: .*'é'"):
        train(config, "monitoring.samples={prompts: [é], every_steps: 5}")
    assert not (tmp_path / "run/metrics.jsonl").exists()


def join_without_the_others(connects):
    """Rank 1 does not come, or comes and falls silent."""
    import os
    import time
    from datetime import timedelta

    import torch.distributed as dist

    from gpt2dist.distributed.world import join

    if os.environ["RANK"] == "0":
        join(timedelta(seconds=2))
    elif connects:
        _store = next(dist.rendezvous("env://"))
        time.sleep(5)


@pytest.mark.parametrize(
    ("connects", "message"),
    [
        (False, r"RunError: the ranks did not connect in 0:00:02 \(.*; see the log"),
        (True, r"RunError: rank 0 waited 0:00:02 for the other 1; see the log"),
    ],
)
def test_a_rank_does_not_wait_for_ever_for_ranks_that_do_not_come(connects, message):
    with pytest.raises(RankFailedError, match=message):
        run_ranks(join_without_the_others, 2, connects)


def verify_resume_with_chance(config, overrides, steps, chance):
    """With draws that do not depend on (seed, step, rank) alone: "always", or only once a run was "resumed"."""
    import random

    import torch

    from gpt2dist.distributed.world import join
    from gpt2dist.preflight import resolve
    from gpt2dist.training import trainer
    from gpt2dist.training.verify_resume import verify_resume

    resume, build, seed = (
        trainer.Trainer.resume,
        trainer.Trainer.__init__,
        torch.random.default_generator.manual_seed,
    )
    now = [False]

    def built(self, *args):
        now[0] = chance == "always"
        build(self, *args)

    def resumed(self, path):
        now[0] = bool(chance)
        resume(self, path)

    trainer.Trainer.__init__, trainer.Trainer.resume = built, resumed
    trainer.torch.manual_seed = lambda given: seed(random.getrandbits(60) if now[0] else given)
    config, plan = resolve(config, overrides, launch_environment.world_size())
    return verify_resume(config, plan, join(), steps)


def test_verify_resume_lists_what_differs(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    overrides = ["model.dropout=0.2", "batch.micro_batch_size=2", "zero.stage=3"]
    different = run_ranks(verify_resume_with_chance, 2, config, overrides, 2, "resumed")
    assert different[0] == different[1]
    assert any(line.startswith("step 3: train/loss ") for line in different[0])
    assert "model-00001-of-00001.safetensors differs at step 4" in different[0]
    message = (
        r"RunError: this run is not deterministic on a CPU: two trainings of 4 steps without a stop differ, .*; "
        r"set run\.deterministic=true and try again; see .*/verify-resume\n  step 1: train/loss .* repeated"
    )
    with pytest.raises(RankFailedError, match=message):
        run_ranks(verify_resume_with_chance, 2, config, overrides, 2, "always")
    assert run_ranks(verify_resume_with_chance, 2, config, overrides, 2, "") == [[], []]
    with pytest.raises(RankFailedError, match=r"--steps 11: a half must have at least 1 step"):
        run_ranks(verify_resume_with_chance, 2, config, overrides, 11, "")

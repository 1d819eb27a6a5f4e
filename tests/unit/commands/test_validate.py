import argparse
import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from gpt2dist.commands import validate
from gpt2dist.config import read
from gpt2dist.errors import UserError
from gpt2dist.preflight import report

RUN = """
run: {{name: trial, stop_after_steps: 1}}
model: {{preset: gpt2-124m}}
data:
  train: [{{path: {dataset}}}]
  validation: [{{name: held-out, path: {dataset}}}]
  stride: 1024
  loss_on: new
batch: {{global_batch_size: 16, micro_batch_size: 2}}
optimizer: {{lr: 1e-3}}
schedule: {{total_steps: 100, warmup_steps: 10, kind: linear, min_lr_ratio: 0}}
checkpoint: {{every_steps: 50, keep_last: 3}}
evaluation: {{every_steps: 25, stride: 512}}
zero: {{stage: 2}}
precision: bf16
"""


FREE = 12_000_000_000  # bytes


@pytest.fixture(autouse=True)
def disk(monkeypatch, tmp_path):
    """Where the run will live, and what is free there."""
    usage = namedtuple("usage", "total used free")(0, 0, FREE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_file(tmp_path, make_dataset) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text(RUN.format(dataset=make_dataset(train=[20_000, 481], val=[3000])))
    return path


def validate_with(*words: str) -> None:
    parser = argparse.ArgumentParser()
    validate.configure(parser)
    validate.run(parser.parse_args([str(word) for word in words]))


def test_people_read_the_plan(run_file, tmp_path, capsys):
    validate_with(run_file, "--world-size", "4")
    captured = capsys.readouterr()
    assert captured.err == ""
    # 20,480 targets in 20 disjoint windows; 100 steps of 16 are 80 epochs
    head, *lines = captured.out.splitlines()
    assert head == f"{run_file}: valid, for 4 ranks"
    # The columns are two spaces or more apart.
    assert [re.split(" {2,}", line) for line in lines] == [
        ["model", "shape", "12 layers, 12 heads, 768 wide, context of 1,024 tokens (gpt2-124m)"],
        ["", "parameters", "124,439,808"],
        ["", "vocabulary", "50,257, padded to 50,304 in memory"],
        ["data", "dataset", f"{tmp_path / 'dataset'}"],
        ["", "size", "20,481 tokens, 2 documents"],
        ["", "windows", "20 per epoch, 1,024 tokens each, one every 1,024"],
        ["", "loss on", "new: targets that no earlier window contains"],
        ["", "documents", "pack: attention crosses end-of-text"],
        ["", "passes", "80 epochs; each token is trained on 80 times"],
        ["batch", "windows", "16 per step = 2 micro × 2 accumulation × 4 world"],
        ["", "targets", "16,384 per step"],
        ["schedule", "steps", "100, of which 10 warmup, then linear"],
        ["", "lr at step 0", "0.0001"],
        ["", "lr at step 9", "0.001"],
        ["", "lr at step 50", "0.000544"],
        ["", "lr at step 99", "0"],
        ["", "0.001 │", "▃▇▇▆▅▄▃▂▂▁"],
        ["", "│", "▂██████████▇▇▆▅▄▃▂▂▁"],
        ["", "│", "▅████████████████████▇▇▆▅▄▃▂▁▁"],
        ["", "│", "▃██████████████████████████████▇▆▆▅▄▃▂▁▁"],
        ["", "│ ▂████████████████████████████████████████▇▆▆▅▄▃▂▁▁"],
        ["", "0.00017 │▅██████████████████████████████████████████████████▇▆▆▅▄▃▂▁"],
        ["", "0", "step 99"],
        ["", "stops early", "after 1 step"],
        ["compute", "precision", "bf16"],
        ["", "ZeRO", "stage 2"],
        ["", "tokens", "1,638,400 in total"],
        # 1,638,400 tokens × (6 × 123,653,376 + 113,246,208)
        ["", "FLOPs", "1.4e+15 in total"],
        ["", "PaLM appendix B: 6 N + 12 L H Q T per token, without a causal discount or recomputation"],
        ["", "time", "about 2.8 seconds on 4 × A100, if they reach 40% of their bf16 peak"],
        ["", "time", "about 0.89 seconds on 4 × H100, if they reach 40% of their bf16 peak"],
        # 124,475,904 with the padding: × 2, × 4 / 4, × 12 / 4 bytes
        ["memory", "weights", "0.23 GiB", "16 bits"],
        ["", "gradients", "0.12 GiB", "this rank's part, 32 bits"],
        ["", "optimizer", "0.35 GiB", "this rank's part of fp32 weights and optimizer state"],
        ["", "buckets", "0.07 GiB", "buffer for the communication of gradients"],
        ["", "activations", "0.57 GiB", "kept for the backward pass"],
        ["", "loss", "0.59 GiB", "chunked: logits of one chunk"],
        ["", "each rank", "1.93 GiB", "an estimate, without what CUDA and NCCL need"],
        ["checkpoints", "directory", "runs/trial/checkpoints"],
        ["", "written", "every 50 steps and at the end"],
        ["", "size", "1.49 GB each; the newest 3 kept: 4.48 GB"],
        ["", "disk", f"1.49 GB at most, 12 GB free in {tmp_path}"],
        ["validation", "scored", "every 25 steps and at the end, with one window every 512 tokens"],
        ["", "eval/held-out", f"{tmp_path / 'dataset'}, split val: 3,000 tokens, 1 document"],
    ]


def test_columns_are_aligned():
    sections = {"model": [("shape", "tiny"), ("parameters", "9")], "longer name": [("", "more")]}
    assert report.render(sections).splitlines() == [
        "model        shape       tiny",
        "             parameters  9",
        "longer name              more",
    ]


def test_programs_read_the_plan_on_standard_output(run_file, tmp_path, capsys):
    validate_with(run_file, "--world-size", "4", "--json")
    captured = capsys.readouterr()
    assert captured.err == ""
    result = json.loads(captured.out)
    assert set(result) == {"config", "plan"}
    plan = result["plan"]
    expected = {
        "world_size": 4,
        "accumulation": 2,
        "parameters": 124_439_808,
        "padded_vocab_size": 50_304,
        "targets_per_step": 16_384.0,
        "total_steps": 100,
        "evaluation_stride": 512,
        "total_flops": 1_638_400.0 * (6 * 123_653_376 + 113_246_208),
        "checkpoint_bytes": 12 * 124_439_808,
        "checkpoints_kept": 3,
        "checkpoint_space": 12 * 124_439_808,  # it leaves after a step
        "disk_free": FREE,
        "batch_sizes": [{"step": 0, "sample": 0, "size": 16}],
        "warmup_steps": 10,
        "total_samples": 1600,
        "total_tokens": 1_638_400,
    }
    assert {key: plan[key] for key in expected} == expected
    assert plan["learning_rates"] == pytest.approx({"0": 1e-4, "9": 1e-3, "50": 1e-3 * 49 / 90, "99": 0})
    memory = plan["memory_estimate"]
    assert memory["device"] == sum(part["device"] for part in memory["parts"])
    assert [part["name"] for part in memory["parts"]] == [
        *("weights", "gradients", "optimizer", "buckets", "activations", "loss")
    ]
    assert [each["basis"] for each in plan["expected_hours"]] == [
        f"on 4 × {gpu}, if they reach 40% of their bf16 peak" for gpu in ("A100", "H100")
    ]
    assert plan["expected_hours"][0]["hours"] == pytest.approx(plan["total_flops"] / (4 * 0.4 * 312e12) / 3600)
    dataset = str(tmp_path / "dataset")
    (training,) = plan["datasets"]
    assert len(training.pop("fingerprint")) == 64
    assert training == {
        "name": "dataset",
        "dataset": dataset,
        "part": 1.0,
        "tokens": 20_481,
        "documents": 2,
        "windows": 20,
        "targets_per_epoch": 20_480,
        "epochs": 80.0,
        "times_seen": 80.0,
    }
    assert plan["validation"] == [
        {"name": "held-out", "dataset": dataset, "split": "val", "tokens": 3000, "documents": 1}
    ]


def test_the_configuration_in_json_is_one_that_validates(run_file, tmp_path, capsys):
    validate_with(run_file, "optimizer.lr=5e-4", "--json")
    again = tmp_path / "trial.json.yaml"
    again.write_text(json.dumps(json.loads(capsys.readouterr().out)["config"]))
    assert read(again) == read(run_file, ["optimizer.lr=5e-4"])


def test_a_run_with_little_in_it(tmp_path, make_dataset, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(f"data: {{train: [{{path: {make_dataset(train=[9])}}}]}}\nschedule: {{total_steps: 1}}")
    validate_with(path, "model={n_layer: 1, n_head: 1, n_embd: 1, context_length: 8}", "run.output_dir=out")
    text = re.sub(" {2,}", "  ", capsys.readouterr().out)
    assert "valid, for 1 rank\n" in text
    assert "1 layer, 1 head, 1 wide, context of 8 tokens\n" in text
    assert "size  9 tokens, 1 document\n" in text
    assert "written  at the end\n" in text
    assert "size  604 kB each" in text  # 12 × (50,257 + 8 + 25 + 2)
    assert text.endswith("validation  sets  none\n")


def test_manifests_without_a_hash_are_told_in_one_note(run_file, tmp_path, capsys):
    validate_with(run_file)
    assert "manifest_sha256" not in capsys.readouterr().err
    path = tmp_path / "dataset/manifest.json"
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_text(json.dumps(content))
    validate_with(run_file)
    note = f"gpt2dist validate: {tmp_path / 'dataset'}: manifest.json has no manifest_sha256"
    assert capsys.readouterr().err.count(note) == 1


def test_a_blend_has_a_line_per_dataset(run_file, tmp_path, make_dataset, capsys):
    other = make_dataset("other", train=[5121])
    train = f"data.train=[{{path: {tmp_path / 'dataset'}, weight: 0.7}}, {{path: {other}, weight: 0.3}}]"
    validate_with(run_file, train)
    text = re.sub(" {2,}", "  ", capsys.readouterr().out)
    assert (
        "data  dataset  70 % of the windows; 20,481 tokens, 2 documents, 20 windows per epoch; "
        "56 epochs; each token is trained on 56 times\n"
        "  other  30 % of the windows; 5,121 tokens, 1 document, 5 windows per epoch; "
        "96 epochs; each token is trained on 96 times\n"
        "  shares  exactly the weights; every prefix of the run has them to within 0.5 windows\n"
        "  windows  1,024 tokens each, one every 1,024\n"
    ) in text


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("checkpoint.every_minutes=30", "written  every 50 steps, every 30 minutes and at the end"),
        ("checkpoint={every_minutes: 1}", "written  every 1 minute and at the end"),
        (
            "checkpoint.keep_every=1000",
            "the newest 3 kept: 4.48 GB, and those at multiples of 1,000 steps forever",
        ),
        ("zero.offload_optimizer=cpu", "ZeRO  stage 2, optimizer offloaded to cpu"),
        (
            "zero={stage: 3, offload_optimizer: cpu, offload_parameters: cpu}",
            "ZeRO  stage 3, optimizer offloaded to cpu, parameters offloaded to cpu",
        ),
    ],
)
def test_what_was_asked_for_is_in_the_plan(run_file, capsys, override, line):
    validate_with(run_file, override, "--world-size", "4")
    assert f"{line}\n" in re.sub(" {2,}", "  ", capsys.readouterr().out)


def test_many_passes_are_written_out(run_file, capsys):
    validate_with(run_file, "schedule.total_steps=1e6")
    assert "800,000 epochs; each token is trained on 800,000 times" in capsys.readouterr().out


@pytest.mark.parametrize("world_size", ["0", "-2"])
def test_a_world_without_ranks_is_refused(run_file, world_size):
    with pytest.raises(UserError, match=f"--world-size {world_size}: must be at least 1"):
        validate_with(run_file, "--world-size", world_size)


def test_a_ramp_is_plotted(run_file, capsys):
    validate_with(run_file, "batch.ramp={start: 4, increment: 4, samples: 400}")
    text = re.sub(" {2,}", "  ", capsys.readouterr().out)
    assert "ramp  from 4 windows, 4 more each time; full size from step 62 on\n" in text
    assert "16 │" in text


def test_a_run_of_few_steps_is_not_plotted(run_file, capsys):
    validate_with(run_file, "schedule.total_steps=7", "schedule.warmup_steps=0")
    assert "│" not in capsys.readouterr().out


def test_the_memory_of_a_device_is_a_limit(run_file):
    validate_with(run_file, "--world-size", "4", "--device-memory", "3")
    with pytest.raises(UserError, match=r"batch.micro_batch_size: a rank needs about 1.9 GiB \(an estimate\)"):
        validate_with(run_file, "--world-size", "4", "--device-memory", "1.8")
    with pytest.raises(UserError, match="--device-memory 0: must be above 0, in GiB per GPU"):
        validate_with(run_file, "--device-memory", "0")


def test_the_ranks_that_the_job_was_submitted_for(run_file, capsys):
    validate_with(run_file, "run.world_size=4")
    assert "valid, for 4 ranks" in capsys.readouterr().out
    validate_with(run_file, "run.world_size=4", "--world-size", "4")
    message = (
        "run.world_size: the job was submitted for 4 ranks but started with 2; start 4, or set run.world_size=2"
    )
    with pytest.raises(UserError, match=message):
        validate_with(run_file, "run.world_size=4", "--world-size", "2")


def test_data_is_verified_when_asked_for(tmp_path, tiny_dataset, capsys):
    copy = tmp_path / "tiny"
    shutil.copytree(tiny_dataset, copy)
    path = tmp_path / "run.yaml"
    path.write_text(
        f"data: {{train: [{{path: {copy}}}], validation: [{{path: {copy}}}]}}\nschedule: {{total_steps: 9}}\n"
        "model: {n_layer: 1, n_head: 1, n_embd: 8, context_length: 16}"
    )
    validate_with(path, "--verify-data")
    assert capsys.readouterr().err.count("verify tiny: 100%") == 1  # once, though it is named twice
    shard = next(copy.glob("train-*.bin"))
    content = bytearray(shard.read_bytes())
    content[10] ^= 1
    shard.write_bytes(content)
    validate_with(path)
    with pytest.raises(UserError, match=r"train-00000\.bin"):
        validate_with(path, "--verify-data")

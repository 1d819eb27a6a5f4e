"""N steps, a stop, and N more are the same run as 2N steps; whatever else happens meanwhile changes nothing."""

import contextlib
import hashlib
import io
import json

import pytest

from gpt2dist.cli import main
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import metrics, train, train_here, write_run

EXACT = [(precision, stage) for precision in ("fp32", "bf16", "autocast_bf16") for stage in range(4)]
EXACT.remove(("bf16", 0))  # refused, and the next one too: see test_preflight
EXACT.remove(("autocast_bf16", 3))


def weights(run, step):
    """Hashes of all weights and moments of a checkpoint."""
    files = json.loads((run / f"checkpoints/step-{step:08d}/manifest.json").read_text())["files"]
    return {name: record["sha256"] for name, record in files.items() if name.endswith(".safetensors")}


@pytest.mark.parametrize(("precision", "stage"), EXACT)
def test_resume_is_bitwise(tiny_dataset, tmp_path, precision, stage):
    config = write_run(tmp_path, tiny_dataset)
    common = [f"precision={precision}", f"zero.stage={stage}", "batch.micro_batch_size=2", "model.dropout=0.1"]
    common += ["data.document_boundaries=isolate"] * (stage == 1)
    whole = train(config, *common, f"run.output_dir={tmp_path}/whole", world_size=2)
    parts = f"run.output_dir={tmp_path}/parts"
    train(config, *common, parts, "run.stop_after_steps=9", world_size=2)
    halves = train(config, *common, parts, world_size=2)
    assert metrics(halves, "train/loss") == metrics(whole, "train/loss")
    assert metrics(halves, "train/grad_norm") == metrics(whole, "train/grad_norm")
    assert weights(halves, 20) == weights(whole, 20)


def test_a_crash_after_the_checkpoint_leaves_no_step_twice(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    whole = train(config, f"run.output_dir={tmp_path}/whole")
    crashed = train(config, "checkpoint.every_steps=6", "run.stop_after_steps=13", "monitoring.tensorboard=true")
    newest = crashed / "checkpoints/step-00000013"  # what a crash at step 13 would not have left
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    resumed = train(config, "monitoring.tensorboard=true")
    steps = [int(step) for step in metrics(resumed, "step")]
    assert steps == list(range(1, 21))
    assert metrics(resumed, "train/loss") == metrics(whole, "train/loss")


OBSERVED = {
    0: ["precision=autocast_bf16"],
    1: ["precision=bf16"],
    2: ["data.document_boundaries=isolate"],
    3: ["model.activation_checkpointing=true"],
}


@pytest.mark.parametrize("stage", OBSERVED)
def test_evaluation_samples_logging_and_saving_change_nothing(tiny_dataset, tmp_path, stage):
    config = write_run(tmp_path, tiny_dataset, validation=True)
    common = ["model.dropout=0.1", f"zero.stage={stage}", "batch.micro_batch_size=4", *OBSERVED[stage]]
    quiet = train(config, *common, f"run.output_dir={tmp_path}/quiet", "data.validation=[]", world_size=2)
    busy = train(
        config,
        *common,
        f"run.output_dir={tmp_path}/busy",
        "evaluation.every_steps=3",
        "checkpoint.every_steps=4",
        "monitoring.samples={prompts: [abc, de], every_steps: 5, max_new_tokens: 40}",
        world_size=2,
    )
    assert metrics(busy, "train/loss") == metrics(quiet, "train/loss")
    assert weights(busy, 20) == weights(quiet, 20)
    assert len(metrics(busy, "eval/val/loss")) == 7  # steps 3, 6, … 18 and the last
    assert len(metrics(busy, "samples/1")) == 4
    if stage in (2, 3):  # fp32, as the command
        samples = [metrics(busy, "samples/0")[-1], metrics(busy, "samples/1")[-1]]
        assert run_ranks(generated, 1, busy, ["abc", "de"]) == [samples]


def generated(run, prompts):
    """The texts that `gpt2dist generate` makes with the settings and seeds of the run's samples."""
    texts = []
    for number, prompt in enumerate(prompts):
        options = ["--prompt", prompt, "--seed", str(1337 + number), "--max-new-tokens", "40"]
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert (
                main(["generate", str(run), *options, "--temperature", "1", "--top-k", "50", "--top-p", "1"]) == 0
            )
        texts.append(out.getvalue().removesuffix("\n"))
    return texts


def test_training_stops_at_the_last_step_and_starting_again_does_nothing(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    run = train(config)
    before = hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest()
    train(config)
    assert hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest() == before


def test_a_damaged_checkpoint_is_passed_over_with_its_reason(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    whole = train(config, f"run.output_dir={tmp_path}/whole")
    run = train(config, "checkpoint.every_steps=5", "run.stop_after_steps=10")
    damaged = run / "checkpoints/step-00000010/optimizer-00001-of-00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    train(config)
    assert metrics(run, "train/loss") == metrics(whole, "train/loss")
    log = (run / "logs/rank-00000.log").read_text()
    assert "step-00000010: optimizer-00001-of-00001.safetensors was changed" in log
    assert "resumed from" in log and "step-00000005" in log


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.stride=16", "data.stride (was 12): changed since"),
        ("model.n_head=8", "model.n_head (was 4): changed since"),
        ("model.context_length=33", "model.context_length (was 32): changed since"),
        ("run.seed=5", "run.seed (was 1337): changed since"),
        ("data.loss_on=all", "data.loss_on (was new): changed since"),
        ("data.document_boundaries=isolate", "data.document_boundaries (was pack): changed since"),
        ("checkpoint.resume=never", "holds checkpoints (step-00000003); set run.output_dir to a new directory"),
    ],
)
def test_a_resume_as_another_run_is_refused(tiny_dataset, tmp_path, override, message):
    config = write_run(tmp_path, tiny_dataset)
    train(config, "run.stop_after_steps=3")
    with pytest.raises(RankFailedError) as refusal:
        train(config, override)
    assert "UserError" in str(refusal.value)
    assert message in str(refusal.value)


def test_a_changed_dataset_is_refused_by_name(tiny_dataset, tmp_path):
    from gpt2dist.preprocessing import PreprocessingJob, prepare

    config = write_run(tmp_path, tiny_dataset)
    train(config, "run.stop_after_steps=3")
    corpus = tiny_dataset.parent / "corpus"
    other = tmp_path / "other"
    prepare(PreprocessingJob((str(corpus),), str(tiny_dataset), other, val_fraction=0.2))
    with pytest.raises(
        RankFailedError, match=rf"differs from what .*step-00000003 was trained on: {other} .* was not part of it"
    ):
        train(config, f"data.train=[{{path: {other}}}]")


def load_with_wrong_weights(config, overrides):
    """A load that goes wrong in silence: the weights stay as initialised."""
    from gpt2dist.training.zero_state import PartitionedState
    from tests.support.runs import train_here

    PartitionedState.restore = lambda self, name, readers: None
    train_here(config, overrides)


def test_a_load_that_goes_wrong_in_silence_is_noticed_by_the_probe(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    train(config, "run.stop_after_steps=10")
    with pytest.raises(RankFailedError, match=r"on the probe, but the checkpoint records .*; do not continue"):
        run_ranks(load_with_wrong_weights, 1, config, [])


def save_without_space(config, overrides):
    """Rank 1 finds the disk full at its second save."""
    import os

    from gpt2dist.checkpoint import store
    from tests.support.runs import train_here

    write_tensors = store.write_tensors

    def full(path, tensors):
        if os.environ["RANK"] == "1" and "step-00000010" in str(path):
            raise OSError(28, "No space left on device")
        return write_tensors(path, tensors)

    store.write_tensors = full
    train_here(config, overrides)


def test_a_rank_that_cannot_write_is_named_and_the_checkpoint_before_stays(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    with pytest.raises(RankFailedError, match=r"saving step-00000010 failed: rank 1: OSError: .*No space left"):
        run_ranks(save_without_space, 2, config, ["checkpoint.every_steps=5"])
    checkpoints = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "saved", "step-00000005"]
    assert (checkpoints / "latest").read_text() == "step-00000005\n"


def test_a_run_that_begins_with_another_runs_checkpoint_and_is_stopped_has_one_of_its_own(tiny_dataset, tmp_path):
    from tests.support.runs import train_with_signal

    config = write_run(tmp_path, tiny_dataset)
    train(config, f"run.output_dir={tmp_path}/first", "run.stop_after_steps=4")
    named = f"checkpoint.resume={tmp_path}/first/checkpoints/step-00000004"
    run_ranks(train_with_signal, 1, config, [named], 0, 0)
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-00000004\n"
    assert (tmp_path / "run/stopped.json").exists()


def test_a_restart_says_what_changed_and_keeps_every_start(tiny_dataset, tmp_path, capfd):
    config = write_run(tmp_path, tiny_dataset)
    common = ["batch.micro_batch_size=2", "checkpoint.every_steps=2"]
    run = train(config, *common, "run.stop_after_steps=2", world_size=2)
    first = (run / "config.yaml").read_bytes()
    assert "changed since" not in capfd.readouterr().err
    train(config, *common, "run.stop_after_steps=4", "optimizer.lr=5e-4")
    shown = (
        f"changed since the last start ({run}/starts/001/config.yaml):\n  optimizer.lr 2e-3 → 5e-4\n"
        "  run.stop_after_steps 2 → 4\n  world_size 2 → 1\n"
    )
    assert capfd.readouterr().err.count(shown) == 1
    train(config, *common, "run.stop_after_steps=6", "optimizer.lr=5e-4", world_size=2)
    assert capfd.readouterr().err.count("  run.stop_after_steps 4 → 6\n  world_size 1 → 2\n") == 1
    assert shown in (run / "logs/rank-00000.log").read_text()
    assert "changed since" not in (run / "logs/rank-00001.log").read_text()
    assert (run / "starts/001/config.yaml").read_bytes() == first
    for name in ("config.yaml", "environment.json"):
        kept, newest = ((directory / name).read_text() for directory in (run / "starts/003", run))
        assert kept == newest or json.loads(kept).items() > json.loads(newest).items()
    found = [json.loads((run / f"starts/00{n}/environment.json").read_text()) for n in (1, 2, 3)]
    assert [(each["step"], each["world_size"]) for each in found] == [(0, 2), (2, 1), (4, 2)]


def record_start_on_a_full_disk(config, overrides):
    """Returns the message of rank 0, which writes, and that of the others."""
    from gpt2dist import atomic_io
    from gpt2dist.errors import UserError

    def write_text(path, text):
        raise OSError(28, "No space left on device", str(path))

    atomic_io.write_text = write_text
    try:
        train_here(config, overrides)
    except UserError as error:
        return str(error)


def test_a_start_that_cannot_be_recorded_is_one_message_of_all_ranks(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    words = ["run.stop_after_steps=1"]
    messages = run_ranks(record_start_on_a_full_disk, 2, config, words)
    run = tmp_path / "run"
    message = (
        f"run.output_dir: {run}: the record of this start cannot be written (No space left on device: "
        f"{run}/starts/001.partial/config.yaml); free space there or make it writable, or set it to another "
        "directory"
    )
    assert messages == [message, message]
    assert not list((run / "starts").iterdir()) and not (run / "metrics.jsonl").exists()

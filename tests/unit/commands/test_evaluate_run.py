"""Results that belong to a run: --run, --all-checkpoints and --watch, on a run that was trained."""

import json
import shutil
import signal
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.commands import PATIENCE, started, wait_until
from tests.support.runs import train, write_run

STEPS = [5, 10, 15, 20]


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory):
    home = tmp_path_factory.mktemp("trained")
    return train(write_run(home, tiny_dataset), "checkpoint.every_steps=5", "checkpoint.keep_last=4")


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def follow(gpt2dist, run, tiny_dataset):
    def call(*options):
        return gpt2dist("evaluate", run, "--data", tiny_dataset, "--name", "val", *options)

    return call


def results(run, name="val"):
    paths = sorted((run / "eval" / name).glob("step-*.json"))
    return {int(path.stem.removeprefix("step-")): json.loads(path.read_text()) for path in paths}


def scalars(run, tag, name="val"):
    events = EventAccumulator(str(run / "tensorboard" / name))
    events.Reload()
    return {point.step: point.value for point in events.Scalars(tag)}


def test_a_result_is_recorded_at_the_step_of_its_checkpoint(gpt2dist, run, tiny_dataset):
    code, out, err = gpt2dist("evaluate", run, "--data", tiny_dataset, "--run", run, "--json")
    assert code == 0, err
    printed, recorded = json.loads(out), results(run, "dataset")
    assert list(recorded) == [20]
    assert printed.items() <= recorded[20].items()
    assert recorded[20]["step"] == 20 and recorded[20]["consumed_tokens"] > 0
    for name in ("loss", "perplexity", "bits_per_byte", "word_perplexity"):
        shown = scalars(run, f"eval/dataset/{name}", "dataset")
        assert shown == {20: pytest.approx(printed[name], rel=1e-6)}
    by_tokens = scalars(run, "eval/dataset/loss_vs_tokens", "dataset")
    assert by_tokens == {recorded[20]["consumed_tokens"]: pytest.approx(printed["loss"], rel=1e-6)}


def test_a_model_that_is_no_checkpoint_needs_a_step(gpt2dist, run, small_model, tiny_dataset):
    words = ["evaluate", small_model, "--data", tiny_dataset, "--run", run, "--name", "small"]
    code, _, err = gpt2dist(*words)
    assert code == 2
    assert f"--run: {small_model} is not a checkpoint, so its step is unknown; add --step N" in err
    assert gpt2dist(*words, "--step", "7")[0] == 0
    ((step, result),) = results(run, "small").items()
    assert (step, result["step"]) == (7, 7) and "consumed_tokens" not in result
    assert list(scalars(run, "eval/small/loss", "small")) == [7]


def test_a_point_of_another_curve_is_refused_before_the_work(gpt2dist, run, tiny_dataset):
    words = ["evaluate", run, "--data", tiny_dataset, "--run", run]
    assert gpt2dist(*words)[0] == 0
    before = results(run, "dataset")
    code, _, err = gpt2dist(*words, "--stride", "5")
    assert code == 2
    assert "has results with stride 16, this evaluation has 5; give it another --name" in err
    assert "evaluate: " not in err.replace("gpt2dist evaluate: ", ""), "nothing was scored"
    assert results(run, "dataset") == before
    assert gpt2dist(*words, "--stride", "5", "--name", "fine")[0] == 0


def test_all_checkpoints_oldest_first_and_again_nothing_is_done(follow, run):
    code, out, err = follow("--all-checkpoints")
    assert code == 0
    assert [line.split(":")[0] for line in out.splitlines()] == [f"step {step}" for step in STEPS]
    assert err.endswith(f"4 results in {run}/eval/val\n")
    found = results(run)
    assert list(found) == STEPS
    losses = [result["loss"] for result in found.values()]
    assert losses == sorted(losses, reverse=True), "the run learns"
    assert scalars(run, "eval/val/loss") == {
        step: pytest.approx(result["loss"], rel=1e-6) for step, result in found.items()
    }
    assert not (run / "eval/val/linked").exists()
    code, _, err = follow("--all-checkpoints")
    assert (code, err) == (0, f"4 results in {run}/eval/val\n")
    assert results(run) == found


def test_another_dtype_is_another_curve_and_its_difference_is_shown_once(follow, run):
    words = ["--all-checkpoints", "--dtype", "bf16"]
    code, _, err = follow(*words)
    assert (code, err.count("in fp32 (difference ")) == (0, 1)
    assert {result["dtype"] for result in results(run).values()} == {"bf16"}
    code, _, err = follow("--all-checkpoints")  # all have a result, so nothing is compared
    assert (code, err) == (0, f"4 results in {run}/eval/val\n")
    (run / "eval/val/step-00000010.json").unlink()
    code, _, err = follow("--all-checkpoints")
    assert (
        code == 2 and "has results with dtype 'bf16', this evaluation has 'fp32'; give it another --name" in err
    )


def test_each_checkpoint_scores_as_it_does_alone(follow, gpt2dist, run, tiny_dataset):
    assert follow("--all-checkpoints", "--batch-size", "3")[0] == 0
    checkpoint = run / "checkpoints/step-00000010"
    alone = json.loads(gpt2dist("evaluate", checkpoint, "--data", tiny_dataset, "--batch-size", "3", "--json")[1])
    ours = results(run)[10]
    for name in set(alone) - {"seconds", "tokens_per_second"}:
        assert ours[name] == alone[name], name


def test_a_watch_that_missed_checkpoints_names_them_and_fails(follow, run, monkeypatch):
    monkeypatch.setattr("gpt2dist.evaluation.pins.saved_count", lambda run: 1)  # the watch began after step 5
    for step in (5, 15):
        shutil.rmtree(run / f"checkpoints/step-{step:08d}")
    code, _, err = follow("--all-checkpoints", "--watch")
    assert code == 1
    assert err.splitlines()[-2:] == [
        f"2 results in {run}/eval/val",
        "gpt2dist evaluate: 1 checkpoints were deleted by the run before they could be scored: steps 15; raise "
        "checkpoint.keep_last or checkpoint.every_steps of the run",
    ]
    assert list(results(run)) == [10, 20]


def test_a_run_with_all_its_steps_ends_the_watch(follow, run):
    code, _, err = follow("--all-checkpoints", "--watch")
    assert code == 0, err
    assert list(results(run)) == STEPS
    assert "waiting" not in err


@pytest.mark.parametrize("launcher", [[], ["launch", "--nproc-per-node", "2"]])
def test_a_signal_ends_the_watch_in_order(run, tiny_dataset, launcher, tmp_path):
    for later in (15, 20):
        shutil.move(run / f"checkpoints/step-{later:08d}", run.parent / str(later))
    words = ["evaluate", str(run), "--data", str(tiny_dataset), "--name", "val", "--all-checkpoints", "--watch"]
    command = [sys.executable, "-m", "gpt2dist", *launcher, *words]
    said = tmp_path / "said"
    with said.open("w") as log, started(command, stderr=log) as process:
        wait_until(lambda: process.poll() is not None or "(step 10 of 20)" in said.read_text())
        shutil.move(run.parent / "15", run / "checkpoints/step-00000015")
        wait_until(lambda: process.poll() is not None or len(results(run)) == 3)
        shutil.rmtree(run / "checkpoints/step-00000005")  # pruned, as the run goes on
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE)
    err = said.read_text()
    assert process.returncode == 0, err
    told = [line.split(":")[0] for line in out.splitlines()]
    assert told in (["step 5", "step 10"], ["step 5", "step 10", "step 15"]), (
        "the signal may come before the line"
    )
    assert f"waiting for {run} (step 10 of 20)" in err
    assert f"\nstopped; the results are in {run}/eval/val\n" in err
    assert list(results(run)) == [5, 10, 15]
    assert not (run / "eval/val/linked").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run", "."], "--all-checkpoints: writes a result per checkpoint to RUN/eval; omit --run"),
        (["--step", "3"], "--all-checkpoints: writes a result per checkpoint"),
        (["--json"], "--all-checkpoints: writes a result per checkpoint"),
        (["--output", "a.json"], "--all-checkpoints: writes a result per checkpoint"),
        (["--name", ".."], "--name '..' is not a valid name of a directory; give a plain word such as wikitext"),
    ],
)
def test_refusals(follow, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = follow("--all-checkpoints", *options)
    assert code == 2 and message in err and "Traceback" not in err


def test_all_checkpoints_are_those_of_a_run(gpt2dist, run, small_model, tiny_dataset, tmp_path):
    for model in (small_model, run / "checkpoints/step-00000010", tmp_path / "nowhere"):
        code, _, err = gpt2dist("evaluate", model, "--data", tiny_dataset, "--all-checkpoints")
        assert code == 2
        assert f"--all-checkpoints: {model} is not a run directory; give one that `gpt2dist train` created" in err
    (tmp_path / "new").mkdir()
    code, _, err = gpt2dist("evaluate", tmp_path / "new", "--data", tiny_dataset, "--all-checkpoints")
    assert code == 2
    assert f"{tmp_path}/new has no checkpoints yet; add --watch to wait for them" in err


def test_a_foreign_file_among_the_results(follow, run):
    (run / "eval/val").mkdir(parents=True)
    (run / "eval/val/step-00000003.json").write_text('{"step": 3}')
    code, _, err = follow("--all-checkpoints")
    assert code == 2
    assert "step-00000003.json: not a result of `gpt2dist evaluate` (time is missing); remove it" in err

"""What version 0.1 wrote stays readable: a dataset, and a run with its checkpoint, evaluations, metrics.

tests/golden/v0.1/make.sh says how the files were made. A format may change, as long as these still open.
"""

import json
import shutil
from pathlib import Path

import pytest

from gpt2dist import cli
from gpt2dist.config import read
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, weights_of

FILES = Path(__file__).parent / "v0.1"
SAVED, LAST = 20, 30  # the step of its checkpoint, and that of its schedule's end


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A copy of the files, which name each other by paths relative to their directory."""
    home = tmp_path / "v0.1"
    shutil.copytree(FILES, home)
    monkeypatch.chdir(home)
    return home


def gpt2dist(*words: object, world_size: int = 1) -> None:
    """Runs a command on forked ranks; the parent of ranks must do no tensor work."""
    codes = run_ranks(cli.main, world_size, [str(word) for word in words])
    assert codes == [0] * world_size


def test_they_stay_small():
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.is_file()) < 1_000_000


def test_the_dataset_is_whole(home, capsys):
    assert cli.main(["inspect", "dataset", "--verify", "--document", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"]
    assert found["document"]["text"].startswith("Apache License")
    assert found["fingerprint"] == "9891d21e10d7076ec61328d9e55a4e877c125d46a48eab6fba6c83a7b8d33940"


@pytest.mark.parametrize(("world_size", "stage"), [(2, 2), (1, 0), (4, 3)])
def test_the_run_resumes_with_the_losses_of_then(home, world_size, stage):
    expected = {int(step): loss for step, loss in json.loads((home / "losses.json").read_text()).items()}
    words = [f"zero.stage={stage}", f"batch.micro_batch_size={4 // world_size}"]
    run = train(Path("run.yaml"), *words, world_size=world_size)
    found = metrics(run, "train/loss")
    assert len(found) == len(expected) == LAST
    assert found == pytest.approx(list(expected.values()), abs=1e-5)
    log = (run / "logs/rank-00000.log").read_text()
    assert "resumed from run/checkpoints/step-00000020" in log
    assert "changed since the last start (run/config.yaml):\n" in log
    assert ("  world_size 2 → " in log) == (world_size != 2)
    assert [path.name for path in (run / "starts").iterdir()] == ["001"]


def test_the_recorded_configuration_is_the_run_files(home):
    recorded, problems = read(Path("run/config.yaml"))
    expected, _ = read(Path("run.yaml"), ["run.stop_after_steps=20", "run.world_size=2"])
    assert (recorded, problems) == (expected, [])


def test_the_checkpoint_scores_as_it_did(home, capfd):
    gpt2dist("evaluate", "run", "--data", "dataset", "--stride", 8, "--output", "now.json", world_size=2)
    assert capfd.readouterr().err.count("manifest.json has no manifest_sha256 (version 0.1 wrote none)") == 1
    now, then = (json.loads(Path(name).read_text()) for name in ("now.json", "evaluation.json"))
    for key in ("nll_sum", "loss", "perplexity", "bits_per_token", "bits_per_byte", "word_perplexity"):
        assert now[key] == pytest.approx(then[key], rel=1e-6)
    for key in ("targets", "windows", "documents", "bytes", "words", "split", "data", "tokenizer", "model"):
        assert now[key] == then[key]


def test_the_checkpoint_is_exported(home):
    gpt2dist("export", "run", "--output", "model")
    exported, saved = run_ranks(weights_of, 1, home / "model")[0], run_ranks(weights_of, 1, checkpoint(home))[0]
    assert exported == saved and len(saved) == 28
    assert "golden" in (home / "model/README.md").read_text()


def checkpoint(home):
    return home / f"run/checkpoints/step-{SAVED:08d}"


def test_it_continues_a_prompt(home, capfd):
    gpt2dist("generate", "run", "--prompt", "You may", "--max-new-tokens", 4, "--seed", 1)
    assert capfd.readouterr().out.startswith("You may")


@pytest.mark.parametrize(
    ("run", "state", "reason", "step", "evaluations"),
    [
        ("run", "stopped", "run.stop_after_steps=20", SAVED, {"held-out": 5.144239, "held-out-8": 5.144456}),
        ("stopped", "stopped", "SIGTERM", 80, {}),
        ("failed", "failed", "Connection reset by peer", 80, {}),
    ],
)
def test_runs_are_shown(home, capsys, run, state, reason, step, evaluations):
    assert cli.main(["status", run, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["step"]) == (state, step)
    assert reason in found["reason"]
    losses = {each["name"]: each["loss"] for each in found["evaluations"]}
    assert losses == pytest.approx(evaluations, abs=1e-6)


def test_the_run_is_reported(home, capsys):
    assert cli.main(["report", "run", "--output", "report.html"]) == 0
    page = (home / "report.html").read_text()
    for words in ("golden", "held-out-8", "170.28", "You may"):
        assert words in page

"""A step of a real run is traced back to the lines of the corpus, and they hold what the step was trained on."""

import json
import random

import numpy as np
import pytest

from gpt2dist import cli
from gpt2dist.commands.trace import load_plan, trace
from gpt2dist.loading.loader import Loader
from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.preprocessing import tasks as tasks_module
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_bpe
from gpt2dist.training.setup import build_batcher
from tests.support.runs import train, write_run

STEP = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three steps on two ranks, on a corpus of two files that several tasks were made of."""
    home = tmp_path_factory.mktemp("trace")
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 6))) for _ in range(50)]
    texts = [f"{number}: " + " ".join(draw.choices(words, k=draw.randint(1, 40))) for number in range(600)]
    (home / "corpus").mkdir()
    for name, part in (("a", texts[:400]), ("b", texts[400:])):
        lines = [json.dumps({"text": text}) for text in part]
        lines.insert(7, "")  # a blank line is no document, but it counts
        (home / "corpus" / f"{name}.jsonl").write_text("\n".join(lines))
    train_bpe(texts, 320).save(home / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks_module, "MIN_TASK_BYTES", 5000)
        job = PreprocessingJob(
            (str(home / "corpus"),), str(home / "tokenizer"), home / "dataset", val_fraction=0.1
        )
        assert len(prepare(job).shards) > 10
    config = write_run(home, home / "dataset")
    return train(config, f"run.stop_after_steps={STEP}", "batch.micro_batch_size=2", world_size=2)


def micro_batches(run, rank):
    """What the loader of a rank gives for the step."""
    import yaml

    from gpt2dist.config import Config

    plan = load_plan(run)
    config = Config.model_validate_json(json.dumps(yaml.safe_load((run / "config.yaml").read_text())))
    loader = Loader(
        plan.mixture,
        build_batcher(config, plan),
        lambda batch: batch,
        plan.batch_sizes,
        plan.micro_batch_size,
        rank,
        plan.world_size,
        consumed_samples=plan.batch_sizes.samples(STEP - 1),
    )
    try:
        return next(loader).micro_batches
    finally:
        loader.close()


def test_the_documents_hold_what_was_trained_on(run):
    plan = load_plan(run)
    windows = trace(plan, STEP)
    assert [window["sample"] for window in windows] == list(range(16, 24))
    tokenizer = Tokenizer.load(plan.tokenizer)
    for rank in (0, 1):
        mine = [window for window in windows if window["rank"] == rank]
        rows = np.concatenate([batch.tokens for batch in micro_batches(run, rank)])
        assert len(mine) == len(rows) == 4
        for window, row in zip(mine, rows, strict=True):
            covered = []
            for document in window["documents"]:
                origin = document["origin"]
                with open(origin["path"], "rb") as file:
                    by_line = json.loads(file.read().split(b"\n")[origin["line"] - 1])["text"]
                    file.seek(origin["offset"])
                    by_offset = json.loads(file.readline())["text"]
                assert by_line == by_offset
                text = [*tokenizer.encode(by_line).tolist(), tokenizer.end_of_text_id]
                stretch = row[document["begin"] : document["end"]].tolist()
                assert any(text[at : at + len(stretch)] == stretch for at in range(len(text)))
                covered += range(document["begin"], document["end"])
            assert covered == list(range(plan.sequence_length + 1))


def test_what_people_and_programs_read(run, capsys):
    assert cli.main(["trace", str(run), "--step", str(STEP), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == STEP and found["windows"] == trace(load_plan(run), STEP)
    assert cli.main(["trace", str(run), "--step", str(STEP)]) == 0
    text = capsys.readouterr().out
    first = found["windows"][0]
    origin = first["documents"][0]["origin"]
    assert f"sample 16 (rank 0): window {first['window']:,} of {first['dataset']}, tokens" in text
    assert f"document {first['documents'][0]['number']:,}, {origin['path']}:{origin['line']}" in text


@pytest.mark.parametrize("step", [0, 21])
def test_a_step_that_is_none(run, capsys, step):
    assert cli.main(["trace", str(run), "--step", str(step)]) == 2
    assert f"--step {step}: the run has steps 1 … 20" in capsys.readouterr().err


def test_no_run_directory(tmp_path, capsys):
    assert cli.main(["trace", str(tmp_path), "--step", "1"]) == 2
    assert "not a run directory, it has no config.yaml; `gpt2dist train` creates one" in capsys.readouterr().err


def test_another_dataset_in_its_place(run, capsys):
    path = run / "environment.json"
    facts = json.loads(path.read_text())
    (name,) = facts["datasets"]
    path.write_text(json.dumps(facts | {"datasets": {name: "0" * 64}}))
    try:
        assert cli.main(["trace", str(run), "--step", "1"]) == 2
        assert f"{name}: not the dataset that {run} was trained on" in capsys.readouterr().err
    finally:
        path.write_text(json.dumps(facts))


def test_the_documents_of_a_window_are_shown_by_inspect(run, capsys):
    plan = load_plan(run)
    directory = str(plan.tokenizer)
    window = ["--window", "5", "--sequence-length", "32", "--stride", "12"]
    assert cli.main(["inspect", directory, "--json", *window]) == 0
    shown = json.loads(capsys.readouterr().out)["window"]
    assert shown["documents"][0]["start"] <= 60 < shown["documents"][0]["end"]
    assert cli.main(["inspect", directory, *window]) == 0
    origin = shown["documents"][0]["origin"]
    assert f"from {origin['path']}:{origin['line']}" in capsys.readouterr().out

"""TensorBoard as a person sees it: a run that was stopped and went on, beside another, in a real browser."""

import contextlib
import io
import json
import urllib.parse
import urllib.request

import pytest

from tests.support.browser import MISSING, browser, tensorboard
from tests.support.commands import wait_until
from tests.support.ranks import run_ranks
from tests.support.runs import train, write_run

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

WATCHED = [
    *("monitoring.tensorboard=true", "evaluation.every_steps=5", "model.dropout=0.1"),
    "monitoring.samples={prompts: [abc, de], every_steps: 10, max_new_tokens: 9}",
]
RUNS = ["first/tensorboard", "first/tensorboard/books", "second/tensorboard"]
TAGS = {
    *("train/loss", "train/perplexity", "train/lr", "train/grad_norm", "train/loss_scale", "train/skipped_steps"),
    *("train/epoch", "progress/tokens", "throughput/tokens_per_second", "time/step", "time/data_wait"),
    *("memory/peak_gib", "eval/val/loss", "eval/val/perplexity", "eval/val/bits_per_byte"),
    *("train/loss_vs_tokens", "eval/val/loss_vs_tokens"),
}


def evaluate_beside(run, dataset):
    """What an evaluation job beside the training does."""
    from gpt2dist.cli import main

    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["evaluate", str(run), "--data", str(dataset), "--run", str(run), "--name", "books"]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("board")


@pytest.fixture(scope="module")
def address(home, tiny_dataset):
    """A TensorBoard that looked on while the first run was stopped, went on and was evaluated."""
    config = write_run(home, tiny_dataset, validation=True)
    first = [*WATCHED, f"run.output_dir={home}/runs/first"]
    train(config, *first, "run.stop_after_steps=7", "checkpoint.every_steps=5", "checkpoint.asynchronous=false")
    for path in (home / "runs/first/checkpoints/step-00000007").iterdir():  # as if it had died before this save
        path.unlink()
    (home / "runs/first/checkpoints/step-00000007").rmdir()
    with tensorboard(home / "runs") as board:
        wait_until(lambda: len(curve(board, "train/loss")) == 7)
        run = train(config, *first)
        run_ranks(evaluate_beside, 1, run, tiny_dataset)
        train(config, *WATCHED, f"run.output_dir={home}/runs/second", "optimizer.lr=1e-3", "model.n_embd=16")
        wait_until(lambda: len(curve(board, "train/loss", "second/tensorboard")) == 20)
        yield board


@pytest.fixture(scope="module")
def page():
    with browser(height=2400) as opened:  # cards out of sight are not drawn
        yield opened


def curve(board, tag, run="first/tensorboard"):
    """A curve as TensorBoard's own page gets it: steps and values. Empty where there is none yet."""
    query = urllib.parse.urlencode({"tag": tag, "run": run})
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"{board}/data/plugin/scalars/scalars?{query}") as answer,
    ):
        return [(step, value) for _, step, value in json.load(answer)]
    return []


@pytest.mark.parametrize("tag", ["train/loss", "eval/val/loss", "train/loss_vs_tokens"])
def test_a_tensorboard_that_looked_on_shows_no_step_twice_and_none_missing(home, address, tag):
    lines = [json.loads(line) for line in (home / "runs/first/metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if tag.removesuffix("_vs_tokens") in line]
    steps = [line["progress/tokens" if tag.endswith("_vs_tokens") else "step"] for line in told]
    found = curve(address, tag)
    assert [step for step, _ in found] == steps
    assert [value for _, value in found] == pytest.approx([line[tag.removesuffix("_vs_tokens")] for line in told])


CARDS = """
return [...document.querySelectorAll("scalar-card")]
    .filter((card) => card.querySelector("canvas"))
    .map((card) => card.querySelector("tb-truncated-path")?.getAttribute("title"));
"""


def test_every_tag_of_the_contract_has_a_card_and_every_run_one_name(home, address, page):
    seen = set()
    for number, tags in enumerate(("train/", "eval/val|progress|throughput|time|memory")):  # twelve to a page
        page.open(f"{address}/?tagFilter=%5E({urllib.parse.quote(tags)})#timeseries")
        wanted = {tag for tag in TAGS if tag.startswith(tuple(tags.split("|")))}
        wait_until(lambda wanted=wanted: wanted <= set(page.run(CARDS)), 120)
        seen |= set(page.run(CARDS))
        page.picture(home / f"cards-{number}.png")
    assert seen == TAGS
    names = [text for text in page.texts() if "tensorboard" in text]
    assert sorted(set(names)) == RUNS


def test_training_and_validation_loss_are_in_one_chart(home, address, page):
    page.open(f"{address}/#custom_scalars")
    texts = page.wait_for(lambda texts: "train/loss (second/tensorboard)" in texts and "perplexity" in texts)
    page.picture(home / "custom-scalars.png")
    chart = texts[texts.index("loss") : texts.index("perplexity")]
    assert {text for text in chart if text.endswith("/tensorboard)")} == {
        f"{tag} ({run}/tensorboard)" for run in ("first", "second") for tag in ("train/loss", "eval/val/loss")
    }
    assert "eval/books/loss (first/tensorboard/books)" in chart


def test_runs_compare_in_a_table_that_begins_with_what_they_differ_in(home, address, page):
    page.open(f"{address}/#hparams")
    texts = page.wait_for(lambda texts: "Trial ID" in texts and "second/tensorboard" in texts)
    page.picture(home / "hparams.png")
    table = texts[texts.index("Trial ID") :]
    assert table[1] == "Show Metrics"
    assert {"optimizer.lr", "model.n_embd", "model.parameters"} == set(table[2:5])
    assert [text for text in table if text.endswith("tensorboard")] == ["first/tensorboard", "second/tensorboard"]
    rows = {name: table[table.index(name) + 1 :][:3] for name in ("first/tensorboard", "second/tensorboard")}
    column = table[2:5].index("optimizer.lr")
    assert [float(row[column]) for row in rows.values()] == [2e-3, 1e-3]


def test_samples_are_shown_as_they_are_with_their_steps(home, address, page):
    lines = [json.loads(line) for line in (home / "runs/first/metrics.jsonl").read_text().splitlines()]
    samples = [(line["step"], line["samples/1"]) for line in lines if "samples/1" in line]
    assert [step for step, _ in samples] == [10, 20]
    page.open(f"{address}/#text")
    texts = page.wait_for(lambda texts: all(sample in texts for _, sample in samples))
    page.picture(home / "text.png")
    shown = texts[texts.index("samples/1/text_summary") :]
    assert shown[shown.index("20") + 1] == samples[1][1] and shown[shown.index("10") + 1] == samples[0][1]

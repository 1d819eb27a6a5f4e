import dataclasses
import time
from pathlib import Path

import pytest

from gpt2dist.evaluation.measures import BITS_PER_BYTE, LOSS, PERPLEXITY
from gpt2dist.run.starts import Change, Start
from gpt2dist.status import table
from gpt2dist.status.evaluations import Best, Evaluation
from gpt2dist.status.status import Checkpoint, Status


def evaluation(name, step, *values):
    measures = (LOSS, PERPLEXITY, BITS_PER_BYTE)
    return Evaluation(name, step, dict(zip((each.key for each in measures), values, strict=True)), measures)


@pytest.fixture
def status():
    return Status(
        run="runs/a",
        state="running",
        reason="",
        step=700,
        total_steps=1400,
        loss=3.90051,
        perplexity=49.42,
        tokens_per_second=16539.2,
        mfu=0.4123,
        seconds_left=95.0,
        checkpoint=Checkpoint(600, 12.0),
        best=Best(400, "eval/val/loss", 3.9),
        evaluations=[evaluation("val", 600, 3.95, 51.9, 1.83), evaluation("wiki", 500, None, None, None)],
        skipped_steps=2,
        silent=1.0,
        start_count=0,
        starts=[],
    )


@pytest.fixture
def unknown(status):
    nothing = dict.fromkeys(("step", "total_steps", "loss", "perplexity", "tokens_per_second", "mfu"))
    nothing |= dict.fromkeys(("seconds_left", "checkpoint", "best", "skipped_steps", "silent"))
    return dataclasses.replace(
        status, run="runs/b/c", state="failed", reason="rank 0: E: x", evaluations=[], **nothing
    )


def test_a_table_of_runs_with_what_is_to_be_said_of_them(status, unknown):
    assert table.show([status, unknown], Path("runs")) == [
        "run  state    step           loss    left      tokens/s  checkpoint     "
        "evaluation                                    MFU    perplexity  skipped",
        "a    running  700/1,400 50%  3.9005  1:35 min  16,539    600, 12 s ago  "
        "val loss 3.9500, 1.8300 bits per byte at 600  41.2%  49.42       2",
        "b/c  failed   –              –       –         –         –              "
        "–                                             –      –           –",
        "",
        "b/c failed: rank 0: E: x",
    ]


def test_a_narrow_terminal_gets_the_columns_that_fit_and_the_running_runs_first(status, unknown):
    assert table.fitted([unknown, status], Path("runs"), columns=64, rows=6) == [
        "run  state    step           loss    left      tokens/s  MFU",
        "a    running  700/1,400 50%  3.9005  1:35 min  16,539    41.2%",
        "b/c  failed   –              –       –         –         –",
        "",
        "b/c failed: rank 0: E: x",
    ]
    narrow = table.fitted([unknown, status], Path("runs"), columns=5, rows=6)
    assert narrow[:3] == ["run  state", "a    running", "b/c  failed"], "a name and its state always"
    wide = table.fitted([unknown, status], Path("runs"), columns=200, rows=6)
    assert wide == table.show([status, unknown], Path("runs"))


@pytest.mark.parametrize(
    ("rows", "first_words", "last"),
    [
        (3, ["run", "r0"], "… 8 more"),
        (9, ["run", *(f"r{number}" for number in range(7))], "… 2 more"),
        (11, ["run", *(f"r{number}" for number in range(9))], None),
        (13, ["run", *(f"r{number}" for number in range(9)), "", "r0"], "… 8 more"),
    ],
)
def test_the_last_line_says_how_many_runs_or_reasons_do_not_fit(status, rows, first_words, last):
    runs = [dataclasses.replace(status, run=f"runs/r{number}", reason="x") for number in range(9)]
    lines = table.fitted(runs, Path("runs"), columns=200, rows=rows)
    assert lines[-1] == (last or lines[-1]) and len(lines) <= rows
    assert [(line.split() or [""])[0] for line in lines[: len(lines) - bool(last)]] == first_words


def test_one_run_in_full_is_cut_too(status):
    lines = table.fitted([status], Path("runs/a"), columns=80, rows=4)
    assert lines == [*table.show([status], Path("runs/a"))[:3], "… 10 more"]


def test_one_run_in_full(status):
    assert table.show([status], Path("runs/a")) == [
        "           run  runs/a",
        "         state  running",
        "          step  700/1,400 50%",
        "          loss  3.9005",
        "    perplexity  49.42",
        "      tokens/s  16,539",
        "           MFU  41.2%",
        "          left  1:35 min",
        "    checkpoint  600, 12 s ago",
        "          best  400, eval/val/loss 3.9000",
        "    evaluation  val loss 3.9500, 1.8300 bits per byte at 600",
        "    evaluation  wiki – at 500",
        " skipped steps  2",
    ]
    spoiled = dataclasses.replace(status, state="stale", reason="look there", perplexity=3.2e9, total_steps=None)
    lines = table.show([spoiled], Path("runs/a"))
    assert lines[1:3] == ["         state  stale: look there", "          step  700"]
    assert lines[4] == "    perplexity  3.2e+09"


def test_the_starts_of_a_run_and_what_the_last_one_changed(status, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    changes = tuple(Change(f"optimizer.{number}", number, 5e-4) for number in range(10))
    first, last = Start(11, 0.0, 0, 1, changes[:1]), Start(12, 1.8e9, 1200, 8, changes)
    shown = table.in_full(dataclasses.replace(status, start_count=12, starts=[first, last]))[13:]
    assert shown == [
        ("starts", "12, the last 2027-01-15 08:00, at step 1,200, 8 ranks"),
        *[("changed", f"optimizer.{number} {number} → 5e-4") for number in range(8)],
        ("changed", "and 2 more; see --json"),
    ]
    unknown = Start(1, None, None, None, ())
    shown = table.in_full(dataclasses.replace(status, start_count=1, starts=[unknown]))[13:]
    assert shown == [("starts", "1, the last –, at step –")]


def test_a_line_says_what_is_known(status, unknown):
    assert table.line(unknown, Path("runs")) == "b/c: failed (rank 0: E: x)"
    assert table.line(status, Path("runs/a")) == (
        "a: running, step 700/1,400 50%, loss 3.9005, left 1:35 min, tokens/s 16,539, checkpoint 600, 12 s ago, "
        "evaluation val loss 3.9500, 1.8300 bits per byte at 600, MFU 41.2%, perplexity 49.42, skipped 2"
    )

import json

import pytest

from gpt2dist.report.contents import read_contents
from gpt2dist.report.curves import Palette, charts
from gpt2dist.report.history import MOST_GROUP_RATES


@pytest.fixture
def write_run(tmp_path):
    def write(name, *rates):
        run = tmp_path / name
        run.mkdir()
        lines = [
            {"step": step, "train/loss": 3.0, "train/lr": 0.1 / step, "progress/tokens": 8 * step}
            | {f"train/lr_{rate}": 0.01 / step for rate in rates}
            for step in (1, 2)
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_contents(run)

    return write


def learning_rates(*runs):
    names = [run.name for run in runs]
    (chart,) = (each for each in charts(runs, Palette(runs, names)) if each.title == "Learning rate")
    return chart


def test_the_rates_of_all_parameter_groups_share_a_chart(write_run):
    chart = learning_rates(write_run("a", "muon"))
    assert [(curve.name, list(curve.points)) for curve in chart.curves] == [
        ("lr", [(1, 0.1), (2, 0.05)]),
        ("lr_muon", [(1, 0.01), (2, 0.005)]),
    ]
    assert len({curve.colour for curve in chart.curves}) == 2


def test_a_single_rate_needs_no_name_and_several_runs_do(write_run):
    first, second = write_run("a"), write_run("b", "muon")
    assert [curve.name for curve in learning_rates(first).curves] == [""]
    chart = learning_rates(first, second)
    assert [curve.name for curve in chart.curves] == ["a", "b, lr", "b, lr_muon"]
    assert [list(known) for known in chart.tokens] == [[(1, 8), (2, 16)]] * 3


def test_the_number_of_rates_is_bounded(write_run):
    chart = learning_rates(write_run("a", *map(str, range(2 * MOST_GROUP_RATES))))
    assert len(chart.curves) == 1 + MOST_GROUP_RATES

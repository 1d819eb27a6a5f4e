"""The charts of a report: which series they have, and in which colours."""

from collections.abc import Iterable, Sequence

from gpt2dist.evaluation.measure import MeasureInfo
from gpt2dist.evaluation.measures import LOSS, TEXT
from gpt2dist.report.charts import Chart, Curve
from gpt2dist.report.contents import Contents
from gpt2dist.report.decimation import Decimated, Point
from gpt2dist.report.history import LEARNING_RATE, MEMORY, NORM, RATE, SKIPPED, TOKENS
from gpt2dist.run.metrics_file import TRAINED

OVER_TIME = (
    ("Tokens per second", RATE),
    ("Gradient norm, before clipping", NORM),
    ("Learning rate", LEARNING_RATE),
    ("Skipped steps, since the start of the run", SKIPPED),
    ("Peak memory, GiB", MEMORY),
)
SMOOTHED = {TRAINED, RATE, NORM}
"""Tags whose values scatter from step to step."""


class Palette:
    """A colour for each series of a page, the same in every chart: trainings, evaluations, other learning rates.

    Args:
        runs: The runs of the page.
        names: A name for each, unlike the others'.
    """

    def __init__(self, runs: Sequence[Contents], names: Sequence[str]):
        self._names = names
        trained = [(number, "") for number in range(len(runs))]
        evaluated = [(number, name) for number, run in enumerate(runs) for name in _evaluation_names(run)]
        rates = [(number, tag) for number, run in enumerate(runs) for tag in run.history.group_rates()]
        self._colours = {key: colour for colour, key in enumerate([*trained, *evaluated, *rates])}

    def __len__(self) -> int:
        return len(self._colours)

    def colour(self, run: int, series: str = "") -> int:
        """Return the number of the colour of a run's training, or of an evaluation or the tag of another rate."""
        return self._colours[run, series]

    def name(self, run: int, series: str) -> str:
        """Return the name of a series in a legend, with its run if there are several."""
        return ", ".join(filter(None, (self._names[run], series))) if len(self._names) > 1 else series


def charts(runs: Sequence[Contents], palette: Palette) -> Iterable[Chart]:
    """Yield the charts; one without data has no curve with a point."""
    for measure in _measures(runs):
        yield _measured(measure, runs, palette)
    for title, tag in OVER_TIME:
        chart = _over_time(title, tag, runs, palette)
        changes = tag != SKIPPED or any(value for curve in chart.curves for _, value in curve.points)
        if changes:  # a chart of zeros says no more than the summary
            yield chart


def _over_time(title: str, tag: str, runs: Sequence[Contents], palette: Palette) -> Chart:
    """Return the chart of a tag of the training; that of the learning rate has those of all parameter groups."""
    curves, tokens = [], []
    for number, run in enumerate(runs):
        others = run.history.group_rates() if tag == LEARNING_RATE else []
        curves.append(_trained(run, number, tag, palette, "lr" if others else ""))
        for other in others:
            name, points = other.removeprefix("train/"), run.history.series[other].points()
            curves.append(Curve(palette.name(number, name), palette.colour(number, other), points))
        tokens += [_known_tokens(run)] * (1 + len(others))
    return Chart(title, curves, tokens if len(runs) > 1 else (), log=tag == NORM, note=_lost(runs, tag))


def _measured(measure: MeasureInfo, runs: Sequence[Contents], palette: Palette) -> Chart:
    """Return the chart of a measure of the evaluations; that of the loss has the training too."""
    curves, tokens = [], []
    for number, run in enumerate(runs):
        if measure.key == LOSS.key:
            curves.append(_trained(run, number, TRAINED, palette, "training"))
            tokens.append(_known_tokens(run))
        for name in _evaluation_names(run):
            points = _evaluated(run, name, measure.key)
            curves.append(
                Curve(palette.name(number, name), palette.colour(number, name), points, dots=len(points) <= 60)
            )
            tokens.append(_known_tokens(run))
    note = _lost(runs, TRAINED) if measure.key == LOSS.key else ""
    return Chart(f"{measure.heading} ({measure.better} is better)", curves, tokens, log=True, note=note)


def _trained(run: Contents, number: int, tag: str, palette: Palette, name: str) -> Curve:
    series = run.history.series.get(tag, Decimated())
    smoothed = series.smoothed() if tag in SMOOTHED else []
    return Curve(palette.name(number, name), palette.colour(number), series.points(), smoothed)


def _evaluated(run: Contents, name: str, key: str) -> list[Point]:
    series = Decimated()
    for each in run.evaluations:
        value = each.values.get(key)
        if each.name == name and value is not None:
            series.add(each.step, value)
    return series.points()


def _evaluation_names(run: Contents) -> list[str]:
    return sorted({each.name for each in run.evaluations})


def _known_tokens(run: Contents) -> list[Point]:
    return run.history.series.get(TOKENS, Decimated()).points()


def _lost(runs: Sequence[Contents], tag: str) -> str:
    """Return a remark about values that cannot be drawn."""
    lost = sum(run.history.lost.get(tag, 0) for run in runs)
    return f"{lost:,} log line{'s' * (lost != 1)} without a finite value" if lost else ""


def _measures(runs: Sequence[Contents]) -> list[MeasureInfo]:
    """Return the measures to chart: those of texts, then others that a result has."""
    results = [result for run in runs for result in run.evaluations]
    ours = {each.key for each in TEXT}
    others = {each.key: each for result in results for each in result.measures if each.key not in ours}
    return [each for each in (*TEXT, *(others[key] for key in sorted(others))) if "report" in each.places]

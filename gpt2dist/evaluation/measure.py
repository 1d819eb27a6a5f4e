"""What a measure is: how its value follows from the sums of an evaluation, how it is written, and where.

Needs only the standard library, since status and report read results on machines without torch.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

Task = Literal["text", "last_words", "choices"]
"""What is scored: every token of a text (`evaluate`, validation), each passage's last word (`lambada`), or the
choices of each question (`multiple-choice`)."""

Place = Literal["training", "curve", "log", "status", "report", "card"]
"""Where a measure is shown:

training    metrics.jsonl and the trackers, when a training run validates
curve       TensorBoard, for results that belong to a run
log         the log line of an evaluation, in `train` and with --all-checkpoints
status      `gpt2dist status`, and the lineage in a report
report      a chart in a report
card        a model card

Result files, the output of `evaluate` and `lambada`, and `status --json` have all measures.
"""

PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Sums:
    """What an evaluation adds up. Every measure follows from it. Counts that were not taken are None.

    Attributes:
        nll_sum: Σ negative log-likelihood of all targets, in nats.
        targets: Number of targets.
        bytes: UTF-8 bytes of the original text.
        words: Whitespace-separated words of the original text.
        lm_eval_words: Words of the original text as lm-evaluation-harness counts them.
        windows: Number of windows.
        examples: Number of passages whose last word was scored, or of questions.
        correct: Number of passages whose last word the model guessed, or of questions that it answered right.
        correct_norm: Number of questions answered right if log-likelihoods are divided by the choices' lengths.
    """

    nll_sum: float
    targets: int
    bytes: int | None = None
    words: int | None = None
    lm_eval_words: int | None = None
    windows: int | None = None
    examples: int | None = None
    correct: int | None = None
    correct_norm: int | None = None


COUNTS = tuple(field.name for field in dataclasses.fields(Sums) if field.name != "nll_sum")


@dataclass(frozen=True, kw_only=True)
class MeasureInfo:
    """How a measure is written, and where. Result files hold this of measures of other packages.

    Attributes:
        key: Key in result files and tags, such as "bits_per_byte".
        title: Name for people, such as "bits per byte".
        unit: Unit for people, such as "nats per token"; empty if the title says it.
        formula: How the measure follows from the sums, for people.
        better: Whether lower or higher values are better.
        digits: Decimals in log lines and in the status.
        table_digits: Decimals in the output of `evaluate` and in model cards.
        places: Where the measure is shown.
    """

    key: str
    title: str
    unit: str = ""
    formula: str = ""
    better: Literal["lower", "higher"] = "lower"
    digits: int = 4
    table_digits: int = 4
    places: tuple[Place, ...] = PLACES

    def in_line(self, value: float) -> str:
        """Return a value with its name, such as "loss 3.9512" or "1.8300 bits per byte"."""
        number = f"{value:.{self.digits}f}"
        return f"{self.title} {number}" if self.unit else f"{number} {self.title}"

    def in_table(self, value: float) -> str:
        """Return a value with its unit, for a table that has the title."""
        return f"{value:,.{self.table_digits}f} {self.unit}".rstrip()

    @property
    def heading(self) -> str:
        """The title and the unit, for a chart."""
        return ", ".join(filter(None, (self.title[:1].upper() + self.title[1:], self.unit)))


@dataclass(frozen=True, kw_only=True)
class Measure(MeasureInfo):
    """A measure: how it follows from the sums of an evaluation, and how it is written.

    Attributes:
        value: Function from `Sums` to the value. It is called only if the count `per` is known and not 0.
        per: Count by which the measure is normalised: a field of `Sums`. A result without this count lacks the
            measure; if the count is 0, the measure is undefined (NaN, in JSON null).
        task: What must be scored.

    Raises:
        ValueError: A value is not one that the attribute may have.
    """

    value: Callable[[Sums], float]
    per: str = "targets"
    task: Task = "text"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.key):
            raise ValueError(f"key {self.key!r} is not made of lower-case letters, digits and underscores")
        allowed = {"per": COUNTS, "task": get_args(Task), "better": ("lower", "higher")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {', '.join(values)}")
        if unknown := [place for place in self.places if place not in PLACES]:
            raise ValueError(f"places has {unknown[0]!r}, not one of {', '.join(PLACES)}")

    def of(self, sums: Sums) -> float | None:
        """Return the value; NaN if it is undefined, None if its count was not taken."""
        count = getattr(sums, self.per)
        if count is None:
            return None
        try:
            return float(self.value(sums)) if count else math.nan
        except ArithmeticError:  # a division by 0 or an overflow
            return math.nan

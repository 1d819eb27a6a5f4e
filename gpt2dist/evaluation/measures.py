"""The measures of an evaluation: one table, from which results, curves, status, report, card and docs follow.

Needs only the standard library, since status and report read results on machines without torch. CONTRIBUTING.md
describes how to add a measure.
"""

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gpt2dist.errors import UserError
from gpt2dist.evaluation.measure import COUNTS, PLACES, Measure, MeasureInfo, Place, Sums, Task

if TYPE_CHECKING:  # reading results needs no registry
    from gpt2dist.registry import Registry

DESCRIPTIONS = "measures"
"""Key of a result file under which measures of other packages are described."""
OPTIONAL_COUNTS = {"lm_eval_words"}
"""Counts that a result may lack: datasets that version 0.1 made do not have them."""


def exp(value: float) -> float:
    """Return the exponential; infinity if it overflows."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _standard_error(correct: int, examples: int) -> float:
    """Return the standard error of the mean of outcomes 0 and 1; undefined for a single one."""
    share = correct / examples
    return math.sqrt(share * (1 - share) / (examples - 1))


LOSS = Measure(
    key="loss",
    title="loss",
    unit="nats per token",
    formula="Σ nll / targets",
    value=lambda sums: sums.nll_sum / sums.targets,
    table_digits=6,
    places=("training", "curve", "log", "status", "report"),
)
PERPLEXITY = Measure(
    key="perplexity",
    title="perplexity",
    unit="per token",
    formula="exp(Σ nll / targets)",
    value=lambda sums: exp(sums.nll_sum / sums.targets),
    digits=3,
    places=("training", "curve", "log", "card"),
)
BITS_PER_TOKEN = Measure(
    key="bits_per_token",
    title="bits per token",
    formula="Σ nll / (ln 2 · targets)",
    value=lambda sums: sums.nll_sum / sums.targets / math.log(2),
    table_digits=5,
    places=(),
)
BITS_PER_BYTE = Measure(
    key="bits_per_byte",
    title="bits per byte",
    formula="Σ nll / (ln 2 · bytes)",
    value=lambda sums: sums.nll_sum / (math.log(2) * cast(int, sums.bytes)),
    per="bytes",
    table_digits=5,
    places=("training", "curve", "log", "status", "report", "card"),
)
WORD_PERPLEXITY = Measure(
    key="word_perplexity",
    title="word perplexity",
    unit="per word",
    formula="exp(Σ nll / words)",
    value=lambda sums: exp(sums.nll_sum / cast(int, sums.words)),
    per="words",
    digits=3,
    places=("curve", "card"),
)
LM_EVAL_WORD_PERPLEXITY = Measure(
    key="lm_eval_word_perplexity",
    title="word perplexity (lm-eval)",
    unit="per word as lm-evaluation-harness counts words",
    formula="exp(Σ nll / lm_eval_words)",
    value=lambda sums: exp(sums.nll_sum / cast(int, sums.lm_eval_words)),
    per="lm_eval_words",
    digits=3,
    places=("curve", "card"),
)
ACCURACY = Measure(
    key="accuracy",
    title="accuracy",
    unit="of the last words guessed",
    formula="correct / examples",
    value=lambda sums: cast(int, sums.correct) / cast(int, sums.examples),
    per="examples",
    task="last_words",
    better="higher",
    places=("curve", "log", "status", "report", "card"),
)
LAST_WORD_PERPLEXITY = Measure(
    key="perplexity",
    title="perplexity",
    unit="per last word",
    formula="exp(Σ nll / examples)",
    value=lambda sums: exp(sums.nll_sum / cast(int, sums.examples)),
    per="examples",
    task="last_words",
    digits=3,
    places=("curve", "log", "card"),
)
ACC = Measure(
    key="acc",
    title="acc",
    unit="of the questions answered right",
    formula="correct / examples",
    value=lambda sums: cast(int, sums.correct) / cast(int, sums.examples),
    per="examples",
    task="choices",
    better="higher",
    places=("curve", "log", "status", "report", "card"),
)
ACC_NORM = Measure(
    key="acc_norm",
    title="acc_norm",
    unit="of the questions, by log-likelihood per character",
    formula="correct_norm / examples",
    value=lambda sums: cast(int, sums.correct_norm) / cast(int, sums.examples),
    per="examples",
    task="choices",
    better="higher",
    places=("curve", "log", "status", "report", "card"),
)
ACC_STDERR = Measure(
    key="acc_stderr",
    title="standard error of acc",
    formula="√(acc (1 − acc) / (examples − 1))",
    value=lambda sums: _standard_error(cast(int, sums.correct), cast(int, sums.examples)),
    per="examples",
    task="choices",
    places=(),
)
ACC_NORM_STDERR = Measure(
    key="acc_norm_stderr",
    title="standard error of acc_norm",
    formula="√(acc_norm (1 − acc_norm) / (examples − 1))",
    value=lambda sums: _standard_error(cast(int, sums.correct_norm), cast(int, sums.examples)),
    per="examples",
    task="choices",
    places=(),
)

TEXT = (LOSS, PERPLEXITY, BITS_PER_TOKEN, BITS_PER_BYTE, WORD_PERPLEXITY, LM_EVAL_WORD_PERPLEXITY)
LAST_WORDS = (ACCURACY, LAST_WORD_PERPLEXITY)
CHOICES = (ACC, ACC_NORM, ACC_STDERR, ACC_NORM_STDERR)
OURS = (*TEXT, *LAST_WORDS, *CHOICES)
TABLE: dict[Task, tuple[Measure, ...]] = {"text": TEXT, "last_words": LAST_WORDS, "choices": CHOICES}
"""Our measures by task, in the order of the result files."""

RESERVED = {
    *(each.key for each in OURS),
    *("nll_sum", *COUNTS, "documents", "text_changes", DESCRIPTIONS),
    *("data", "split", "detokenizer", "tokenizer", "sequence_length", "stride", "prefix", "per_document"),
    *("document_boundaries", "dtype", "batch_size", "zero_stage", "world_size", "model"),
    *("seconds", "tokens_per_second"),
    *("name", "step", "time", "consumed_tokens", "scored"),
    *("task", "task_version", "num_fewshot", "limit", "subtasks", "lm_eval"),
}
"""Keys of a result that a measure of another package cannot have."""
_TRIAL = Sums(1.0, *(1 for _ in COUNTS))


@functools.cache
def _registry() -> "Registry[object]":
    from gpt2dist.registry import Registry

    ours = {each.key: f"{__name__}:{each.key.upper()}" for each in (*TEXT, ACCURACY, *CHOICES)}
    return Registry("measure", "gpt2dist.measures", ours, object)


def in_use(task: Task, named: Sequence[str] = ()) -> tuple[Measure, ...]:
    """Return the measures to compute: ours, those that installed packages offer, and those that the user named.

    Args:
        task: What is scored.
        named: Names of measures, or `package.module:attribute`.

    Raises:
        UserError: A measure cannot be imported or used, its key is taken, or a named one is for another task.
    """
    found = {each.key: each for each in TABLE[task]}
    offered = [name for name in _registry().names() if name not in {each.key for each in OURS}]
    for name in [name for name in (*offered, *named) if name not in found]:
        measure = _load(name)
        if measure.task == task:
            if found.setdefault(measure.key, measure) != measure:
                raise UserError(f"{name}: another measure has the key {measure.key!r} too; omit one")
        elif name in named:
            raise UserError(f"{name} is a measure of the task {measure.task!r}, not {task!r}; omit it")
    return tuple(found.values())


def _load(name: str) -> Measure:
    """Import a measure and try it, since a failure after the evaluation would lose its result."""
    try:
        found = _registry().get(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    if not isinstance(found, Measure):
        raise UserError(f"{name} is not a gpt2dist.evaluation.measures.Measure; create it with that class")
    if found.key in RESERVED and found not in OURS:
        raise UserError(f"{name}: results have another value under the key {found.key!r}; give it another key")
    try:
        found.of(_TRIAL)
    except Exception as error:  # whatever its function raises
        raise UserError(
            f"{name} fails on {_TRIAL} ({type(error).__name__}: {error}); repair it, or omit it"
        ) from error
    return found


def values(sums: Sums, measures: Iterable[Measure]) -> dict[str, float]:
    """Return the measures whose counts were taken, by key."""
    found = {each.key: each.of(sums) for each in measures}
    return {key: value for key, value in found.items() if value is not None}


def record(sums: Sums, measures: Sequence[Measure]) -> dict[str, Any]:
    """Return what a result says of a text: the sum, the measures and the counts that normalise them."""
    found: dict[str, Any] = {"nll_sum": sums.nll_sum, "targets": sums.targets}
    for measure in measures:
        if (value := measure.of(sums)) is not None:
            found[measure.key] = value
            found.setdefault(measure.per, getattr(sums, measure.per))
    return found | descriptions(measures)


def descriptions(measures: Iterable[Measure]) -> dict[str, Any]:
    """Return what a result says of measures of other packages, so that readers need not know them."""
    described = {each.key: description(each) for each in measures if each not in OURS}
    return {DESCRIPTIONS: described} if described else {}


def description(measure: MeasureInfo) -> dict[str, Any]:
    """Return what a result says of how a measure is written, and where."""
    names = [field.name for field in dataclasses.fields(MeasureInfo) if field.name != "key"]
    return {name: getattr(measure, name) for name in names}


def of_result(result: Mapping[str, Any], place: Place | None = None) -> list[MeasureInfo]:
    """Return the measures that a result has, in its order: ours, and others as the result describes them.

    Args:
        result: A result, perhaps from a file.
        place: Return only the measures that are shown there.
    """
    tasks = (TEXT, LAST_WORDS) if ACCURACY.key in result else (LAST_WORDS, TEXT)
    described = result.get(DESCRIPTIONS)
    known: dict[str, MeasureInfo] = {each.key: each for task in (*tasks, CHOICES) for each in task}
    others = _read_descriptions(described) if isinstance(described, dict) else {}
    known = known | others if "task" in result else others | known  # a task may have a metric of our key
    found = [known[key] for key in result if key in known]
    return [each for each in found if place is None or place in each.places]


def in_line(result: Mapping[str, Any], place: Place) -> str:
    """Return the values of a result in one line, such as "loss 3.9512, 1.8300 bits per byte".

    Values that are not numbers are skipped.
    """
    return ", ".join(
        each.in_line(result[each.key]) for each in of_result(result, place) if is_number(result[each.key])
    )


def in_table(result: Mapping[str, Any]) -> dict[str, str]:
    """Return all values of a result for a table: title → value with its unit."""
    return {each.title: each.in_table(result[each.key]) for each in of_result(result)}


def is_of_text(result: Mapping[str, Any]) -> bool:
    """Return whether a result is of a whole text, and not of passages, questions or a task."""
    return "task" not in result and not any(each.key in result for each in (ACCURACY, ACC))


def finite(value: Any) -> float | None:
    """Return a value if it is a finite number, else None."""
    return value if is_number(value) and math.isfinite(value) else None


def is_number(value: Any) -> bool:
    """Return whether a value is a number, and no flag."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_descriptions(described: dict[str, Any]) -> dict[str, MeasureInfo]:
    """Read the descriptions in a result. What is missing or of another type gets its default."""
    found = {}
    for key, facts in described.items():
        if not isinstance(facts, dict):
            facts = {}
        texts = {name: facts[name] for name in ("title", "unit", "formula") if isinstance(facts.get(name), str)}
        texts = {name: " ".join(text.split()) for name, text in texts.items()}
        digits = {
            name: min(max(facts[name], 0), 17)
            for name in ("digits", "table_digits")
            if isinstance(facts.get(name), int)
        }
        places = facts.get("places")
        found[key] = MeasureInfo(
            key=key,
            title=texts.pop("title", "") or key.replace("_", " "),
            better="higher" if facts.get("better") == "higher" else "lower",
            places=tuple(each for each in PLACES if each in places) if isinstance(places, list) else PLACES,
            **texts,
            **digits,
        )
    return found

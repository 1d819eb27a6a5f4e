"""The table of measures, and measures of other packages."""

import json
import math
import os
import re

import pytest

from gpt2dist.errors import UserError
from gpt2dist.evaluation import measures
from gpt2dist.evaluation.measures import OURS, TEXT, Measure, MeasureInfo, Sums
from tests.support import REPOSITORY
from tests.support.markdown import blocks
from tests.support.outside_measures import HERE, LAST_WORD_LOSS, NATS_PER_WORD
from tests.support.packages import installed

SUMS = Sums(nll_sum=200.0, targets=50, bytes=400, words=20, lm_eval_words=25, windows=3)


def test_the_measures_of_a_text_by_hand():
    assert measures.record(SUMS, TEXT) == {
        "nll_sum": 200.0,
        "targets": 50,
        "loss": 4.0,
        "perplexity": pytest.approx(54.598150033),
        "bits_per_token": pytest.approx(5.770780164),
        "bits_per_byte": pytest.approx(0.721347520),
        "bytes": 400,
        "word_perplexity": pytest.approx(22026.4657948),
        "words": 20,
        "lm_eval_word_perplexity": pytest.approx(2980.9579870),  # e^8
        "lm_eval_words": 25,
    }


def test_the_keys_of_a_result_have_one_order():
    assert list(measures.record(SUMS, TEXT)) == [
        *("nll_sum", "targets", "loss", "perplexity", "bits_per_token", "bits_per_byte", "bytes"),
        *("word_perplexity", "words", "lm_eval_word_perplexity", "lm_eval_words"),
    ]


def test_the_measures_of_last_words_by_hand():
    sums = Sums(nll_sum=8.0, targets=9, examples=4, correct=1)
    assert measures.values(sums, measures.LAST_WORDS) == {
        "accuracy": 0.25,
        "perplexity": pytest.approx(math.e**2),
    }


def test_a_count_that_was_not_taken_leaves_no_trace_in_a_result():
    found = measures.record(Sums(nll_sum=1.0, targets=1, bytes=2, words=1), TEXT)
    assert "lm_eval_word_perplexity" not in found and "lm_eval_words" not in found


def test_a_text_without_words_or_bytes_has_undefined_measures():
    found = measures.record(Sums(nll_sum=1.0, targets=1, bytes=0, words=0), TEXT)
    assert math.isnan(found["bits_per_byte"]) and math.isnan(found["word_perplexity"])
    assert (found["bytes"], found["words"]) == (0, 0)


def test_overflow_is_infinite_and_no_exception():
    found = measures.record(Sums(nll_sum=1e6, targets=10, bytes=10, words=10), TEXT)
    assert found["perplexity"] == found["word_perplexity"] == math.inf


def test_a_measure_that_divides_by_zero_is_undefined():
    measure = Measure(key="odd", title="odd", value=lambda sums: sums.nll_sum / (sums.targets - 50))
    assert math.isnan(measure.of(SUMS))


def test_how_values_are_written():
    found = measures.record(SUMS, TEXT)
    assert measures.in_line(found, "log") == "loss 4.0000, perplexity 54.598, 0.7213 bits per byte"
    assert measures.in_line(found, "status") == "loss 4.0000, 0.7213 bits per byte"
    assert measures.in_table(found) == {
        "loss": "4.000000 nats per token",
        "perplexity": "54.5982 per token",
        "bits per token": "5.77078",
        "bits per byte": "0.72135",
        "word perplexity": "22,026.4658 per word",
        "word perplexity (lm-eval)": "2,980.9580 per word as lm-evaluation-harness counts words",
    }
    assert [each.heading for each in TEXT if "report" in each.places] == [
        "Loss, nats per token",
        "Bits per byte",
    ]


def test_measures_of_installed_packages_and_named_ones_follow_ours(tmp_path):
    assert measures.in_use("text") == TEXT
    assert measures.in_use("text", [HERE + "NATS_PER_WORD"]) == (*TEXT, NATS_PER_WORD)
    offered = {"nats_per_word": HERE + "NATS_PER_WORD", "last_word_loss": HERE + "LAST_WORD_LOSS"}
    with installed(tmp_path, "toy", "gpt2dist.measures", **offered):
        assert measures.in_use("text") == (*TEXT, NATS_PER_WORD)
        assert measures.in_use("text", ["nats_per_word", "loss"]) == (*TEXT, NATS_PER_WORD)
        assert measures.in_use("last_words") == (*measures.LAST_WORDS, LAST_WORD_LOSS)
    assert measures.in_use("text") == TEXT


def test_an_installed_measure_that_is_broken_is_refused(tmp_path):
    message = r"no_such_module:BROKEN cannot be imported \(ModuleNotFoundError"
    with (
        installed(tmp_path, "toy", "gpt2dist.measures", broken="no_such_module:BROKEN"),
        pytest.raises(UserError, match=message),
    ):
        measures.in_use("text")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nats",
            "unknown measure 'nats' (known: loss, perplexity, bits_per_token, bits_per_byte, word_perplexity, ",
        ),
        ("no_such_module:NATS", "no_such_module:NATS cannot be imported (ModuleNotFoundError: No module named"),
        (HERE + "HERE", "is not a gpt2dist.evaluation.measures.Measure; create it with that class"),
        (HERE + "LAST_WORD_LOSS", "is a measure of the task 'last_words', not 'text'; omit it"),
        ("accuracy", "accuracy is a measure of the task 'last_words', not 'text'; omit it"),
        (HERE + "LOSS_AGAIN", "results have another value under the key 'loss'; give it another key"),
        (HERE + "STRIDE", "results have another value under the key 'stride'; give it another key"),
        (HERE + "NATS_PER_WORD_AGAIN", "another measure has the key 'nats_per_word' too; omit one"),
        (HERE + "RAISES", "(AttributeError: 'Sums' object has no attribute 'no_such_sum'); repair it, or omit"),
        (
            HERE + "TEXT",
            "fails on Sums(nll_sum=1.0, targets=1, bytes=1, words=1, lm_eval_words=1, windows=1, examples=1, "
            "correct=1, correct_norm=1) "
            "(ValueError: could not convert string to float: 'low'); repair it, or omit it",
        ),
    ],
)
def test_says_what_is_wrong_with_a_measure(name, message):
    with pytest.raises(UserError) as error:
        measures.in_use("text", [HERE + "NATS_PER_WORD", name])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key": "Nats/word"}, "key 'Nats/word' is not made of lower-case letters, digits and underscores"),
        (
            {"per": "letters"},
            "per is 'letters', not one of targets, bytes, words, lm_eval_words, windows, examples",
        ),
        ({"task": "images"}, "task is 'images', not one of text, last_words, choices"),
        ({"better": "more"}, "better is 'more', not one of lower, higher"),
        ({"places": ("wall",)}, "places has 'wall', not one of training, curve, log, status, report, card"),
    ],
)
def test_a_measure_checks_itself(wrong, message):
    with pytest.raises(ValueError) as error:
        Measure(**({"key": "nats", "title": "nats", "value": lambda sums: 1.0} | wrong))
    assert message in str(error.value)


def test_results_describe_measures_of_other_packages_and_only_those():
    assert "measures" not in measures.record(SUMS, TEXT)
    found = json.loads(json.dumps(measures.record(SUMS, (*TEXT, NATS_PER_WORD))))
    assert found["nats_per_word"] == 10.0
    shown = measures.of_result(found)
    assert [each.key for each in shown] == [*(each.key for each in TEXT), "nats_per_word"]
    fields = ("key", "title", "unit", "formula", "better", "digits", "table_digits", "places")
    for name in fields:
        assert getattr(shown[-1], name) == getattr(NATS_PER_WORD, name)
    assert measures.in_line(found, "status") == "loss 4.0000, 0.7213 bits per byte, 10.0000 nats per word"


@pytest.mark.parametrize(
    ("facts", "info"),
    [
        (None, MeasureInfo(key="odd_one", title="odd one")),
        ({"title": 3, "digits": "4", "places": 5, "better": []}, MeasureInfo(key="odd_one", title="odd one")),
        (
            {"title": "odd\none ", "digits": 99, "places": ["wall", "card"], "better": "higher"},
            MeasureInfo(key="odd_one", title="odd one", digits=17, places=("card",), better="higher"),
        ),
    ],
)
def test_a_damaged_description_is_read_as_far_as_it_can_be(facts, info):
    assert measures.of_result({"odd_one": 1.0, "measures": {"odd_one": facts}}) == [info]


def test_a_result_cannot_describe_our_measures_anew():
    facts = {"loss": {"title": "profit"}, "absent": {}}
    assert measures.of_result({"loss": 1.0, "measures": facts}) == [measures.LOSS]
    assert measures.of_result({"loss": 1.0, "measures": [1]}) == [measures.LOSS]


def test_perplexity_is_that_of_the_task():
    assert measures.of_result({"perplexity": 2.0}) == [measures.PERPLEXITY]
    assert measures.of_result({"accuracy": 0.5, "perplexity": 2.0}) == list(measures.LAST_WORDS)


def test_the_example_in_the_guide_is_a_measure(tmp_path, monkeypatch):
    first, *_ = blocks((REPOSITORY / "docs/guides/evaluation.md").read_text(encoding="utf-8"), "python")
    (tmp_path / "my_measures.py").write_text(first, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    *_, measure = measures.in_use("text", ["my_measures:NATS_PER_WORD"])
    assert measure.of(SUMS) == 10.0


def documented():
    """The table of measures for people."""
    shown = {"training": "training runs", "curve": "TensorBoard", "log": "log line", "card": "model card"}
    rows = [
        (
            f"`{each.key}`",
            f"{each.title}{', ' * bool(each.unit)}{each.unit}",
            each.formula,
            each.better,
            ", ".join(shown.get(place, place) for place in each.places) or "–",
        )
        for each in OURS
    ]
    head = ("key", "measure", "formula", "better", "shown in")
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def test_the_guide_has_the_table():
    """GPT2DIST_UPDATE_DOCS=1 writes it."""
    page = REPOSITORY / "docs/guides/evaluation.md"
    pattern = r"(?<=<!-- measures -->\n).*?(?=\n<!-- end -->)"
    if os.environ.get("GPT2DIST_UPDATE_DOCS"):
        text = re.sub(pattern, lambda _: documented(), page.read_text(encoding="utf-8"), flags=re.S)
        page.write_text(text, encoding="utf-8")
    found = re.search(pattern, page.read_text(encoding="utf-8"), flags=re.S)
    assert found and found[0] == documented()

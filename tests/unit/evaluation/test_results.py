import json
import math

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.errors import UserError
from gpt2dist.evaluation.results import EvaluationResults
from gpt2dist.monitoring.tensorboard import TensorBoard
from gpt2dist.monitoring.trackers import send
from gpt2dist.run.metrics_file import NO_HISTORY
from tests.support.stores import ORDER

CONDITIONS = {"data": "d" * 64, "stride": 16, "prefix": "none"}
RESULT = {
    **CONDITIONS,
    **{"model": "m" * 64, "loss": 2.0, "perplexity": 7.4, "bits_per_byte": 1.0, "word_perplexity": 50.0},
}

OUTSIDE = {"nats_per_word": True, "measures": {"nats_per_word": {"title": "nats per word"}}}


@pytest.fixture
def record(tmp_path):
    return EvaluationResults(tmp_path / "run", "val")


@pytest.fixture
def checkpoint(tmp_path):
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    state = TrainerState(9, 72, 900, 9, True, 1e-3, {}, {}, 2.0, [], "t" * 64, ORDER, 1, 0, "fp32")
    state.write(directory)
    (directory / "manifest.json").write_text("{}")
    return directory


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "/a", "a/"])
def test_a_name_is_that_of_a_directory(tmp_path, name):
    with pytest.raises(UserError, match="is not a valid name of a directory; give a plain word"):
        EvaluationResults(tmp_path, name)


def test_results_are_in_the_order_of_their_steps_whatever_their_number_of_digits(record, tmp_path):
    for step in (100_000_000, 9, 10):
        record.add(step, tmp_path, RESULT)
    assert list(record.results()) == [9, 10, 100_000_000]


def test_a_result_takes_the_place_of_one_of_the_same_step(record, tmp_path):
    record.add(9, tmp_path, RESULT)
    record.add(9, tmp_path, RESULT | {"loss": 1.5})
    assert [result["loss"] for result in record.results().values()] == [1.5]
    assert [path.name for path in record.directory.iterdir()] == ["step-00000009.json"]


def test_a_checkpoint_says_how_many_tokens_it_saw(record, checkpoint, tmp_path):
    record.add(9, checkpoint, RESULT)
    record.add(10, tmp_path, RESULT)
    results = record.results()
    assert results[9]["consumed_tokens"] == 900 and "consumed_tokens" not in results[10]
    with_tokens, without = record.lines()
    assert with_tokens["progress/tokens"] == 900 and "progress/tokens" not in without
    assert with_tokens["step"] == 9 and with_tokens["eval/val/loss"] == 2.0


def test_the_trainer_of_transformers_has_a_file_of_that_name_too(record, tmp_path):
    (tmp_path / "trainer_state.json").write_text('{"epoch": 1.0, "global_step": 500}')
    record.add(500, tmp_path, RESULT)
    assert "consumed_tokens" not in record.results()[500]


def test_what_is_not_finite_is_null_in_the_file_and_absent_in_tensorboard(record, tmp_path):
    odd = {"loss": 800.0, "perplexity": math.inf, "bits_per_byte": math.nan, "word_perplexity": -math.inf}
    record.add(9, tmp_path, RESULT | odd)
    text = (record.directory / "step-00000009.json").read_text()
    assert "Infinity" not in text and "NaN" not in text
    there = json.loads(text)
    assert [there[name] for name in odd] == [800.0, None, None, None]
    board = TensorBoard(tmp_path / "board")
    board.start({}, record.run, NO_HISTORY)
    for line in record.lines():
        send(board, line)
    board.close(failed=False)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"eval/val/loss", "eval/val/loss_vs_tokens"}


def test_a_measure_of_another_package_is_a_curve_if_its_description_says_so(record, tmp_path):
    described = {"nats_per_word": {"places": ["curve"]}, "noise": {"places": ["card"]}}
    record.add(9, tmp_path, RESULT | {"nats_per_word": 4.5, "noise": 1.0, "unknown": 2.0, "measures": described})
    (line,) = record.lines()
    assert [tag for tag in line if tag.startswith("eval/")] == [
        *(f"eval/val/{key}" for key in ("loss", "perplexity", "bits_per_byte", "word_perplexity")),
        "eval/val/nats_per_word",
    ]


def test_the_first_result_is_comparable_and_so_are_those_under_the_same_conditions(record, tmp_path):
    record.require_comparable(CONDITIONS)
    record.add(9, tmp_path, RESULT)
    record.require_comparable(CONDITIONS)


@pytest.mark.parametrize(("key", "value"), [("data", "e" * 64), ("stride", 8), ("prefix", "end-of-text")])
def test_what_differs_is_named(record, tmp_path, key, value):
    record.add(9, tmp_path, RESULT)
    with pytest.raises(UserError) as raised:
        record.require_comparable(CONDITIONS | {key: value})
    assert f"has results with {key} {CONDITIONS[key]!r}, this evaluation has {value!r}; give it" in str(
        raised.value
    )


def test_results_of_different_dtypes_are_no_curve_and_those_that_say_none_are_of_fp32(record, tmp_path):
    record.add(9, tmp_path, RESULT)
    record.require_comparable(CONDITIONS | {"dtype": "fp32"})
    with pytest.raises(
        UserError, match="has results with dtype 'fp32', this evaluation has 'bf16'; give it another"
    ):
        record.require_comparable(CONDITIONS | {"dtype": "bf16"})
    record.add(9, tmp_path, RESULT | {"dtype": "bf16"})
    with pytest.raises(
        UserError, match="has results with dtype 'bf16', this evaluation has 'tf32'; give it another"
    ):
        record.require_comparable(CONDITIONS | {"dtype": "tf32"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"step": 9, "lo', "not JSON: Unterminated string"),
        ("", "not JSON: Expecting value"),
        ("[]", "a list instead of an object"),
        ("{}", "step is missing"),
        ('{"step": "nine"}', "step is 'nine', not a whole number"),
        ('{"step": 9}', "time is missing"),
        ("[" * 99_999, "nested too deeply"),
        (json.dumps({"step": 9, "time": 1.0, "model": "m"}), "loss is missing"),
        (json.dumps({"step": 9, "time": 1.0} | RESULT | {"loss": "low"}), "loss is 'low', not a number"),
        (json.dumps({"step": 9, "time": 1.0} | RESULT | OUTSIDE), "nats_per_word is True, not a number"),
        (json.dumps({"step": 9, "time": 1.0} | RESULT | {"loss": 1})[:-1] + ', "model', "Unterminated"),
    ],
)
def test_a_torn_or_foreign_file_is_named(record, text, reason):
    record.directory.mkdir(parents=True)
    path = record.directory / "step-00000009.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not a result of `gpt2dist evaluate`") as raised:
        record.results()
    assert str(raised.value).startswith(f"{path}: ") and reason in str(raised.value)


def test_what_a_killed_writer_left_is_no_result(record, tmp_path):
    record.add(9, tmp_path, RESULT)
    (record.directory / "step-00000010.json.tmp").write_text('{"st')
    assert list(record.results()) == [9]

import errno
import json

import pytest

from gpt2dist.errors import UserError
from gpt2dist.evaluation.questions import Question, read_questions
from tests.support.packages import installed

PLAIN = {"context": "The sky is", "choices": ["blue.", "a fish."], "label": 0}
HELLASWAG = {
    "activity_label": "Home",
    "ctx_a": "[header] How to sweep [title] Take a broom.  [step] Hold it.",
    "ctx_b": "[title] then SWEEP.",
    "endings": ["[step] Begin [ anywhere ] near  the wall.", " Fly. "],
    "label": "1",
}


def write(path, *records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def halves(record):
    """A format of another package."""
    return Question(record["question"], (record["yes"], record["no"]), 0)


def test_a_plain_question(tmp_path):
    path = write(tmp_path / "a.jsonl", PLAIN, PLAIN | {"label": 1})
    path.write_text(path.read_text().replace("\n", "\n\n"))  # blank lines are no questions
    first, second = read_questions(path)
    assert first == Question("The sky is", ("blue.", "a fish."), 0) and second.label == 1


def test_hellaswags_marks_are_removed_as_in_the_harness(tmp_path):
    """Only the second part of the context is capitalised, which makes its other letters small."""
    (question,) = read_questions(write(tmp_path / "a.jsonl", HELLASWAG))
    assert question.context == "Home: How to sweep. Take a broom.  Hold it.. then sweep."
    assert question.choices == (" Begin near the wall.", "Fly.")
    assert question.label == 1


def test_hellaswags_text_is_the_harness_own(tmp_path):
    utils = pytest.importorskip("lm_eval.tasks.hellaswag.utils", reason="lm-eval is not installed")
    datasets = pytest.importorskip("datasets")
    odd = HELLASWAG | {
        "ctx_a": "  [a] b  [title] c [d [e] f] ",
        "ctx_b": "",
        "endings": ["[x]  y   z", "u [title]v"],
    }
    records = [HELLASWAG, odd, HELLASWAG | {"ctx_b": "éa [A]"}]
    expected = utils.process_docs(datasets.Dataset.from_list(records))
    for question, other in zip(read_questions(write(tmp_path / "a.jsonl", *records)), expected, strict=True):
        assert question == Question(other["query"], tuple(other["choices"]), other["gold"])


def test_a_format_of_another_package(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "Is it?", "yes": "yes", "no": "no"})
    expected = [Question("Is it?", ("yes", "no"), 0)]
    assert read_questions(path, f"{__name__}:halves") == expected
    with installed(tmp_path, "toy", "gpt2dist.question_formats", halves=f"{__name__}:halves"):
        assert read_questions(path, "halves") == expected


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (PLAIN | {"label": 2}, "label 2 is not one of 0 to 1"),
        (PLAIN | {"label": -1}, "label -1 is not one of 0 to 1"),
        (PLAIN | {"label": True}, "label is True, not a number"),
        (PLAIN | {"label": "first"}, "label is 'first', not a number"),
        (PLAIN | {"label": 0.0}, "label is 0.0, not a number"),
        (PLAIN | {"label": ""}, "it has no label, as in test sets; give a validation set"),
        (PLAIN | {"choices": ["blue."]}, "1 choices, where a question has at least 2"),
        (PLAIN | {"choices": ["blue.", " "]}, "choice 1 is empty"),
        (PLAIN | {"choices": "blue"}, "choices is 'blue', not a list of texts"),
        (PLAIN | {"choices": ["blue", 3]}, "choices is ['blue', 3], not a list of texts"),
        (PLAIN | {"context": None}, "context is None, not a text"),
        (PLAIN | {"context": "\ud800"}, "context is not Unicode"),
        ({"context": "a", "choices": ["b", "c"]}, "label is missing"),
        ([1], "a list instead of an object"),
    ],
)
def test_what_is_wrong_with_a_line(tmp_path, record, reason):
    path = write(tmp_path / "a.jsonl", PLAIN, record)
    with pytest.raises(UserError) as raised:
        read_questions(path)
    assert str(raised.value) == (
        f"{path}:2: not a question of the format plain ({reason}); fix it, or give another --format"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"endings": ["[step] [a]", "b"]}, "choice 0 is empty"),
        ({"endings": None}, "endings is None, not a list of texts"),
        ({"ctx_b": 1}, "ctx_b is 1, not a text"),
    ],
)
def test_what_is_wrong_with_a_line_of_hellaswag(tmp_path, change, reason):
    path = write(tmp_path / "a.jsonl", HELLASWAG | change)
    with pytest.raises(UserError) as raised:
        read_questions(path)
    assert f"{path}:1: not a question of the format hellaswag ({reason}); fix it" in str(raised.value)


def test_a_file_that_cannot_be_used(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "cut.jsonl").write_text('{"context": "a", "cho')
    for name, message in {
        "empty.jsonl": "empty.jsonl: has no questions; each line must be a JSON object",
        "cut.jsonl": "cut.jsonl:1: not a question (not JSON: Unterminated string",
        "nowhere.jsonl": "nowhere.jsonl is not a file; give JSON lines with a question each",
        ".": "is not a file; give JSON lines",
    }.items():
        with pytest.raises(UserError) as raised:
            read_questions(tmp_path / name)
        assert message in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    path = write(tmp_path / "a.jsonl", PLAIN)
    monkeypatch.setattr(type(path), "open", fail)
    with pytest.raises(UserError, match=r"a\.jsonl: Input/output error; give another file"):
        read_questions(path)


def test_an_unknown_format(tmp_path):
    with pytest.raises(UserError, match=r"--format: unknown format 'arc' \(known: hellaswag, plain\)"):
        read_questions(write(tmp_path / "a.jsonl", PLAIN), "arc")

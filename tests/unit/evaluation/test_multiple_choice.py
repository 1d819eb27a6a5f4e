"""Multiple choice against a plain loop over GPT2LMHeadModel, one choice at a time."""

import math

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from gpt2dist.evaluation.model_forward import LoadedModel
from gpt2dist.evaluation.multiple_choice import QuestionScores, multiple_choice
from gpt2dist.evaluation.questions import Question, read_questions
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.hellaswag import CONTEXT, QUESTIONS, save_model

ALONE = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("choices") / "model")


@pytest.fixture(scope="module")
def questions():
    return read_questions(QUESTIONS)


def answer(directory, questions, **options):
    """The result, and the log-likelihoods of each question."""
    kept = []
    result = multiple_choice(directory, questions, ALONE, on_scores=kept.append, **options)
    return result, kept[0].log_likelihoods


@pytest.fixture(scope="module")
def found(directory, questions):
    return answer(directory, questions)


@pytest.fixture(scope="module")
def score(directory):
    """Scores one choice with transformers' own model."""
    model, tokenizer = GPT2LMHeadModel.from_pretrained(directory), Tokenizer.load(directory)

    def score(context, choice):
        known = tokenizer.encode(context).tolist()
        whole = tokenizer.encode(f"{context} {choice}").tolist()
        row = whole[-(CONTEXT + 1) :]
        new = row[-min(len(whole) - len(known), len(row) - 1) :]
        with torch.no_grad():
            logits = model(torch.tensor([row[:-1]])).logits[0, -len(new) :].double()
        return logits.log_softmax(-1)[range(len(new)), new].sum().item(), len(new)

    return score


@pytest.fixture(scope="module")
def by_hand(score, questions):
    return [[score(question.context, choice) for choice in question.choices] for question in questions]


def test_the_file_is_worth_a_test(questions, by_hand, directory):
    tokenizer = Tokenizer.load(directory)
    lengths = [len(tokenizer.encode(question.context)) for question in questions]
    assert sum(length > CONTEXT for length in lengths) >= 2, "contexts that are cut"
    assert all(count <= CONTEXT for scores in by_hand for _, count in scores), "the harness cuts no ending"
    assert not any("[" in text for question in questions for text in (question.context, *question.choices))
    assert {question.label for question in questions} == {0, 1, 2, 3}


def test_log_likelihoods_by_hand(found, by_hand):
    result, log_likelihoods = found
    for scores, expected in zip(log_likelihoods, by_hand, strict=True):
        assert scores.tolist() == pytest.approx([value for value, _ in expected], rel=1e-6)
    assert result["targets"] == sum(count for scores in by_hand for _, count in scores)


def test_accuracies_by_hand(found, by_hand, questions):
    result, _ = found
    scores = [[value for value, _ in each] for each in by_hand]
    norms = [
        [value / len(choice) for value, choice in zip(each, question.choices, strict=True)]
        for each, question in zip(scores, questions, strict=True)
    ]
    labels = [question.label for question in questions]
    acc, acc_norm = ([int(np.argmax(each)) for each in kind] for kind in (scores, norms))
    right = [sum(a == b for a, b in zip(labels, kind, strict=True)) for kind in (acc, acc_norm)]
    assert 0 < right[0] < len(questions) and 0 < right[1] < len(questions) and acc != acc_norm
    assert [result["acc"], result["acc_norm"]] == [each / len(questions) for each in right]
    assert result["acc_stderr"] == pytest.approx(np.std(np.equal(acc, labels), ddof=1) / len(labels) ** 0.5)
    assert result["examples"] == len(questions)
    nll = -sum(each[label] for each, label in zip(scores, labels, strict=True))
    assert result["nll_sum"] == pytest.approx(nll, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_the_batch_size_changes_rounding_at_most(directory, questions, found, batch_size):
    result, log_likelihoods = answer(directory, questions, batch_size=batch_size)
    assert (result["acc"], result["acc_norm"]) == (found[0]["acc"], found[0]["acc_norm"])
    for scores, expected in zip(log_likelihoods, found[1], strict=True):
        assert scores.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_a_context_is_computed_once(directory, monkeypatch):
    """Inputs: the context, and each choice without its last token."""
    passed = []
    score = LoadedModel.score_branches

    def recorded(self, tokens, *others):
        passed.append(tuple(tokens.shape))
        return score(self, tokens, *others)

    monkeypatch.setattr(LoadedModel, "score_branches", recorded)
    question = Question("A gardener lifts a tall fern", ("and waters it.", "and sings.", "away."), 0)
    tokenizer = Tokenizer.load(directory)
    known = len(tokenizer.encode(question.context))
    lengths = [len(tokenizer.encode(f"{question.context} {choice}")) - known for choice in question.choices]
    multiple_choice(directory, [question], ALONE)
    assert passed == [(1, known + sum(lengths) - len(lengths))]


def test_choices_that_do_not_fit_in_one_row_are_scored_in_several(directory, questions):
    many = Question(questions[0].context, tuple(f"{word} rope " * 9 for word in "abcdefgh"), 2)
    apart = [Question(many.context, (choice, choice), 0) for choice in many.choices]
    _, (together,) = answer(directory, [many])
    _, alone = answer(directory, apart)
    assert together.tolist() == pytest.approx([each[0] for each in alone], rel=1e-6)


def test_a_choice_longer_than_the_positions_is_cut_at_its_start(directory, score):
    """As a context is; the harness fails."""
    question = Question("A teacher opens a book.", ("The class listens. " * 30, "a"), 0)
    _, (found,) = answer(directory, [question])
    (expected, count), (other, _) = (score(question.context, choice) for choice in question.choices)
    assert count == CONTEXT and found.tolist() == pytest.approx([expected, other], rel=1e-6)


def test_the_first_of_equal_choices_wins():
    scores = QuestionScores([np.array([-2.0, -2.0, -3.0])], 9)
    for label, correct in ((0, 1), (1, 0)):
        sums = scores.sums([Question("a", ("bb", "cc", "d"), label)])
        assert (sums.correct, sums.correct_norm, sums.nll_sum) == (correct, correct, 2.0)


def test_a_character_counts_as_one_whatever_its_bytes():
    """As in the harness, whose acc_norm divides by characters."""
    scores = QuestionScores([np.array([-6.0, -4.0])], 9)
    (line,) = scores.lines([Question("a", ("東京東京", "bb"), 0)])
    assert line == {"label": 0, "chosen": 1, "chosen_norm": 0, "log_likelihoods": [-6.0, -4.0]}


def test_the_standard_error_of_one_question_is_undefined(directory, questions):
    assert math.isnan(multiple_choice(directory, questions[:1], ALONE)["acc_stderr"])


def test_no_questions(directory):
    with pytest.raises(UserError, match="there are no questions"):
        multiple_choice(directory, [], ALONE)


def test_a_result_says_what_was_scored(directory, questions):
    a, b = (multiple_choice(directory, part, ALONE) for part in (questions[:2], questions[1::-1]))
    assert a["data"] != b["data"] and (a["model"], a["tokenizer"]) == (b["model"], b["tokenizer"])


def test_bf16_is_close(directory, questions, found):
    result, log_likelihoods = answer(directory, questions[:8], dtype="bf16")
    assert result["dtype"] == "bf16"
    for scores, expected in zip(log_likelihoods, found[1], strict=False):
        assert scores.tolist() == pytest.approx(expected.tolist(), rel=3e-2)
        assert scores.tolist() != expected.tolist()

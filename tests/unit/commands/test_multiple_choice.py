import json
import shutil

import pytest

from gpt2dist.evaluation.measures import RESERVED
from tests.support.hellaswag import QUESTIONS
from tests.support.runs import train, write_run

RECORDS = [
    {"context": "abc def", "choices": ["ghi", "jkl abc fed"], "label": 0},
    {"context": "jkl", "choices": ["abc", "a", "fed cab"], "label": 2},
    {"context": "fed", "choices": ["cab", "b"], "label": "1"},
]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return file


@pytest.fixture
def choose(gpt2dist, small_model, path):
    def call(*options, model=small_model, data=path):
        return gpt2dist("multiple-choice", model, "--data", data, *options)

    return call


def test_the_json_has_the_keys_of_the_contract(choose):
    code, out, err = choose("--json")
    assert code == 0, err
    result = json.loads(out)
    assert set(result) == {
        *("acc", "acc_norm", "acc_stderr", "acc_norm_stderr", "nll_sum", "examples", "targets", "dtype"),
        *("batch_size", "zero_stage", "world_size", "model", "data", "tokenizer", "seconds", "tokens_per_second"),
    }
    assert set(result) <= RESERVED
    assert result["examples"] == 3 and "multiple-choice: 100%" in err


def test_the_table_and_the_scores_of_each_question(choose, tmp_path):
    code, out, _ = choose("--output", tmp_path / "result.json", "--scores", tmp_path / "scores.jsonl")
    result = json.loads((tmp_path / "result.json").read_text())
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert code == 0 and [len(each["log_likelihoods"]) for each in scores] == [2, 3, 2]
    assert f"acc_norm  {result['acc_norm']:.4f} of the questions, by log-likelihood per character\n" in out
    assert result["acc"] == sum(each["chosen"] == each["label"] for each in scores) / 3
    assert result["nll_sum"] == pytest.approx(-sum(each["log_likelihoods"][each["label"]] for each in scores))


def test_hellaswags_format_is_found_by_its_keys(choose):
    code, out, err = choose("--json", data=QUESTIONS)
    assert code == 0, err
    named = choose("--json", "--format", "hellaswag", data=QUESTIONS)[1]
    assert json.loads(out)["data"] == json.loads(named)["data"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--format", "arc"], "--format: unknown format 'arc' (known: hellaswag, plain)"),
        (
            ["--format", "hellaswag"],
            "questions.jsonl:1: not a question of the format hellaswag (ctx_a is missing)",
        ),
        (["--scores", "/"], "--scores: / is a directory"),
        (["--scores", "a", "--all-checkpoints"], "--all-checkpoints: "),
        (["--measure", "loss"], "loss is a measure of the task 'text', not 'choices'; omit it"),
        (["--watch"], "--watch: needs --all-checkpoints; add it"),
        (["--dtype", "tf32"], "dtype tf32 needs an NVIDIA GPU"),
    ],
)
def test_refusals(choose, options, message):
    code, out, err = choose(*options)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err and "%" not in err


def test_no_such_file(choose, tmp_path):
    code, _, err = choose(data=tmp_path / "nowhere.jsonl")
    assert code == 2 and "nowhere.jsonl is not a file; give JSON lines with a question each" in err


@pytest.mark.parametrize("verb", ["multiple-choice", "lambada"])
def test_results_of_a_run_are_in_status_report_and_card(gpt2dist, tiny_dataset, path, tmp_path, verb):
    """As those of `evaluate` are: a directory of results, and curves in TensorBoard."""
    run = train(
        write_run(tmp_path, tiny_dataset),
        "schedule.total_steps=4",
        "schedule.warmup_steps=1",
        "checkpoint.every_steps=2",
    )
    data = path
    if verb == "lambada":
        data = tmp_path / "passages.jsonl"
        data.write_text('{"text": "abc def ghi"}\n{"text": "fed cab"}\n')
    key = "acc_norm" if verb == "multiple-choice" else "accuracy"
    code, out, err = gpt2dist(verb, run, "--data", data, "--all-checkpoints")
    assert code == 0, err
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 2", "step 4"] and key in lines[0]
    results = [json.loads((run / f"eval/{data.stem}/step-0000000{step}.json").read_text()) for step in (2, 4)]
    assert all(0 <= each[key] <= 1 for each in results)
    assert gpt2dist(verb, run, "--data", data, "--all-checkpoints")[1] == "", "nothing is done again"
    if verb == "multiple-choice":
        code, _, err = gpt2dist(verb, run, "--data", data, "--all-checkpoints", "--scores", "s.jsonl")
        assert code == 2
        assert "--scores: writes the scores of one model; omit it with --all-checkpoints" in err
    assert f"{key} {results[1][key]:.4f}" in gpt2dist("status", run)[1]
    assert gpt2dist("report", run, "--output", tmp_path / "report.html")[0] == 0
    page = (tmp_path / "report.html").read_text()
    assert f"{'Acc_norm' if key == 'acc_norm' else 'Accuracy'}, of the" in page
    assert gpt2dist("export", run, "--output", tmp_path / "model")[0] == 0
    card = (tmp_path / "model/README.md").read_text()
    assert f"{results[1][key]:.4f}" in card and data.stem in card


def test_an_abandoned_curve_is_refused(gpt2dist, tiny_dataset, path, tmp_path):
    run = train(
        write_run(tmp_path, tiny_dataset),
        "schedule.total_steps=2",
        "schedule.warmup_steps=1",
        "checkpoint.every_steps=2",
    )
    words = ["multiple-choice", run, "--data", path, "--run", run]
    assert gpt2dist(*words)[0] == 0
    path.write_text(json.dumps(RECORDS[0]) + "\n")
    code, _, err = gpt2dist(*words)
    assert code == 2 and f"{run}/eval/questions: has results with data " in err and "another --name" in err
    assert gpt2dist(*words, "--name", "fewer")[0] == 0
    shutil.rmtree(run)

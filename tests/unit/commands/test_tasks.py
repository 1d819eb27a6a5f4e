"""`gpt2dist evaluate --tasks`, on local tasks only: tests have no network."""

import importlib.util
import json

import pytest

from gpt2dist.evaluation import tasks
from tests.support.hellaswag import QUESTIONS, TASK, save_model
from tests.support.runs import train, write_run

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not here: pip install 'gpt2dist[lm-eval]'", allow_module_level=True)

WORDS = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
output_type: {kind}
test_split: test
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
{more}
metadata: {{version: 2.0}}
"""
PERPLEXITY = """\
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}"""
GENERATION = """\
generation_kwargs: {until: ["."], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]"""


@pytest.fixture
def home(tmp_path):
    """A directory of tasks: last words by likelihood and by generation, and a group of both."""
    texts = ["abc def ghi", "fed cab abc", "jkl abc def"]
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    directory = tmp_path / "own tasks"
    directory.mkdir()
    for name, kind, more in (
        ("last_words", "loglikelihood", PERPLEXITY),
        ("said_words", "generate_until", GENERATION),
    ):
        text = WORDS.format(name=name, data=data, kind=kind, more=more)
        (directory / f"{name}.yaml").write_text(text)
    (directory / "group.yaml").write_text(
        "group: both\ntask: [last_words, last_again]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    again = WORDS.format(name="last_again", data=data, kind="loglikelihood", more=PERPLEXITY)
    (directory / "again.yaml").write_text(again)
    code = WORDS.format(name="code", data=data, kind="generate_until", more=GENERATION + "\nunsafe_code: true")
    (directory / "code.yaml").write_text(code)
    images = WORDS.format(
        name="images", data=data, kind="generate_until", more=GENERATION + "\ndoc_to_image: text"
    )
    (directory / "images.yaml").write_text(images)
    missing = WORDS.format(name="no_data", data=tmp_path / "nowhere.jsonl", kind="loglikelihood", more=PERPLEXITY)
    (directory / "missing.yaml").write_text(missing)
    remote = "task: remote\ndataset_path: Rowan/hellaswag\noutput_type: loglikelihood\ntest_split: test\n"
    (directory / "remote.yaml").write_text(remote + 'doc_to_text: ""\ndoc_to_target: ""\n')
    return directory


@pytest.fixture
def evaluate(gpt2dist, small_model, home):
    def call(names, *options, model=small_model):
        return gpt2dist("evaluate", model, "--tasks", names, "--include-path", home, *options)

    return call


def test_results_of_two_tasks(evaluate, tmp_path):
    code, out, err = evaluate("last_words,said_words", "--output", tmp_path / "result.json")
    assert code == 0, err
    found = json.loads((tmp_path / "result.json").read_text())
    words, said = found["last_words"], found["said_words"]
    assert set(words) == {
        *(
            "perplexity",
            "acc",
            "acc_stderr",
            "measures",
            "examples",
            "task",
            "task_version",
            "num_fewshot",
            "limit",
        ),
        *("data", "lm_eval", "tokenizer", "dtype", "batch_size", "zero_stage", "world_size", "model", "seconds"),
    }
    assert (words["examples"], words["task_version"], words["num_fewshot"]) == (3, "2.0", 0)
    assert words["measures"]["perplexity"]["better"] == "lower" and 0 <= said["exact_match"] <= 1
    assert f"last_words  perplexity {words['perplexity']:.4f}, acc {words['acc']:.4f} ± " in out
    assert "(3 documents, 0-shot)" in out


def test_the_last_words_are_those_of_lambada(evaluate, gpt2dist, small_model, home):
    out = evaluate("last_words", "--json")[1]
    of_harness = json.loads(out)["last_words"]
    ours = json.loads(gpt2dist("lambada", small_model, "--data", home.parent / "texts.jsonl", "--json")[1])
    assert of_harness["perplexity"] == pytest.approx(ours["perplexity"], rel=1e-6)
    assert of_harness["acc"] == ours["accuracy"]


def test_a_group_has_the_metrics_of_its_tasks(evaluate):
    code, out, err = evaluate("both", "--json")
    assert code == 0, err
    result = json.loads(out)["both"]
    assert result["acc"] == result["subtasks"]["last_words"]["acc"] == result["subtasks"]["last_again"]["acc"]
    assert result["examples"] == 6


def test_shots_and_limit_belong_to_the_result(evaluate):
    code, out, err = evaluate("last_words", "--json", "--num-fewshot", "1", "--limit", "2")
    assert code == 0, err
    result = json.loads(out)["last_words"]
    assert (result["num_fewshot"], result["limit"], result["examples"]) == (1, 2, 2)
    assert result["data"] != json.loads(evaluate("last_words", "--json")[1])["last_words"]["data"]


def test_hellaswag_natively_and_by_the_harness(gpt2dist, repository, monkeypatch, tmp_path):
    monkeypatch.chdir(repository)  # the task names its data relative to it
    model = save_model(tmp_path / "model")
    code, out, err = gpt2dist("evaluate", model, "--tasks", TASK, "--json")
    assert code == 0, err
    of_harness = json.loads(out)["hellaswag_like"]
    ours = json.loads(gpt2dist("multiple-choice", model, "--data", QUESTIONS, "--json")[1])
    for name in ("acc", "acc_norm", "acc_stderr", "acc_norm_stderr"):
        assert ours[name] == pytest.approx(of_harness[name], rel=1e-12), name
    assert 0 < ours["acc"] < 1 and 0 < ours["acc_norm"] < 1


@pytest.fixture
def run(tiny_dataset, tmp_path):
    return train(
        write_run(tmp_path, tiny_dataset),
        "schedule.total_steps=4",
        "schedule.warmup_steps=1",
        "checkpoint.every_steps=2",
    )


def test_results_of_a_run(evaluate, gpt2dist, run, tmp_path):
    code, out, err = evaluate("last_words,both", "--all-checkpoints", "--watch", model=run)
    assert code == 0, err
    steps = [line.split(": ")[:2] for line in out.splitlines()]
    assert steps == [["step 2", "last_words"], ["step 2", "both"], ["step 4", "last_words"], ["step 4", "both"]]
    results = [json.loads((run / f"eval/last_words/step-0000000{step}.json").read_text()) for step in (2, 4)]
    assert results[0]["model"] != results[1]["model"] and results[0]["data"] == results[1]["data"]
    (run / "eval/both/step-00000004.json").unlink()
    again = evaluate("last_words,both", "--all-checkpoints", model=run)[1]
    assert [line.split(": ")[:2] for line in again.splitlines()] == [["step 4", "both"]]
    status = gpt2dist("status", run)[1]
    assert f"acc {results[1]['acc']:.4f}" in status and "last_words" in status
    assert list((run / "tensorboard/last_words").glob("events*"))
    assert gpt2dist("report", run, "--output", tmp_path / "report.html")[0] == 0
    assert "Acc, of the questions answered right" in (tmp_path / "report.html").read_text()
    assert gpt2dist("export", run, "--output", tmp_path / "exported")[0] == 0
    card = (tmp_path / "exported/README.md").read_text()
    assert f"{results[1]['perplexity']:,.4f}" in card and "num fewshot 0" in card
    assert (
        "both, last_words: as the tasks of lm-evaluation-harness" in card and "Every token is scored" not in card
    )


def test_another_task_of_that_name_is_refused_before_the_work(evaluate, run, home):
    assert evaluate("last_words", "--run", run, model=run)[0] == 0
    code, _, err = evaluate("last_words", "--run", run, "--num-fewshot", "1", model=run)
    assert code == 2 and "has results with num_fewshot 0, this evaluation has 1; give it another --name" in err
    (home.parent / "texts.jsonl").write_text('{"text": "abc fed"}\n')
    code, _, err = evaluate("last_words", "--run", run, model=run)
    assert code == 2 and "eval/last_words: has results with data " in err and "%" not in err
    assert evaluate("last_words", "--run", run, "--name", "other", model=run)[0] == 0
    code, _, err = evaluate("last_words,both", "--run", run, "--name", "other", model=run)
    assert code == 2 and "--name other: names one evaluation, and there are 2; omit it" in err


def test_a_results_file_of_tasks_is_exported(evaluate, gpt2dist, small_model, tmp_path):
    assert evaluate("last_words,said_words", "--output", tmp_path / "tasks.json")[0] == 0
    words = ["export", small_model, "--output", tmp_path / "model", "--results", tmp_path / "tasks.json"]
    code, _, err = gpt2dist(*words)
    assert code == 0, err
    card = (tmp_path / "model/README.md").read_text()
    assert "| last_words |" in card and "| said_words |" in card and "exact_match" in card


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("last_wordz", [], "--tasks: unknown task 'last_wordz'; did you mean last_words"),
        ("nowhere.yaml", [], "--tasks: nowhere.yaml: no such file"),
        (",", [], "--tasks: names no task; give names such as lambada_openai,hellaswag"),
        ("code", [], "--tasks: code: runs code that the model writes, which gpt2dist does not; omit it"),
        ("images", [], "--tasks: images: needs images or sound, and a GPT-2 reads text; omit it"),
        ("no_data", [], "nowhere.jsonl"),
        ("remote", [], "--tasks: remote: its data is not on this machine, and the hub does not give it ("),
        ("last_words", ["--stride", "3"], "--stride: does not apply to --tasks, which describe what they score"),
        ("last_words", ["--per-document"], "--per-document: does not apply to --tasks"),
        ("last_words", ["--data", "d"], "give one of --data DATASET, --text FILE… and --tasks NAMES"),
        ("last_words", ["--limit", "0"], "--limit must be at least 1"),
        ("last_words", ["--num-fewshot", "-1"], "--num-fewshot must be 0 or more"),
        ("last_words", ["--include-path", "no-dir"], "--include-path: no-dir: no such directory"),
    ],
)
def test_refusals(evaluate, names, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = evaluate(names, *options)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err and "%" not in err, err


def test_options_of_tasks_need_tasks(gpt2dist, small_model, tiny_dataset):
    code, _, err = gpt2dist("evaluate", small_model, "--data", tiny_dataset, "--limit", "3")
    assert code == 2 and "--limit: applies only to --tasks; omit it" in err


def test_without_the_harness(evaluate, monkeypatch):
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: None)
    code, _, err = evaluate("last_words")
    assert code == 2
    assert "--tasks: lm-eval is not installed; pip install 'gpt2dist[lm-eval]', or omit --tasks" in err


def test_a_task_that_fails_later_says_so(evaluate, home):
    text = (home / "last_words.yaml").read_text()
    (home / "broken.yaml").write_text(
        text.replace("task: last_words", "task: broken").replace("{{text", "{{text.no_such(1)")
    )
    code, _, err = evaluate("broken")
    assert (
        code == 2 and "--tasks: broken: cannot be loaded (UndefinedError: " in err and "correct the task" in err
    )

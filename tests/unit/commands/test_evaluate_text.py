"""`gpt2dist evaluate --text`: what is tokenised on the fly scores as the dataset made of it does."""

import json

import pytest
import torch
from transformers import GPT2LMHeadModel

from gpt2dist.preprocessing import PreprocessingJob, prepare
from gpt2dist.tokenizer.tokenizer import Tokenizer

TEXTS = ["abc abd, abe. " * 40, "fgh", "i", " jkl abc\nfed " * 7 + " "]


@pytest.fixture
def evaluate(gpt2dist, small_model):
    def call(*options):
        code, out, err = gpt2dist("evaluate", small_model, "--json", *options)
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / f"corpus/{number}.txt").write_text(text)
    return tmp_path / "corpus"


def nll_of(model, tokens):
    with torch.no_grad():
        logits = model(torch.tensor([tokens[:-1]])).logits[0].double()
    return -logits.log_softmax(-1).gather(1, torch.tensor(tokens[1:])[:, None]).sum().item()


@pytest.mark.parametrize(
    "options", [[], ["--prefix", "end-of-text"], ["--per-document", "--stride", "7"], ["--stride", "32"]]
)
def test_the_same_texts_as_files_and_as_a_dataset_score_the_same(
    evaluate, corpus, small_model, tmp_path, options
):
    prepare(PreprocessingJob((str(corpus),), str(small_model), tmp_path / "dataset"))
    of_files = evaluate("--text", corpus, *options)
    of_dataset = evaluate("--data", tmp_path / "dataset", *options)
    for name in ("nll_sum", "targets", "bytes", "words", "documents", "windows", "tokenizer", "bits_per_byte"):
        assert of_files[name] == of_dataset[name], name
    assert (of_files["split"], of_dataset["split"]) == ("", "train")
    assert of_files["bytes"] == sum(map(len, TEXTS))
    assert of_files["words"] == sum(len(text.split()) for text in TEXTS)


def test_files_and_json_lines_score_the_same(evaluate, corpus, tmp_path):
    lines = tmp_path / "pages.jsonl"
    lines.write_text("".join(json.dumps({"page": text, "text": "not this"}) + "\n" for text in TEXTS))
    options = ("--per-document", "--prefix", "end-of-text")
    of_lines = evaluate("--text", lines, "--text-field", "page", *options)
    of_files = evaluate("--text", *sorted(corpus.iterdir()), *options)
    same = set(of_files) - {"seconds", "tokens_per_second"}
    assert {name: of_lines[name] for name in same} == {name: of_files[name] for name in same}


def test_documents_that_fit_the_context_by_hand(evaluate, small_model, tmp_path):
    texts = ["abc", "fgh ijk", "l"]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = evaluate("--text", tmp_path / "pages.jsonl", "--per-document", "--prefix", "end-of-text")
    tokenizer, model = Tokenizer.load(small_model), GPT2LMHeadModel.from_pretrained(small_model)
    rows = [[tokenizer.end_of_text_id, *tokenizer.encode(text).tolist()] for text in texts]
    assert result["targets"] == sum(len(row) - 1 for row in rows)
    assert result["nll_sum"] == pytest.approx(sum(nll_of(model, row) for row in rows), rel=1e-6)


def test_the_wikitext_detokenizer_changes_what_is_read_and_not_what_is_counted(evaluate, tmp_path):
    (tmp_path / "raw.txt").write_text(" = abc = \n abc @-@ fed , gab . \n")
    (tmp_path / "clean.txt").write_text(" = abc =\nabc-fed, gab.\n")
    of_raw = evaluate("--text", tmp_path / "raw.txt", "--detokenizer", "wikitext")
    of_clean = evaluate("--text", tmp_path / "clean.txt")
    assert of_raw["nll_sum"] == of_clean["nll_sum"]
    assert of_raw["bytes"] == len(" = abc = \n abc @-@ fed , gab . \n")
    assert of_raw["words"] == 9 + 2  # as lm-evaluation-harness counts: white space at both ends
    assert (of_raw["detokenizer"], of_clean["detokenizer"]) == ("wikitext", "none")
    assert of_raw["data"] != of_clean["data"]


@pytest.mark.parametrize("divisor", [1, 2, 4])
def test_the_strided_recipe_of_transformers_documentation(evaluate, small_model, tmp_path, divisor):
    """Its loop over one text, with the targets of each window re-derived: T + 1 ids have T targets."""
    text = "abcd efg, hijk. " * 60
    (tmp_path / "one.txt").write_text(text)
    length, stride = 32, 32 // divisor
    options = ("--per-document", "--prefix", "none", "--sequence-length", length, "--stride", stride)
    result = evaluate("--text", tmp_path / "one.txt", *options)
    ids = Tokenizer.load(small_model).encode(text).tolist()
    model = GPT2LMHeadModel.from_pretrained(small_model)
    total, counted, previous_end = 0.0, 0, 1
    for begin in range(0, len(ids), stride):
        end = min(begin + length + 1, len(ids))
        # The last window is moved back to be a whole one: its targets then have as much context as they can.
        window = torch.tensor([ids[max(0, end - length - 1) : end]])
        new = end - previous_end
        with torch.no_grad():
            nll = -model(window[:, :-1]).logits.log_softmax(-1).gather(-1, window[:, 1:, None]).flatten()
        total += nll[-new:].double().sum().item()
        counted, previous_end = counted + new, end
        if end == len(ids):
            break
    assert (len(ids) - 1) % stride, "the last window is to be a shorter step than the others"
    assert result["targets"] == counted == len(ids) - 1
    assert result["nll_sum"] == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give one of --data DATASET, --text FILE… and --tasks NAMES"),
        (["--data", "d", "--text", "a.txt"], "give one of --data DATASET, --text FILE… and --tasks NAMES"),
        (["--data", "d", "--detokenizer", "wikitext"], "--detokenizer: a dataset is already tokenised"),
        (["--text", "a.txt", "--split", "val"], "--split: only datasets have splits; omit it with --text"),
        (["--text", "a.txt", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["--text", "a.txt", "--watch"], "--watch: needs --all-checkpoints; add it"),
        (["--text", "a.txt", "--run", "nowhere"], "--run: nowhere: no such directory"),
        (["--text", "a.txt", "--step", "3"], "--step and --name: apply only to results recorded in a run"),
        (["--text", "a.txt", "--name", "x"], "--step and --name: apply only to results recorded in a run"),
        (["--text", "a.txt", "--run", ".", "--step", "-1"], "--step must be 0 or more"),
        (["--text", "a.txt", "--run", ".", "--name", "a/b"], "--name 'a/b' is not a valid name of a directory"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--text", "empty.txt"], "empty.txt: contains no text; give files that do"),
        (["--text", "bad.jsonl"], "bad.jsonl:2: "),
        (
            ["--text", "a.txt", "--text-field", "text", "--sequence-length", "99"],
            "a sequence length of 99 is not",
        ),
    ],
)
def test_refusals(gpt2dist, small_model, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"text": "abc"}\n{"text": 3}\n')
    code, _, err = gpt2dist("evaluate", small_model, *words)
    assert code == 2
    assert message in err and "Traceback" not in err


def test_documents_of_a_single_token_leave_nothing_to_predict(gpt2dist, small_model, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    code, _, err = gpt2dist("evaluate", small_model, "--text", tmp_path / "a.txt", "--per-document")
    assert code == 2
    assert "a.txt: no document has two tokens, so there is nothing to predict" in err

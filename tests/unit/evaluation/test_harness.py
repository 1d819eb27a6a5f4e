"""Agreement with lm-evaluation-harness on the same model directory and the same text."""

import importlib.util
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.distributed.world import World
from gpt2dist.evaluation.evaluate import EvaluationConfig, evaluate
from gpt2dist.evaluation.held_out_text import HeldOut
from gpt2dist.evaluation.lambada import lambada
from gpt2dist.evaluation.multiple_choice import multiple_choice
from gpt2dist.evaluation.questions import read_questions
from gpt2dist.tokenizer.tokenizer import Tokenizer
from tests.support.hellaswag import QUESTIONS, TASK, save_model

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not here: pip install 'gpt2dist[lm-eval]'", allow_module_level=True)

CONTEXT = 32
ALONE = World(0, 0, 1, torch.device("cpu"))
AS_HARNESS = EvaluationConfig(stride=CONTEXT, prefix="end-of-text", per_document=True, batch_size=3)
AGREED = 1e-4  # relative

KNOWN = "abc def ghi"
DOCUMENTS = [
    "abc def",
    "The abcdefghijkl of a document that is longer than the context, lfkd jeic hbagd." * 9,
    "a",
    "fed cab," * 40,
    "i\n\nj",
]
PAGE = (
    " \n = Abc def = \n \n Abc ( fed : \" gab \" ) was 12 @,@ 345 @.@ 6 m tall , 's ; it 's a well @-@ known"
    " [ cab ] . \n \n = = Heading = = \n \n He said : \" abc def ! \" and ' fed ' ? 20 ° N \n \n"
    " = = = Sub = = = \n" + " \n jkl ghi ." * 30 + " \n "
)


@pytest.fixture(scope="module")
def bench(repository):
    """tools/bench/evaluate.py, which knows how the harness is called."""
    spec = importlib.util.spec_from_file_location("bench_evaluate", repository / "tools/bench/evaluate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def directory(tiny_dataset, tmp_path_factory):
    home = tmp_path_factory.mktemp("harness") / "model"
    torch.manual_seed(2)
    end = 299
    sizes = {"vocab_size": 300, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=end, eos_token_id=end, initializer_range=0.2)
    model, tokenizer = GPT2LMHeadModel(config), Tokenizer.load(tiny_dataset)
    learn(model, torch.from_numpy(tokenizer.encode(KNOWN).astype("int64")))
    model.save_pretrained(home)
    tokenizer.save(home)
    return home


def learn(model, tokens):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        model(tokens[None], labels=tokens[None]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.fixture(scope="module")
def harness(bench, directory):
    return bench.Harness(directory, 3)


def ours(directory, texts, detokenizer="none"):
    text = HeldOut.of_texts(texts, Tokenizer.load(directory), detokenizer)
    result = evaluate(directory, text, AS_HARNESS, ALONE)
    return result | {"byte_perplexity": 2 ** result["bits_per_byte"]}


def test_perplexity_of_documents(bench, harness, directory):
    result = ours(directory, DOCUMENTS)
    theirs = harness.task(DOCUMENTS, **bench.ROLLING_TASK)
    for name in bench.ROLLING:
        assert result[bench.OURS.get(name, name)] == pytest.approx(theirs[name], rel=AGREED), name
    assert result["word_perplexity"] == result["lm_eval_word_perplexity"], "no document ends in white space"
    assert result["nll_sum"] == pytest.approx(-harness.rolling(DOCUMENTS), rel=1e-6)


def test_white_space_at_the_ends_of_a_document_is_a_word_to_the_harness_alone(bench, harness, directory):
    texts = [" abc def ghi\n", "abc"]
    result = ours(directory, texts)
    theirs = harness.task(texts, **bench.ROLLING_TASK)
    for name in ("byte_perplexity", "bits_per_byte"):
        assert result[name] == pytest.approx(theirs[name], rel=AGREED), name
    assert (result["words"], result["lm_eval_words"]) == (4, 6)
    assert result["lm_eval_word_perplexity"] == pytest.approx(theirs["word_perplexity"], rel=AGREED)
    assert result["word_perplexity"] != pytest.approx(theirs["word_perplexity"], rel=AGREED)
    as_harness = ours(directory, texts, "wikitext")  # counts as it does; has nothing to undo here
    assert (as_harness["words"], as_harness["lm_eval_words"]) == (6, 6)
    assert as_harness["nll_sum"] == result["nll_sum"]
    assert as_harness["word_perplexity"] == pytest.approx(theirs["word_perplexity"], rel=AGREED)


def test_its_task_wikitext(bench, harness, directory):
    """Its own functions for a page, on the text of a page in WikiText's form."""
    from lm_eval.tasks.wikitext import preprocess_wikitext as task

    pages = [PAGE, " \n = Jkl = \n \n ghi @-@ fed . \n"]
    functions = {
        "doc_to_target": lambda doc: task.wikitext_detokenizer({"page": doc["text"]}),
        "process_results": lambda doc, results: task.process_results({"page": doc["text"]}, results),
    }
    theirs = harness.task(pages, **bench.ROLLING_TASK | functions)
    result = ours(directory, pages, "wikitext")
    for name in bench.ROLLING:
        assert result[name] == pytest.approx(theirs[name], rel=AGREED), name
    plain = ours(directory, pages)
    assert plain["nll_sum"] != pytest.approx(result["nll_sum"], rel=1e-2), "there was something to undo"
    assert plain["bytes"] == result["bytes"]


def test_lambada(bench, harness, directory):
    passages = [KNOWN, "abc def abc", "jkl ab", "fed cab  gab", "abcdefghijkl " * 20 + "abc", "fed"]
    theirs = harness.task(passages, **bench.LAMBADA_TASK)
    result = lambada(directory, passages, ALONE, 3)
    assert result["accuracy"] == 1 / len(passages), "the one that was learnt"
    assert result["accuracy"] == pytest.approx(theirs["acc"], rel=AGREED)
    assert result["perplexity"] == pytest.approx(theirs["perplexity"], rel=AGREED)


def test_hellaswag(bench, tmp_path_factory, monkeypatch, repository):
    """Each log-likelihood and both accuracies, with the harness's own model and its own task's functions."""
    from lm_eval import simple_evaluate

    monkeypatch.chdir(repository)  # the task names its data relative to it
    model = save_model(tmp_path_factory.mktemp("hellaswag") / "model")
    theirs = bench.Harness(model, 3)
    done = simple_evaluate(theirs.model, tasks=[str(TASK)], task_manager=theirs.tasks, bootstrap_iters=0)
    kept = []
    result = multiple_choice(model, read_questions(QUESTIONS), ALONE, 3, on_scores=kept.append)
    samples = sorted(done["samples"]["hellaswag_like"], key=lambda each: each["doc_id"])
    for scores, sample in zip(kept[0].log_likelihoods, samples, strict=True):
        assert scores.tolist() == pytest.approx([value for value, _ in sample["filtered_resps"]], rel=1e-6)
    for name in ("acc", "acc_norm"):
        assert result[name] == done["results"]["hellaswag_like"][f"{name},none"]
        assert 0 < result[name] < 1

"""What our model answers in lm-evaluation-harness, against the harness's own model on the same directory."""

import importlib.util
from functools import partial

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.distributed.world import World
from gpt2dist.evaluation.model_forward import load_model
from gpt2dist.tokenizer.tokenizer import Tokenizer

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not here: pip install 'gpt2dist[lm-eval]'", allow_module_level=True)

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from gpt2dist.evaluation.harness_model import Answers, HarnessModel, on_main_with_all

CONTEXT = 48
ALONE = World(0, 0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def directory(tiny_dataset, tmp_path_factory):
    home = tmp_path_factory.mktemp("harness_model") / "model"
    torch.manual_seed(4)
    end = 299
    sizes = {"vocab_size": 300, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=end, eos_token_id=end, initializer_range=0.3)
    GPT2LMHeadModel(config).save_pretrained(home)
    Tokenizer.load(tiny_dataset).save(home)
    return home


@pytest.fixture(scope="module")
def theirs(directory):
    return HFLM(str(directory), batch_size=3, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def ours(directory):
    tokenizer = Tokenizer.load(directory)
    model = load_model(directory, tokenizer, 0, ALONE)
    answers = Answers(model, tokenizer, ALONE, 3, False, lambda tokens, total: None)
    return HarnessModel(lambda method, requests: getattr(answers, method)(requests))


def instances(kind, arguments):
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


PAIRS = [
    ("abc def", " ghi"),
    ("abc def", " jkl abc fed"),
    ("abc def", " a"),
    ("", "abc def"),
    ("abc def  ", "ghi"),  # the spaces belong to the continuation
    ("jkl\n", "abc"),
    ("abc def", "ghi"),  # without a space between
    ("abc" * 90, " fed"),  # longer than the positions
    ("abc" * 90, " fed cab abc"),
    ("ab", " fed cab abc" * 4),
    ("Café – fed", " 東京"),
    ("abc def", " ghi"),  # once more
]


def test_log_likelihoods(ours, theirs):
    requests = instances("loglikelihood", PAIRS)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    for pair, mine, other in zip(PAIRS, ours.loglikelihood(requests), expected, strict=True):
        assert mine[0] == pytest.approx(other[0], rel=1e-6, abs=1e-5), pair
        assert mine[1] == other[1]


def test_a_continuation_that_is_the_likeliest_one(ours, theirs):
    """What greedy decoding adds."""
    (added,) = theirs.generate_until(
        instances("generate_until", [("abc def", {"until": [], "max_gen_toks": 3})]), disable_tqdm=True
    )
    requests = instances("loglikelihood", [("abc def", added), ("abc def", added + "abc")])
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_rolling_log_likelihoods(ours, theirs):
    texts = [("abc def ghi",), ("fed cab," * 40,), ("a",), ("abc " * 48,), ("jkl" * 100,)]
    requests = instances("loglikelihood_rolling", texts)
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests) == pytest.approx(expected, rel=1e-6)


def test_generated_texts(ours, theirs):
    short, long = {"until": ["\n\n"], "max_gen_toks": 8}, {"until": "a", "max_gen_toks": 20, "do_sample": False}
    prompts = [("abc def", short), ("jkl", long), ("fed cab " * 40, short), ("abc fed", long), ("d", short)]
    requests = instances("generate_until", prompts)
    found = ours.generate_until(requests)
    assert found == theirs.generate_until(requests, disable_tqdm=True)
    assert any(found) and not any("a" in found[number] for number in (1, 3))


def test_a_text_ends_at_its_stop_sequence_and_costs_no_more_passes(directory):
    tokenizer = Tokenizer.load(directory)
    model = load_model(directory, tokenizer, 0, ALONE)
    seen = []
    answers = Answers(model, tokenizer, ALONE, 8, False, lambda tokens, total: seen.append(tokens))
    (whole,) = answers.generate_until([("abc def", {"until": [], "max_gen_toks": 12})])
    stop = whole[1:3]
    (text,) = answers.generate_until([("abc def", {"until": [stop], "max_gen_toks": 12})])
    assert text == whole[: whole.index(stop)]
    assert seen[1] < seen[0] <= 12


def test_errors_of_the_work_are_raised(ours):
    answers = Answers(*([None] * 2), ALONE, 1, False, lambda tokens, total: None)
    assert on_main_with_all(answers, lambda model: 3) == 3
    with pytest.raises(ZeroDivisionError):
        on_main_with_all(answers, lambda model: 1 / 0)


def test_what_is_checked_before_the_first_request(ours):
    told = []
    ours.before = partial(told.append, "once")
    for _ in range(2):
        ours.loglikelihood(instances("loglikelihood", PAIRS[:1]))
    assert told == ["once"]

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gpt2dist.generation import Sampling, generate, keep_top_k, keep_top_p, penalise_repetition
from gpt2dist.model.gpt2 import IncrementalLogits

END, CONTEXT = 7, 12
GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(4, 50, generator=GENERATOR) * 3
TOKENS = torch.randint(0, 50, (4, 9), generator=GENERATOR)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=50, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, bos_token_id=END, eos_token_id=END
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(20)
    return model


def whole(model):
    """Logits without any memory of what came before."""
    return lambda tokens: model(tokens).logits


def continued(model, how, prompt=(1, 2, 3), logits=None, **options):
    return generate(logits or whole(model), list(prompt), how, END, CONTEXT, **options)


@pytest.mark.parametrize("penalty", [1.2, 0.8])
def test_the_repetition_penalty_is_transformers(penalty):
    expected = RepetitionPenaltyLogitsProcessor(penalty)(TOKENS, LOGITS.clone())
    assert torch.equal(penalise_repetition(LOGITS, TOKENS, penalty), expected)


@pytest.mark.parametrize("k", [1, 5, 50, 80])
def test_top_k_is_transformers(k):
    assert torch.equal(keep_top_k(LOGITS, k), TopKLogitsWarper(k)(TOKENS, LOGITS.clone()))


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_is_transformers(p):
    assert torch.equal(keep_top_p(LOGITS, p), TopPLogitsWarper(p)(TOKENS, LOGITS.clone()))


def test_greedy_is_transformers(model):
    (ours,) = continued(model, Sampling(max_new_tokens=9, temperature=0))
    theirs = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=9, do_sample=False, pad_token_id=END)
    assert ours == theirs[0, 3:].tolist()[: len(ours)]
    assert len(ours) == 9 or theirs[0, 3 + len(ours)] == END


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_remembering_keys_and_values_changes_nothing_even_beyond_the_context(model, seed):
    how = Sampling(max_new_tokens=30, temperature=1.5, top_k=20, seed=seed)
    plain = continued(model, how, num_samples=2, run_on=True)
    assert continued(model, how, logits=IncrementalLogits(model), num_samples=2, run_on=True) == plain


def test_what_is_remembered_of_one_text_is_not_taken_for_the_beginning_of_another(model):
    remembering = IncrementalLogits(model)
    remembering(torch.tensor([[1, 2, 3]]))
    other = torch.tensor([[4, 5, 6, 7]])
    torch.testing.assert_close(remembering(other)[:, -1], whole(model)(other)[:, -1])


def test_a_seed_gives_one_text_and_samples_differ(model):
    how = Sampling(max_new_tokens=12, temperature=1.5, seed=4)
    assert continued(model, how, num_samples=3) == continued(model, how, num_samples=3)
    first, second, _ = continued(model, how, num_samples=3)
    assert first != second
    assert continued(model, Sampling(max_new_tokens=12, temperature=1.5, seed=5)) != [first]


def always(token):
    """Logits that leave no choice."""
    return lambda tokens: torch.nn.functional.one_hot(torch.full(tokens.shape, token), 50).float() * 100


def test_end_of_text_ends_a_text_and_is_not_part_of_it(model):
    assert continued(model, Sampling(max_new_tokens=10, temperature=0), logits=always(END)) == [[]]


@pytest.mark.parametrize(("run_on", "passes"), [(False, 1), (True, 10)])
def test_run_on_makes_a_fixed_number_of_passes(model, run_on, passes):
    calls = []

    def counting(tokens):
        calls.append(tokens.shape)
        return always(END)(tokens)

    assert continued(model, Sampling(max_new_tokens=10), logits=counting, run_on=run_on) == [[]]
    assert len(calls) == passes


def test_an_empty_prompt_begins_a_document_and_old_tokens_leave_the_context(model):
    seen = []

    def watching(tokens):
        seen.append(tokens[0].tolist())
        return always(9)(tokens)

    assert continued(model, Sampling(max_new_tokens=15), prompt=(), logits=watching) == [[9] * 15]
    assert seen[0] == [END]
    assert seen[-1] == [9] * CONTEXT


def test_the_global_generator_is_untouched(model):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    continued(model, Sampling(max_new_tokens=5, seed=9))
    assert torch.equal(torch.rand(3), expected)

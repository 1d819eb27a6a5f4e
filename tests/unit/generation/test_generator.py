import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.generation.generator import Generator
from gpt2dist.generation.sampling import Sampling

VOCABULARY, END, CONTEXT = 50, 7, 12
CPU = torch.device("cpu")
GREEDY = Sampling(max_new_tokens=30, temperature=0)
DRAWN = Sampling(max_new_tokens=30, repetition_penalty=1.1, temperature=1.5, top_k=30, top_p=0.95)
PROMPTS = [[1, 2, 3], [4], [], [5, 6, END, 8, 9, 10, 11], list(range(20, 45))]


def build(vocab_size=VOCABULARY):
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=CONTEXT, n_embd=16, n_layer=2, n_head=2, eos_token_id=END
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.wte.weight.mul_(8)
        model.transformer.wpe.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


def generator(model):
    def forward(tokens, cache, **padding):
        return model(tokens, past_key_values=cache, use_cache=True, **padding).logits

    return Generator(forward, VOCABULARY, CONTEXT, END, CPU)


def continued(model, how, prompt=(1, 2, 3), seed=0, **options):
    (new,) = generator(model)([prompt], [seed], how, **options)
    return new


def always(logits):
    """A model that gives the same logits [V] everywhere."""
    return Generator(lambda tokens, cache, **_: logits.expand(*tokens.shape, -1), len(logits), CONTEXT, END, CPU)


def by_transformers(model, how, prompt, seed=0):
    """What transformers generates by itself, up to end-of-text."""
    torch.manual_seed(seed)
    sampling = {"temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p} if how.temperature else {}
    out = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=how.max_new_tokens,
        repetition_penalty=how.repetition_penalty,
        do_sample=how.temperature > 0,
        pad_token_id=END,
        **sampling,
    )[0, len(prompt) :].tolist()
    return out[: out.index(END)] if END in out else out


@pytest.mark.parametrize(
    "how",
    [
        Sampling(9, temperature=0),
        Sampling(9, 1.3, temperature=0),
        Sampling(9),
        Sampling(9, temperature=1.7),
        Sampling(9, top_k=4),
        Sampling(9, top_p=0.6),
        Sampling(9, 1.2, 0.7, 20, 0.9),
    ],
    ids=repr,
)
@pytest.mark.parametrize("seed", [0, 1, 2**63])
def test_the_tokens_are_those_of_transformers_with_the_same_seed(model, how, seed):
    for prompt in PROMPTS[:2]:
        assert continued(model, how, prompt, seed) == by_transformers(model, how, prompt, seed)


def without_memory(model, prompt):
    """Greedy tokens from scratch: at each step the model runs on all that is to be seen, and on nothing else."""
    text, begin = list(prompt) or [END], max(0, len(prompt) - CONTEXT)
    start = len(text)
    for _ in range(GREEDY.max_new_tokens):
        while len(text) - begin > CONTEXT:
            begin += CONTEXT // 2
        text.append(int(model(torch.tensor([text[begin:]])).logits[0, -1].argmax()))
        if text[-1] == END:
            return text[start:-1]
    return text[start:]


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_a_text_outgrows_the_context_and_sees_half_of_it_at_least(model, prompt):
    expected = without_memory(model, prompt)
    assert continued(model, GREEDY, prompt) == expected
    assert len(set(expected)) > 3  # no single token for ever


@pytest.mark.parametrize("how", [GREEDY, Sampling(30, 1.4, 0), DRAWN], ids=repr)
def test_texts_do_not_depend_on_those_beside_them(model, how):
    seeds = [11, 12, 11, 13, 14]
    together = generator(model)(PROMPTS, seeds, how)
    alone = [continued(model, how, prompt, seed) for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert together == alone
    if how == DRAWN:
        assert len({len(text) for text in alone}) > 1  # some end before the others


def test_the_cache_takes_each_token_in_once_until_the_context_is_full(model):
    widths = []

    def forward(tokens, cache, **padding):
        widths.append(tokens.shape[1])
        return model(tokens, past_key_values=cache, use_cache=True, **padding).logits

    Generator(forward, VOCABULARY, CONTEXT, END, CPU)([[1, 2, 3]], [0], Sampling(18), run_on=True)
    assert widths == [3] + 9 * [1] + [7] + 5 * [1] + [7] + [1]


def test_a_seed_gives_one_text_and_another_seed_another(model):
    texts = [continued(model, DRAWN, seed=seed) for seed in (4, 4, 5)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(("seeds", "how"), [((0, 1), DRAWN), ((0, 1), GREEDY)])
def test_the_global_generator_is_untouched(model, seeds, how):
    before = torch.get_rng_state()
    generator(model)(PROMPTS[:2], seeds, how)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_are_as_frequent_as_the_softmax_says():
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    count, expected = 4000, (logits / 1.5).softmax(dim=0)
    seeds = range(count)
    drawn = always(logits)([[]] * count, seeds, Sampling(1, temperature=1.5))
    seen = torch.bincount(torch.tensor(drawn).flatten(), minlength=5)
    chi_square = ((seen - count * expected) ** 2 / (count * expected)).sum()
    assert chi_square < 18.5  # 4 degrees of freedom: passed by one seed in a thousand


@pytest.mark.parametrize(
    ("how", "allowed"),
    [(Sampling(1, top_k=2), {3, 1}), (Sampling(1, top_p=0.7), {3, 1}), (Sampling(1, top_k=1), {3})],
)
def test_draws_never_leave_what_is_kept(how, allowed):
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -0.5])  # softmax 0.09, 0.23, 0.03, 0.63, 0.02
    drawn = always(logits)([[]] * 1000, range(1000), how)
    assert {token for (token,) in drawn} == allowed


@pytest.mark.parametrize("penalty", [1.5, 0.5])
def test_the_penalty_divides_positive_logits_of_the_text_and_multiplies_negative_ones(penalty):
    logits = torch.tensor([1.0, -1.0, 0.9, -0.9])
    how = Sampling(1, penalty, temperature=0)
    greedy = Generator(lambda tokens, cache, **_: logits.expand(*tokens.shape, -1), 4, CONTEXT, 3, CPU)
    expected = logits.clone()
    expected[0] /= penalty
    expected[1] *= penalty
    assert greedy([[0, 1]], [0], how) == [[int(expected.argmax())]]


@pytest.mark.parametrize("how", [GREEDY, Sampling(30, 3.0, 2.0), Sampling(30, top_k=49, top_p=0.999)], ids=repr)
def test_padding_of_the_vocabulary_is_never_drawn(how):
    model = build(VOCABULARY + 14)
    with torch.no_grad():
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
        model.lm_head.weight[VOCABULARY:] = model.lm_head.weight[:14] * 100
    assert int(model(torch.tensor([[1, 2]])).logits[0, -1].argmax()) >= VOCABULARY
    drawn = generator(model)(PROMPTS, range(5), how, run_on=True)
    assert max(token for text in drawn for token in text) < VOCABULARY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_sampled_from_in_fp32(dtype):
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1)).to(dtype)
    half, whole = (
        always(each)([[1]] * 50, range(50), Sampling(8, top_p=0.9)) for each in (logits, logits.float())
    )
    assert half == whole


def test_end_of_text_ends_a_text_and_is_not_part_of_it():
    logits = torch.zeros(VOCABULARY)
    logits[END] = 100
    seen = []
    assert always(logits)([[1], [2]], [0, 1], Sampling(10), on_tokens=seen.append) == [[], []]
    assert seen == [[END, END]]


@pytest.mark.parametrize(("run_on", "passes"), [(False, 1), (True, 10)])
def test_run_on_makes_a_fixed_number_of_passes(run_on, passes):
    calls = []

    def forward(tokens, cache):
        calls.append(tokens.shape)
        return torch.nn.functional.one_hot(torch.full(tokens.shape, END), VOCABULARY) * 100.0

    ending = Generator(forward, VOCABULARY, CONTEXT, END, CPU)
    assert ending([[1]], [0], Sampling(10), run_on=run_on) == [[]]
    assert len(calls) == passes


def test_listeners_hear_each_token_of_each_text(model):
    seen = []
    texts = generator(model)(PROMPTS, range(5), DRAWN, on_tokens=seen.append)
    for number, text in enumerate(texts):
        heard = [step[number] for step in seen]
        assert heard[: len(text)] == text
        assert set(heard[len(text) :]) <= {END}


def test_what_a_models_own_generation_config_says_changes_nothing(model):
    expected = continued(model, DRAWN)
    other = build()
    other.generation_config.update(min_new_tokens=25, no_repeat_ngram_size=1, suppress_tokens=[4, 5], num_beams=3)
    assert continued(other, DRAWN) == expected


def test_nothing_is_said(model, capfd, recwarn):
    generator(model)(PROMPTS, range(5), DRAWN)
    assert capfd.readouterr() == ("", "")
    assert len(recwarn) == 0


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_the_repetition_penalty_is_that_of_transformers(penalty):
    from transformers import RepetitionPenaltyLogitsProcessor

    from gpt2dist.generation.texts import _RepetitionPenalty

    draw = torch.Generator().manual_seed(0)
    tokens, scores = torch.randint(0, 20, (3, 9), generator=draw), torch.randn(3, 20, generator=draw)
    expected = RepetitionPenaltyLogitsProcessor(penalty)(tokens, scores.clone())
    assert torch.equal(_RepetitionPenalty(penalty)(tokens, scores), expected)
    padded = torch.cat([torch.full((3, 4), 20), tokens], dim=1)  # 20 is no token
    assert torch.equal(_RepetitionPenalty(penalty)(padded, scores), expected)

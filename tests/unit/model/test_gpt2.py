import math
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache, GenerationConfig, GPT2Config, GPT2LMHeadModel

from gpt2dist.model.gpt2 import GPT2, KERNELS, LanguageModel, named_parameters
from gpt2dist.model.huggingface import huggingface_config, write_huggingface_config
from gpt2dist.model.numerics import deterministic_algorithms
from gpt2dist.model.shape import GPT2_VOCAB_SIZE, PRESETS, Shape

SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, context_length=16, vocab_size=100)  # padded to 128


def tokens(rows=3, length=17):
    return torch.randint(0, 100, (rows, length), generator=torch.Generator().manual_seed(1))


def unpadded_twin(model, **changes):
    """A plain transformers GPT-2 with the same weights."""
    sizes = {"vocab_size": 100, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    twin = GPT2LMHeadModel(GPT2Config(**sizes, **changes)).eval()
    theirs = model.gpt2.state_dict()
    twin.load_state_dict({name: theirs[name][: len(tensor)] for name, tensor in twin.state_dict().items()})
    return twin


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
    ],
)
def test_the_four_sizes_have_the_published_number_of_parameters(preset, parameters):
    shape = Shape(*PRESETS[preset], 1024, GPT2_VOCAB_SIZE)
    with torch.device("meta"):
        model = GPT2(shape)
    padding = (shape.padded_vocab_size - shape.vocab_size) * shape.n_embd
    assert sum(parameter.numel() for parameter in model.parameters()) - padding == parameters
    assert shape.parameters == parameters


def test_initialisation_is_gpt2s():
    wide = Shape(n_layer=6, n_head=4, n_embd=128, context_length=64, vocab_size=1000)
    for name, parameter in named_parameters(LanguageModel(wide, 0, seed=3)):
        if name.endswith("bias"):
            assert torch.all(parameter == 0), name
        elif ".ln_" in name:
            assert torch.all(parameter == 1), name
        else:
            drawn = parameter[:1000] if "wte" in name else parameter
            expected = 0.02 / math.sqrt(12) if "c_proj" in name else 0.02
            assert drawn.std().item() == pytest.approx(expected, rel=0.05), name
            assert abs(drawn.mean().item()) < 5 * expected / math.sqrt(drawn.numel()), name


def test_a_seed_gives_one_model_and_padding_does_not_enter(monkeypatch):
    one, again, other = (LanguageModel(SHAPE, 0, seed=seed) for seed in (1, 1, 2))
    for (_, a), (_, b) in zip(named_parameters(one), named_parameters(again), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.gpt2.transformer.wpe.weight, other.gpt2.transformer.wpe.weight)
    monkeypatch.setattr("gpt2dist.model.shape.VOCAB_MULTIPLE", 64 * 3)
    wider = LanguageModel(SHAPE, 0, seed=1)
    assert wider.gpt2.transformer.wte.weight.shape == (192, 32)
    for (_, a), (_, b) in zip(named_parameters(one), named_parameters(wider), strict=True):
        assert torch.equal(a, b[: len(a)])
    embedding = one.gpt2.transformer.wte.weight
    assert embedding.shape == (128, 32)
    assert torch.all(embedding[100:] == 0) and torch.all(embedding[:100].abs().sum(1) > 0)


def test_logits_are_those_of_an_unpadded_transformers_model():
    model = LanguageModel(SHAPE, 0, seed=1).eval()
    with torch.no_grad():
        ours = model.logits(tokens()[:, :-1])
        fused = unpadded_twin(model, activation_function="gelu_pytorch_tanh")(tokens()[:, :-1]).logits
        original = unpadded_twin(model, activation_function="gelu_new")(tokens()[:, :-1]).logits
    assert ours.shape == (3, 16, 100)
    torch.testing.assert_close(ours, fused, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours, original, atol=1e-5, rtol=0)


def test_the_loss_is_the_sum_over_the_counted_targets():
    model = LanguageModel(SHAPE, 0, seed=1).eval()
    begin, end = torch.tensor([0, 5, 16]), torch.tensor([16, 11, 16])  # all, some, none
    labels = tokens()[:, 1:].clone()
    for row in range(3):
        labels[row, : begin[row]] = -100
        labels[row, end[row] :] = -100
    logits = unpadded_twin(model)(tokens()[:, :-1]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    assert model.nll_sum(tokens(), begin, end).item() == pytest.approx(expected.item(), rel=1e-6)


def gradients(**options):
    model = LanguageModel(SHAPE, 0, seed=1, **options).train()
    loss = model.nll_sum(tokens(), torch.tensor([0, 3, 9]), torch.tensor([16, 16, 16]))
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in named_parameters(model)}


def test_padding_rows_never_get_a_gradient():
    _, found = gradients()
    embedding = found["transformer.wte.weight"]
    assert torch.all(embedding[100:] == 0)
    assert embedding[:100].abs().sum() > 0


@pytest.mark.parametrize("options", [{"activation_checkpointing": True}, {"attention": "eager"}])
def test_checkpointing_and_eager_attention_compute_the_same(options):
    loss, found = gradients()
    other_loss, other = gradients(**options)
    assert other_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in found.items():
        torch.testing.assert_close(other[name], gradient, atol=1e-5, rtol=1e-4)


def test_dropout_acts_in_training_only():
    model = LanguageModel(SHAPE, 0, dropout=0.5, seed=1)
    with torch.no_grad():
        model.eval()
        calm = model.logits(tokens()[:, :-1])
        assert torch.equal(calm, model.logits(tokens()[:, :-1]))
        model.train()
        assert not torch.equal(calm, model.logits(tokens()[:, :-1]))


def exact_twin(**changes):
    """A model, and transformers' own with the same weights and padding."""
    model = LanguageModel(SHAPE, 0, seed=1)
    config = GPT2Config(**huggingface_config(SHAPE, 0) | {"vocab_size": 128}, use_cache=False, **changes)
    twin = GPT2LMHeadModel(config)
    assert [name for name, _ in model.gpt2.named_parameters()] == [name for name, _ in twin.named_parameters()]
    twin.load_state_dict(model.gpt2.state_dict())
    return model, twin


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_gradients_have_the_bits_of_transformers(attention):
    model, twin = exact_twin(attn_implementation=attention)
    model = LanguageModel(SHAPE, 0, seed=1, attention=attention)
    inputs = tokens()[:, :16]
    ours, theirs = model.logits(inputs), twin(inputs).logits[..., :100]
    assert torch.equal(ours, theirs)
    for logits in (ours, theirs):
        logits.float().log_softmax(-1)[..., 7].sum().backward()
    for (name, a), (_, b) in zip(named_parameters(model), twin.named_parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_documents_have_the_bits_that_transformers_gives_them(attention):
    from gpt2dist.model.pretrained import logits

    _, twin = exact_twin(attn_implementation=attention)
    row = torch.tensor([[3, 0, 4, 5, 0, 0, 6, 7], [1, 2, 3, 4, 5, 6, 7, 8]])
    isolated = LanguageModel(SHAPE, 0, seed=1, isolate=True, attention=attention)
    assert torch.equal(isolated.logits(row), logits(twin, row, 0)[..., :100])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pieces", [[16], [9, 1, 6], [1] * 16])
def test_the_next_logits_with_a_cache_are_those_without(attention, pieces):
    model, cache, end = LanguageModel(SHAPE, 0, seed=1, attention=attention).eval(), DynamicCache(), 0
    text = tokens()[:, :16]
    for piece in pieces:
        end += piece
        with torch.no_grad():
            ours, whole = model.next_logits(text[:, end - piece : end], cache), model.logits(text[:, :end])
        torch.testing.assert_close(ours[:, 0], whole[:, -1], atol=1e-6, rtol=0)


def test_flash_attention_is_given_what_it_takes(monkeypatch):
    """Its package needs a GPU: here torch's attention stands in for it, in the layout of its documentation."""

    def flash_attn_func(query, key, value, dropout_p=0.0, softmax_scale=None, causal=False):
        assert query.shape == (2, 5, 3, 8) and dropout_p == 0.25 and softmax_scale == 8**-0.5 and causal
        swapped = (part.transpose(1, 2) for part in (query, key, value))
        return F.scaled_dot_product_attention(*swapped, is_causal=True).transpose(1, 2)

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=flash_attn_func))
    parts = [torch.randn(2, 3, 5, 8) for _ in range(3)]
    flash = KERNELS["flash_attention_2"](*parts, None, 0.25)
    torch.testing.assert_close(flash, KERNELS["sdpa"](*parts, None, 0.0))
    with pytest.raises(ValueError, match="whole texts only"):
        KERNELS["flash_attention_2"](*parts, torch.ones(1, 1, 5, 5, dtype=torch.bool), 0.0)


def test_flash_attention_is_deterministic_where_torchs_kernels_are(monkeypatch):
    given = []

    def flash_attn_func(query, *_, **options):
        given.append(options)
        return query

    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_func=flash_attn_func))
    parts = [torch.randn(2, 3, 5, 8) for _ in range(3)]
    for wanted in (False, True):
        with deterministic_algorithms(wanted):
            KERNELS["flash_attention_2"](*parts, None, 0.0)
    assert given == [{"causal": True}, {"causal": True, "deterministic": True}]


def test_transformers_reads_the_configuration_as_it_is_meant(tmp_path):
    write_huggingface_config(tmp_path, SHAPE, 7, 0.25)
    sizes = {"vocab_size": 100, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    expected = GPT2Config(
        **sizes, bos_token_id=7, eos_token_id=7, resid_pdrop=0.25, embd_pdrop=0.25, attn_pdrop=0.25,
        activation_function="gelu_pytorch_tanh", architectures=["GPT2LMHeadModel"], dtype="float32",
    ).to_dict()  # fmt: skip
    found = GPT2Config.from_pretrained(tmp_path).to_dict()
    different = {key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key)}
    assert different <= {"transformers_version", "_name_or_path"}
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.bos_token_id, generation.eos_token_id) == (7, 7)

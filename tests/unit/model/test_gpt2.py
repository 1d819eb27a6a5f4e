import math

import pytest
import torch
import torch.nn.functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.model.gpt2 import LanguageModel, huggingface_config, named_parameters
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
        model = GPT2LMHeadModel(huggingface_config(shape, 50256))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
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
        ours = model(tokens()[:, :-1])
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
    assert model(tokens(), begin, end).item() == pytest.approx(expected.item(), rel=1e-6)


def gradients(**options):
    model = LanguageModel(SHAPE, 0, seed=1, **options).train()
    loss = model(tokens(), torch.tensor([0, 3, 9]), torch.tensor([16, 16, 16]))
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
        calm = model(tokens()[:, :-1])
        assert torch.equal(calm, model(tokens()[:, :-1]))
        model.train()
        assert not torch.equal(calm, model(tokens()[:, :-1]))

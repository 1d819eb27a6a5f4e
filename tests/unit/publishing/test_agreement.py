import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from gpt2dist.errors import RunError, UserError
from gpt2dist.model.pretrained import load_pretrained
from gpt2dist.publishing.agreement import Difference, Reference
from tests.support.small_models import make_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def dtype(request):
    return getattr(torch, request.param)


@pytest.fixture
def exported(save_model, tmp_path, dtype):
    """A checkpoint's reference, and its files in a dtype, written by transformers."""
    source = save_model(make_model())
    reference = Reference(load_pretrained(source, CPU), dtype, source)
    GPT2LMHeadModel.from_pretrained(source, dtype=dtype).save_pretrained(tmp_path / "out")
    return reference, tmp_path / "out"


def change_weights(directory, change):
    weights = load_file(directory / "model.safetensors")
    change(weights)
    weights = {name: tensor.clone().contiguous() for name, tensor in weights.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def change_config(directory, **keys):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def refusal(exported, kind=RunError):
    reference, directory = exported
    with pytest.raises(kind) as raised:
        reference.require(directory)
    return str(raised.value)


def test_the_same_model_agrees(exported, dtype):
    reference, directory = exported
    difference = reference.require(directory)
    assert difference.is_rounding
    if dtype == torch.float32:
        assert difference.found == 0
    else:
        assert 0 < difference.found < difference.allowed / 2


def zero(tensor):
    tensor.zero_()


def change_one_number(tensor):
    tensor.view(-1)[-1] += 0.5


@pytest.mark.parametrize("change", [zero, change_one_number])
def test_a_change_of_any_tensor_is_refused_by_name(exported, change):
    path = exported[1] / "model.safetensors"
    right = path.read_bytes()
    names = [name for name, _ in make_model().named_parameters()]
    for name in names:
        change_weights(exported[1], lambda weights, name=name: change(weights[name]))
        message = refusal(exported)
        assert message.startswith("the written files are not") and f"{name} differs by up to" in message
        assert message.endswith("nothing was published")
        path.write_bytes(right)
    assert len(names) == 40


def swap_layers(weights):
    first, second = ("transformer.h.0.mlp.c_fc.weight", "transformer.h.2.mlp.c_fc.weight")
    weights[first], weights[second] = weights[second].clone(), weights[first].clone()


def swap_norms(weights):
    names = ("transformer.h.1.ln_1.weight", "transformer.h.1.ln_2.weight")
    weights[names[0]], weights[names[1]] = weights[names[1]].clone(), weights[names[0]].clone()


def transpose(weights):
    name = "transformer.h.1.attn.c_proj.weight"
    weights[name] = weights[name].T


def swap_positions(weights):
    weights["transformer.wpe.weight"][[40, 41]] = weights["transformer.wpe.weight"][[41, 40]]


def zero_a_token(weights):
    weights["transformer.wte.weight"][123] = 0


@pytest.mark.parametrize("change", [swap_layers, swap_norms, transpose, swap_positions, zero_a_token])
def test_what_is_swapped_transposed_or_zeroed_is_refused(exported, change):
    change_weights(exported[1], change)
    message = refusal(exported)
    assert " differs by up to " in message and "of their spread, where rounding explains" in message


def test_one_bit_is_enough(exported, dtype):
    def flip(weights):
        tensor = weights["transformer.h.1.ln_2.weight"].view(-1)
        tensor[5] = torch.nextafter(tensor[5], torch.tensor(9.0, dtype=tensor.dtype))

    change_weights(exported[1], flip)
    assert "transformer.h.1.ln_2.weight differs by up to" in refusal(exported)


def test_a_lost_layer_is_refused(exported):
    def change(weights):
        for name in [name for name in weights if ".h.2." in name]:
            del weights[name]

    change_weights(exported[1], change)
    assert "transformer.h.2.attn.c_attn.bias is missing there" in refusal(exported)
    change_config(exported[1], n_layer=2)
    assert "their logits differ by" in refusal(exported)


def test_a_missing_a_foreign_and_a_misshapen_tensor_are_refused(exported):
    def lose(weights):
        weights["transformer.foreign"] = weights.pop("transformer.h.1.ln_1.bias")

    change_weights(exported[1], lose)
    assert "transformer.foreign is missing there, or is not what config.json says" in refusal(exported)

    def misshape(weights):
        weights["transformer.h.1.ln_1.bias"] = weights.pop("transformer.foreign")[:-1]

    change_weights(exported[1], misshape)
    assert "the written files cannot be used" in refusal(exported)


@pytest.mark.parametrize(
    "keys",
    [
        {"n_head": 2},
        {"activation_function": "relu"},
        {"layer_norm_epsilon": 1e-3},
        {"scale_attn_weights": False},
    ],
)
def test_a_configuration_that_computes_something_else_is_refused(exported, keys):
    change_config(exported[1], **keys)
    message = refusal(exported)
    assert "their logits differ by" in message and "all tensors are right, so config.json is not" in message


def test_a_configuration_that_names_another_dtype_is_refused(exported, dtype):
    other = "float32" if dtype != torch.float32 else "bfloat16"
    change_config(exported[1], dtype=other)
    assert f"they are {other}" in refusal(exported)


def test_a_file_that_was_cut_off_is_refused(exported):
    path = exported[1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    assert "the written files cannot be used" in refusal(exported)


# The dtype and the model


@pytest.mark.parametrize("n_layer", [1, 6, 24])
@pytest.mark.parametrize("precise", ["bfloat16", "float16"])
def test_models_of_any_depth_bear_short_dtypes(tmp_path, n_layer, precise):
    dtype = getattr(torch, precise)
    model = make_model(n_layer)
    GPT2LMHeadModel.save_pretrained(model.to(dtype), tmp_path / "out")
    reference = Reference(make_model(n_layer), dtype, tmp_path / "out")
    difference = reference.require(tmp_path / "out")
    assert 0 < difference.found < difference.allowed / 2


def test_a_weight_beyond_float16_is_named_with_the_way_out(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.bias[3] = -70000.0
    with pytest.raises(UserError) as raised:
        Reference(model, torch.float16, tmp_path)
    assert str(raised.value) == (
        f"--dtype float16: transformer.h.1.mlp.c_fc.bias of {tmp_path} holds 70000, which is beyond its largest "
        "number (65504); give --dtype bfloat16"
    )
    Reference(model, torch.bfloat16, tmp_path)


def test_a_model_that_overflows_in_float16_though_its_weights_do_not(tmp_path):
    def overflowing():
        model = make_model()
        with torch.no_grad():
            model.transformer.h[1].mlp.c_fc.bias[:] = 3000.0
            model.transformer.h[1].mlp.c_proj.weight[:, 5] = 3.0
        return model

    overflowing().half().save_pretrained(tmp_path / "out")
    reference = Reference(overflowing(), torch.float16, tmp_path / "out")
    message = refusal((reference, tmp_path / "out"), UserError)
    assert message.startswith("--dtype float16 does not suit this model: its logits then differ")
    assert "by nan of their spread" in message and message.endswith("give --dtype bfloat16")


def test_a_model_that_is_too_sensitive_for_bfloat16(tmp_path):
    def chaotic():
        model = make_model(8, n_embd=64)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("c_attn.weight"):
                    parameter.mul_(30)
        return model

    chaotic().bfloat16().save_pretrained(tmp_path / "out")
    reference = Reference(chaotic(), torch.bfloat16, tmp_path / "out")
    message = refusal((reference, tmp_path / "out"), UserError)
    assert message.startswith("--dtype bfloat16 does not suit this model")
    assert message.endswith("give --dtype float32")


def test_a_model_whose_training_diverged(tmp_path):
    model = make_model()
    with torch.no_grad():
        model.transformer.h[0].ln_1.weight[0] = torch.nan
    with pytest.raises(UserError, match="its logits are not finite, so training diverged; give an earlier"):
        Reference(model, torch.float32, tmp_path)


def test_a_model_without_weights_agrees_with_itself(tmp_path):
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path / "out")
    assert Reference(model, torch.float32, tmp_path / "out").require(tmp_path / "out").found == 0


@pytest.mark.parametrize("n_embd", [32, 256])
def test_another_way_to_compute_the_same_is_rounding_too(n_embd):
    tokens = torch.randint(300, (1, 48), generator=torch.Generator().manual_seed(2))
    model = make_model(6, n_embd=n_embd)
    with torch.no_grad():
        expected = model(tokens).logits
        model.set_attn_implementation("eager")
        for other in (model(tokens).logits, model.double()(tokens).logits.float()):
            difference = Difference.between(expected, other, 6, n_embd, torch.float32)
            assert 0 < difference.found < difference.allowed / 2

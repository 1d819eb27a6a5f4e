import pytest

from gpt2dist.model.flops import flops_per_token, peak_flops
from gpt2dist.model.shape import GPT2_VOCAB_SIZE, PRESET_CONTEXT_LENGTH, PRESETS, Shape


def preset(name: str) -> Shape:
    return Shape(*PRESETS[name], PRESET_CONTEXT_LENGTH, GPT2_VOCAB_SIZE)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
    ],
)
def test_the_four_sizes_have_the_parameters_of_openais_models(name, parameters):
    assert preset(name).parameters == parameters


def test_parameters_of_a_tiny_model_counted_tensor_by_tensor():
    width, layers, context, vocabulary = 8, 3, 16, 11
    norm = 2 * width
    attention = (width * 3 * width + 3 * width) + (width * width + width)
    mlp = (width * 4 * width + 4 * width) + (4 * width * width + width)
    block = norm + attention + norm + mlp
    expected = vocabulary * width + context * width + layers * block + norm

    shape = Shape(layers, 2, width, context, vocabulary)

    assert shape.parameters == expected
    assert shape.parameters_without_positions == expected - context * width


@pytest.mark.parametrize(("vocabulary", "padded"), [(50257, 50304), (50304, 50304), (1, 128), (129, 256)])
def test_the_vocabulary_is_padded_to_the_next_multiple_of_128(vocabulary, padded):
    assert Shape(1, 1, 8, 8, vocabulary).padded_vocab_size == padded


def test_flops_of_a_token_by_hand():
    # 6 × (124,439,808 − 1024 × 768) + 12 × 12 layers × 12 heads × 64 per head × 1024 tokens
    assert flops_per_token(preset("gpt2-124m"), 1024) == 6 * 123_653_376 + 113_246_208


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("Tesla T4", 65),
        ("Tesla V100-SXM2-32GB", 125),
        ("NVIDIA GeForce RTX 4090", 165),
    ],
)
def test_peak_of_known_devices(device, tflops):
    assert peak_flops(device) == tflops * 1e12


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        "",
        "NVIDIA L40",
        "NVIDIA T400 4GB",
        "NVIDIA RTX A4000",
        "NVIDIA RTX A1000",
        "NVIDIA GH200 480GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA H100 NVL",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
    ],
)
def test_peak_is_never_guessed(device):
    assert peak_flops(device) is None

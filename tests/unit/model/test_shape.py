import pytest

from gpt2dist.model.flops import flops_per_token
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

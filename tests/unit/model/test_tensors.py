"""Whether the files of a model directory hold the model of its config.json."""

import json
import re
import struct

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.errors import UserError
from gpt2dist.model import tensors
from gpt2dist.model.find_model import weight_files
from gpt2dist.model.huggingface import Pretrained
from tests.support.model_files import tensors_of, write_model, write_tensors

ROWS = 11  # of the embedding, of 4 columns


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "m")


def refused(directory):
    with pytest.raises(UserError) as refusal:
        weight_files(directory)
    message = str(refusal.value)
    assert message.startswith(f"{directory}") and "\n" not in message
    return message.removeprefix(f"{directory}: ")


def change(directory, **changes):
    """Writes the weights with other tensors (`lm_head__weight` is lm_head.weight); None leaves one out."""
    changed = tensors_of(directory) | {name.replace("__", "."): each for name, each in changes.items()}
    write_tensors(
        directory / "model.safetensors", {name: each for name, each in changed.items() if each is not None}
    )


@pytest.mark.parametrize(
    "options", [{}, {"tie_word_embeddings": False}, {"n_inner": 7}, {"add_cross_attention": True}], ids=str
)
def test_the_parameters_are_those_of_transformers(tmp_path, options):
    config = GPT2Config(n_layer=2, n_head=2, n_embd=4, n_positions=8, vocab_size=11, **options)
    config.save_pretrained(tmp_path)
    theirs = {
        name.removeprefix("transformer."): p.shape for name, p in GPT2LMHeadModel(config).named_parameters()
    }
    assert Pretrained.read(tmp_path).parameters() == theirs


def test_what_a_model_may_have_beside_its_parameters(model):
    """OpenAI's files and those of old versions of transformers have masks, some have no prefix."""
    masks = {"attn.bias": ("BOOL", (1, 1, 8, 8)), "attn.masked_bias": ("F32", ())}
    change(model, **{f"transformer.h.0.{name}": each for name, each in masks.items()})
    assert weight_files(model) == [model / "model.safetensors"]
    bare = {name.removeprefix("transformer."): each for name, each in tensors_of(model).items()}
    write_tensors(model / "model.safetensors", bare | {f"h.0.{name}": each for name, each in masks.items()})
    assert weight_files(model) == [model / "model.safetensors"]


CHANGES = {
    "has no transformer.h.0.ln_1.bias in its files, which is part of the model": {
        "transformer.h.0.ln_1.bias": None
    },
    "has a tensor transformer.h.0.attn.scale in model.safetensors, which is not part": {
        "transformer.h.0.attn.scale": ("F32", (4,))
    },
    "has a tensor transformer.lm_head.weight in model.safetensors, which is not part": {
        "transformer.lm_head.weight": ("F32", (ROWS, 4))
    },
    "has a tensor score.weight in model.safetensors, which is not part": {"score.weight": ("F32", (2, 4))},
    "has a tensor transformer.h.1.ln_1.bias in model.safetensors, which": {
        "transformer.h.1.ln_1.bias": ("F32", (4,))
    },
    "transformer.wte.weight has the shape [12, 4] in its files, and its config.json says [11, 4]; correct": {
        "transformer.wte.weight": ("F32", (12, 4))
    },
    "transformer.ln_f.bias is stored as I8, which is not a supported floating-point type (F64,": {
        "transformer.ln_f.bias": ("I8", (4,))
    },
    "has ln_f.bias twice (transformer.ln_f.bias in model.safetensors, ln_f.bias in model.safetensors), and": {
        "ln_f.bias": ("F32", (4,))
    },
    "lm_head.weight has the shape [12, 4] in its files, and its config.json says [11, 4]": {
        "lm_head.weight": ("F32", (12, 4))
    },
}


@pytest.mark.parametrize("message", CHANGES)
def test_other_tensors(model, message):
    change(model, **CHANGES[message])
    assert refused(model).removeprefix(f"{model / 'model.safetensors'}: ").startswith(message)


def test_a_tensor_in_two_of_the_files(model):
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    there = tensors_of(model)
    (model / "model.safetensors").unlink()
    write_tensors(model / names[0], there)
    write_tensors(model / names[1], {"transformer.ln_f.bias": there["transformer.ln_f.bias"]})
    index = {"metadata": {}, "weight_map": dict(zip(("a", "b"), names, strict=True))}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refused(model) == (
        f"has ln_f.bias twice (transformer.ln_f.bias in {names[0]}, transformer.ln_f.bias in {names[1]}), and "
        "it is unclear which one counts; remove one, or save the model again"
    )


def numbers(kind, values):
    if kind == "BF16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    letter = {"F64": "d", "F32": "f", "F16": "e"}[kind]
    return struct.pack(f"<{len(values)}{letter}", *values)


def with_output_layer(directory, values, kinds, row=None):
    """Writes an embedding of these values and an output layer that differs in a row, in two dtypes."""
    other = list(values)
    if row is not None:
        other[4 * row + 3] += 1
    change(
        directory,
        transformer__wte__weight=(kinds[0], (ROWS, 4), numbers(kinds[0], values)),
        lm_head__weight=(kinds[1], (ROWS, 4), numbers(kinds[1], other)),
    )


VALUES = [(-1) ** each * each / 4 for each in range(4 * ROWS)]  # exact in all dtypes


@pytest.mark.parametrize("kinds", [("F32", "F32"), ("F32", "BF16"), ("F16", "F64"), ("BF16", "F16")])
def test_an_output_layer_beside_its_embedding(model, monkeypatch, kinds):
    monkeypatch.setattr(tensors, "PIECE", 6)
    with_output_layer(model, VALUES, kinds)
    assert weight_files(model) == [model / "model.safetensors"]
    for row in (0, 5, ROWS - 1):
        with_output_layer(model, VALUES, kinds, row)
        assert refused(model) == (
            "has two output layers: its config.json ties the output layer to the embedding (tie_word_embeddings "
            "is true, the default), but lm_head.weight in model.safetensors is not transformer.wte.weight (they "
            f"differ in row {row}); set tie_word_embeddings to false in config.json if the model was trained "
            "with lm_head.weight, or else remove that tensor from the file"
        )


def test_an_output_layer_that_is_rounded_is_another(model):
    values = [1 + 2.0**-20, *VALUES[1:]]
    with_output_layer(model, values, ("F32", "F32"))
    assert weight_files(model)
    with_output_layer(model, values, ("F32", "F16"))
    assert "two output layers" in refused(model)


def test_a_model_that_is_not_tied(tmp_path):
    model = write_model(tmp_path / "m", tie_word_embeddings=False)
    with_output_layer(model, VALUES, ("F32", "F32"), row=2)
    assert weight_files(model)
    change(model, lm_head__weight=None)
    assert refused(model) == (
        "has no lm_head.weight in its files, though its config.json says that the output layer is not the "
        "embedding (tie_word_embeddings is false); set it to true if it is, or give a whole model directory"
    )


def test_a_damaged_file(model):
    file = model / "model.safetensors"
    content = file.read_bytes()
    for damaged in (b"", content[:100], content[:-1], content + b"0", b"\xff" * 8 + content[8:]):
        file.write_bytes(damaged)
        assert re.fullmatch(
            r".*/model\.safetensors: cannot be read \(.*\); copy or save the model again", refused(model)
        )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("tie_word_embeddings", None, "tie_word_embeddings is None, not true or false"),
        ("add_cross_attention", "no", "add_cross_attention is 'no', not true or false"),
        ("n_inner", "wide", "n_inner is 'wide', not a whole number"),
    ],
)
def test_a_config_that_does_not_say(model, key, value, reason):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert refused(model) == (
        f"{path}: does not give the sizes of a GPT-2 ({reason}); give another model"
    ).removeprefix(f"{model}: ")


def test_more_layers_than_any_model_has(model):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 2**62}))
    assert refused(model) == (
        "has 16 tensors in its files, too few for the 4,611,686,018,427,387,904 layers that "
        "its config.json says; correct config.json, or give a whole model directory"
    )

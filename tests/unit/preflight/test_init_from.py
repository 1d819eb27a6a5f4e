import contextlib
import json

import pytest

from gpt2dist.errors import UserError
from gpt2dist.preflight import resolve
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_bpe
from tests.support.mistakes import mistakes
from tests.support.model_files import tensors_of, write_tensors

CONFIG = {
    "model_type": "gpt2",
    "n_layer": 3,
    "n_head": 2,
    "n_embd": 16,
    "n_positions": 48,
    "vocab_size": 50257,
    "activation_function": "gelu_new",
}
OURS = "model={init_from: MODEL}"


def write_model(directory, tokenizer=None, weights="model.safetensors", **changes):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(CONFIG | changes))
    (directory / weights).write_bytes(b"")
    if weights == "model.safetensors":
        with contextlib.suppress(UserError):  # sizes that are none
            write_tensors(directory / weights, tensors_of(directory))
    if tokenizer:
        tokenizer.save(directory)
    return directory


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


def begin(model, *keys):
    return [f"model={{{', '.join([f'init_from: {model}', *keys])}}}"]


def test_the_sizes_are_those_of_the_model(run_file, model):
    config, plan = resolve(run_file, begin(model), 1)
    shape = plan.shape
    assert (shape.n_layer, shape.n_head, shape.n_embd, shape.context_length) == (3, 2, 16, 48)
    assert shape.vocab_size == 50257
    assert (config.model.n_layer, config.model.context_length) == (3, 48)


def test_sizes_that_agree_and_a_window_that_is_shorter(run_file, model):
    keys = ["n_layer: 3", "n_embd: 16", "context_length: 48"]
    _, plan = resolve(run_file, begin(model, *keys), 1)
    assert (plan.shape.context_length, plan.sequence_length) == (48, 32)


@pytest.mark.parametrize("context", [40, 64])
def test_another_context_has_to_be_asked_for(run_file, model, context):
    _, plan = resolve(run_file, begin(model, f"context_length: {context}", "resize: true"), 1)
    assert plan.shape.context_length == context


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["n_layer: 4"], "model.n_layer: n_layer 4 differs from that of MODEL (3); remove it"),
        (
            ["context_length: 64"],
            "model.context_length: 64 differs from that of MODEL (48); remove it, or set model.resize to true "
            "to initialize the new positions as in a new model",
        ),
        (
            ["context_length: 40"],
            "model.context_length: 40 differs from that of MODEL (48); remove it, or set model.resize to true "
            "to drop the last positions",
        ),
    ],
)
def test_other_sizes(run_file, model, keys, message):
    assert mistakes(run_file, begin(model, *keys)) == [message.replace("MODEL", str(model))]


def test_another_preset(run_file, model):
    context = f"model.context_length: 1024 differs from that of {model}"
    found = mistakes(run_file, begin(model, "preset: gpt2-124m"))
    assert found[:3] == [
        f"model.preset: n_layer 12 differs from that of {model} (3); remove it",
        f"model.preset: n_head 12 differs from that of {model} (2); remove it",
        f"model.preset: n_embd 768 differs from that of {model} (16); remove it",
    ]
    assert not any(line.startswith(context) for line in found)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"activation_function": "relu"}, "activation_function is 'relu', not gelu_new or gelu_pytorch_tanh"),
        ({"n_inner": 65}, "n_inner is 65, not 4 × n_embd = 64"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False, not True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True, not False"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn is True, not False"),
        ({"add_cross_attention": True}, "add_cross_attention is True, not False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False, not True"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06, not 1e-05"),
    ],
)
def test_models_that_are_built_otherwise(run_file, tmp_path, changes, difference):
    model = write_model(tmp_path / "model", **changes)
    assert mistakes(run_file, begin(model)) == [
        f"model.init_from: {model}: {difference}, which gpt2dist cannot train; name another model"
    ]


def test_gelu_under_its_other_name_and_an_inner_width_that_is_spelled_out(run_file, tmp_path):
    model = write_model(tmp_path / "model", activation_function="gelu_pytorch_tanh", n_inner=64)
    assert resolve(run_file, begin(model), 1)[1].shape.n_embd == 16


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"n_layer": "three"}, "n_layer is 'three', not a whole number"),
        ({"n_embd": None}, "n_embd is None, not a whole number"),
        ({"n_layer": True}, "n_layer is True, not a whole number"),
        ({"n_head": 3}, "n_embd 16 is not a multiple of n_head 3"),
        ({"n_positions": 0}, "n_positions is 0"),
        ({"n_inner": 0}, "n_inner is 0"),
        ({"attn_pdrop": 1.5}, "attn_pdrop is 1.5"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon is 'small', not a number"),
    ],
)
def test_a_config_that_does_not_tell_the_sizes(run_file, tmp_path, changes, reason):
    model = write_model(tmp_path / "model", **changes)
    assert mistakes(run_file, begin(model)) == [
        f"model.init_from: {model}/config.json: does not give the sizes of a GPT-2 ({reason}); give another model"
    ]


def test_weights_in_a_pickle_and_no_weights(run_file, tmp_path):
    pickled = write_model(tmp_path / "pickled", weights="pytorch_model.bin")
    (found,) = mistakes(run_file, begin(pickled))
    assert found.startswith(f"model.init_from: {pickled}: its weights are a pickle (pytorch_model.bin)")
    assert "convert them to safetensors" in found
    empty = write_model(tmp_path / "empty", weights="notes.txt")
    (found,) = mistakes(run_file, begin(empty))
    assert found.startswith(f"model.init_from: {empty}: no weights there (model.safetensors or")


def test_weights_that_are_not_those_of_the_config(run_file, model):
    there = tensors_of(model)
    write_tensors(model / "model.safetensors", there | {"lm_head.weight": ("F32", (50257, 16), b"\1\2\3\4")})
    (found,) = mistakes(run_file, begin(model))
    assert found.startswith(f"model.init_from: {model}: has two output layers: ")
    del there["transformer.h.1.ln_1.bias"]
    write_tensors(model / "model.safetensors", there)
    (found,) = mistakes(run_file, begin(model))
    assert found.startswith(f"model.init_from: {model}: has no transformer.h.1.ln_1.bias in its files")


@pytest.mark.parametrize("names", [["gone.safetensors"], ["../model.safetensors"], 5])
def test_an_index_that_names_other_files(run_file, model, names):
    (model / "model.safetensors").rename(model / "elsewhere.safetensors")
    index = {"weight_map": {str(number): name for number, name in enumerate(names)} if names != 5 else 5}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (found,) = mistakes(run_file, begin(model))
    assert found.startswith(f"model.init_from: {model}/model.safetensors.index.json: ")


def test_resize_without_a_model(run_file):
    (found,) = mistakes(run_file, ["model.resize=true"])
    assert found == "model.resize: there is no model to resize; set model.init_from, or remove it"


# The tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    """A tokenizer, and another that gives some of its ids to other tokens."""
    text = "the cat sat on the mat and the hat sat on the cat " * 9
    return train_bpe([text], 270), train_bpe([text[::-1]], 270)


@pytest.fixture
def on_real_tokens(run_file, tmp_path, tokenizers):
    """The run on a dataset that was made with the first tokenizer."""
    from gpt2dist.preprocessing import PreprocessingJob, prepare

    tokenizers[0].save(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text("the cat sat on the mat " * 400)
    dataset = tmp_path / "real"
    prepare(PreprocessingJob((str(tmp_path / "text.txt"),), str(tmp_path / "tokenizer"), dataset))
    data = f"data={{train: [{{path: {dataset}}}], sequence_length: 32}}"

    def with_model(model, *keys):
        return [data, *begin(model, *keys)]

    with_model.dataset = dataset
    return with_model


def test_a_model_of_the_datasets_tokenizer(run_file, tmp_path, tokenizers, on_real_tokens):
    model = write_model(tmp_path / "m", tokenizers[0], vocab_size=270)
    assert resolve(run_file, on_real_tokens(model), 1)[1].shape.vocab_size == 270
    padded = write_model(tmp_path / "padded", tokenizers[0], vocab_size=384)
    assert resolve(run_file, on_real_tokens(padded), 1)[1].shape.vocab_size == 384


def test_a_model_of_another_tokenizer(run_file, tmp_path, tokenizers, on_real_tokens):
    model = write_model(tmp_path / "m", tokenizers[1], vocab_size=270)
    for keys in ([], ["resize: true"]):
        (found,) = mistakes(run_file, on_real_tokens(model, *keys))
        start = f"model.init_from: {model} has another tokenizer than {on_real_tokens.dataset}, which does not"
        assert found.startswith(start) and found.endswith(f"preprocess the text with --tokenizer {model}")


def test_a_model_of_a_tokenizer_that_was_extended(run_file, tmp_path, tokenizers, on_real_tokens):
    smaller = _without_last_merge(tokenizers[0])
    model = write_model(tmp_path / "m", smaller, vocab_size=269)
    assert mistakes(run_file, on_real_tokens(model))[0].startswith("model.init_from")  # end-of-text has moved
    import tokenizers as library

    backend = library.Tokenizer.from_str(tokenizers[0].to_json())
    backend.add_special_tokens(["<|user|>"])
    extended = Tokenizer(backend)
    larger = write_model(tmp_path / "larger", extended, vocab_size=271)
    (found,) = mistakes(run_file, on_real_tokens(larger))
    assert "'<|user|>' is 270 there, unknown here" in found


def _without_last_merge(tokenizer):
    content = json.loads(tokenizer.to_json())
    content["model"]["merges"].pop()
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].get)
    content["model"]["vocab"].pop(last)
    content["added_tokens"][0]["id"] -= 1
    import tokenizers as library

    return Tokenizer(library.Tokenizer.from_str(json.dumps(content)))


def test_a_dataset_with_more_tokens_has_to_be_asked_for(run_file, tmp_path, tokenizers, on_real_tokens):
    model = write_model(tmp_path / "m", tokenizers[0], vocab_size=260)
    (found,) = mistakes(run_file, on_real_tokens(model))
    dataset = on_real_tokens.dataset
    assert found == (
        f"model.resize: {model} has 260 tokens and {dataset} has 270; set it to true to initialize the new ones "
        "as in a new model"
    )
    assert resolve(run_file, on_real_tokens(model, "resize: true"), 1)[1].shape.vocab_size == 270


@pytest.mark.parametrize("vocab_size", [260, 280])
def test_without_a_tokenizer_only_the_same_number_of_tokens_is_taken(
    run_file, tmp_path, on_real_tokens, vocab_size
):
    model = write_model(tmp_path / "m", vocab_size=vocab_size)
    (found,) = mistakes(run_file, on_real_tokens(model, "resize: true"))
    assert found == (
        f"model.init_from: {model} has {vocab_size} tokens and no tokenizer, and {on_real_tokens.dataset} has "
        "270; put the model's tokenizer into its directory, so that ids can be compared"
    )
    assert resolve(run_file, on_real_tokens(write_model(tmp_path / "m", vocab_size=270)), 1)


def test_gpt2s_own_files_beside_a_model_are_its_tokenizer(run_file, tmp_path, make_dataset, shared_data):
    from gpt2dist.tokenizer.tokenizer import import_gpt2

    model = write_model(tmp_path / "m")
    (model / "vocab.json").write_bytes((shared_data / "encoder.json").read_bytes())
    (model / "merges.txt").write_bytes((shared_data / "vocab.bpe").read_bytes())
    ours = import_gpt2(shared_data / "encoder.json", shared_data / "vocab.bpe")
    dataset = make_dataset("gpt2", tokenizer=ours.fingerprint, train=[2000])
    data = f"data={{train: [{{path: {dataset}}}], sequence_length: 32}}"
    assert resolve(run_file, [data, *begin(model)], 1)[1].shape.vocab_size == 50257


# Going on


def test_a_run_that_goes_on_asks_for_the_model_no_more(run_file, tmp_path, model):
    checkpoint = tmp_path / "out/checkpoints/step-00000010"
    write_model(checkpoint, n_positions=64)
    overrides = [*begin(tmp_path / "gone", "context_length: 64"), f"checkpoint.resume={checkpoint}"]
    (checkpoint / "manifest.json").write_text("{}")
    assert resolve(run_file, overrides, 1)[1].shape.context_length == 64
    assert resolve(run_file, overrides[:1], 1)[1].shape.context_length == 64


def test_a_model_that_is_nowhere(run_file, tmp_path):
    (found,) = mistakes(run_file, begin(tmp_path / "gone"))
    assert found.startswith(
        f"model.init_from: {tmp_path}/gone: no such directory, and it is not a name on the hub either"
    )

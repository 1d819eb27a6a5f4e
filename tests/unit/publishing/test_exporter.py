import json
import logging
import math
import warnings

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    pipeline,
)

from gpt2dist.errors import RunError, UserError
from gpt2dist.publishing import exporter
from gpt2dist.publishing.exporter import export
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_char
from tests.support.small_models import make_model

END = 299


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
def dtype(request):
    return request.param


@pytest.fixture
def exported(save_model, tmp_path, dtype):
    """The directories of a checkpoint and of its export."""
    source = save_model(make_model())
    export(source, tmp_path / "model", dtype, lambda exported: "# card\n")
    return source, tmp_path / "model"


@torch.no_grad()
def plain_logits(weights, tokens, n_layer, n_head):
    """GPT-2 (Radford et al. 2019) in plain torch, from the tensors of a file: [B, L] → [B, L, V]."""

    def norm(x, name):
        scale, shift = (weights[f"transformer.{name}.{part}"] for part in ("weight", "bias"))
        return (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, keepdim=True, correction=0) + 1e-5
        ).sqrt() * scale + shift

    def linear(x, name):
        return x @ weights[f"transformer.{name}.weight"] + weights[f"transformer.{name}.bias"]

    length = tokens.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    x = weights["transformer.wte.weight"][tokens] + weights["transformer.wpe.weight"][:length]
    for layer in range(n_layer):
        parts = linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn").chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (n_head, -1)).transpose(1, 2) for part in parts)
        scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).masked_fill(future, -torch.inf)
        attended = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(attended, f"h.{layer}.attn.c_proj")
        h = linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc")
        h = 0.5 * h * (1 + torch.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
        x = x + linear(h, f"h.{layer}.mlp.c_proj")
    return norm(x, "ln_f") @ weights["transformer.wte.weight"].T


def test_the_language_model_loads_with_every_key_and_computes_what_the_checkpoint_computes(exported, dtype):
    source, directory = exported
    model, found = GPT2LMHeadModel.from_pretrained(directory, output_loading_info=True)
    assert {key: list(value) for key, value in found.items() if value} == {}
    assert model.dtype == getattr(torch, dtype)
    tokens = torch.randint(300, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(source, dtype=model.dtype)(tokens).logits
        assert torch.equal(model(tokens).logits, expected)


def test_the_file_holds_the_rounded_checkpoint_with_the_embedding_once(exported, dtype):
    source, directory = exported
    (file,) = directory.glob("*.safetensors")
    theirs, ours = load_file(source / "model.safetensors"), load_file(file)
    assert file.name == "model.safetensors"
    assert ours.keys() == theirs.keys() and "lm_head.weight" not in ours
    assert all(torch.equal(ours[name], theirs[name].to(getattr(torch, dtype))) for name in theirs)
    tokens = torch.arange(48)[None] * 6
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(directory, dtype=torch.float32)(tokens).logits
    actual = plain_logits({name: tensor.float() for name, tensor in ours.items()}, tokens, 3, 4)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_what_lies_there_and_what_it_says(exported, dtype):
    _, directory = exported
    assert {path.name for path in directory.iterdir()} == {
        *("model.safetensors", "config.json", "generation_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "README.md"),
    }
    config = json.loads((directory / "config.json").read_text())
    ends = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": END}
    said = {"architectures": ["GPT2LMHeadModel"], "dtype": dtype, "activation_function": "gelu_new"}
    sizes = {"n_positions": 48, "vocab_size": 300, "n_layer": 3, "tie_word_embeddings": True}
    assert config.items() >= (said | ends | sizes | {"model_type": "gpt2"}).items()
    generation = json.loads((directory / "generation_config.json").read_text())
    assert generation.items() >= (ends | {"max_new_tokens": 24}).items() and "max_length" not in generation
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in directory.iterdir())


def test_the_tokenizer_is_the_same_and_knows_the_context(exported, tiny_dataset):
    _, directory = exported
    ours = Tokenizer.load(directory)
    assert ours.fingerprint == Tokenizer.load(tiny_dataset).fingerprint
    theirs = AutoTokenizer.from_pretrained(directory)
    assert theirs.model_max_length == 48
    assert theirs.pad_token_id == theirs.eos_token_id == theirs.bos_token_id == END
    text = "abc defg, é\n hij"
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    batch = theirs([text, "a"], padding=True, return_tensors="pt")
    assert (batch["attention_mask"].sum(1) == torch.tensor([len(ours.encode(text)), 1])).all()
    assert len(theirs(text * 50, truncation=True)["input_ids"]) == 48


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        (GPT2ForSequenceClassification, {"score.weight"}),
        (GPT2ForTokenClassification, {"classifier.weight", "classifier.bias"}),
        (GPT2ForQuestionAnswering, {"qa_outputs.weight", "qa_outputs.bias"}),
    ],
)
def test_other_models_lack_their_new_head_alone(exported, kind, head):
    _, directory = exported
    model, found = kind.from_pretrained(directory, output_loading_info=True)
    assert set(found["missing_keys"]) == head
    assert not found["unexpected_keys"] and not found["mismatched_keys"]
    body = GPT2LMHeadModel.from_pretrained(directory).transformer.state_dict()
    assert all(torch.equal(tensor, body[name]) for name, tensor in model.transformer.state_dict().items())


def test_the_classifier_takes_batches_of_padded_texts(exported):
    _, directory = exported
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = GPT2ForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    texts = ["abc def ghi jkl", "abc", "def ghi"]
    with torch.no_grad():
        together = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_auto_classes_and_the_pipeline_generate(exported, dtype):
    _, directory = exported
    model, tokenizer = (kind.from_pretrained(directory) for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert isinstance(model, GPT2LMHeadModel)
    generator = pipeline("text-generation", model=str(directory))
    assert generator.model.dtype == getattr(torch, dtype)
    (out,) = generator("abc", do_sample=False)
    tokens = model.generate(**tokenizer("abc", return_tensors="pt"), do_sample=False)
    assert out["generated_text"] == tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert out["generated_text"].startswith("abc") and len(out["generated_text"]) > 3
    assert len(tokens[0]) <= 48  # it ends where the positions end
    batch = generator(["abc", "defg hi"], max_new_tokens=5, batch_size=2)
    assert [texts[0]["generated_text"][:3] for texts in batch] == ["abc", "def"]


def test_a_pipeline_does_not_warn(save_model, tmp_path, caplog, monkeypatch):
    """As it did with max_length, at each call with max_new_tokens."""
    export(save_model(make_model()), tmp_path / "model", "float32", lambda exported: "")
    generator = pipeline("text-generation", model=str(tmp_path / "model"))
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (out,) = generator("abc", max_new_tokens=5)
        generator(["abc", "defg hi"], max_new_tokens=5, batch_size=2, do_sample=False)
        generator.model.generate(**generator.tokenizer("abc", return_tensors="pt"), max_new_tokens=5)
    assert out["generated_text"].startswith("abc")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_long_context_leaves_the_number_of_new_tokens_to_the_pipeline(tmp_path, save_model):
    export(save_model(make_model(n_positions=512)), tmp_path / "model", "float32", lambda exported: "")
    generation = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert not {"max_length", "max_new_tokens"} & set(generation)


def test_the_files_of_gpt2_are_the_same_tokenizer(save_model, tmp_path):
    """transformers reads them where tokenizer.json is newer than it; here, tokenizer.json is absent."""
    export(save_model(make_model()), tmp_path / "model", "float32", lambda exported: "")
    ours = Tokenizer.load(tmp_path / "model")
    (tmp_path / "model/tokenizer.json").unlink()
    theirs = GPT2Tokenizer.from_pretrained(tmp_path / "model")
    assert theirs.get_vocab() == ours.vocabulary and theirs.eos_token_id == END
    for text in ("abc defg, é\n hij", "  two  spaces 😀\t", "it's 2024"):
        assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    assert (tmp_path / "model/merges.txt").read_text().startswith("#version: 0.2\n")


def test_an_untied_output_layer_is_kept(save_model, tmp_path):
    model = make_model(tie_word_embeddings=False)
    assert not torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    export(save_model(model), tmp_path / "model", "bfloat16", lambda exported: "")
    assert torch.equal(
        GPT2LMHeadModel.from_pretrained(tmp_path / "model").lm_head.weight, model.lm_head.weight.bfloat16()
    )


def test_a_large_model_is_written_in_shards(save_model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "SHARD_SIZE", "50KB")
    source = save_model(make_model())
    export(source, tmp_path / "model", "float32", lambda exported: "")
    assert len(list((tmp_path / "model").glob("model-*-of-*.safetensors"))) > 2
    theirs, ours = (GPT2LMHeadModel.from_pretrained(path).state_dict() for path in (source, tmp_path / "model"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_character_tokenizer_goes_along(save_model, tmp_path):
    source = save_model(make_model())
    tokenizer = train_char(["abcdefg\n"])
    tokenizer.save(source)
    export(source, tmp_path / "model", "float32", lambda exported: "")
    assert Tokenizer.load(tmp_path / "model").fingerprint == tokenizer.fingerprint
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "model")("gab")["input_ids"] == tokenizer.encode("gab").tolist()
    )
    config = GPT2LMHeadModel.from_pretrained(tmp_path / "model").config
    assert config.eos_token_id == tokenizer.end_of_text_id


def test_an_export_exports_again(exported, tmp_path):
    _, directory = exported
    export(directory, tmp_path / "again", "float32", lambda exported: "")
    ours, theirs = (load_file(path / "model.safetensors") for path in (tmp_path / "again", directory))
    assert all(torch.equal(ours[name], theirs[name].float()) for name in theirs)


# What must not be published


def test_a_writer_that_errs_publishes_nothing(save_model, tmp_path, monkeypatch, dtype):
    write = exporter.save_torch_model

    def zeroes_a_tensor(model, *args, **options):
        with torch.no_grad():
            model.transformer.h[1].mlp.c_fc.weight.zero_()
        write(model, *args, **options)

    monkeypatch.setattr(exporter, "save_torch_model", zeroes_a_tensor)
    source = save_model(make_model())
    there = set(tmp_path.iterdir())
    with pytest.raises(RunError) as raised:
        export(source, tmp_path / "model", dtype, lambda exported: "")
    assert f"the written files are not {source}: their logits differ by" in str(raised.value)
    assert "transformer.h.1.mlp.c_fc.weight differs by up to" in str(raised.value)
    assert set(tmp_path.iterdir()) == there


def test_a_disk_that_fails_publishes_nothing(save_model, tmp_path, monkeypatch):
    def fails(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter, "save_torch_model", fails)
    source = save_model(make_model())
    there = set(tmp_path.iterdir())
    with pytest.raises(RunError, match=r"--output: .*model cannot be written \(No space left on device\)"):
        export(source, tmp_path / "model", "float32", lambda exported: "")
    assert set(tmp_path.iterdir()) == there


def test_a_weight_beyond_float16_publishes_nothing(save_model, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.transformer.wpe.weight[7, 3] = 1e5
    source = save_model(model)
    there = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"holds 100000, which is beyond .+ give --dtype bfloat16"):
        export(source, tmp_path / "model", "float16", lambda exported: "")
    assert set(tmp_path.iterdir()) == there
    export(source, tmp_path / "model", "bfloat16", lambda exported: "")

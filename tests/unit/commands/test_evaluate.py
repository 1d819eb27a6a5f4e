import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2dist.cli import main
from gpt2dist.dataset.manifest import Manifest
from gpt2dist.evaluation.measures import RESERVED
from gpt2dist.tokenizer.tokenizer import Tokenizer, train_char

KEYS = {
    *("nll_sum", "targets", "loss", "perplexity", "bits_per_token", "bits_per_byte", "word_perplexity"),
    *("lm_eval_word_perplexity", "lm_eval_words"),
    *("bytes", "words", "documents", "windows", "sequence_length", "stride", "prefix", "per_document"),
    *("document_boundaries", "batch_size", "zero_stage", "world_size", "model", "data", "split", "detokenizer"),
    *("dtype", "tokenizer", "seconds", "tokens_per_second"),
}


@pytest.fixture
def evaluate(gpt2dist, small_model, tiny_dataset):
    def call(*options, model=small_model, data=tiny_dataset):
        return gpt2dist("evaluate", model, "--data", data, *options)

    return call


def test_the_json_has_the_keys_of_the_contract(evaluate, tiny_dataset):
    code, out, err = evaluate("--json")
    result = json.loads(out)
    totals = Manifest.load(tiny_dataset).totals("val")
    assert code == 0
    assert set(result) == KEYS <= RESERVED, "no measure of another package can take one of these"
    assert (result["targets"], result["bytes"], result["words"]) == (
        totals.tokens - 1,
        totals.bytes,
        totals.words,
    )
    assert (result["sequence_length"], result["stride"], result["split"]) == (32, 16, "val")
    assert 250 < result["perplexity"] < 700  # an untrained model: its vocabulary or worse
    assert "evaluate: 100%" in err


def test_the_table_goes_to_standard_output_and_the_file_holds_the_same(evaluate, tmp_path):
    code, out, err = evaluate("--prefix", "end-of-text", "--output", str(tmp_path / "deep/result.json"))
    assert code == 0 and len(err.splitlines()) == 1, "the progress"
    result = json.loads((tmp_path / "deep/result.json").read_text())
    assert set(result) == KEYS
    assert f"{result['perplexity']:.4f} per token" in out
    assert str(tmp_path / "deep/result.json") in out


def test_a_prefix_adds_one_target_and_the_split_is_chosen(evaluate):
    plain = json.loads(evaluate("--json", "--split", "train")[1])
    more = json.loads(evaluate("--json", "--split", "train", "--prefix", "end-of-text")[1])
    assert more["targets"] == plain["targets"] + 1
    assert plain["split"] == "train"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (
            ["--sequence-length", "33"],
            "a sequence length of 33 is not between 1 and the 32 positions of the model",
        ),
        (["--sequence-length", "0"], "a sequence length of 0 is not between 1 and the 32 positions of the model"),
        (["--stride", "0"], "a stride of 0 is not between 1 and the sequence length 32"),
        (["--output", "/"], "--output: / is a directory; name a file, such as /output"),
        (["--output", "/dev/null/result.json"], "--output: /dev/null is a file; name a directory"),
        (["--stride", "40"], "a stride of 40 is not between 1 and the sequence length 32"),
        (["--split", "dev"], "dev"),
    ],
)
def test_wrong_options(evaluate, options, message):
    code, _, err = evaluate(*options)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_a_directory_that_is_no_dataset(evaluate, tmp_path):
    code, _, err = evaluate(data=tmp_path)
    assert code == 2 and "manifest.json" in err


def test_a_dataset_whose_files_are_not_whole(evaluate, tiny_dataset, tmp_path):
    torn = tmp_path / "torn"
    shutil.copytree(tiny_dataset, torn)
    (torn / "val-00000.bin").unlink()
    code, _, err = evaluate(data=torn)
    assert code == 2
    assert f"{torn}: its files do not match the manifest; copy" in err
    assert f"{torn / 'val-00000.bin'}: no such file" in err


def test_a_directory_that_is_no_model(evaluate, tmp_path):
    code, _, err = evaluate(model=tmp_path)
    assert code == 2 and "no model there" in err


def test_a_model_with_another_tokenizer(evaluate, small_model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path in small_model.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    train_char(["abc"]).save(other)
    code, _, err = evaluate(model=other)
    assert code == 2
    assert "was made with another tokenizer" in err and f"--tokenizer {other}" in err


def test_a_model_whose_weights_cannot_be_read(evaluate, small_model, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in small_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "model.safetensors").unlink()
    code, _, err = evaluate(model=broken)
    assert code == 2
    assert "broken: no weights there" in err


def test_a_model_with_more_layers_than_it_says_is_not_cut_short(evaluate, small_model, tmp_path):
    longer = shutil.copytree(small_model, tmp_path / "longer")
    weights = load_file(longer / "model.safetensors")
    weights |= {
        name.replace("h.1.", "h.2."): tensor.clone() for name, tensor in weights.items() if ".h.1." in name
    }
    weights["transformer.h.0.attn.bias"] = torch.ones(1, 1, 32, 32)  # the mask that old files have
    save_file(weights, longer / "model.safetensors", metadata={"format": "pt"})
    code, _, err = evaluate(model=longer)
    assert code == 2
    assert "longer: has a tensor transformer.h.2.attn.c_attn.bias in model.safetensors, which is not" in err


def test_a_model_with_a_tensor_missing_is_not_filled_up_with_random_numbers(evaluate, small_model, tmp_path):
    partial = shutil.copytree(small_model, tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    code, _, err = evaluate(model=partial)
    assert code == 2
    assert "partial: has no transformer.h.1.mlp.c_fc.weight in its files, which is part of" in err


def test_a_model_that_is_smaller_than_its_tokenizer(evaluate, small_model, tmp_path, capsys):
    small = shutil.copytree(small_model, tmp_path / "small")
    GPT2LMHeadModel(
        GPT2Config(vocab_size=299, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    ).save_pretrained(small)
    message = "its model has 299 tokens, its tokenizer 300; replace the tokenizer by the one"
    code, _, err = evaluate(model=small)
    assert code == 2 and message in err
    assert main(["generate", str(small)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_whose_file_was_cut_off(evaluate, small_model, tmp_path):
    short = shutil.copytree(small_model, tmp_path / "short")
    (short / "model.safetensors").write_bytes((short / "model.safetensors").read_bytes()[:1000])
    code, _, err = evaluate(model=short)
    assert code == 2
    assert f"{short}/model.safetensors: cannot be read (" in err


def test_isolated_documents_are_scored_by_themselves(evaluate):
    packed = json.loads(evaluate("--json")[1])
    isolated = json.loads(evaluate("--json", "--document-boundaries", "isolate")[1])
    assert (packed["document_boundaries"], isolated["document_boundaries"]) == ("pack", "isolate")
    assert isolated["targets"] == packed["targets"] and isolated["nll_sum"] != packed["nll_sum"]


def test_a_truncated_shard_is_named_before_anything_is_loaded(evaluate, tiny_dataset, tmp_path):
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    path = dataset / "val-00000.bin"
    path.write_bytes(path.read_bytes()[:-2])
    code, _, err = evaluate(data=dataset)
    assert code == 2 and f"{path}: has " in err and "the manifest says" in err


def shown_difference(err):
    """The losses of the line about the dtype: in it and in fp32."""
    pattern = (
        r"gpt2dist evaluate: dtype bf16: loss (\S+) of the first 3 windows, (\S+) in fp32 \(difference (\S+)\)"
    )
    ((found, exact, difference),) = re.findall(pattern, err)
    assert float(difference) == pytest.approx(float(found) - float(exact), abs=2e-6)
    return float(found), float(exact)


def test_bf16_is_recorded_and_its_difference_from_fp32_is_shown(evaluate):
    code, out, err = evaluate("--json", "--dtype", "bf16", "--batch-size", "3")
    result, exact = json.loads(out), json.loads(evaluate("--json", "--batch-size", "3")[1])
    assert (code, result["dtype"], exact["dtype"]) == (0, "bf16", "fp32")
    assert 0 < abs(result["loss"] - exact["loss"]) < 2e-2
    found, in_fp32 = shown_difference(err)
    assert 0 < abs(found - in_fp32) < 5e-2
    code, _, err = evaluate("--dtype", "bf16", "--quiet")
    assert code == 0 and "in fp32" not in err
    _, out, err = evaluate("--dtype", "bf16", "--batch-size", "50")
    assert "of the first 8 windows, " in err and "prefix none, dtype bf16" in out
    _, out, err = evaluate()
    assert "dtype" not in out + err


def test_bf16_is_that_of_transformers_in_bf16(gpt2dist, small_model, tiny_dataset, tmp_path):
    (tmp_path / "text.txt").write_text("abc def ghi, jkl")
    words = [
        "--text",
        tmp_path / "text.txt",
        "--prefix",
        "end-of-text",
        "--per-document",
        "--json",
        "--batch-size",
        3,
    ]
    _, out, err = gpt2dist("evaluate", small_model, *words, "--dtype", "bf16")
    tokens = torch.tensor([[299, *Tokenizer.load(small_model).encode("abc def ghi, jkl").tolist()]])
    losses = []
    for dtype in (torch.bfloat16, torch.float32):
        model = GPT2LMHeadModel.from_pretrained(small_model, dtype=dtype).eval()
        with torch.no_grad():
            logits = model(tokens[:, :-1]).logits.float()
        losses.append(torch.nn.functional.cross_entropy(logits[0], tokens[0, 1:]).item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-5)
    assert json.loads(out)["loss"] == pytest.approx(losses[0], rel=1e-6)
    assert f"dtype bf16: loss {losses[0]:.6f} of the first 1 windows, {losses[1]:.6f} in fp32" in err


def test_tf32_without_a_gpu_is_refused_before_the_text_is_read(gpt2dist, small_model):
    code, _, err = gpt2dist("evaluate", small_model, "--text", "nowhere.txt", "--dtype", "tf32")
    assert code == 2
    assert "dtype tf32 needs an NVIDIA GPU of the Ampere generation or newer, not a CPU; give fp32" in err
    assert "nowhere.txt" not in err

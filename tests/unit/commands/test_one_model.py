"""What could be read as two models, and a pickle, is refused with one sentence by all verbs that load a model."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file


@pytest.fixture
def verbs(gpt2dist, tiny_dataset, tmp_path):
    """Calls all verbs with a model; returns the message that all of them end with."""
    passages, prompt = tmp_path / "passages.jsonl", ["--prompt", "abc"]
    passages.write_text('{"text": "abc def"}\n')
    words = {
        "evaluate": ["--data", tiny_dataset],
        "generate": prompt,
        "lambada": ["--data", passages],
        "export": ["--output", tmp_path / "exported"],
    }

    def call(model):
        messages = set()
        for verb, options in words.items():
            code, out, err = gpt2dist(verb, model, *options)
            assert (code, out) == (2, ""), verb
            messages.add(err.splitlines()[-1].removeprefix(f"gpt2dist {verb}: "))
        run_file = tmp_path / "run.yaml"
        run_file.write_text(f"model: {{init_from: {model}}}\ndata: {{train: [{{path: {tiny_dataset}}}]}}\n")
        code, _, err = gpt2dist("validate", run_file, "schedule.total_steps=1")
        assert code == 2
        messages.add(err.split("  model.init_from: ")[1].splitlines()[0])
        (message,) = messages
        return message.removeprefix(f"{model}: ")

    return call


def test_a_pickle(verbs, small_model, tmp_path):
    model = shutil.copytree(small_model, tmp_path / "pickle")
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")  # which could be loaded
    (model / "model.safetensors").unlink()
    assert verbs(model).startswith(
        "its weights are a pickle (pytorch_model.bin), which can execute any code and is not"
    )


def test_an_output_layer_beside_another_embedding(verbs, small_model, tmp_path):
    model = shutil.copytree(small_model, tmp_path / "two")
    weights = load_file(model / "model.safetensors")
    head = weights["transformer.wte.weight"].clone()
    head[5, 0] += 1
    save_file(weights | {"lm_head.weight": head}, model / "model.safetensors", {"format": "pt"})
    message = verbs(model)
    assert message.startswith("has two output layers: ") and "(they differ in row 5)" in message

import inspect
import json

import pytest

import gpt2dist
from gpt2dist.cli import build_parser, main
from gpt2dist.errors import UserError


def test_the_texts_are_those_of_the_verb(model, tmp_path, capsys):
    prompts = ["abc", "d"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    words = ["--num-samples", "2", "--max-new-tokens", "8", "--seed", "5", "--top-k", "20", "--json"]
    assert main(["generate", str(model), "--prompts-file", str(tmp_path / "prompts.txt"), *words]) == 0
    expected = [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]
    texts = gpt2dist.generate(model, prompts, num_samples=2, max_new_tokens=8, seed=5, top_k=20, quiet=True)
    assert texts == expected and len(set(texts)) == 4
    assert capsys.readouterr() == ("", "")
    assert gpt2dist.generate(model, "abc", max_new_tokens=8, seed=6, top_k=20) == expected[1:2]


def test_the_defaults_are_those_of_the_verb():
    verb = vars(build_parser("generate").parse_args(["generate", "model"]))
    ours = {
        name: each.default
        for name, each in inspect.signature(gpt2dist.generate).parameters.items()
        if name not in ("model", "prompts", "quiet")
    }
    assert {name: verb[name] for name in ours} == ours


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_p": 2, "top_k": -1}, r"top_k must be 0 \(all\) or more; top_p must be above 0 and at most 1"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
        ({"model": "nowhere/model"}, "nowhere/model: no such directory"),
    ],
)
def test_wrong_input(model, given, message):
    with pytest.raises(UserError, match=message):
        gpt2dist.generate(**{"model": model, "prompts": "a"} | given)


def test_a_prompt_that_cannot_be_encoded_is_named(model, tmp_path):
    gpt2dist.Tokenizer.train(["abc"], kind="char").save(tmp_path / "model")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).symlink_to(model / name)
    with pytest.raises(UserError, match=r"prompt 2: .*'é' .* not in this character-level tokenizer"):
        gpt2dist.generate(tmp_path / "model", ["a", "é"])

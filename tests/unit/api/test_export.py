import pytest

import gpt2dist
from gpt2dist.cli import main
from gpt2dist.errors import UserError


def contents(directory):
    """The files of a directory, those of weights without their header, whose keys have no fixed order."""
    found = {path.name: path.read_bytes() for path in directory.iterdir()}
    weights = found["model.safetensors"]
    return found | {"model.safetensors": weights[8 + int.from_bytes(weights[:8], "little") :]}


def test_it_is_what_the_verb_writes(run_directory, tmp_path, capsys):
    run = gpt2dist.Run(run_directory)
    output = gpt2dist.export(run, tmp_path / "a/model", dtype="bfloat16", license="mit", quiet=True)
    assert output == tmp_path / "a/model" and capsys.readouterr() == ("", "")
    words = ["--output", str(tmp_path / "b/model"), "--dtype", "bfloat16", "--license", "mit"]
    assert main(["export", str(run_directory), *words]) == 0
    files = contents(output)
    assert files == contents(tmp_path / "b/model")
    assert {"model.safetensors", "README.md", "tokenizer.json", "config.json"} <= files.keys()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "int8"}, "dtype 'int8' is not one of float32, bfloat16, float16"),
        ({"name": " "}, "name is empty; give one, or omit it"),
        ({"model": "nowhere/model"}, "nowhere/model: no such directory"),
        ({"results": ["nowhere.json"]}, "nowhere.json"),
    ],
)
def test_wrong_input(model, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        gpt2dist.export(**{"model": model, "output": tmp_path / "out"} | given)
    assert not (tmp_path / "out").exists()

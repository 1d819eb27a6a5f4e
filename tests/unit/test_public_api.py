"""`import gpt2dist`: instant, complete, typed and documented."""

import inspect
import re
import subprocess
import sys
import tomllib

import pytest

import gpt2dist
from tests.support import REPOSITORY

HEAVY = {"torch", "transformers", "deepspeed", "numpy", "pydantic", "yaml", "tokenizers"}


def loaded_after(code):
    """The heavy libraries that are imported after running some code in a new process."""
    code = f"{code}\nimport sys; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_importing_it_imports_nothing_heavy():
    names = ("Dataset", "Run", "RunError", "UserError", "evaluate", "export", "generate", "train")
    code = f"import gpt2dist\ndir(gpt2dist)\nfrom gpt2dist import {', '.join(names)}"
    assert loaded_after(code) == set()


def test_a_configuration_needs_neither_torch_nor_numpy():
    code = "import gpt2dist\ngpt2dist.Config.from_dict({'run': {'name': 'a'}})"
    assert loaded_after(code) == {"pydantic", "yaml"}


def test_all_names_are_there():
    from gpt2dist import Config, Dataset, Run, Tokenizer, evaluate, export, generate, train

    ours = {Config, Dataset, Run, Tokenizer, evaluate, export, generate, train}
    assert ours | {gpt2dist.UserError, gpt2dist.RunError} == {
        getattr(gpt2dist, name) for name in gpt2dist.__all__
    }
    assert set(gpt2dist.__all__) | {"__version__"} <= set(dir(gpt2dist))
    unknown = "fit"
    with pytest.raises(AttributeError, match="module 'gpt2dist' has no attribute 'fit'"):
        getattr(gpt2dist, unknown)


@pytest.mark.parametrize("name", sorted(set(gpt2dist.__all__) - {"UserError", "RunError"}))
def test_each_is_documented_with_an_example(name):
    """Google style: what it takes, what it returns or raises, and an example."""
    found = getattr(gpt2dist, name)
    text = inspect.getdoc(found)
    opened = {"Config": "read", "Tokenizer": "load"}
    example = inspect.getdoc(getattr(found, opened[name])) if name in opened else text
    assert "Example:" in example and f"gpt2dist.{name}" in example
    for called in vars(found).values() if inspect.isclass(found) else [found]:
        called = getattr(called, "__func__", called)
        if (
            inspect.isfunction(called)
            and called.__name__[0] != "_"
            and called.__module__.startswith("gpt2dist.api")
        ):
            text = inspect.getdoc(called)
            for parameter in set(inspect.signature(called).parameters) - {"self", "cls"}:
                assert re.search(rf"^    {parameter}: ", text, re.MULTILINE), (called.__qualname__, parameter)


SCRIPT = """\
import gpt2dist

config = gpt2dist.Config.read("run.yaml", "optimizer.lr=3e-4")
run = gpt2dist.train(config)
reveal_type(config.optimizer.lr)
reveal_type(run.metrics()["train/loss"].values)
reveal_type(gpt2dist.generate(run, "a"))
reveal_type(gpt2dist.Dataset("d").tokenizer)
reveal_type(gpt2dist.evaluate(run, gpt2dist.Dataset("d")))
gpt2dist.export(run, "out", dtype="int8")
gpt2dist.train("run.yaml")
"""
SETTINGS = """\
[mypy]
follow_imports = silent
ignore_missing_imports = true
[mypy-torch.*,transformers.*,huggingface_hub.*,deepspeed.*,tokenizers.*,pyarrow.*,datasets.*]
follow_imports = skip
"""


def test_a_type_checker_finds_the_types(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    monkeypatch.setenv("MYPYPATH", str(REPOSITORY))
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    revealed = re.findall(r'Revealed type is "(?:builtins\.)?(.*)"', done.stdout)
    array = revealed.pop(1)  # versions of NumPy write its parameters in other ways
    assert array.startswith("numpy.ndarray[") and "float" in array
    assert [re.sub(r"\bbuiltins\.", "", each) for each in revealed] == [
        "float",
        "list[str]",
        "gpt2dist.tokenizer.tokenizer.Tokenizer",
        "dict[str, Any]",
    ]
    errors = re.findall(r"script\.py:(\d+): error: Argument .* has incompatible type", done.stdout)
    assert errors == ["10", "11"], done.stdout


def test_the_package_says_that_it_is_typed():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    assert "py.typed" in settings["tool"]["setuptools"]["package-data"]["gpt2dist"]
    assert (REPOSITORY / "gpt2dist/py.typed").read_bytes() == b""

import os
import shutil
import subprocess

import pytest

from gpt2dist import cli
from gpt2dist.cli import main
from gpt2dist.commands import completion

LINES = [
    ("ev", {"evaluate"}),
    ("evaluate --dt", {"--dtype"}),
    ("evaluate --dtype ", {"fp32", "bf16", "tf32"}),
    ("launch --nproc-per-node 2 ver", {"verify-resume"}),
    ("launch train run.yaml optimizer.weight", {"optimizer.weight_decay="}),
    ("train run.yaml --qu", {"--quiet"}),
    ("tokenizer tr", {"train"}),
    ("tokenizer train --ki", {"--kind"}),
    ("tokenizer train --kind c", {"char"}),
    ("completion f", {"fish"}),
    ("evaluate nothing-of-this-na", set()),
]


@pytest.fixture
def script(capsys):
    def call(shell):
        assert main(["completion", shell]) == 0
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
def test_bash_completes(script, tmp_path, line, expected):
    words = ["gpt2dist", *line.split(" ")]
    probe = f"""
{script("bash")}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}); COMP_CWORD={len(words) - 1}
_gpt2dist gpt2dist '{words[-1]}' '{words[-2]}'
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", probe], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(("line", "expected"), LINES, ids=[line for line, _ in LINES])
def test_fish_completes(script, tmp_path, line, expected):
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    (tmp_path / "c.fish").write_text(script("fish"))
    probe = f"source c.fish; complete -C 'gpt2dist {line}'"
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(
        ["fish", "-c", probe], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert {row.split("\t")[0] for row in done.stdout.splitlines()} - {"c.fish"} == expected


def test_zsh_takes_the_script_and_completes_by_that_of_bash(script, tmp_path):
    text = script("zsh")
    assert text.splitlines()[3:] == script("bash").splitlines()[1:]
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    probe = f"""{text}
print -r -- "$_comps[gpt2dist]"
COMP_WORDS=(gpt2dist evaluate --dtype b); COMP_CWORD=3
compgen() {{ print -r -- "words: $2"; }}
_gpt2dist gpt2dist b --dtype; print -r -- "$COMPREPLY"
"""
    environment = os.environ | {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path)}
    done = subprocess.run(["zsh", "-f", "-c", probe], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and done.stdout.splitlines()[0].startswith("_bash_complete")
    assert "fp32 bf16 tf32" in done.stdout


def test_all_verbs_and_options_are_in_every_script(script):
    every = list(completion.verbs())
    assert {each.name for each in every} >= set(cli.VERBS)
    options = {option for each in every for option, _, _ in each.options if option.startswith("--")}
    assert len(options) > 80
    for shell in ("bash", "fish"):
        text = script(shell)
        assert [option for option in options if option.removeprefix("--") not in text] == []


def test_the_keys_are_those_that_can_be_set():
    keys = completion.keys()
    assert {"optimizer.lr", "run.output_dir", "data.train"} <= {*keys, "data.train"}
    assert len(keys) > 60 and not any(key.endswith(".") or ".N" in key for key in keys)


def test_another_shell(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 2 and "invalid choice: 'tcsh'" in capsys.readouterr().err

import json

import pytest

from gpt2dist.cli import main
from gpt2dist.config.json_schema import json_schema


def test_a_key_is_explained_on_standard_output(capsys):
    assert main(["config", "optimizer.lr"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (
        "optimizer.lr\n"
        "\n"
        "  Peak learning rate, which the warmup reaches. `schedule` gives its course.\n"
        "\n"
        "  type     number\n"
        "  limits   above 0\n"
        "  default  0.0006\n",
        "",
    )


def test_a_section_is_listed_and_so_is_everything(capsys):
    assert main(["config", "optimizer"]) == 0
    section = capsys.readouterr().out
    assert section.startswith("optimizer: The optimizer. ")
    assert "\n  optimizer.betas           [0.9, 0.95]  Decay rates of the two moments" in section
    assert main(["config"]) == 0
    everything = capsys.readouterr().out
    assert "\noptimizer: The optimizer. " in everything
    headings = [line.partition(":")[0] for line in everything.splitlines() if line[:1].isalpha()]
    assert headings[:4] == ["run", "model", "data", "data.train"]
    assert headings[-3:] == ["monitoring.profile", "monitoring.samples", "stability"]


def test_the_schema_is_printed_as_json(capsys):
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer.lrr"],
            "optimizer.lrr: unknown key; did you mean optimizer.lr? `gpt2dist config optimizer` lists",
        ),
        (["run.yaml"], "run.yaml is a file, not a key; `gpt2dist validate run.yaml` checks it"),
        (["optimizer", "--schema"], "--schema prints the schema of all keys; remove optimizer, or --schema"),
    ],
)
def test_what_is_no_key_is_refused_with_a_fix(words, message, capsys):
    assert main(["config", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"gpt2dist config: {message}")

"""The constructors of `gpt2dist.Config`."""

from pathlib import Path

import numpy as np
import pytest

from gpt2dist import Config
from gpt2dist.errors import UserError

SETTINGS = {
    "run": {"name": "tiny"},
    "model": {"n_layer": 2},
    "optimizer": {"betas": (0.9, 0.99)},
    "data": {"train": [{"path": Path("data/a")}, {"path": "data/b", "weight": 2.0}]},
}


def test_a_file_and_dictionaries_give_the_same(tmp_path):
    config = Config.from_dict(SETTINGS, "optimizer.lr=3e-4", "data.train.1.weight=3")
    assert (config.optimizer.lr, config.optimizer.betas, config.output_dir) == (
        3e-4,
        (0.9, 0.99),
        Path("runs/tiny"),
    )
    assert [(str(each.path), each.weight) for each in config.data.train] == [("data/a", None), ("data/b", 3.0)]
    path = tmp_path / "tiny.yaml"
    path.write_text(config.to_yaml())
    assert Config.read(path) == config
    assert Config.read(str(path), "optimizer.lr=1e-3") == config.override("optimizer.lr=1e-3") != config
    assert SETTINGS["data"]["train"][0] == {"path": Path("data/a")}, "what the user gave is not changed"


def test_the_name_follows_from_the_file_or_the_directory(tmp_path):
    (tmp_path / "wide.yaml").write_text("")
    assert Config.read(tmp_path / "wide.yaml").run.name == "wide"
    assert Config.from_dict({"run": {"output_dir": tmp_path / "here"}}).run.name == "here"


def test_all_mistakes_are_in_one_message(tmp_path):
    wrong = {"run": {"name": "a"}, "optimizer": {"lr": -1, "learning_rate": 1}, "precision": "fp8"}
    with pytest.raises(UserError) as refused:
        Config.from_dict(wrong, "model.n_layers=2")
    message = str(refused.value)
    assert message.startswith("a: 4 mistakes in the configuration")
    for key in ("optimizer.lr", "optimizer.learning_rate", "precision", "model.n_layers"):
        assert f"\n  {key}: " in message
    (tmp_path / "a.yaml").write_text("precision: fp8\n")
    with pytest.raises(UserError, match=r"a\.yaml: 2 mistakes in the configuration"):
        Config.read(tmp_path / "a.yaml", "optimizer.lr=fast")
    with pytest.raises(UserError, match="tiny: 1 mistake in the configuration\n  lr: not an override"):
        Config.from_dict(SETTINGS).override("lr")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "the settings: 1 mistake in the configuration\n  run.name: missing"),
        (
            {"run": {"seed": -1}},
            "the settings: 2 mistakes in the configuration\n  run.seed: .*\n  run.name: missing",
        ),
        ({"run": {"name": 3}}, "the settings: 1 mistake in the configuration\n  run.name: "),
        ({"run": {"seed": np.int64(3)}}, "the settings are not made of JSON values and paths"),
        ({"run": {"seed": float("nan"), "name": "a"}}, "run.seed: "),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(UserError, match=message):
        Config.from_dict(settings)

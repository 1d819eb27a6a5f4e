import dataclasses
import json

import pytest

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.errors import UserError
from tests.support.stores import ORDER, trainer_state

ORIGIN = {"step": 0, "samples": 0, "targets": 0, "data_from": 0}


@pytest.mark.parametrize("more", [{}, {"origin": ORIGIN | {"step": 7}, "restarted": {"a": 7}}])
def test_what_was_written_is_read(tmp_path, more):
    state = dataclasses.replace(trainer_state(7), **more)
    state.write(tmp_path)
    assert TrainerState.read(tmp_path) == state
    assert {"origin", "restarted"} & set(json.loads((tmp_path / "trainer_state.json").read_text())) == set(more)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": "7"}, "step is '7', not a whole number"),
        ({"step": True}, "step is True, not a whole number"),
        ({"consumed_samples": -1}, "consumed_samples is -1"),
        ({"updates": 8}, "8 updates in 7 steps"),
        ({"observed": 1}, "evaluation_done is 1, not true or false"),
        ({"probe_loss": None}, "probe_loss is None, not a number"),
        ({"history": {"losses": [1.0, "2"]}}, "history.losses.1 is '2', not a number"),
        ({"order": ORDER | {"run.seed": None}}, "order has no run.seed"),
        ({"datasets": [{"path": "a", "share": 1}]}, "datasets has no fingerprint"),
        (
            {"datasets": [{"path": "a", "fingerprint": "f", "share": 1, "manifest": []}]},
            "datasets: a manifest is not of type dict",
        ),
        ({"datasets": {}}, "datasets is {}, not a list"),
        ({"origin": {"step": 1}}, "origin has step instead of data_from, samples, step, targets"),
        ({"origin": ORIGIN | {"step": 8}}, "origin.step is 8"),
        ({"origin": ORIGIN | {"data_from": -1}}, "origin.data_from is -1"),
        ({"restarted": {"a": "1"}}, "restarted.a is '1', not a whole number"),
        ({"restarted": {"a": 8}}, "a parameter was restarted after more than 7 updates"),
    ],
)
def test_each_value_has_its_type_and_range(tmp_path, changes, reason):
    trainer_state(7).write(tmp_path)
    path = tmp_path / "trainer_state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as raised:
        TrainerState.read(tmp_path)
    assert str(raised.value) == f"{path}: not a valid trainer state ({reason}); give another checkpoint"


def test_a_missing_key_and_a_list(tmp_path):
    path = tmp_path / "trainer_state.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"not a valid trainer state \(step is missing\)"):
        TrainerState.read(tmp_path)
    path.write_text("[]")
    with pytest.raises(UserError, match=r"not a valid trainer state \(a list instead of an object\)"):
        TrainerState.read(tmp_path)

import json

import pytest

from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.errors import UserError
from tests.support.stores import ORDER, trainer_state


def test_what_was_written_is_read(tmp_path):
    trainer_state(7).write(tmp_path)
    assert TrainerState.read(tmp_path) == trainer_state(7)


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

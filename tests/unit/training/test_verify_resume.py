import json

from gpt2dist.training.verify_resume import _differences


def test_a_step_that_only_one_of_them_has_is_a_difference(tmp_path):
    names = ("config.json", "model.safetensors", "optimizer-00001-of-00001.safetensors", "trainer_state.json")
    records = {name: {"bytes": 0, "sha256": "e3b0"} for name in names}
    for name, steps in (("whole", (1, 2, 3)), ("halves", (1, 3, 4))):
        checkpoint = tmp_path / name / "checkpoints/step-00000004"
        checkpoint.mkdir(parents=True)
        for file in names:
            (checkpoint / file).touch()
        (checkpoint / "manifest.json").write_text(json.dumps({"format_version": 3, "files": records}))
        lines = [{"step": step, "train/loss": 2.0 if step < 3 else len(name)} for step in steps]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _differences(tmp_path / "whole", tmp_path / "halves", 4) == [
        "step 3: train/loss 5 uninterrupted, 6 resumed",
        "step 2: only uninterrupted",
        "step 4: only resumed",
    ]

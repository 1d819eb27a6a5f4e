import fnmatch
import hashlib
import json

import pytest

from gpt2dist.errors import UserError
from gpt2dist.model.find_model import fingerprint, locate, weight_files
from tests.support.model_files import write_model


def make_model(path, weights=b"w", model_type="gpt2"):
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": model_type}))
    (path / "model-00001-of-00001.safetensors").write_bytes(weights)
    return path


def test_a_model_directory_is_itself(tmp_path):
    assert locate(str(write_model(tmp_path / "m"))) == tmp_path / "m"


def test_a_run_is_its_latest_checkpoint(tmp_path):
    make_model(tmp_path / "checkpoints/step-00000010")
    newest = write_model(tmp_path / "checkpoints/step-00000020")
    (tmp_path / "checkpoints/latest").write_text("step-00000020\n")
    assert locate(str(tmp_path)) == newest


def test_best_and_latest_of_a_run_stand_for_the_checkpoints_that_they_name(tmp_path):
    best = write_model(tmp_path / "checkpoints/step-00000010")
    newest = write_model(tmp_path / "checkpoints/step-00000020")
    (tmp_path / "checkpoints/latest").write_text("step-00000020\n")
    with pytest.raises(UserError, match=r"checkpoints/best: the run has no best checkpoint yet; .*keep_best"):
        locate(str(tmp_path / "checkpoints/best"))
    (tmp_path / "checkpoints/best").write_text("step-00000010\n")
    assert locate(str(tmp_path / "checkpoints/best")) == best
    assert locate(str(tmp_path / "checkpoints/latest"), weights=False) == newest


def test_a_run_without_a_checkpoint(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="the run has no checkpoint yet"):
        locate(str(tmp_path))


def test_a_directory_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"no model there .* give a checkpoint, a run directory"):
        locate(str(tmp_path))


def test_another_kind_of_model(tmp_path):
    with pytest.raises(UserError, match="its model_type is 'llama'; gpt2dist reads gpt2 models"):
        locate(str(make_model(tmp_path / "m", model_type="llama")))


def test_a_name_that_is_neither_here_nor_on_the_hub():
    with pytest.raises(
        UserError, match="nobody/nothing: no such directory, and it could not be downloaded from the hub: HF_HUB"
    ):
        locate("nobody/nothing")


def test_the_fingerprint_is_about_the_weights(tmp_path):
    one, same = make_model(tmp_path / "a"), make_model(tmp_path / "b")
    (same / "optimizer-00001-of-00001.safetensors").write_bytes(b"moments")
    (same / "tokenizer.json").write_text("{}")
    (same / "training_args.bin").write_bytes(b"a pickle")
    assert fingerprint(one) == fingerprint(same) != fingerprint(make_model(tmp_path / "c", weights=b"v"))


def test_a_checkpoints_manifest_spares_reading_the_weights(tmp_path):
    model = make_model(tmp_path / "a")
    before = fingerprint(model)
    record = {"bytes": 1, "sha256": hashlib.sha256(b"w").hexdigest()}
    (model / "manifest.json").write_text(json.dumps({"files": {"model-00001-of-00001.safetensors": record}}))
    (model / "model-00001-of-00001.safetensors").write_bytes(b"never read")
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "not JSON"), ("[]", "a list instead of an object"), (b"\xff", "not UTF-8"), ("[" * 9999, "nested")],
)
def test_a_config_that_is_none(tmp_path, content, reason):
    config = make_model(tmp_path / "m") / "config.json"
    config.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"config\.json: {reason}.*; give another model"):
        locate(str(tmp_path / "m"))


def test_a_latest_checkpoint_that_is_gone(tmp_path):
    make_model(tmp_path / "checkpoints/step-00000010")
    (tmp_path / "checkpoints/latest").write_text("step-00000020\n")
    with pytest.raises(
        UserError, match="step-00000020: does not exist, though `latest` names it; give one of the other"
    ):
        locate(str(tmp_path))


def test_a_manifest_of_another_program_is_not_asked(tmp_path):
    model, other = make_model(tmp_path / "a"), make_model(tmp_path / "b")
    (other / "manifest.json").write_text('{"name": "an exported web page"}')
    assert fingerprint(model) == fingerprint(other)


def test_a_damaged_manifest_is_named_and_one_of_another_kind_passed_over(tmp_path):
    model = make_model(tmp_path / "m")
    before = fingerprint(model)
    for other in ("[]", "{}", '{"files": 3}', '{"files": {"a": 1}}'):
        (model / "manifest.json").write_text(other)
        assert fingerprint(model) == before
    (model / "manifest.json").write_text('{"files": {')
    with pytest.raises(UserError, match=r"manifest\.json: not JSON: .*; name another checkpoint"):
        fingerprint(model)


@pytest.mark.parametrize("names", [["pytorch_model.bin"], ["pytorch_model.bin.index.json"]])
@pytest.mark.parametrize("weights", [True, False])
def test_weights_in_a_pickle(tmp_path, names, weights):
    """Refused where the model is found, so that no verb can come to load them."""
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").unlink()
    for name in [*names, "another.bin"]:
        (model / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"m: its weights are a pickle \({names[0]}\), which can execute any code"
    ):
        locate(str(model), weights=weights)


def test_no_weights(tmp_path):
    model = write_model(tmp_path / "m")
    (model / "model.safetensors").rename(model / "training_args.bin")
    message = r"m: no weights there \(model\.safetensors or model\.safetensors\.index\.json\); give a whole model"
    with pytest.raises(UserError, match=message):
        locate(str(model))


def test_two_models_in_one_directory(tmp_path):
    """transformers would take the one, and the index means the other."""
    model, index = (
        write_model(tmp_path / "m"),
        {"metadata": {}, "weight_map": {"wte.weight": "model.safetensors"}},
    )
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(model) == [model / "model.safetensors"]
    (model / "part.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    index["weight_map"]["wpe.weight"] = "part.safetensors"
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"m: has two models, model\.safetensors and the files in .*; remove one"):
        weight_files(model)


def test_an_adapter_is_not_left_out_unnoticed(tmp_path):
    model = write_model(tmp_path / "m")
    (model / "adapter_config.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"m: has an adapter \(adapter_config\.json\), which is not read; merge it"
    ):
        locate(str(model))


def test_all_files_of_a_model_on_the_hub_are_asked_for(tmp_path, monkeypatch):
    model, asked = write_model(tmp_path / "cache"), []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda name, revision, allow_patterns: asked.extend(allow_patterns) or str(model),
    )
    assert locate("somebody/gpt2") == model
    for name in ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json"):
        assert any(fnmatch.fnmatch(name, pattern) for pattern in asked)
    asked.clear()
    (model / "model.safetensors").unlink()
    assert locate("somebody/gpt2", weights=False) == model  # before a download of the weights
    assert not any("safetensors" in pattern for pattern in asked)

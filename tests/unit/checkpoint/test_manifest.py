import json
import os

import pytest

from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.manifest import InvalidCheckpointError
from gpt2dist.errors import UserError

FILES = ("config.json", "model-00001-of-00001.safetensors", "optimizer-00001-of-00001.safetensors")


@pytest.fixture
def checkpoint(tmp_path):
    for name in (*FILES, "trainer_state.json"):
        (tmp_path / name).write_text(name)
    manifest.write(tmp_path, {path.name: manifest.seal(path) for path in list(tmp_path.iterdir())})
    return tmp_path


def change(checkpoint, files):
    """Write the manifest again, with these records of its files instead of its own."""
    path = checkpoint / "manifest.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"files": files(json.loads(path.read_text())["files"])})
    )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (lambda files: {}, "cannot be read (it does not list config.json)"),
        (lambda files: list(files), 'cannot be read (its "files" is not an object)'),
        (
            lambda files: files | {"a": {"bytes": 1e9, "sha256": ""}},
            "the record of 'a' lacks bytes or sha256",
        ),
        (lambda files: files | {"a": {"bytes": True, "sha256": ""}}, "the record of 'a' lacks bytes or"),
        (
            lambda files: files | {"a\0b": {"bytes": 1, "sha256": ""}},
            r"'a\x00b' cannot be read (",
        ),
        (
            lambda files: {name: files[name] for name in files if "optim" not in name},
            "it does not list optimizer-",
        ),
    ],
)
def test_a_manifest_that_is_malformed_or_incomplete(checkpoint, files, reason):
    change(checkpoint, files)
    with pytest.raises(InvalidCheckpointError) as raised:
        manifest.read(checkpoint)
    assert reason in str(raised.value)


def test_files_of_tensors_that_it_does_not_name(checkpoint):
    (checkpoint / "notes.txt").write_text("of no concern")
    assert len(manifest.read(checkpoint)) == 4
    (checkpoint / "model.safetensors").write_text("transformers would read this")
    with pytest.raises(
        InvalidCheckpointError, match=r"holds model\.safetensors, which its manifest\.json does not list"
    ):
        manifest.read(checkpoint)


def test_a_fifo_is_not_opened(checkpoint):
    (checkpoint / "config.json").unlink()
    os.mkfifo(checkpoint / "config.json")
    with pytest.raises(InvalidCheckpointError, match=r"config\.json is not a regular file"):
        manifest.read(checkpoint)


def test_a_checkpoint_without_its_manifest_is_no_model(checkpoint):
    manifest.require_whole_model(checkpoint)
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"not a complete checkpoint: has no manifest\.json; name another"):
        manifest.require_whole_model(checkpoint)
    (checkpoint / FILES[2]).unlink()
    manifest.require_whole_model(checkpoint)

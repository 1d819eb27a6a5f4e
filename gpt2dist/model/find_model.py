"""Find the directory of a model, given as a checkpoint, a run directory, an exported model or a hub name."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from gpt2dist.atomic_io import sha256_of
from gpt2dist.errors import UserError
from gpt2dist.model.tensors import require_model_of_config
from gpt2dist.run.directory import RunDirectory

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = "pytorch_model*.bin*"
"""Weights as transformers saved them before safetensors, and their index."""
ADAPTER = "adapter_config.json"
DESCRIPTION = ("config.json", "generation_config.json", "tokenizer*", "vocab.json", "merges.txt")


def locate(name: str, weights: bool = True) -> Path:
    """Find the Hugging Face model directory that a name refers to.

    Args:
        name: A directory with config.json, a run directory (its latest checkpoint), or a name on the hub.
        weights: Whether to download the weights of a model on the hub too, or only its config and tokenizer.

    Raises:
        UserError: The model does not exist, is not a GPT-2, or its weights are there and not of its config.json.
    """
    path = Path(name)
    has_weights = weights or path.exists()
    if RunDirectory(path).checkpoints.is_dir():
        path = _latest(RunDirectory(path))
    elif not path.exists():
        path = _download(name, (*DESCRIPTION, "*.safetensors", INDEX) if weights else DESCRIPTION)
    config = path / "config.json"
    if not config.is_file():
        raise UserError(
            f"{name}: no model there (no config.json and no checkpoints); give a checkpoint, a run directory, "
            "an exported model or a hub name"
        )
    try:
        kind = json.loads(config.read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{config}: not the config.json of a model ({error}); give another model") from None
    if kind != "gpt2":
        raise UserError(f"{name}: its model_type is {kind!r}; gpt2dist reads gpt2 models")
    if has_weights:
        weight_files(path)
    return path


def fingerprint(path: Path) -> str:
    """Return a SHA-256 over the weights of a directory; hashes in a checkpoint's manifest save reading them.

    Raises:
        UserError: The manifest is damaged.
    """
    known = _recorded_hashes(path / "manifest.json")
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        if file.name.startswith("optimizer-"):
            continue
        digest.update(f"{file.name}:{known[file.name] if file.name in known else sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _recorded_hashes(manifest: Path) -> dict[str, str]:
    """Return the recorded hashes of a checkpoint's files; empty without a manifest of that kind."""
    if not manifest.is_file():
        return {}
    try:
        files = json.loads(manifest.read_bytes())["files"]
        return {name: record["sha256"] for name, record in files.items()}
    except ValueError as error:
        raise UserError(f"{manifest}: damaged ({error}); name another checkpoint") from None
    except (TypeError, KeyError, AttributeError):
        return {}


def weight_files(path: Path) -> list[Path]:
    """Return the safetensors files, one or more, with the weights of a model directory.

    Raises:
        UserError: The directory has no safetensors weights or more than one model, its index is invalid or lists
            missing files, or the files do not hold the model that its config.json describes.
    """
    if (path / ADAPTER).is_file():
        raise UserError(
            f"{path}: has an adapter ({ADAPTER}), which is not read; merge it into the model with peft's "
            "merge_and_unload, and save the whole model"
        )
    files = _listed(path)
    require_model_of_config(path, files)
    return files


def _listed(path: Path) -> list[Path]:
    """Return the files that the index lists, or the only one."""
    index = path / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            files = [path / name for name in names if Path(name).name == name]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index}: not the index of a model's files ({error}); save it again") from None
        if len(files) < len(names) or not all(file.is_file() for file in files):
            raise UserError(f"{index}: lists files that are missing from its directory; copy the whole directory")
        if (path / SINGLE).is_file() and names != [SINGLE]:
            raise UserError(f"{path}: has two models, {SINGLE} and the files in {INDEX}; remove one of them")
        return files
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    pickled = sorted(file.name for file in path.glob(PICKLES))
    if pickled:
        raise UserError(
            f"{path}: its weights are a pickle ({pickled[0]}), which can run anything and is not read; convert "
            "them to safetensors: load the model with transformers and save_pretrained it"
        )
    raise UserError(
        f"{path}: no weights there ({SINGLE} or {INDEX}); give a whole model directory, or a name on the "
        "hub with weights of that kind"
    )


def _latest(run: RunDirectory) -> Path:
    if not run.latest.is_file():
        raise UserError(f"{run.path}: the run has no checkpoint yet; name a model that is finished")
    newest = run.checkpoints / run.latest.read_text().strip()
    if not newest.is_dir():
        raise UserError(f"{newest}: gone, though `latest` names it; give one of the other checkpoints")
    return newest


def _download(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # the hub's errors have no common base class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{name}: no such directory, and could not be downloaded from the hub ({reason})"
        ) from error

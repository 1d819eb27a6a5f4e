"""Find the directory of a model, given as a checkpoint, a run directory, an exported model or a hub name."""

import hashlib
from pathlib import Path

from gpt2dist import hub, json_files
from gpt2dist.atomic_io import sha256_of
from gpt2dist.errors import UserError
from gpt2dist.model.tensors import require_model_of_config
from gpt2dist.run.directory import BEST, RunDirectory
from gpt2dist.run.latest import is_pointer, read_pointer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = "pytorch_model*.bin*"
"""Weights as transformers saved them before safetensors, and their index."""
ADAPTER = "adapter_config.json"
DESCRIPTION = ("config.json", "generation_config.json", "tokenizer*", "vocab.json", "merges.txt")


def locate(name: str, weights: bool = True) -> Path:
    """Find the Hugging Face model directory that a name refers to.

    Args:
        name: A directory with config.json, a run directory (its latest checkpoint), RUN/checkpoints/best or
            RUN/checkpoints/latest, or a name on the hub, which NAME@REVISION pins to a branch, tag or commit.
        weights: Whether to download the weights of a model on the hub too, or only its config and tokenizer.

    Raises:
        UserError: The model does not exist, is not a GPT-2, or it has weights that do not match its config.json.
    """
    path = Path(name)
    has_weights = weights or path.exists()
    if RunDirectory(path).checkpoints.is_dir():
        path = _named_by(RunDirectory(path).latest)
    elif is_pointer(path):
        has_weights, path = True, _named_by(path)
    elif not path.exists():
        path = hub.download(
            name,
            (*DESCRIPTION, "*.safetensors", INDEX) if weights else DESCRIPTION,
            f"{name}: no such directory",
        )
    config = path / "config.json"
    if not config.exists():
        raise UserError(
            f"{name}: no model there (no config.json and no checkpoints); give a checkpoint, a run directory, "
            "an exported model or a hub name"
        )
    kind = json_files.require(config, "give another model").get("model_type")
    if kind != "gpt2":
        raise UserError(f"{name}: its model_type is {kind!r}; gpt2dist reads gpt2 models")
    if has_weights:
        weight_files(path)
    return path


def fingerprint(path: Path) -> str:
    """Return a SHA-256 over the weights of a directory. Hashes in a checkpoint's manifest are not recomputed.

    Raises:
        UserError: The manifest is damaged, or a file cannot be read.
    """
    known = _recorded_hashes(path / "manifest.json")
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        if file.name.startswith("optimizer-"):
            continue
        try:
            found = known[file.name] if file.name in known else sha256_of(file)
        except FileNotFoundError:  # the checkpoint was pruned in the meantime
            raise
        except OSError as error:
            raise UserError(f"{file}: {json_files.reason(error)}; copy the model again") from None
        digest.update(f"{file.name}:{found}\n".encode())
    return digest.hexdigest()


def _recorded_hashes(manifest: Path) -> dict[str, str]:
    """Return the recorded hashes of a checkpoint's files; empty if it has no manifest of gpt2dist."""
    try:
        content = json_files.load(manifest, kind=object)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{manifest}: {json_files.reason(error)}; name another checkpoint") from None
    files = content.get("files") if isinstance(content, dict) else None
    records = files.items() if isinstance(files, dict) else ()
    known = {name: record.get("sha256") for name, record in records if isinstance(record, dict)}
    return {name: digest for name, digest in known.items() if isinstance(digest, str)}


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
    if index.exists():
        names = sorted(set(_read_index(index).values()))
        files = [path / name for name in names if Path(name).name == name]
        if len(files) < len(names) or not all(json_files.is_file(file) for file in files):
            raise UserError(f"{index}: lists files that are missing from its directory; copy the whole directory")
        if (path / SINGLE).is_file() and names != [SINGLE]:
            raise UserError(f"{path}: has two models, {SINGLE} and the files in {INDEX}; remove one of them")
        return files
    if json_files.is_file(path / SINGLE):
        return [path / SINGLE]
    pickled = sorted(file.name for file in path.glob(PICKLES))
    if pickled:
        raise UserError(
            f"{path}: its weights are a pickle ({pickled[0]}), which can execute any code and is not read; "
            "convert them to safetensors: load the model with transformers and save_pretrained it"
        )
    raise UserError(
        f"{path}: no weights there ({SINGLE} or {INDEX}); give a whole model directory, or a name on the "
        "hub with safetensors weights"
    )


def _read_index(index: Path) -> dict[str, str]:
    """Return the index of a model's files: tensor name → file name."""
    content = json_files.require(index, "save the model again")
    names, metadata = content.get("weight_map"), content.get("metadata")
    if not isinstance(metadata, dict):  # transformers reads it
        raise UserError(f'{index}: its "metadata" is not an object; save the model again')
    if not (isinstance(names, dict) and names and all(isinstance(name, str) for name in names.values())):
        raise UserError(f'{index}: its "weight_map" does not map tensors to files; save the model again')
    return names


def _named_by(file: Path) -> Path:
    """Return the checkpoint that `latest` or `best` of a run names."""
    checkpoints = file.parent
    try:
        named = read_pointer(file)
    except FileNotFoundError:
        run = checkpoints.parent
        if file.name == BEST:
            raise UserError(
                f"{file}: the run has no best checkpoint yet; checkpoint.keep_best of the run keeps one from its "
                f"next evaluation on; give one of the checkpoints in {checkpoints}"
            ) from None
        raise UserError(f"{run}: the run has no checkpoint yet; name a model that is finished") from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file}: {json_files.reason(error)}; give one of the checkpoints in {checkpoints}"
        ) from None
    if not named.is_dir():
        raise UserError(
            f"{named}: does not exist, though `{file.name}` names it; give one of the other checkpoints"
        )
    return named

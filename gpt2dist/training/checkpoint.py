"""Checkpoints: a Hugging Face model directory, the optimizer beside it, and a manifest that makes it valid.

    step-00001000/
      config.json generation_config.json tokenizer.json …       ready for from_pretrained
      model-00001-of-00002.safetensors … model.safetensors.index.json    fp32, unpadded vocabulary
      optimizer-00001-of-00002.safetensors …                    exp_avg and exp_avg_sq of the same parameters
      trainer_state.json                                        step, cursor, scaler, fingerprints, probe loss
      manifest.json                                             size and sha256 of every file above

Parameters are dealt to the ranks by size; each rank gathers all in turn, keeps and writes its own. A checkpoint
is written under a temporary name and committed by a rename; without a valid manifest a directory is not a
checkpoint. No file is a pickle.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gpt2dist.distributed import World
from gpt2dist.errors import RunError, UserError

FORMAT_VERSION = 2
MOMENTS = ("exp_avg", "exp_avg_sq")
EMBEDDING = "transformer.wte.weight"
_SAME_MODEL = "give the model section of the run that wrote it"


class WholeState(Protocol):
    """What a checkpoint saves and restores: see `PartitionedState`."""

    parameters: dict[str, Any]

    def shape_of(self, name: str) -> torch.Size: ...  # noqa: D102
    def gather(self, name: str) -> dict[str, Tensor]: ...  # noqa: D102
    def scatter(self, name: str, tensors: dict[str, Tensor]) -> None: ...  # noqa: D102
    def materialise(self, updates: int) -> None: ...  # noqa: D102
    def link(self) -> None: ...  # noqa: D102
    def refresh(self) -> None: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """Everything but weights and moments that a resumed run needs, or that tells it apart.

    Attributes:
        step: Optimizer steps done.
        consumed_samples: Windows trained on: the cursor of the data.
        consumed_tokens: Targets trained on.
        updates: Updates that the optimizer applied: steps less those skipped.
        lr: Learning rate of the last step.
        loss_scaler: The fp16 loss scaler; empty elsewhere.
        probe_loss: Mean loss of a fixed batch, which a load must reproduce.
        datasets: Of each training dataset its path, fingerprint and share of the samples.
        tokenizer: Fingerprint of the tokenizer.
        order: What the data order and the windows depend on: seed, sequence length, stride, loss_on.
        world_size: Ranks that saved.
        zero_stage: Their ZeRO stage.
        precision: Their precision.
    """

    step: int
    consumed_samples: int
    consumed_tokens: int
    updates: int
    lr: float
    loss_scaler: dict[str, float]
    probe_loss: float
    datasets: list[dict[str, Any]]
    tokenizer: str
    order: dict[str, Any]
    world_size: int
    zero_stage: int
    precision: str


class InvalidCheckpointError(Exception):
    """A directory is not a whole checkpoint; the message says why."""


class CheckpointStore:
    """The checkpoints of a run.

    Args:
        directory: `RUN/checkpoints`.
        world: This rank.
        keep_last: Newest checkpoints that stay.
        vocab_size: Rows of the embedding that are saved; those beyond are padding.
        write_model_files: Writes config.json, the tokenizer and the like into a directory.
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        keep_last: int,
        vocab_size: int,
        write_model_files: Callable[[Path], None],
    ):
        self.directory = directory
        self.world = world
        self.keep_last = keep_last
        self.vocab_size = vocab_size
        self._write_model_files = write_model_files

    def save(self, state: WholeState, trainer: TrainerState) -> Path:
        """Writes a checkpoint with all ranks and commits it. Collective.

        Returns:
            The directory of the checkpoint.

        Raises:
            RunError: A rank could not write; the checkpoints before are untouched.
        """
        final = self.directory / f"step-{trainer.step:08d}"
        partial = final.with_suffix(".tmp")
        files = self._all_or_none(partial, lambda: self._begin(partial, state, trainer))
        files |= self._all_or_none(partial, lambda: self._write_part(partial, state))
        self._all_or_none(partial, lambda: self._commit(partial, final, files))
        return final

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest whole checkpoint, and why newer ones were passed over. Collective; rank 0 looks."""
        found: Path | None = None
        passed_over: list[str] = []
        if self.world.is_main:
            for path in reversed(self._finished()):
                try:
                    verify(path)
                    found = path
                    break
                except InvalidCheckpointError as reason:
                    passed_over.append(f"{path.name}: {reason}")
        return self.world.from_main((found, passed_over))

    def load(self, path: Path, state: WholeState) -> TrainerState:
        """Restores the whole state from a checkpoint that was verified. Collective."""
        trainer = read_trainer_state(path)
        state.materialise(trainer.updates)
        weights = _TensorFiles(sorted(path.glob("model-*.safetensors")))
        moments = _TensorFiles(sorted(path.glob("optimizer-*.safetensors")))
        unknown = sorted(set(weights) - set(state.parameters))
        if unknown:
            raise UserError(f"the checkpoint has a tensor {unknown[0]}, which the model has not; {_SAME_MODEL}")
        for name in state.parameters:
            tensors = {"param": weights.read(name)} | {key: moments.read(f"{key}.{name}") for key in MOMENTS}
            state.scatter(name, {key: self._padded(name, value, state) for key, value in tensors.items()})
        state.refresh()
        return trainer

    def _all_or_none(self, partial: Path, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Does this rank's share of a step of saving, and waits for the others. Collective.

        Returns:
            What the ranks returned, in one.

        Raises:
            RunError: A rank failed. All raise, or the others would wait for that one for ever.
        """
        done, error = {}, ""
        try:
            done = work()
        except Exception as problem:
            error = f"rank {self.world.rank}: {type(problem).__name__}: {problem}"
        reports = self.world.gather((done, error))
        errors = [text for _, text in reports if text]
        if errors:
            if self.world.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            raise RunError(f"checkpoint {partial.stem} could not be written: {'; '.join(errors)}")
        return {name: record for part, _ in reports for name, record in part.items()}

    def _begin(self, partial: Path, state: WholeState, trainer: TrainerState) -> dict[str, Any]:
        """Makes the directory with what there is once: configuration, tokenizer, index and trainer state."""
        if not self.world.is_main:
            return {}
        shutil.rmtree(partial, ignore_errors=True)  # left by an attempt that was killed
        partial.mkdir(parents=True)
        self._write_model_files(partial)
        shapes = {name: self._saved_shape(name, state) for name in state.parameters}
        parts = deal({name: state.shape_of(name).numel() for name in state.parameters}, self.world.size)
        index = {
            "metadata": {"total_size": sum(4 * shape.numel() for shape in shapes.values())},
            "weight_map": {
                name: f"model-{number:05d}-of-{len(parts):05d}.safetensors"
                for number, names in enumerate(parts, 1)
                for name in sorted(names)
            },
        }
        _write_json(partial / "model.safetensors.index.json", index)
        _write_json(partial / "trainer_state.json", dataclasses.asdict(trainer))
        return {path.name: _seal(path) for path in sorted(partial.iterdir())}

    def _write_part(self, partial: Path, state: WholeState) -> dict[str, Any]:
        """Writes this rank's parameters and moments."""
        state.link()
        sizes = {name: state.shape_of(name).numel() for name in state.parameters}
        parts = deal(sizes, self.world.size)
        mine = parts[self.world.rank] if self.world.rank < len(parts) else set()
        weights, moments = {}, {}
        for name in state.parameters:  # gathering is collective: every rank goes through all of them
            whole = state.gather(name)
            if name in mine:
                kept = {key: self._unpadded(name, tensor) for key, tensor in whole.items()}
                weights[name] = kept["param"]
                moments |= {f"{key}.{name}": kept[key] for key in MOMENTS}
        if not mine:
            return {}
        suffix = f"{self.world.rank + 1:05d}-of-{len(parts):05d}.safetensors"
        for kind, tensors in (("model", weights), ("optimizer", moments)):
            save_file(tensors, partial / f"{kind}-{suffix}", metadata={"format": "pt"})
        return {f"{kind}-{suffix}": _seal(partial / f"{kind}-{suffix}") for kind in ("model", "optimizer")}

    def _commit(self, partial: Path, final: Path, files: dict[str, Any]) -> dict[str, Any]:
        """Makes a written checkpoint valid: manifest, rename, then the pointer to the newest. Rank 0 does it."""
        if not self.world.is_main:
            return {}
        for name, record in files.items():
            size = (partial / name).stat().st_size
            if size != record["bytes"]:
                raise RuntimeError(f"{partial / name} has {size} bytes, {record['bytes']} were written")
        _write_json(
            partial / "manifest.json", {"format_version": FORMAT_VERSION, "files": dict(sorted(files.items()))}
        )
        _fsync(partial)
        if final.exists():  # invalid, or of the future of an older checkpoint that the run was resumed from
            shutil.rmtree(final)
        partial.rename(final)
        _fsync(self.directory)
        pointer = self.directory / "latest.tmp"
        pointer.write_text(final.name + "\n")
        _fsync(pointer)
        pointer.replace(self.directory / "latest")
        _fsync(self.directory)
        self._prune(final)
        return {}

    def _finished(self) -> list[Path]:
        """Directories that were renamed into place, oldest first."""
        return sorted(path for path in self.directory.glob("step-*") if path.suffix != ".tmp")

    def _prune(self, saved: Path) -> None:
        """Removes old checkpoints. Those beyond the saved one are of another past: they neither go nor count."""
        past = [path for path in self._finished() if path.name <= saved.name]
        for path in past[: -self.keep_last]:
            shutil.rmtree(path, ignore_errors=True)

    def _saved_shape(self, name: str, state: WholeState) -> torch.Size:
        shape = state.shape_of(name)
        return torch.Size((min(self.vocab_size, shape[0]), *shape[1:])) if name == EMBEDDING else shape

    def _unpadded(self, name: str, tensor: Tensor) -> Tensor:
        tensor = tensor[: self.vocab_size] if name == EMBEDDING else tensor
        return tensor.to("cpu", torch.float32, copy=True).contiguous()

    def _padded(self, name: str, tensor: Tensor, state: WholeState) -> Tensor:
        """Appends the zero rows of the embedding's padding, which is not saved."""
        expected, shape = self._saved_shape(name, state), state.shape_of(name)
        if tensor.shape != expected:
            raise UserError(
                f"the checkpoint holds {name} of shape {list(tensor.shape)} where the model has "
                f"{list(expected)}; {_SAME_MODEL}"
            )
        if shape == expected:
            return tensor
        out = torch.zeros(shape, dtype=tensor.dtype)
        out[: len(tensor)] = tensor
        return out


def deal(sizes: dict[str, int], ranks: int) -> list[set[str]]:
    """Deals parameters to at most `ranks` parts of about the same size, the largest first.

    Returns:
        Sets of names, none of them empty; the same on every rank.
    """
    parts: list[set[str]] = [set() for _ in range(min(ranks, len(sizes)))]
    loads = [0] * len(parts)
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        lightest = loads.index(min(loads))
        parts[lightest].add(name)
        loads[lightest] += sizes[name]
    return parts


def verify(path: Path) -> None:
    """Checks every file of a checkpoint against its manifest.

    Raises:
        InvalidCheckpointError: Says which file is wrong and how.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        version = manifest["format_version"]
        files = {
            name: {key: record[key] for key in ("bytes", "sha256")} for name, record in manifest["files"].items()
        }
    except FileNotFoundError:
        raise InvalidCheckpointError("has no manifest.json") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidCheckpointError(f"its manifest.json cannot be read ({error})") from error
    if version != FORMAT_VERSION:
        raise InvalidCheckpointError(f"has format version {version}; this program reads {FORMAT_VERSION}")
    for name, record in files.items():
        if Path(name).name != name:
            raise InvalidCheckpointError(f"its manifest names {name!r}, which is not a file of its own")
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise InvalidCheckpointError(f"{name} is missing")
        try:
            if file.stat().st_size != record["bytes"]:
                raise InvalidCheckpointError(
                    f"{name} has {file.stat().st_size} bytes instead of {record['bytes']}"
                )
            if sha256_of(file) != record["sha256"]:
                raise InvalidCheckpointError(f"{name} was changed after it was written (sha256 differs)")
        except OSError as error:
            raise InvalidCheckpointError(f"{name} cannot be read ({error})") from error


def read_trainer_state(path: Path) -> TrainerState:
    """Reads trainer_state.json of a checkpoint."""
    return TrainerState(**json.loads((path / "trainer_state.json").read_text()))


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_valid(path: Path) -> Path:
    """The checkpoint at a path that the user named.

    Raises:
        UserError: It is not a whole checkpoint.
    """
    try:
        verify(path)
    except InvalidCheckpointError as reason:
        raise UserError(
            f"checkpoint.resume: {path} is not a whole checkpoint: {reason}; name another"
        ) from reason
    return path


class _TensorFiles:
    """The tensors of several safetensors files, by name, read one at a time."""

    def __init__(self, paths: Sequence[Path]):
        self._files = [safe_open(path, framework="pt") for path in paths]
        self._where = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118

    def read(self, name: str) -> Tensor:
        if name not in self._where:
            raise UserError(f"the checkpoint has no tensor {name}; was it saved by a model of another shape?")
        return self._where[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)


def _seal(path: Path) -> dict[str, Any]:
    """Brings a file to the disk and says what it is."""
    _fsync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

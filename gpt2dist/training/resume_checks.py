"""Check that a checkpoint belongs to the run: the same model, optimizer, tokenizer, data and order."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpt2dist.checkpoint.naming import is_checkpoint_name, step_of
from gpt2dist.checkpoint.state import TrainerState
from gpt2dist.config import Config
from gpt2dist.errors import RunError, UserError
from gpt2dist.evaluation.scoring import Forward, score_batch
from gpt2dist.loading.loader import MicroBatcher, MixtureBatcher
from gpt2dist.model.huggingface import Pretrained
from gpt2dist.model.shape import Shape
from gpt2dist.monitoring.logs import logger
from gpt2dist.plan import Plan, TrainingSet

TOLERANCE = 1e-4
"""Relative change of the probe loss allowed after a load in fp32; rounding the weights to 16 bits causes more."""
TOLERANCE_16_BIT = 2e-2

DECISIVE = ("tokens", "vocab_size", "end_of_text_id", "dtype")
"""Entries of a manifest that decide what a run trains on; its bytes, words and documents do not."""
WINDOWS = 4
"""Windows of the probe, scored one at a time so that the micro-batch size does not matter."""


def data_order(config: Config, plan: Plan) -> dict[str, Any]:
    """Return the settings that, with the datasets, determine each sample's window and counted targets."""
    return {
        "run.seed": config.run.seed,
        "batch.global_batch_size": config.batch.global_batch_size,
        "batch.ramp": config.batch.ramp and config.batch.ramp.model_dump(),
        "data.sequence_length": plan.sequence_length,
        "data.stride": plan.stride,
        "data.loss_on": config.data.loss_on,
        "data.document_boundaries": config.data.document_boundaries,
    }


def architecture(shape: Shape) -> dict[str, int]:
    """Return the settings that decide what the weights compute. `n_head` does not show in their shapes."""
    return {
        "model.n_layer": shape.n_layer,
        "model.n_head": shape.n_head,
        "model.n_embd": shape.n_embd,
        "model.context_length": shape.context_length,
    }


def datasets_of(plan: Plan) -> list[dict[str, Any]]:
    """Return the record of the datasets that a checkpoint stores."""
    return [
        {"path": str(each.dataset.directory), "fingerprint": each.dataset.fingerprint, "share": each.share}
        | _manifest_record(each)
        for each in plan.datasets
    ]


def _manifest_record(each: TrainingSet) -> dict[str, Any]:
    """Return the hash of a dataset's manifest, and what to compare if it changes; empty if it has no hash."""
    dataset = each.dataset
    if not dataset.sha256:
        return {}
    said = {key: getattr(dataset, key) for key in ("vocab_size", "end_of_text_id", "dtype")}
    return {"manifest_sha256": dataset.sha256, "manifest": said | asdict(dataset.totals("train"))}


def check_resumable(path: Path, state: TrainerState, config: Config, plan: Plan) -> None:
    """Check that a run has the model, optimizer, tokenizer, data and order of the checkpoint at `path`.

    Raises:
        UserError: Something differs; the message names it and the remedy.
    """
    _require_same_model(path, plan.shape)
    _require_same_optimizer(path, state, config)
    if state.tokenizer != plan.tokenizer_fingerprint:
        raise UserError(
            f"data.train: {plan.tokenizer} was made with another tokenizer than the data that {path} was "
            "trained on; use that dataset again, or start a new run in another run.output_dir"
        )
    changes = dataset_changes(state.datasets, datasets_of(plan))
    if changes:
        raise UserError(
            f"data.train: differs from what {path} was trained on: {'; '.join(changes)}; set it back, or "
            "start a new run in another run.output_dir"
        )
    for note in manifest_changes(state.datasets, datasets_of(plan)):
        logger.warning("%s", note)
    changed = _changed(state.order, data_order(config, plan))
    if changed:
        raise UserError(
            f"{changed}: changed since {path}, which would change what the model is trained on; set it back, or "
            "start a new run in another run.output_dir"
        )
    _require_consistent(path, state, plan)


def _require_consistent(path: Path, state: TrainerState, plan: Plan) -> None:
    """Check that the step and the data cursor agree; otherwise trainer_state.json is damaged."""
    known = step_of(path) if is_checkpoint_name(path.name) else state.step
    if state.step != known:
        raise UserError(
            f"{path}/trainer_state.json: its step is {state.step:,}, not {known:,}; resume from another "
            "checkpoint"
        )
    samples = plan.batch_sizes.samples(state.step)
    if state.consumed_samples != samples:
        raise UserError(
            f"{path}/trainer_state.json: says {state.consumed_samples:,} windows at step {state.step:,}, where "
            f"this run has read {samples:,}; resume from another checkpoint"
        )


def _require_same_model(path: Path, shape: Shape) -> None:
    """Check that the model matches the config.json of a checkpoint."""
    saved = Pretrained.read(path)
    if saved.differences:
        raise UserError(
            f"{path}/config.json: {'; '.join(saved.differences)}, which gpt2dist does not train; resume from "
            "another checkpoint"
        )
    changed = _changed(architecture(saved.shape), architecture(shape))
    if changed:
        raise UserError(
            f"{changed}: changed since {path}, whose weights would then compute another model; set it back, or "
            "start a new run in another run.output_dir"
        )


def _require_same_optimizer(path: Path, state: TrainerState, config: Config) -> None:
    if state.optimizer != config.optimizer.kind:
        raise UserError(
            f"optimizer.kind: {config.optimizer.kind} cannot use the optimizer state in {path}, which is that of "
            f"{state.optimizer}; set it back to {state.optimizer}, or start a new run from its weights with "
            f"model.init_from={path} in another run.output_dir"
        )


def _changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the keys whose values differ, each with its old value; empty if none differ."""
    differ = [key for key, value in now.items() if before.get(key) != value]
    return ", ".join(f"{key} (was {_as_yaml(before.get(key))})" for key in differ)


def dataset_changes(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """Return how the datasets of a run differ from those of a checkpoint; a moved dataset is the same.

    Args:
        before: Result of `datasets_of` for the checkpoint.
        now: Result of `datasets_of` for the run.
    """
    old = {each["fingerprint"]: each for each in before}
    new = {each["fingerprint"]: each for each in now}
    gone = {each["path"]: each for key, each in old.items() if key not in new}
    changes = []
    for key, each in new.items():
        if key in old:
            continue
        was = gone.pop(each["path"], None)
        what = f"has changed (was {_short(was)})" if was else "was not part of it"
        changes.append(f"{each['path']} (fingerprint {_short(each)}) {what}")
    changes += [f"{path} (fingerprint {_short(each)}) is missing" for path, each in gone.items()]
    if changes:
        return changes  # shares are comparable only between the same datasets
    if list(old) != list(new):
        return [f"the datasets were in another order ({', '.join(each['path'] for each in before)})"]
    edited = [
        f"{key} in the manifest of {each['path']} is {values[1]}, was {values[0]}"
        for each, different in _other_manifests(before, now)
        for key, values in different.items()
        if key in DECISIVE
    ]
    if edited:
        return edited
    totals = [sum(each["share"] for each in datasets) for datasets in (before, now)]
    return [
        f"the weight of {is_['path']} is {is_['share']} of {totals[1]}, was {was['share']} of {totals[0]}"
        for was, is_ in zip(before, now, strict=True)
        if is_["share"] * totals[0] != was["share"] * totals[1]
    ]


def manifest_changes(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[str]:
    """Return how the manifests of equal datasets differ.

    Args:
        before: Result of `datasets_of` for the checkpoint.
        now: Result of `datasets_of` for the run.
    """
    changes = []
    for each, different in _other_manifests(before, now):
        named = [f"{key} is {new}, was {old}" for key, (old, new) in different.items()]
        what = ", ".join(named) or (
            "options, sources, skipped documents, text changes or the validation split differ"
        )
        changes.append(
            f"{each['path']}/manifest.json: changed since the last start, with the same tokens: {what}"
        )
    return changes


def _other_manifests(
    before: list[dict[str, Any]], now: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, tuple[Any, Any]]]]:
    """Yield equal datasets whose manifests have different hashes, with what differs: key → (old, new)."""
    old = {each["fingerprint"]: each for each in before}
    for each in now:
        was = old.get(each["fingerprint"], {})
        hashes = was.get("manifest_sha256"), each.get("manifest_sha256")
        if all(hashes) and hashes[0] != hashes[1]:
            said = was.get("manifest", {})
            pairs = {key: (said.get(key), new) for key, new in each["manifest"].items()}
            yield each, {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _as_yaml(value: Any) -> str:
    if value is None:
        return "not set"
    text = ", ".join(f"{key}: {each}" for key, each in value.items()) if isinstance(value, dict) else value
    return f"{{{text}}}" if isinstance(value, dict) else str(text)


def _short(dataset: dict[str, Any]) -> str:
    return dataset["fingerprint"][:12]


def probe_loss(forward: Forward, batcher: MixtureBatcher) -> float:
    """Return the mean loss of the first windows of the first training set, equal on all ranks. Collective.

    Args:
        forward: The model.
        batcher: The training sets.
    """
    first = batcher.batchers[0]
    owned = MicroBatcher(first.stream, first.windows, "new")
    indices = np.arange(min(len(first.windows), WINDOWS))
    nll = [score_batch(forward, owned(indices[i : i + 1]))[0].item() for i in indices]
    return sum(nll) / int(owned.counted(indices).sum())


def check_probe_loss(path: Path, state: TrainerState, precision: str, loss: float) -> None:
    """Compare the probe loss of a loaded model with the stored one.

    Args:
        path: The checkpoint.
        state: The checkpoint's trainer state.
        precision: Precision of this run.
        loss: Probe loss of the loaded model.

    Raises:
        RunError: The losses differ by more than rounding explains.
    """
    exact = precision == state.precision == "fp32"
    allowed = TOLERANCE if exact else TOLERANCE_16_BIT
    if not abs(loss - state.probe_loss) <= allowed * state.probe_loss:
        raise RunError(
            f"{path}: the loaded model has a loss of {loss:.6f} on the probe, but the checkpoint records "
            f"{state.probe_loss:.6f}; do not continue from it: resume from an older checkpoint"
        )

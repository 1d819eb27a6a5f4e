"""Compare a checkpoint with the run that resumes from it: model, optimizer, tokenizer, data and order."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
from gpt2dist.training.continuation import earlier_sizes, plan_from

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


def check_resumable(path: Path, state: TrainerState, config: Config, plan: Plan) -> tuple[Plan, set[str]]:
    """Check that a run can go on from the checkpoint at `path`, with the changes that its configuration accepts.

    Returns:
        The plan from the checkpoint on, which differs from `plan` if the data or the batch has ever been changed;
        and the kinds of the accepted changes.

    Raises:
        UserError: Something differs and is not in `checkpoint.accept_changes`; the message names it and each way
            out. Or the run is to end before the step of the checkpoint.
    """
    _require_same_model(path, plan.shape)
    if state.tokenizer != plan.tokenizer_fingerprint:
        raise UserError(
            f"data.train: {plan.tokenizer} was made with another tokenizer than the data that {path} was "
            "trained on; use that dataset again, or start a new run in another run.output_dir. If this tokenizer "
            f"only adds tokens to the other one, that run can start from its weights with model.init_from={path} "
            "and model.resize=true"
        )
    found = changes_since(path, state, config, plan)
    for change in found:
        if change.kind not in config.checkpoint.accept_changes:
            raise UserError(f"{change.text}; set it back, {_ways_out(change.kind, path)}")
    _require_consistent(path, state)
    kinds = {change.kind for change in found}
    going_on = plan_from(state, config, plan, "data" in kinds, "batch" in kinds)
    if "data" not in kinds:
        for note in manifest_changes(state.datasets, datasets_of(plan)):
            logger.warning("%s", note)
    for change in found:
        logger.info("accepted by checkpoint.accept_changes: %s; %s", change.text, KEPT[change.kind])
    return going_on, kinds


KEPT = {
    "data": "the new data starts at its first sample, with weights, optimizer state and step kept",
    "batch": "the data goes on at the same sample, and the schedule counts steps, now of other sizes",
    "optimizer": "state is kept where it has the same names, and starts from zero elsewhere",
}
"""Kind of a change → what a run keeps that accepts it."""


@dataclass(frozen=True)
class Mismatch:
    """A difference between a run and the checkpoint from which it resumes.

    Attributes:
        kind: The word in `checkpoint.accept_changes` that accepts it.
        text: The keys and what differs.
    """

    kind: str
    text: str


def changes_since(path: Path, state: TrainerState, config: Config, plan: Plan) -> list[Mismatch]:
    """Return what differs between a run and the checkpoint at `path`, apart from model and tokenizer."""
    found = []
    if state.optimizer != config.optimizer.kind:
        found.append(
            Mismatch(
                "optimizer",
                f"optimizer.kind: {config.optimizer.kind} cannot use all of the optimizer state in {path}, which "
                f"is that of {state.optimizer}",
            )
        )
    different = dataset_changes(state.datasets, datasets_of(plan))
    if different:
        text = f"data.train: differs from what {path} was trained on: {'; '.join(different)}"
        found.append(Mismatch("data", text))
    order = data_order(config, plan)
    for kind in ("data", "batch"):
        now = {key: value for key, value in order.items() if key.startswith("batch.") == (kind == "batch")}
        changed = _changed(state.order, now)
        if changed:
            text = f"{changed}: changed since {path}, which would change what the model is trained on"
            found.append(Mismatch(kind, text))
    return found


def _ways_out(kind: str, path: Path) -> str:
    return (
        f"continue this run with 'checkpoint.accept_changes=[{kind}]' ({KEPT[kind]}), or start a new run from "
        f"its weights with model.init_from={path} in another run.output_dir"
    )


def _require_consistent(path: Path, state: TrainerState) -> None:
    """Check that the step and the data cursor agree; otherwise trainer_state.json is damaged."""
    known = step_of(path) if is_checkpoint_name(path.name) else state.step
    if state.step != known:
        raise UserError(
            f"{path}/trainer_state.json: its step is {state.step:,}, not {known:,}; resume from another "
            "checkpoint"
        )
    try:
        samples = earlier_sizes(state).samples(state.step)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{path}/trainer_state.json: its batch sizes are impossible ({error}); resume from another checkpoint"
        ) from None
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
    before, now = architecture(saved.shape), architecture(shape)
    changed = _changed(before, now)
    if changed:
        only_length = before | {"model.context_length": shape.context_length} == now
        weights = f" from its weights, with model.init_from={path} and model.resize=true" if only_length else ""
        raise UserError(
            f"{changed}: changed since {path}, whose weights would then compute another model; set it back, or "
            f"start a new run in another run.output_dir{weights}"
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

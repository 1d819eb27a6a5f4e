"""trainer_state.json: what a resume needs or checks, apart from weights and optimizer state."""

import dataclasses
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io, json_files
from gpt2dist.errors import UserError

NAME = "trainer_state.json"
IMPLIED_OPTIMIZER = "adamw"
"""Optimizer if the file names none, as in version 0.1."""
ORDER: dict[str, type] = {
    "run.seed": int,
    "batch.global_batch_size": int,
    "data.sequence_length": int,
    "data.stride": int,
    "data.loss_on": str,
    "data.document_boundaries": str,
}
"""Keys of `TrainerState.order` that every checkpoint has, and their types."""
DATASET: dict[str, type] = {"path": str, "fingerprint": str, "share": int}
"""The same for each of `TrainerState.datasets`."""
MANIFEST: dict[str, type] = {"manifest_sha256": str, "manifest": dict}
"""Keys of each of `TrainerState.datasets`, absent for datasets of version 0.1."""
ORIGIN = ["data_from", "samples", "step", "targets"]
"""Keys of `TrainerState.origin`, sorted."""
_FIELDS = {"observed": "evaluation_done"}
"""Key in the file → field name, where the two differ."""


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """State of a run at a checkpoint.

    Attributes:
        step: Optimizer steps done.
        consumed_samples: Windows trained on, which is the cursor of the data.
        consumed_tokens: Targets trained on.
        updates: Updates that the optimizer applied: steps minus skipped steps.
        evaluation_done: Whether the evaluation and samples due after this step, if any, were finished.
        lr: Learning rate of the last step.
        loss_scaler: State of the fp16 loss scaler; empty at other precisions.
        history: State of the spike detector; see `skip_step.SpikeDetector`.
        probe_loss: Mean loss of a fixed batch, which the loaded model must reproduce.
        datasets: Path, fingerprint, share of the samples and manifest of each training dataset.
        tokenizer: Fingerprint of the tokenizer.
        order: Settings that determine the data order and windows; see `resume_checks.data_order`.
        world_size: Number of ranks at the save.
        zero_stage: ZeRO stage at the save.
        precision: Precision at the save.
        optimizer: `optimizer.kind` at the save.
        origin: Where the current data and batch sizes begin (`loading.batch_ramp.Origin`); empty if that is the
            start of the run.
        restarted: Name of each parameter whose optimizer state was started from zero during the run → the number
            of updates before that.
        best: State of `checkpoint.keep_best`; see `training.best.BestSoFar.state`. Empty if it is not set.
    """

    step: int
    consumed_samples: int
    consumed_tokens: int
    updates: int
    evaluation_done: bool
    lr: float
    loss_scaler: dict[str, int | float]
    history: dict[str, list[float]]
    probe_loss: float
    datasets: list[dict[str, Any]]
    tokenizer: str
    order: dict[str, Any]
    world_size: int
    zero_stage: int
    precision: str
    optimizer: str = IMPLIED_OPTIMIZER
    origin: dict[str, int] = dataclasses.field(default_factory=dict)
    restarted: dict[str, int] = dataclasses.field(default_factory=dict)
    best: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, checkpoint: Path) -> "TrainerState":
        """Read the state from a checkpoint that has been checked.

        Raises:
            UserError: The file cannot be read, or a key is missing or invalid.
        """
        path = checkpoint / NAME
        try:
            values = json_files.load(path)
            state = json_files.build(cls, {_FIELDS.get(key, key): value for key, value in values.items()})
            state._check()
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: not a valid trainer state ({json_files.reason(error)}); give another checkpoint"
            ) from None
        return state

    def write(self, checkpoint: Path) -> None:
        """Write the state into a checkpoint that is being saved."""
        keys = {field: key for key, field in _FIELDS.items()}
        values = {keys.get(field, field): value for field, value in dataclasses.asdict(self).items()}
        implied = {"optimizer": IMPLIED_OPTIMIZER, "origin": {}, "restarted": {}, "best": {}}
        values = {key: value for key, value in values.items() if implied.get(key, ...) != value}
        atomic_io.write_json(checkpoint / NAME, values)

    def _check(self) -> None:
        """Check what the types of the fields cannot express.

        Raises:
            ValueError: A value is missing or out of range.
        """
        for key in ("step", "consumed_samples", "consumed_tokens", "updates"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} is {getattr(self, key)}")
        if self.updates > self.step:
            raise ValueError(f"{self.updates} updates in {self.step} steps")
        if self.origin and sorted(self.origin) != ORIGIN:
            raise ValueError(f"origin has {', '.join(self.origin)} instead of {', '.join(ORIGIN)}")
        limits = self.step, self.consumed_samples, self.consumed_tokens, self.consumed_samples
        for key, limit in zip(("step", "samples", "targets", "data_from"), limits, strict=True):
            if not 0 <= self.origin.get(key, 0) <= limit:
                raise ValueError(f"origin.{key} is {self.origin[key]}")
        if not all(0 <= updates <= self.updates for updates in self.restarted.values()):
            raise ValueError(f"a parameter was restarted after more than {self.updates} updates")
        for name, kinds, records in (("order", ORDER, [self.order]), ("datasets", DATASET, self.datasets)):
            for key, kind in kinds.items():
                if not all(type(record.get(key)) is kind for record in records):  # True is an int
                    raise ValueError(f"{name} has no {key}")
        for key, kind in MANIFEST.items():
            if not all(type(record.get(key, kind())) is kind for record in self.datasets):
                raise ValueError(f"datasets: a {key} is not of type {kind.__name__}")

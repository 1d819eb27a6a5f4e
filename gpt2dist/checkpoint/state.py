"""trainer_state.json: what a resume needs or checks, apart from weights and moments."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io

NAME = "trainer_state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""State tensors of AdamW for each parameter."""
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
    """

    step: int
    consumed_samples: int
    consumed_tokens: int
    updates: int
    evaluation_done: bool
    lr: float
    loss_scaler: dict[str, float]
    history: dict[str, list[float]]
    probe_loss: float
    datasets: list[dict[str, Any]]
    tokenizer: str
    order: dict[str, Any]
    world_size: int
    zero_stage: int
    precision: str

    @classmethod
    def read(cls, checkpoint: Path) -> "TrainerState":
        """Read the state from a checkpoint that has been checked."""
        values = json.loads((checkpoint / NAME).read_text())
        return cls(**{_FIELDS.get(key, key): value for key, value in values.items()})

    def write(self, checkpoint: Path) -> None:
        """Write the state into a checkpoint that is being saved."""
        keys = {field: key for key, field in _FIELDS.items()}
        values = {keys.get(field, field): value for field, value in dataclasses.asdict(self).items()}
        atomic_io.write_json(checkpoint / NAME, values)

"""trainer_state.json: everything but weights and moments that a resumed run needs, or that tells it apart."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from gpt2dist import atomic_io

NAME = "trainer_state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""State tensors of AdamW for each parameter."""
_FIELDS = {"observed": "evaluation_done"}
"""Keys of the file whose fields have another name here."""


@dataclasses.dataclass(frozen=True)
class TrainerState:
    """Where a run stood.

    Attributes:
        step: Optimizer steps done.
        consumed_samples: Windows trained on: the cursor of the data.
        consumed_tokens: Targets trained on.
        updates: Updates that the optimizer applied: steps less those skipped.
        evaluation_done: Whether the evaluation and samples that were due after this step, if any, were finished.
        lr: Learning rate of the last step.
        loss_scaler: The fp16 loss scaler; empty elsewhere.
        history: What a spike is told by: see `skip_step.SpikeDetector`.
        probe_loss: Mean loss of a fixed batch, which a load must reproduce.
        datasets: Of each training dataset its path, fingerprint and share of the samples.
        tokenizer: Fingerprint of the tokenizer.
        order: What the data order and the windows depend on: see `resume_checks.data_order`.
        world_size: Ranks that saved.
        zero_stage: Their ZeRO stage.
        precision: Their precision.
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
        """Reads it from a checkpoint that was checked."""
        values = json.loads((checkpoint / NAME).read_text())
        return cls(**{_FIELDS.get(key, key): value for key, value in values.items()})

    def write(self, checkpoint: Path) -> None:
        """Writes it into a checkpoint that is being made."""
        keys = {field: key for key, field in _FIELDS.items()}
        values = {keys.get(field, field): value for field, value in dataclasses.asdict(self).items()}
        atomic_io.write_json(checkpoint / NAME, values)

"""Hyperparameters by which trackers compare runs."""

from gpt2dist.config import Config
from gpt2dist.config.reading import flatten
from gpt2dist.monitoring.trackers import Hyperparameters
from gpt2dist.plan import Plan

SECTIONS = {"model", "data", "batch", "optimizer", "schedule", "precision", "zero", "stability"}
"""Sections of the configuration that determine the training."""


def hyperparameters(config: Config, plan: Plan) -> Hyperparameters:
    """Return the settings that determine the training, under flat keys such as `optimizer.betas.0`.

    Values derived by the plan replace defaults. Keys without a value are omitted.
    """
    given = config.model_dump(mode="json", include=SECTIONS, exclude={"data": {"validation"}})
    return {key: value for key, value in flatten(given, lists=True).items() if value is not None} | {
        "run.seed": config.run.seed,
        "run.allow_tf32": config.run.allow_tf32,
        "run.world_size": plan.world_size,
        "model.n_layer": plan.shape.n_layer,
        "model.n_head": plan.shape.n_head,
        "model.n_embd": plan.shape.n_embd,
        "model.context_length": plan.shape.context_length,
        "model.parameters": plan.shape.parameters,
        "data.sequence_length": plan.sequence_length,
        "data.stride": plan.stride,
        "batch.accumulation": plan.accumulation,
        "schedule.warmup_steps": plan.warmup_steps,
        "schedule.total_steps": plan.total_steps,
    }

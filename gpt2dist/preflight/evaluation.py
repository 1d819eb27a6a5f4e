"""Check the evaluation section: measures of other packages, the metric of the best checkpoint, and patience."""

from collections.abc import Iterator

from gpt2dist.config import Config, Problem
from gpt2dist.errors import UserError
from gpt2dist.evaluation.measures import in_use

PATIENCE, DATA = "evaluation.patience", "data.validation"
WAYS_OUT = "set a metric such as eval/val/loss, or remove the patience"


def check_measures(config: Config) -> Iterator[Problem]:
    """Check that the measures of installed packages and of the configuration can be imported and used."""
    try:
        in_use("text", config.evaluation.measures)
    except UserError as error:
        yield Problem("evaluation.measures", str(error))


def check_keep_best(config: Config) -> Iterator[Problem]:
    """Check that evaluations during training yield the metric of `checkpoint.keep_best`, which patience needs."""
    key, metric = "checkpoint.keep_best", config.checkpoint.keep_best
    if metric is None:
        if config.evaluation.patience:
            yield Problem(
                key, f"missing; {PATIENCE} counts the evaluations that do not improve it; {WAYS_OUT}", (PATIENCE,)
            )
        return
    if not config.data.validation:
        if not config.evaluation.every_steps:  # with it, `validation_sets` reports this
            message = "but there is nothing to evaluate; name a set in data.validation"
            yield Problem(key, f"{metric}, {message}", also=(DATA,))
        return
    known = _metrics(config)
    if known and metric not in known:
        listed = ", ".join(known)
        yield Problem(
            key, f"{metric!r} is no metric of the evaluations during training; set one of {listed}", (DATA,)
        )
    if not config.evaluation.every_steps:
        yield Problem(
            "evaluation.every_steps",
            "missing, so that only the last step is evaluated; set it for checkpoint.keep_best",
            also=(key,),
        )


def _metrics(config: Config) -> list[str]:
    """Return the tags of the evaluations during training; empty if a measure cannot be used."""
    try:
        found = [each for each in in_use("text", config.evaluation.measures) if "training" in each.places]
    except UserError:  # `check_measures` reports it
        return []
    return [f"eval/{entry.name}/{each.key}" for entry in config.data.validation for each in found]

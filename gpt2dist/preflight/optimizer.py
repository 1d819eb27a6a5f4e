"""Check the optimizer: its kind, its options, and that it supports the ZeRO stage, precision and offloading."""

from collections.abc import Iterator
from dataclasses import replace

from gpt2dist.config import Config, Problem
from gpt2dist.config.reading import section_problems
from gpt2dist.preflight.messages import alternatives
from gpt2dist.training.optimizers import OPTIMIZERS, optimizer_kind

DEFAULT = "optimizer.kind to adamw"


def check_optimizer(config: Config) -> Iterator[Problem]:
    """Check the optimizer."""
    section = config.optimizer
    try:
        found = OPTIMIZERS.get(section.kind)
    except ValueError as error:
        yield Problem("optimizer.kind", str(error))
        return
    wrong = section_problems(found.Options, section.options, "optimizer.options")
    if wrong:
        yield from (replace(problem, also=(*problem.also, "optimizer.kind")) for problem in wrong)
        return
    try:
        optimizer_kind(config)
    except ValueError as error:
        yield Problem("optimizer", f"{error} ({section.kind})")
        return
    yield from check_supported(config)


def check_supported(config: Config) -> Iterator[Problem]:
    """Check that the optimizer supports the ZeRO stage, the precision, offloading and the kind of weight decay.

    Args:
        config: The run's configuration; its optimizer has no other problem.
    """
    kind, zero = config.optimizer.kind, config.zero
    supported = optimizer_kind(config).supported()
    for key, value, possible in (
        ("zero.stage", zero.stage, supported.stages),
        ("precision", config.precision, supported.precisions),
        ("optimizer.decay", config.optimizer.decay, supported.decays),
    ):
        if value not in possible:
            yield Problem(
                key,
                f"{value} is not supported by the optimizer {kind}; set it to {alternatives(possible)}, "
                f"or {DEFAULT}",
                also=("optimizer.kind",),
            )
    if config.optimizer.cautious and not supported.cautious:
        yield Problem(
            "optimizer.cautious",
            f"true is not supported by the optimizer {kind}; set it to false, or {DEFAULT}",
            also=("optimizer.kind",),
        )
    for key, place in (
        ("zero.offload_optimizer", zero.offload_optimizer),
        ("zero.offload_parameters", zero.offload_parameters),
    ):
        if place != "none" and not supported.offload:
            yield Problem(
                key,
                f"{place} is not supported by the optimizer {kind}; set it to none, or {DEFAULT}",
                also=("optimizer.kind",),
            )

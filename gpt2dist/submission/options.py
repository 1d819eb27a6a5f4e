"""The options of `gpt2dist submit` that only some schedulers have."""

import argparse
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

from gpt2dist.errors import UserError
from gpt2dist.submission.schedulers import BUILTIN, SCHEDULERS
from gpt2dist.submission.schedulers.base import Scheduler

PREPROCESSING: Mapping[str, Mapping[str, Any]] = {
    "tasks": {"type": int, "metavar": "N", "help": "preprocess: as an array of N jobs, and one that merges"},
    "dask": {
        "action": "store_true",
        "help": "preprocess: as one job, by a Dask cluster on its --nodes, with a worker per core",
    },
}
"""Options that divide preprocessing. A scheduler has those that it does not list in `cannot`."""
TAKEN = ("overrides", "run", "verb", "words")
"""Attributes of the parsed command line that are not options, whose names an option must not have."""

Schedulers = Mapping[str, type[Scheduler]]


def find_schedulers(chosen: str | None = None) -> dict[str, type[Scheduler]]:
    """Import our schedulers and the chosen one, by name.

    Raises:
        ValueError: The chosen name is unknown, its import fails, or it is not a complete scheduler.
    """
    found = {name: SCHEDULERS.get(name) for name in BUILTIN}
    if chosen is not None and chosen not in found:
        found[chosen] = SCHEDULERS.get(chosen)
        _require_complete(chosen, found[chosen])
    return found


def add_options(parser: argparse.ArgumentParser, schedulers: Schedulers, chosen: str | None = None) -> None:
    """Add the options of all schedulers, in one group for each set of schedulers that have the same options.

    Args:
        parser: The parser of `gpt2dist submit`.
        schedulers: The schedulers by name.
        chosen: Name of the scheduler that the command line names, if any. Where others declare an option of the
            same name in another way, its own declaration counts.

    Raises:
        ValueError: An option of the chosen scheduler is one of submit itself, or argparse refuses it.
    """
    groups: dict[tuple[str, ...], Any] = {}
    for name, having in sorted(owners(schedulers).items(), key=lambda item: -len(item[1])):  # shared ones first
        if tuple(having) not in groups:
            groups[tuple(having)] = parser.add_argument_group(" and ".join(having))
        declaration = options_of(schedulers[chosen if chosen in having else having[0]])[name]
        try:
            if name in TAKEN:
                raise ValueError("submit uses that name")
            groups[tuple(having)].add_argument(flag(name), dest=name, **{"default": None, **declaration})
        except (argparse.ArgumentError, TypeError, ValueError) as error:
            raise ValueError(f"its option {flag(name)} cannot be added ({error}); change that field") from error


def options_of(scheduler: type[Scheduler]) -> dict[str, Mapping[str, Any]]:
    """Return the options of a scheduler: name of the field → keyword arguments for argparse."""
    shared = {name: each for name, each in PREPROCESSING.items() if name not in scheduler.cannot}
    return {**_fields(scheduler), **shared}


def owners(schedulers: Schedulers) -> dict[str, list[str]]:
    """Return the names of the schedulers that have each option."""
    found: dict[str, list[str]] = {}
    for name, scheduler in schedulers.items():
        for each in options_of(scheduler):
            found.setdefault(each, []).append(name)
    return found


def require_own(args: argparse.Namespace, schedulers: Schedulers) -> None:
    """Check that the chosen scheduler can do the job and has all given options.

    Args:
        args: The command line.
        schedulers: The schedulers by name.

    Raises:
        UserError: It cannot, or an option belongs to other schedulers; the message names them.
    """
    name, cannot = args.scheduler, schedulers[args.scheduler].cannot
    if args.job in cannot:
        raise UserError(f"--job {args.job}: not with --scheduler {name}, {cannot[args.job]}; choose another one")
    if args.nodes not in (None, 1) and "nodes" in cannot:
        raise UserError(f"--nodes {args.nodes}: not with --scheduler {name}, {cannot['nodes']}; omit it")
    others: dict[str, list[str]] = {}
    for each, having in owners(schedulers).items():
        if name not in having and getattr(args, each) is not None:
            others.setdefault(" or ".join(having), []).append(each)
    for whose, given in others.items():
        reasons = "".join(f", not {name}, {cannot[each]}" for each in given[:1] if each in cannot)
        raise UserError(f"{', '.join(map(flag, given))}: for --scheduler {whose} only{reasons}; omit it")


def create(scheduler: type[Scheduler], args: argparse.Namespace) -> Scheduler:
    """Create a scheduler with the values of its options on the command line."""
    kind: Any = scheduler
    return kind(**{name: getattr(args, name) for name in _fields(scheduler)})


def flag(name: str) -> str:
    """Return how an option is written on the command line."""
    return f"--{name.replace('_', '-')}"


def _fields(scheduler: type[Scheduler]) -> dict[str, Mapping[str, Any]]:
    """Return the fields that `option` declared, and their keyword arguments for argparse."""
    fields = dataclasses.fields(scheduler)  # type: ignore[arg-type]
    return {each.name: each.metadata["argparse"] for each in fields if "argparse" in each.metadata}


def _require_complete(name: str, found: Any) -> None:
    """Check that a scheduler of another package has options that can be read, and can be created without any."""
    if not inspect.isclass(found) or not dataclasses.is_dataclass(found):
        raise ValueError(
            f"{name} is not a dataclass; decorate the class with @dataclasses.dataclass(frozen=True)"
        )
    try:
        found()
    except TypeError as error:  # a method is missing, or a field has no default
        raise ValueError(
            f"{name} cannot be created without options ({error}); give each field `= option(…)`, and define "
            "all methods"
        ) from error

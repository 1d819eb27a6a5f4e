"""`gpt2dist trace`: list the documents that a step of a run was trained on."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt2dist import json_files
from gpt2dist.errors import UserError
from gpt2dist.run import starts
from gpt2dist.run.directory import RunDirectory
from gpt2dist.terminal import say

if TYPE_CHECKING:
    from gpt2dist.loading.batch_ramp import Origin
    from gpt2dist.plan import Plan

EPILOG = """\
Step N is the N-th optimizer step, as in metrics.jsonl and TensorBoard. The windows of the step are computed from
the configuration, and the dataset records where each document came from, so no log is needed.

examples:
  gpt2dist trace runs/gpt2-124m --step 12345
  gpt2dist trace runs/gpt2-124m --step 12345 --json | jq -r '.windows[].documents[].origin.path' | sort | uniq -c
"""

_AGAIN = "resume the run, which rewrites the file"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = EPILOG
    parser.add_argument("run_directory", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--step", type=int, required=True, metavar="N", help="optimizer step, from 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> None:
    """Print the windows of the step and the documents in each."""
    plan = load_plan(args.run_directory, args.step)
    windows = trace(plan, args.step)
    if args.json:
        content = {"run": str(args.run_directory), "step": args.step, "windows": windows}
        say(json_files.dump(content), sys.stdout)
        return
    for window in windows:
        say("\n".join(describe(window, plan.sequence_length)), sys.stdout)


def load_plan(run_directory: Path, step: int | None = None) -> "Plan":
    """Return the plan of a run, from the configuration and environment recorded in its directory.

    Args:
        run_directory: The run directory.
        step: A step of the run, whose plan differs from the last one if the data or the batch was changed since;
            None takes the last plan.

    Raises:
        UserError: The directory is not a run directory, or a dataset has changed since training.
    """
    from gpt2dist.preflight import resolve

    run = RunDirectory(run_directory)
    if step is not None and _origin(run).step >= step:
        earlier = [run.start(number) for number in starts.numbers(run_directory)]
        run = next((each for each in reversed(earlier) if _origin(each).step < step), run)
    configuration, environment = run.config, run.environment
    for path in (configuration, environment):
        if not path.is_file():
            raise UserError(
                f"{run_directory}: not a run directory, it has no {path.name}; `gpt2dist train` creates one"
            )
    facts = json_files.require(environment, _AGAIN)
    world_size, trained_on = facts.get("world_size"), facts.get("datasets")
    if type(world_size) is not int or world_size < 1 or not isinstance(trained_on, dict):
        raise UserError(f"{environment}: lacks the run's world_size or datasets; {_AGAIN}")
    _, plan = resolve(configuration, [], world_size)
    for each in plan.datasets:
        fingerprint = trained_on.get(str(each.dataset.directory))
        if fingerprint != each.dataset.fingerprint:
            raise UserError(
                f"{each.dataset.directory}: not the dataset that {run_directory} was trained on (fingerprint "
                f"{each.dataset.fingerprint[:12]}, was {str(fingerprint)[:12]}); restore that one to trace it"
            )
    origin = _origin(run)
    return plan.continued(origin, facts["total_steps"]) if origin.step else plan


def _origin(record: RunDirectory) -> "Origin":
    """Return where the data and batch sizes begin that the record of a start describes.

    Raises:
        UserError: The record is damaged.
    """
    from gpt2dist.loading.batch_ramp import Origin

    facts = starts.read_facts(record)
    try:
        origin = json_files.build(Origin, facts.get("origin", {}))
        if origin.step and type(facts.get("total_steps")) is not int:
            raise ValueError("total_steps is missing")
    except ValueError as error:
        raise UserError(f"{record.environment}: {error}; {_AGAIN}") from None
    return origin


def trace(plan: "Plan", step: int) -> list[dict[str, Any]]:
    """Return the windows of a step, in sample order.

    Args:
        plan: The run's plan.
        step: Optimizer step, 1-based.

    Returns:
        A dict per window: `sample`, `rank`, `dataset`, `window`, `start` (stream position of its first token) and
        `documents`. A document has `number`, `shard`, `origin` (or None), and its range of tokens in the window,
        `begin` and `end` (exclusive).

    Raises:
        UserError: The run has no such step.
    """
    import numpy as np

    from gpt2dist.dataset.provenance import StreamDocuments

    origin = plan.batch_sizes.origin
    if not 1 <= step <= plan.total_steps:
        raise UserError(f"--step {step}: the run has steps 1 … {plan.total_steps}")
    if step <= origin.step:
        raise UserError(
            f"--step {step}: the data or batch was changed after step {origin.step}, and starts/ has no record "
            "from before; trace it in the run directory that did this step"
        )
    samples = np.arange(plan.batch_sizes.samples(step - 1), plan.batch_sizes.samples(step))
    datasets, windows = plan.mixture(samples - origin.data_from)
    documents = [StreamDocuments(each.dataset, "train") for each in plan.datasets]
    found = []
    for slot, (sample, dataset, window) in enumerate(zip(samples, datasets, windows, strict=True)):
        training_set = plan.datasets[dataset]
        start = int(training_set.windows.starts(np.array([window]))[0])
        end = start + plan.sequence_length + 1  # the inputs and the last target
        found.append(
            {
                "sample": int(sample),
                "rank": slot // plan.micro_batch_size % plan.world_size,
                "dataset": str(training_set.dataset.directory),
                "window": int(window),
                "start": start,
                "documents": [
                    {
                        "number": document.number,
                        "shard": document.shard,
                        "origin": document.origin and asdict(document.origin),
                        "begin": max(document.start - start, 0),
                        "end": min(document.end, end) - start,
                    }
                    for document in documents[dataset].between(start, end)
                ],
            }
        )
    return found


def describe(window: dict[str, Any], length: int) -> list[str]:
    """Describe a window in lines of text."""
    from gpt2dist.dataset.provenance import SourceLocation

    lines = [
        f"sample {window['sample']:,} (rank {window['rank']}): window {window['window']:,} of "
        f"{window['dataset']}, tokens {window['start']:,} … {window['start'] + length:,}"
    ]
    for document in window["documents"]:
        origin = document["origin"]
        where = SourceLocation(**origin) if origin else f"{document['shard']}, of unknown origin"
        place = f"tokens {document['begin']} … {document['end'] - 1}"
        lines.append(f"  {place}: document {document['number']:,}, {where}")
    return lines

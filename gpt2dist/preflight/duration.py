"""Estimate the duration of a run: from its own speed if it has run before, else from an assumed utilization."""

import statistics
from dataclasses import dataclass

from gpt2dist import json_files
from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.model.flops import PEAKS, matmul_type, peak_flops
from gpt2dist.plan import Plan
from gpt2dist.run.directory import RunDirectory
from gpt2dist.run.metrics_file import read_tail

ASSUMED_MFU = 0.4
"""Assumed fraction of a GPU's peak FLOP/s. GPT-2s of these sizes reach it within about a third."""
USUAL = ("A100", "H100")
"""GPUs that are assumed if none is named."""
LAST_LINES = 200
"""Number of records whose median is the speed of a run."""
RATE = "throughput/tokens_per_second"


@dataclass(frozen=True)
class Duration:
    """Expected duration of a run.

    Attributes:
        hours: Hours of the whole run, without evaluation and saving.
        basis: Where the number comes from.
        measured: Whether it comes from the run's own speed.
    """

    hours: float
    basis: str
    measured: bool


def durations(config: Config, plan: Plan, device: str | None = None) -> list[Duration]:
    """Estimate the hours of a run, from its own speed or for a GPU.

    Args:
        config: The run's configuration.
        plan: Its plan.
        device: Name of a GPU; None uses the run's own speed, or else gives an estimate for each GPU in USUAL.

    Raises:
        UserError: The peak FLOP/s of that GPU is unknown for the run's precision.
    """
    rate = None if device else measured_rate(config, plan)
    if rate:
        tokens = plan.total_samples * plan.sequence_length
        return [Duration(tokens / rate / 3600, f"at {rate:,.0f} tokens per second, as in metrics.jsonl", True)]
    data_type = matmul_type(config.precision, config.run.allow_tf32)
    return [_on(plan, name, data_type) for name in ([device] if device else USUAL)]


def measured_rate(config: Config, plan: Plan) -> float | None:
    """Return the median tokens per second of the run's last records; None if it never ran at this world size."""
    run = RunDirectory(config.output_dir)
    try:
        facts, records = json_files.load(run.environment), read_tail(run.metrics, RATE)
    except (OSError, ValueError):
        return None
    if facts.get("world_size") != plan.world_size:
        return None
    rates = [each[RATE] for each in records[-LAST_LINES:] if isinstance(each.get(RATE), int | float)]
    return statistics.median(rates) or None if rates else None


def _on(plan: Plan, device: str, data_type: str) -> Duration:
    peak = peak_flops(device, data_type)
    if peak is None:
        known = ", ".join(name for name in PEAKS if peak_flops(name, data_type))
        raise UserError(f"--device {device}: unknown peak {data_type} FLOP/s; name one of {known}")
    seconds = plan.total_flops / (peak * ASSUMED_MFU * plan.world_size)
    ranks = f"{plan.world_size:,} × {device}"
    basis = f"on {ranks}, if they reach {ASSUMED_MFU:.0%} of their {data_type} peak"
    return Duration(seconds / 3600, basis, False)

"""Check the batch: windows per step, their growth in a ramp, and their division among the ranks."""

from collections.abc import Iterator

from gpt2dist.config import Config, Problem
from gpt2dist.config.schema import BatchSection, RampSection
from gpt2dist.loading.batch_ramp import MOST_SIZES, BatchSizes, Ramp
from gpt2dist.preflight.messages import alternatives, divisors

MOST_LISTED = 8


def batch_sizes(config: Config) -> BatchSizes:
    """Return the windows of each step, ignoring a ramp that cannot reach the full size."""
    batch = config.batch
    if not batch.ramp or any(_unreachable(batch.global_batch_size, batch.ramp)):
        return BatchSizes(batch.global_batch_size)
    return BatchSizes(batch.global_batch_size, Ramp(**batch.ramp.model_dump()))


def check_batch(config: Config, world_size: int) -> Iterator[Problem]:
    """Check that the ranks can share every batch of the run, and that a ramp reaches the full size."""
    batch = config.batch
    per_pass = batch.micro_batch_size * world_size
    product = f"micro_batch_size {batch.micro_batch_size} × world size {world_size} = {per_pass}"
    if batch.global_batch_size % per_pass:
        ways = [f"global_batch_size {_nearest(batch.global_batch_size, per_pass)}"]
        if batch.global_batch_size % world_size == 0:
            fitting = divisors(batch.global_batch_size // world_size)[-8:]
            ways.append(f"micro_batch_size {alternatives(fitting)}")
        yield Problem(
            "batch.global_batch_size",
            f"{batch.global_batch_size} is not a multiple of {product}; these fit: {', or '.join(ways)}",
            also=("batch.micro_batch_size",),
        )
    elif batch.ramp:
        unreachable = list(_unreachable(batch.global_batch_size, batch.ramp))
        yield from unreachable or _check_ramp(batch, batch.ramp, per_pass, product)


def _unreachable(full: int, ramp: RampSection) -> Iterator[Problem]:
    """Yield the problem that keeps a ramp from reaching the full size."""
    also = ("batch.global_batch_size", "batch.ramp")
    growth, increment = full - ramp.start, ramp.increment
    if growth <= 0:
        yield Problem(
            "batch.ramp.start",
            f"{ramp.start} is not below batch.global_batch_size {full}; lower it, or remove batch.ramp",
            also=also,
        )
    elif growth % increment:
        close = sorted(divisors(growth), key=lambda each: abs(each - increment))[:3]
        yield Problem(
            "batch.ramp.increment",
            f"increments of {increment} from {ramp.start} do not reach batch.global_batch_size {full}; these do: "
            f"{alternatives(sorted(close))}",
            also=also,
        )
    elif growth // increment >= MOST_SIZES:
        least = -(-growth // (MOST_SIZES - 1))
        yield Problem(
            "batch.ramp.increment",
            f"{increment} gives {growth // increment + 1:,} sizes, but at most {MOST_SIZES:,} are supported; "
            f"raise it to {least} or more",
            also=also,
        )


def _check_ramp(batch: BatchSection, ramp: RampSection, per_pass: int, product: str) -> Iterator[Problem]:
    """Check that the ranks can share every size of the ramp."""
    sizes = range(ramp.start, batch.global_batch_size, ramp.increment)
    wrong = [size for size in sizes if size % per_pass]
    if not wrong:
        return
    listed = ", ".join(map(str, wrong[:MOST_LISTED])) + (", …" if len(wrong) > MOST_LISTED else "")
    start = max(ramp.start // per_pass, 1) * per_pass
    fitting = divisors((batch.global_batch_size - start) // per_pass)
    close = sorted(fitting, key=lambda each: abs(each * per_pass - ramp.increment))[:3]
    fix = "lower micro_batch_size, or remove batch.ramp"
    if close:
        increments = alternatives(each * per_pass for each in sorted(close))
        fix = f"set start {start} and increment {increments}, or lower micro_batch_size"
    yield Problem(
        "batch.ramp",
        f"its sizes {listed} are not multiples of {product}; {fix}",
        also=("batch.micro_batch_size", "batch.global_batch_size"),
    )


def _nearest(number: int, factor: int) -> str:
    """Return the multiples of `factor` just below and above a number, as text."""
    lower = number // factor * factor
    return alternatives(size for size in (lower, lower + factor) if size)

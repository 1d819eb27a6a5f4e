"""Memory units and the peak memory of this process. Does not import torch."""

import resource
import sys

GIB = 2**30


def format_bytes(number: float) -> str:
    """Format a number of bytes with three digits: "12.3 GB", "1,230 TB"; units are powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB" if number < 999.5 else f"{number:,.0f} TB"


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process, in bytes.

    `ru_maxrss` is in KiB on Linux and in bytes on macOS.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

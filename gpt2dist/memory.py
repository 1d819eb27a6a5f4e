"""Sizes of memory, and how much of it this process has used. Free of torch."""

import resource
import sys

GIB = 2**30


def peak_resident_bytes() -> int:
    """Return the most resident memory that this process has had, in bytes.

    `ru_maxrss` counts KiB on Linux and bytes on macOS.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""Raise the limit of open files of this process. Does not import torch."""

import contextlib
import resource

ENOUGH = 2**20
"""Limits above this one gain nothing, and some programs try to close as many files as their limit allows."""


def raise_limit() -> None:
    """Raise the soft limit of open files, usually 1,024, to the hard limit.

    Connections and the shards of datasets, which stay open, take a descriptor each. Processes that this one
    starts inherit the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

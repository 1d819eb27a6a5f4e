"""Read and check the ranks and the world size that torchrun, deepspeed or srun set. Does not import torch."""

import os
import socket
import time

from gpt2dist.errors import RankUserError, UserError

NEEDED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that each of several ranks needs."""

STARTERS = (
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpirun", "PMI_SIZE", "PMI_RANK"),
)
"""Programs that start several processes without setting RANK: name, and variables with their count and number."""

RESOLVE_SECONDS = 20.0
"""Seconds for which a name is looked up again, since a pod's name may be published after the pod has started."""


def rank() -> int:
    """Return the rank of this process; 0 without a launcher."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Return the rank of this process on its host; 0 without a launcher."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return the number of ranks that the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def reports_errors() -> bool:
    """Return whether this process is the one that reports an error that all processes find."""
    numbers = [os.environ.get(name, "0") for name in ("RANK", *(number for _, _, number in STARTERS))]
    return all(number == "0" for number in numbers)


def check() -> None:
    """Check the variables that launchers set, before any library reads them.

    Raises:
        RankUserError: A variable of this rank is not a number in its range, or MASTER_ADDR does not resolve here.
        UserError: Some variables are set and others are missing, or srun or mpirun started several processes
            without ranks.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        _require_alone()
        return
    numbers = {name: _number(name) for name in NEEDED if name != "MASTER_ADDR" and name in os.environ}
    size = numbers.get("WORLD_SIZE", 1)
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing and (size > 1 or "WORLD_SIZE" in missing):
        raise UserError(
            f"the environment has {_listed([name for name in NEEDED if name not in missing])}, but not "
            f"{_listed(missing)}; every rank needs all of {_listed(NEEDED)}, which `gpt2dist launch`, torchrun "
            "and deepspeed set. To run without a launcher, unset them"
        )
    if size < 1:
        raise RankUserError(f"WORLD_SIZE={size}: must be at least 1")
    for name in ("RANK", "LOCAL_RANK"):
        if not 0 <= numbers.get(name, 0) < size:
            raise RankUserError(f"{name}={numbers[name]}: must be at least 0 and below WORLD_SIZE={size}")
    if size > 1:
        if not 0 < numbers["MASTER_PORT"] < 65536:
            raise RankUserError(
                f"MASTER_PORT={numbers['MASTER_PORT']}: not a port; set it to one from 1 to 65535"
            )
        _resolve(os.environ["MASTER_ADDR"])


def _require_alone() -> None:
    """Raise a UserError if this is one of several processes without ranks."""
    for starter, count, _ in STARTERS:
        if (started := os.environ.get(count, "1")).isdecimal() and int(started) > 1:
            raise UserError(
                f"{starter} started {started} processes without RANK and WORLD_SIZE, so each would run alone in "
                f"the same directories; start one process per host, `{starter} … gpt2dist launch …`, or use "
                "`gpt2dist submit` (launch/README.md)"
            )


def _number(name: str) -> int:
    text = os.environ[name]
    try:
        return int(text)
    except ValueError:
        raise RankUserError(f"{name}={text!r}: must be a whole number") from None


def _resolve(address: str) -> None:
    """Raise a RankUserError if a host name does not resolve within RESOLVE_SECONDS."""
    deadline = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline:
                reason = getattr(error, "strerror", None) or "not a host name"
                raise RankUserError(
                    f"MASTER_ADDR={address}: {socket.gethostname()} cannot resolve it ({reason}); set it to a "
                    "name or address that works on all hosts"
                ) from None
        time.sleep(0.5)


def _listed(names: "list[str] | tuple[str, ...]") -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)

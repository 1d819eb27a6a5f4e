"""`gpt2dist check`: the rounds in which pairs of ranks exchange messages, and what a rank computes from them."""

from pathlib import Path

from gpt2dist.distributed.fabric import Disk, Exchange, Measured, rounds
from gpt2dist.distributed.fabric_report import findings, table

TITLE = "check of the hosts, without its measurements"
UNIT = "ranks, 8 on each host"
SIZES = (16, 128, 1_024)


def measure(size: int, directory: Path) -> dict[str, float]:
    """Plan the rounds, and report healthy measurements."""
    hosts = [f"node{rank // 8}" for rank in range(size)]
    planned = list(rounds(hosts))
    measured = [
        Measured(
            host,
            {"torch": "2"},
            1.0,
            1.0,
            [Exchange(kind, partners[rank], 1.0) for kind, partners in planned if rank in partners],
            [0.0] * 9,
            None if rank % 8 else Disk(1.0, 1.0, 1),
        )
        for rank, host in enumerate(hosts)
    ]
    assert not findings(measured)
    return {"rounds": len(planned), "lines": len(table(measured).splitlines())}

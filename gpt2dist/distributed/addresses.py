"""Choose the network interface over which the ranks of several hosts communicate. Does not import torch."""

import ipaddress
import os
import socket

from gpt2dist.distributed.peer_monitor import Store
from gpt2dist.errors import RankUserError

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def choose_address(store: Store, rank: int, size: int) -> str:
    """Return the address of this host for the other ranks. On several hosts, give gloo its interface. Collective.

    By itself, gloo takes the address that the host's own name resolves to. On Debian that is 127.0.1.1, where no
    other host can reach it. So GLOO_SOCKET_IFNAME is set, unless the user has set it, to the interface that
    NCCL_SOCKET_IFNAME names, or to the one from which this host reaches MASTER_ADDR. The host of MASTER_ADDR may
    reach it through its loopback; it takes the interface towards the first or last rank instead. Each rank writes
    one entry of the store and reads two.

    Args:
        store: The store of the process group, without entries of earlier starts.
        rank: This rank.
        size: Number of ranks.

    Returns:
        An IPv4 or IPv6 address.

    Raises:
        RankUserError: No interface has the address from which this host reaches the others.
    """
    address = source_address(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    store.set(f"address/{rank}", address)
    ends = [store.get(f"address/{end}").decode() for end in (0, size - 1)]
    if ends[0] == ends[1] or all(map(is_loopback, ends)):  # one host
        return address
    if is_loopback(address):
        address = source_address(next(end for end in ends if not is_loopback(end)))
    interfaces = _interfaces()
    if not os.environ.get(GLOO):
        name = _of_nccl(interfaces) or next((n for n, found in interfaces.items() if address in found), "")
        if not name:
            raise RankUserError(
                f"{socket.gethostname()} reaches MASTER_ADDR={os.environ['MASTER_ADDR']} from {address}, but no "
                f"network interface has this address; set {GLOO} on each host to the interface that connects it "
                f"with the others (here are {', '.join(interfaces)})"
            )
        os.environ[GLOO] = name
    chosen = interfaces.get(os.environ[GLOO].split(",")[0], [])
    return address if address in chosen else next(iter(chosen), address)


def source_address(host: str, port: int = 9) -> str:
    """Return the address from which this host reaches another one. Nothing is sent.

    Raises:
        RankUserError: There is no route to it.
    """
    fault: OSError | None = None
    for family, kind, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:
            try:
                probe.connect(place)
            except OSError as error:
                fault = error
            else:
                return str(probe.getsockname()[0])
    reason = fault.strerror if fault else "no address"
    raise RankUserError(
        f"{socket.gethostname()} has no route to {host} ({reason}); check its network, and MASTER_ADDR"
    )


def is_loopback(address: str) -> bool:
    """Return whether only this host can reach an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _interfaces() -> dict[str, list[str]]:
    """Return the network interfaces of this host that have addresses, and these."""
    import psutil  # DeepSpeed requires it

    kinds = (socket.AF_INET, socket.AF_INET6)
    found = {
        name: [each.address for each in addresses if each.family in kinds]
        for name, addresses in psutil.net_if_addrs().items()
    }
    return {name: addresses for name, addresses in found.items() if addresses}


def _of_nccl(interfaces: dict[str, list[str]]) -> str:
    """Return the interface that NCCL_SOCKET_IFNAME names. It may also hold prefixes, a list or an exclusion."""
    name = os.environ.get(NCCL, "").removeprefix("=")
    return name if name in interfaces else ""

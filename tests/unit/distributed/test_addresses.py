import os
import socket

import pytest
import torch.distributed as dist

from gpt2dist.distributed import addresses
from gpt2dist.distributed.addresses import choose_address, source_address
from gpt2dist.errors import RankUserError

INTERFACES = {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1", "fe80::1%eth0"], "ib0": ["10.9.0.1"]}


@pytest.fixture
def host(monkeypatch):
    """What rank 0 chooses on a host whose route to the other one, of the last rank, leaves from 10.0.0.1."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("MASTER_ADDR", "n1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    routes = {"n1": "127.0.1.1", "10.0.0.2": "10.0.0.1"}
    monkeypatch.setattr(addresses, "source_address", lambda host, port=9: routes[host])
    monkeypatch.setattr(addresses, "_interfaces", lambda: INTERFACES)

    def choose(last, own="127.0.1.1"):
        routes["n1"] = own
        store = dist.HashStore()
        store.set("address/1", last)
        return choose_address(store, 0, 2), os.environ["GLOO_SOCKET_IFNAME"]

    return choose


@pytest.mark.parametrize("own", ["127.0.1.1", "10.0.0.1"])
def test_on_several_hosts_gloo_gets_the_interface_that_leads_to_the_others(host, own):
    assert host("10.0.0.2", own) == ("10.0.0.1", "eth0")


@pytest.mark.parametrize(("own", "last"), [("127.0.0.1",) * 2, ("10.0.0.1",) * 2, ("127.0.0.1", "127.0.1.1")])
def test_on_one_host_gloo_chooses_by_itself(host, own, last):
    assert host(last, own) == (own, "")


@pytest.mark.parametrize(
    ("gloo", "nccl", "chosen", "address"),
    [
        ("ib0", "eth0", "ib0", "10.9.0.1"),
        ("", "ib0", "ib0", "10.9.0.1"),
        ("", "=ib0", "ib0", "10.9.0.1"),
        ("", "ib", "eth0", "10.0.0.1"),  # a prefix, an exclusion, a list, an interface without an address
        ("", "^docker", "eth0", "10.0.0.1"),
        ("", "ib0,ib1", "eth0", "10.0.0.1"),
        ("", "ib1", "eth0", "10.0.0.1"),
        ("mine", "", "mine", "10.0.0.1"),  # gloo reports it
    ],
)
def test_what_the_user_has_set_counts(host, monkeypatch, gloo, nccl, chosen, address):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", gloo)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", nccl)
    assert host("10.0.0.2") == (address, chosen)


def test_without_an_interface_the_message_says_what_to_set(host, monkeypatch):
    monkeypatch.setattr(addresses, "_interfaces", lambda: {"lo": ["127.0.0.1"]})
    with pytest.raises(RankUserError) as raised:
        host("10.0.0.2")
    assert str(raised.value) == (
        f"{socket.gethostname()} reaches MASTER_ADDR=n1 from 10.0.0.1, but no network interface has this "
        "address; set GLOO_SOCKET_IFNAME on each host to the interface that connects it with the others "
        "(here are lo)"
    )


def test_the_source_address_is_that_of_the_route():
    assert source_address("127.0.0.1") == "127.0.0.1"
    assert "lo" in addresses._interfaces()


def test_a_host_without_a_route_is_told(monkeypatch):
    class Unreachable(socket.socket):
        def connect(self, place):
            raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(addresses.socket, "socket", Unreachable)
    with pytest.raises(
        RankUserError, match=r"has no route to 127.0.0.1 \(Network is unreachable\); check its network"
    ):
        source_address("127.0.0.1")

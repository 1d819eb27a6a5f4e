"""Let one rank of each host check files, and give its result, or its error, to all ranks.

A thousand ranks that read the same manifest and ask for the same 10,000 files would load a network disk for
minutes. A single rank would not notice that another host has not mounted it. Does not import torch.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from gpt2dist.distributed import launch_environment
from gpt2dist.errors import PeerLostError, UserError

if TYPE_CHECKING:  # importing torch would slow down the start
    from gpt2dist.distributed.world import World

T = TypeVar("T")

MOST_NAMED = 5
"""Hosts that a message names."""


@dataclass(frozen=True)
class _Outcome(Generic[T]):
    """What one rank of a host found.

    Attributes:
        value: The result, if there is no error.
        fault: Text of the UserError; empty if none was raised.
        failure: The same for any other exception.
    """

    value: T | None = None
    fault: str = ""
    failure: str = ""


class HostWork(Generic[T]):
    """Work that one rank of each host does. It may begin before the ranks have joined.

    Args:
        work: The work. Its result must be picklable.
        leads: Whether this rank does it.
        alone: Whether there is no other rank. Exceptions are then raised at once.
    """

    def __init__(self, work: Callable[[], T], leads: bool, alone: bool):
        self._mine: _Outcome[T] | None = None
        self._error: Exception | None = None
        if not leads:
            return
        try:
            self._mine = _Outcome(work())
        except Exception as error:
            if alone:
                raise
            self._error = error
            text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self._mine = _Outcome(fault=text) if isinstance(error, UserError) else _Outcome(failure=text)

    @classmethod
    def before_join(cls, work: Callable[[], T]) -> "HostWork[T]":
        """Do the work before the ranks have joined, judging by the launcher's variables."""
        leads = launch_environment.local_rank() == 0 or launch_environment.rank() == 0
        return cls(work, leads, launch_environment.world_size() == 1)

    def share(self, world: "World", version: Callable[[T], dict[str, str]] = lambda result: {}) -> T:
        """Return the result of rank 0. Collective.

        Args:
            world: This rank.
            version: Returns, for a result, what must be equal on all hosts: the name of each thing → its version.

        Raises:
            UserError: The work raised a UserError on at least one host, or a version differs. Every rank raises
                it. The message names the hosts unless all of them agree.
            PeerLostError: The work raised another exception on another rank, which raises that exception itself.
        """
        main: _Outcome[T] = world.from_main(self._mine)
        report = self._mine and (socket.gethostname(), _difference(self._mine, main, version), self._mine.failure)
        reports = {rank: each for rank, each in enumerate(world.gather(report)) if each}
        failures = [(rank, failure) for rank, (_, _, failure) in reports.items() if failure]
        if failures and self._mine and self._mine.failure and self._error:
            raise self._error
        if failures:
            raise PeerLostError("rank {} failed: {}".format(*failures[0]))
        if main.fault:
            agree = [host for host, different, _ in reports.values() if not different]
            raise UserError(main.fault if len(agree) == len(reports) else f"{_on(agree)}: {main.fault}")
        first = next((different for _, different, _ in reports.values() if different), "")
        if first:
            found = [host for host, different, _ in reports.values() if different == first]
            raise UserError(f"{_on(found)}: {first}")
        return _value(main)


def on_each_host(
    world: "World", work: Callable[[], T], version: Callable[[T], dict[str, str]] = lambda result: {}
) -> T:
    """Do work on one rank of each host, and return the result of rank 0 on every rank. Collective.

    Args and exceptions are those of `HostWork` and `HostWork.share`.
    """
    return HostWork(work, leads_host(world), world.size == 1).share(world, version)


def leads_host(world: "World") -> bool:
    """Return whether this rank works for its host: the first of its launcher, and always rank 0."""
    return world.local_rank == 0 or world.is_main


def ranks_of_host(world: "World") -> list[int]:
    """Return the ranks on this rank's host, in ascending order. Collective."""
    hosts = world.gather(socket.gethostname())
    return [rank for rank, host in enumerate(hosts) if host == hosts[world.rank]]


def first_fault(world: "World", fault: str) -> str:
    """Return the first fault that a rank found, the same on every rank; empty if none found one. Collective.

    Args:
        world: This rank.
        fault: What this rank found; empty if nothing is wrong. The result names the hosts on which the fault was
            found, unless these are all.
    """
    reports: list[tuple[str, str]] = world.gather((socket.gethostname(), fault))
    first = next((text for _, text in reports if text), "")
    found = [host for host, text in reports if text and text == first]
    everywhere = set(found) == {host for host, _ in reports}
    return f"{_on(found)}: {first}" if first and not everywhere else first


def _difference(mine: _Outcome[T], main: _Outcome[T], version: Callable[[T], dict[str, str]]) -> str:
    """Return how the outcome of a host differs from that of rank 0's host; empty if it does not."""
    if mine.failure or main.failure:
        return ""
    if mine.fault or main.fault:
        return "" if mine.fault == main.fault else mine.fault or "no fault"
    theirs, ours = version(_value(main)), version(_value(mine))
    name = next((name for name in theirs if ours.get(name) != theirs[name]), None)
    return (
        f"{name}: differs from that on the host of rank 0; copy it again, or mount the same disk" if name else ""
    )


def _value(outcome: _Outcome[T]) -> T:
    return cast(T, outcome.value)  # there was no error


def _on(hosts: list[str]) -> str:
    """Return "host a", or "hosts a, b and 3 more"."""
    names = list(dict.fromkeys(hosts))
    listed = ", ".join(names[:MOST_NAMED])
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{'hosts' if len(names) > 1 else 'host'} {listed}{more}"

"""Notice that another rank is lost, even while the main thread waits in a collective. Does not import torch.

A main thread that waits for the GPU never sees that the connection to a killed rank has closed. So a thread of
each rank watches connections of its own, along a binary tree of the ranks: to its parent and to at most two
children. It acts only if a connection closes before the rank at its other end has said goodbye. Silence, however
long, is left to the watchdog and to the timeouts of collectives. A rank that learns of a loss tells its other
neighbours.

Whatever the number of ranks N, each has one thread and at most five descriptors, writes at most one entry of the
store and reads at most one. A loss reaches all ranks in O(log N) messages, one after the other.
"""

import atexit
import contextlib
import json
import os
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gpt2dist.errors import PeerLostError, RunError
from gpt2dist.terminal import say

GRACE_SECONDS = 2.0
"""Time for the main thread to notice a loss and to end the process itself, which closes trackers and files."""
CLOSING_SECONDS = 30.0
"""Time for a main thread that has noticed the loss to end the process."""
NAMING_SECONDS = 1.0
"""Time for the message that names the lost rank, after a collective has failed."""
HELLO_SECONDS = 10.0
"""Time for a new connection to say which rank it is from."""
KEEPALIVE_SECONDS = 60
"""Seconds between packets on a silent connection, so that no firewall forgets it."""
LONGEST_LOSS = 1000
"""Characters of a loss that are sent on, so that a message never blocks."""
GOODBYE = b"goodbye"
HELLO_BYTES = 42
"""A token of 32 characters, and a rank of 10 digits."""


class Store(Protocol):
    """The store of the process group."""

    def set(self, key: str, value: str) -> None:
        """Set an entry."""

    def get(self, key: str) -> bytes:
        """Wait for an entry and return it."""


@dataclass(eq=False)
class Neighbour:
    """A connection to another rank.

    Attributes:
        rank: The other rank.
        connection: The connection, blocking.
        received: Bytes of a message of which the end is still missing.
    """

    rank: int
    connection: socket.socket
    received: bytes = b""

    def send(self, message: bytes) -> None:
        """Send a message. The other rank may already be gone."""
        with contextlib.suppress(OSError):
            self.connection.sendall(message + b"\n")

    def receive(self) -> list[bytes] | None:
        """Return the messages that have arrived; None if the connection is closed.

        Raises:
            OSError: The network is down. It does not mean that the rank is gone.
        """
        try:
            received = self.connection.recv(4096)
        except ConnectionError:
            return None
        if not received:
            return None
        *messages, self.received = (self.received + received).split(b"\n")
        return messages


class PeerMonitor:
    """The thread that watches the connections to the neighbours, and ends the process after a loss.

    Args:
        rank: This rank.
        neighbours: Its neighbours in the tree.
        end: Called with the exit code to end the process.

    Attributes:
        loss: What happened to which rank; empty as long as all ranks are there.
        report: Called with a PeerLostError before the process ends, from another thread.
    """

    def __init__(self, rank: int, neighbours: list[Neighbour], end: Callable[[int], object] = os._exit):
        self.loss = ""
        self.report: Callable[[PeerLostError], object] = self._say
        self._rank = rank
        self._neighbours = neighbours
        self._end = end
        self._turn = threading.Lock()  # of the thread that ends the process
        self._known, self._noticed, self._closed = (threading.Event() for _ in range(3))
        self._waking, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="gpt2dist-peers", daemon=True)
        self._thread.start()

    def notice(self) -> None:
        """Announce that the main thread has noticed a failure, and will end the process or leave the other ranks.

        If the monitor is already ending the process, this does not return.
        """
        with self._turn:
            self._noticed.set()

    def wait_for_loss(self) -> str:
        """Return what was lost, after a collective has failed; empty if no connection has closed."""
        self.notice()
        self._known.wait(NAMING_SECONDS)
        return self.loss

    def tell(self, error: BaseException) -> None:
        """Tell all ranks that this one is about to end because of an error."""
        self.notice()
        reason = next(iter(str(error).splitlines()), "")
        failed = f"rank {self._rank} failed: {type(error).__name__}: {reason}"
        self._lose(str(error) if isinstance(error, PeerLostError) else failed)
        self._waker.send(b"!")

    def goodbye(self) -> None:
        """Leave the other ranks in good order, and stop the thread. A second call has no effect."""
        atexit.unregister(self.goodbye)
        if self._closed.is_set():
            return
        self._closed.set()
        for neighbour in list(self._neighbours):
            neighbour.send(GOODBYE)
        self._waker.send(b"!")
        self._thread.join()
        self.close()

    def close(self) -> None:
        """Close the descriptors."""
        for each in (self._waking, self._waker, *(neighbour.connection for neighbour in self._neighbours)):
            each.close()

    def _watch(self) -> None:
        with selectors.PollSelector() as selector:
            selector.register(self._waking, selectors.EVENT_READ)
            for neighbour in self._neighbours:
                selector.register(neighbour.connection, selectors.EVENT_READ, neighbour)
            while not self.loss and not self._closed.is_set():
                for key, _ in selector.select():
                    if key.data and not self._hear(key.data):
                        selector.unregister(key.fileobj)
                        self._neighbours.remove(key.data)
                        key.data.connection.close()
        if self.loss:
            self._end_process()

    def _hear(self, neighbour: Neighbour) -> bool:
        """Take what a neighbour has sent, and return whether the connection is still of use."""
        try:
            messages = neighbour.receive()
        except OSError:
            return False
        if messages is None:
            self._lose(f"rank {neighbour.rank} is gone: its connection closed", neighbour)
            return False
        for message in messages:
            if message == GOODBYE:
                return False
            self._lose(json.loads(message), neighbour)
        return True

    def _lose(self, loss: str, source: Neighbour | None = None) -> None:
        """Record the first loss, and tell the neighbours but the one that it comes from."""
        with self._turn:
            if self.loss or self._closed.is_set():
                return
            self.loss = loss
        for neighbour in list(self._neighbours):
            if neighbour is not source:
                neighbour.send(json.dumps(loss[:LONGEST_LOSS]).encode())
        self._known.set()

    def _end_process(self) -> None:
        """Let the main thread end the process or leave the other ranks. Where it is stuck, end the process."""
        if self._closed.wait(GRACE_SECONDS):
            return
        with self._turn:
            if not self._noticed.is_set():
                self._report_and_end()
                return
        if not self._closed.wait(CLOSING_SECONDS):
            self._report_and_end()

    def _say(self, error: PeerLostError) -> None:
        say(f"rank {self._rank}: {type(error).__name__}: {error}")

    def _report_and_end(self) -> None:
        # In a thread of its own, since the file system of the report may be gone together with a host.
        reporter = threading.Thread(target=self.report, args=(PeerLostError(self.loss),), daemon=True)
        reporter.start()
        reporter.join(CLOSING_SECONDS)
        self._end(1)


def connect(store: Store, rank: int, size: int, address: str, seconds: float) -> list[Neighbour]:
    """Connect the ranks along the tree, in which rank r has the parent (r - 1) // 2. Collective.

    Args:
        store: The store of the process group, without entries of earlier starts.
        rank: This rank.
        size: Number of ranks.
        address: Address of this host, at which the other ranks reach it.
        seconds: Time for the other ranks to connect.

    Returns:
        The neighbours of this rank.

    Raises:
        RunError: A neighbour cannot be reached, or does not connect in time.
    """
    deadline, neighbours = time.monotonic() + seconds, []
    children = {child for child in (2 * rank + 1, 2 * rank + 2) if child < size}
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) if children else contextlib.nullcontext() as listener:
        token = uuid.uuid4().hex
        if listener:
            store.set(f"monitor/{rank}", json.dumps([address, listener.getsockname()[1], token]))
        if rank > 0:
            parent = (rank - 1) // 2
            host, port, parents_token = json.loads(store.get(f"monitor/{parent}"))
            hello = f"{parents_token}{rank:010}".encode()
            neighbours.append(_call(parent, host, port, hello, seconds))
        while listener and children:
            neighbour = _answer(listener, token, children, deadline)
            if neighbour:
                children.remove(neighbour.rank)
                neighbours.append(neighbour)
    return neighbours


def _call(parent: int, address: str, port: int, hello: bytes, seconds: float) -> Neighbour:
    """Connect to the parent."""
    try:
        connection = socket.create_connection((address, port), timeout=seconds)
        connection.sendall(hello)
    except OSError as error:
        raise RunError(
            f"{socket.gethostname()} cannot connect to rank {parent} at {address}, port {port} "
            f"({error.strerror or error}); let the hosts reach each other's free ports, or name another network "
            "interface with GLOO_SOCKET_IFNAME"
        ) from None
    return Neighbour(parent, _kept_alive(connection))


def _answer(listener: socket.socket, token: str, children: set[int], deadline: float) -> Neighbour | None:
    """Accept a connection; return None if it is not from one of the children."""
    listener.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        connection, _ = listener.accept()
    except TimeoutError:
        missing = " and ".join(map(str, sorted(children)))
        raise RunError(f"rank {missing} did not connect in time; see the log of each rank") from None
    hello = b""
    with contextlib.suppress(OSError):
        connection.settimeout(HELLO_SECONDS)
        while len(hello) < HELLO_BYTES and (part := connection.recv(HELLO_BYTES - len(hello))):
            hello += part
    said, number = hello[:32].decode("latin-1"), hello[32:]
    if said == token and number.isdigit() and int(number) in children:
        return Neighbour(int(number), _kept_alive(connection))
    connection.close()
    return None


def _kept_alive(connection: socket.socket) -> socket.socket:
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
    return connection


_monitor: PeerMonitor | None = None
"""The monitor of this process; None where it is alone or has left the other ranks."""


def start(store: Store, rank: int, size: int, address: str, seconds: float) -> PeerMonitor:
    """Start the monitor of this process, with the arguments of `connect`. Collective."""
    global _monitor
    _monitor = PeerMonitor(rank, connect(store, rank, size, address, seconds))
    atexit.register(_monitor.goodbye)  # whichever way the interpreter ends
    return _monitor


def notice() -> None:
    """Call `PeerMonitor.notice`, if there is a monitor."""
    if _monitor:
        _monitor.notice()


def wait_for_loss() -> str:
    """Call `PeerMonitor.wait_for_loss`; without a monitor, return an empty text."""
    return _monitor.wait_for_loss() if _monitor else ""


def tell(error: BaseException) -> None:
    """Call `PeerMonitor.tell`, if there is a monitor."""
    if _monitor:
        _monitor.tell(error)


def goodbye() -> None:
    """Call `PeerMonitor.goodbye`, if there is a monitor."""
    global _monitor
    if _monitor:
        _monitor.goodbye()
    _monitor = None


@contextlib.contextmanager
def reporting(report: Callable[[PeerLostError], object]) -> Iterator[None]:
    """Report a loss by this function during the work inside, if there is a monitor."""
    if not (monitor := _monitor):
        yield
        return
    before, monitor.report = monitor.report, report
    try:
        yield
    finally:
        monitor.report = before


def _close_in_child() -> None:
    """Close a forked process's copies of the connections, which would otherwise outlive this rank."""
    global _monitor
    if _monitor:
        atexit.unregister(_monitor.goodbye)
        _monitor.close()
    _monitor = None


os.register_at_fork(after_in_child=_close_in_child)

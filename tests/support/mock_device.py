"""Make the CPU pose as a GPU towards DeepSpeed, and count how often the host waits for it.

On a CPU, `synchronize` does nothing and DeepSpeed skips its streams. `mock_device` makes it take the paths of a
GPU, with streams and events that only count who waits for them. Memory that is pinned, and work that is queued on
a chosen stream, are counted too. `fake_cuda` does this for what is ours.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import gpt2dist
from tests.support.tensor_reads import READS

HOST = ("settle",)
"""Functions that read tensors which are in host memory anyway."""


class Waits(Counter[str]):
    """How often the host waited for the device, by "file function: what it called".

    Attributes:
        pinned: How often memory was pinned, also outside of `counted`, by "file function".
        streams: How often a stream was chosen for the work that follows, by "file function".
    """

    def __init__(self) -> None:
        super().__init__()
        self.pinned: Counter[str] = Counter()
        self.streams: Counter[str] = Counter()
        self._on = False

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Counts only within."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def note(self, what: str) -> None:
        """Count a call that waits, under the name of the function of ours or DeepSpeed's that led to it."""
        if self._on and (place := _caller()).rpartition(" ")[2] not in HOST:
            self[f"{place}: {what}"] += 1

    def note_pinned(self) -> None:
        """Count memory that is pinned."""
        self.pinned[_caller()] += 1

    def note_stream(self) -> None:
        """Count the choice of a stream."""
        if self._on:
            self.streams[_caller()] += 1


def _caller() -> str:
    """The file and the name of the function of ours or DeepSpeed's that led here."""
    frame: Any = sys._getframe(2)
    while not (place := _place(frame.f_code.co_filename)):
        frame = frame.f_back
    return f"{place} {frame.f_code.co_name}"


def _place(file: str) -> str:
    """The path of a file within DeepSpeed or gpt2dist; empty for others."""
    import deepspeed

    for package in (deepspeed, gpt2dist):
        root = Path(package.__path__[0])
        if root in (path := Path(file)).parents:
            return str(path.relative_to(root.parent))
    return ""


class MockStream:
    """A stream or an event that is always finished, and counts who waits for it."""

    waits: Waits

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def synchronize(self) -> None:
        self.waits.note("synchronize a stream or event")

    def query(self) -> bool:
        return True

    def record(self, *_: Any) -> None:
        pass

    wait_stream = wait_event = record_event = wait = record


def mock_device() -> Waits:
    """Makes DeepSpeed take the CPU for a GPU, for the rest of this process, and returns the counts of waits."""
    from deepspeed.accelerator import get_accelerator

    waits = Waits()
    MockStream.waits = waits
    kind: Any = type(get_accelerator())
    for name in ("is_synchronized_device", "resolves_data_dependency", "handles_memory_backpressure"):
        setattr(kind, name, lambda self: False)
    kind.Stream = kind.Event = MockStream
    kind.current_device_name = kind.device_name = lambda self, device=None: "cpu:0"
    pin = kind.pin_memory

    def pin_memory(self: Any, tensor: torch.Tensor, *args: Any, **more: Any) -> torch.Tensor:
        waits.note_pinned()
        return pin(self, tensor, *args, **more)

    def stream(self: Any, stream: Any) -> Any:
        waits.note_stream()
        return contextlib.nullcontext()

    kind.pin_memory, kind.stream = pin_memory, stream
    kind.current_stream = kind.default_stream = lambda self, device=None: MockStream()
    torch.Tensor.record_stream = lambda self, stream: None  # type: ignore[method-assign]

    def synchronize(*_: Any) -> None:
        waits.note("synchronize the device")

    for owner in (kind, torch.cuda, torch.accelerator):
        owner.synchronize = synchronize
    for name in READS:
        setattr(torch.Tensor, name, _noting(name, waits))
    torch.Tensor.to = _noting_copies_to_the_host(waits)  # type: ignore[method-assign]
    return waits


def _noting(name: str, waits: Waits) -> Any:
    read = getattr(torch.Tensor, name)

    def noting(self: torch.Tensor, *args: Any, **more: Any) -> Any:
        waits.note(name)
        return read(self, *args, **more)

    return noting


def _noting_copies_to_the_host(waits: Waits) -> Any:
    to = torch.Tensor.to

    def noting(self: torch.Tensor, *args: Any, **more: Any) -> Any:
        # A `torch.device` is not counted: the device of the run is also a CPU.
        if "cpu" in (each for each in (*args, *more.values()) if isinstance(each, str)):
            waits.note("to the CPU")
        return to(self, *args, **more)

    return noting

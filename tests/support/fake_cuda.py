"""A stand-in for a GPU: tensors on a CUDA device that have a shape and a dtype but no values.

torch checks their devices, shapes and dtypes as on a GPU. Pinned memory, copies between the devices, and whatever
makes the host wait for a value are recorded in order. Autograd builds its graph, but `backward` needs a driver.
"""

import contextlib
import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CUDA = torch.device("cuda", 0)
CUDA_GUARD, META_GUARD, GUARDS = 1, 14, 15
"""Of the enumeration c10::DeviceType."""
aten = torch.ops.aten


class FakeCuda(TorchDispatchMode):
    """Records what is asked of the device.

    Attributes:
        calls: In order: memory that is pinned, copies between the host and the device, and values of the device
            that the host reads or counts.
        operations: Operations on the device, as "name dtype" with the dtype of the (first) result → how often.
        pinned: Tensors in pinned memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.operations: Counter[str] = Counter()
        self.pinned: list[torch.Tensor] = []

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor shares the memory of one that is pinned."""
        memory = tensor.untyped_storage()._cdata
        return any(each.untyped_storage()._cdata == memory for each in self.pinned)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is aten.exponential_.default:
            options.pop("generator")  # torch's fake of it takes none
        if func is aten.is_pinned.default:
            return self.is_pinned(args[0])
        if func is aten._local_scalar_dense.default:
            return self._read(args[0])
        if func is aten.nonzero.default:
            return torch.stack([self._places(args[0])] * args[0].dim(), 1)
        if func in (aten.index.Tensor, aten.index_put_.default):
            args = (args[0], [part for each in args[1] for part in self._indices(each)], *args[2:])
        if func is aten._pin_memory.default:
            return self._pin(args[0].clone())
        if func is aten.addmm.dtype_out:  # torch has no fake of it
            out = options["out"]
            assert out is args[0]  # otherwise it would be copied
            assert torch.mm(*args[1:3], out_dtype=args[3]).shape == out.shape
        else:
            out = func(*args, **options)
        if options.get("pin_memory"):
            self._pin(out)
        if func in (aten.copy_.default, aten._to_copy.default):
            source, target = (args[1], args[0]) if func is aten.copy_.default else (args[0], out)
            self._note_copy(source, target, args, options)
        first = out[0] if isinstance(out, tuple | list) and out else out
        if isinstance(first, torch.Tensor) and first.device.type == "cuda":
            self.operations[f"{func} {str(first.dtype).removeprefix('torch.')}"] += 1
        return out

    def _read(self, tensor: torch.Tensor) -> bool | int | float:
        """As if the value were 1. The host waits for it."""
        if tensor.device.type == "cuda":
            self.calls.append(f"read {_described(tensor)}")
        with _disable_current_modes():
            return torch.ones((), dtype=tensor.dtype).item()

    def _indices(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        is_mask = index is not None and index.dtype == torch.bool
        return [self._places(index)] * index.dim() if is_mask else [index]

    def _places(self, mask: torch.Tensor) -> torch.Tensor:
        """As if the mask were true everywhere. The host waits to know at how many places it is."""
        if mask.device.type == "cuda":
            self.calls.append(f"count {_described(mask)}")
        return torch.empty(mask.numel(), dtype=torch.int64, device=mask.device)

    def _pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self.calls.append(f"pin {_described(tensor)}")
        self.pinned.append(tensor)
        return tensor

    def _note_copy(self, source: torch.Tensor, target: torch.Tensor, args: Any, options: Any) -> None:
        if source.device.type == target.device.type:
            return
        on_host = source if source.device.type == "cpu" else target
        how = " without waiting" if options.get("non_blocking") or True in args[2:] else ""
        where = "pinned" if self.is_pinned(on_host) else "pageable"
        direction = "to the device" if target.device.type == "cuda" else "to the host"
        self.calls.append(f"copy {_described(source)} {direction}, {where}{how}")


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


class _HostGenerator(torch.Generator):
    """A generator of the host, since one of the device needs a driver."""

    def __new__(cls, device: Any = None) -> "_HostGenerator":
        return super().__new__(cls)


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Makes every tensor created within a fake one, which may be on `CUDA`."""
    with (
        _device_guard(),
        mock.patch.object(torch, "Generator", _HostGenerator),
        FakeTensorMode(allow_non_fake_inputs=True),
        FakeCuda() as device,
    ):
        yield device


@contextlib.contextmanager
def _device_guard() -> Iterator[None]:
    """Gives torch a guard of CUDA devices, which does nothing, if it was built without CUDA.

    Otherwise, torch ends the process at the first tensor with a gradient. A torch with CUDA does this itself.
    """
    library = ctypes.CDLL(str(next(Path(torch.__file__).parent.glob("lib/libc10.*"))))
    guards = (ctypes.c_void_p * GUARDS).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before = guards[CUDA_GUARD]
    guards[CUDA_GUARD] = before or guards[META_GUARD]
    try:
        yield
    finally:
        guards[CUDA_GUARD] = before


def on_fake_cuda(build: Callable[[], nn.Module], dtype: torch.dtype) -> Any:
    """Builds a model on the CPU, and gives it fake parameters on the device."""
    with _disable_current_modes():
        model = build()
    moved: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in moved:
                moved[id(parameter)] = nn.Parameter(torch.empty(parameter.shape, dtype=dtype, device=CUDA))
            if parameter is not None:
                module._parameters[name] = moved[id(parameter)]
    return model


@contextlib.contextmanager
def autocast(dtype: torch.dtype) -> Iterator[None]:
    """What `torch.autocast` does on a GPU. It refuses without one."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


@contextlib.contextmanager
def mock_driver(calls: list[str], **answers: Any) -> Iterator[None]:
    """Answers calls of `torch.cuda.NAME` and records them. Other calls need a driver."""

    def answering(name: str, answer: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls.append(f"{name}({', '.join(map(str, args))})")
            return answer

        return call

    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answering(name, answer)))
        yield

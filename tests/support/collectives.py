"""A record of every collective of torch, with the data type and the bytes of what it sends or returns."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Collectives(TorchDispatchMode):
    """While active, counts collectives by "name dtype bytes"; the bytes are those of the larger side.

    Args:
        before_each: Called with name and bytes before each of them.
    """

    def __init__(self, before_each: Callable[[str, int], None] = lambda name, size: None) -> None:
        super().__init__()
        self._before_each = before_each
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
            (dtype,) = {str(each.dtype).removeprefix("torch.") for each in tensors}
            name = func.name().removeprefix("c10d::").strip("_").removesuffix("_base")
            size = max(each.nbytes for each in tensors)
            self._before_each(name, size)
            self.count[f"{name} {dtype} {size}"] += 1
        return func(*args, **(kwargs or {}))

"""A record of every collective of torch, with the data type and the bytes of what it sends or returns."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Collectives(TorchDispatchMode):
    """While active, counts collectives by "name dtype bytes"; the bytes are those of the larger side."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
            (dtype,) = {str(each.dtype).removeprefix("torch.") for each in tensors}
            name = func.name().removeprefix("c10d::").strip("_").removesuffix("_base")
            self.count[f"{name} {dtype} {max(each.nbytes for each in tensors)}"] += 1
        return func(*args, **(kwargs or {}))

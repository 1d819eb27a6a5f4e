"""gpt2dist: train a GPT-2 from raw text, on a laptop or on many GPUs, and measure its perplexity reliably."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt2dist.api.dataset import Dataset
    from gpt2dist.api.evaluate import evaluate
    from gpt2dist.api.export import export
    from gpt2dist.api.generate import generate
    from gpt2dist.api.run import Run
    from gpt2dist.api.train import train
    from gpt2dist.config.configuration import Config
    from gpt2dist.errors import RunError, UserError
    from gpt2dist.tokenizer.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "Config",
    "Dataset",
    "Run",
    "RunError",
    "Tokenizer",
    "UserError",
    "evaluate",
    "export",
    "generate",
    "train",
]

_HOMES = {
    "Config": "config.configuration",
    "Dataset": "api.dataset",
    "Run": "api.run",
    "RunError": "errors",
    "Tokenizer": "tokenizer.tokenizer",
    "UserError": "errors",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "generate": "api.generate",
    "train": "api.train",
}
"""Public name → module that defines it, which is imported when the name is first used."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

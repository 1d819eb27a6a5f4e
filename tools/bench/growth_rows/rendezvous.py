"""Agree on a session in a store on this host, as the ranks of a job do before anything else."""

import os
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from light_ranks import run

from gpt2dist.distributed import session
from gpt2dist.distributed.world import join

TITLE = "calls and bytes of the store, to agree on a session"
UNIT = "ranks"
SIZES = (8, 32, 128)


class CountingStore:
    """A store that counts calls and bytes of keys and values."""

    def __init__(self, store: dist.Store):
        self.store, self.calls, self.bytes = store, Counter[str](), 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.store, name)

        def counted(*words: Any) -> Any:
            self.calls[name] += 1
            out = call(*words)
            texts = [*(words[0] if isinstance(words[0], list) else words), out]
            self.bytes += sum(len(each) for each in texts if isinstance(each, str | bytes))
            return out

        return counted


def measure(size: int, directory: Path) -> dict[str, float]:
    """Agree on a session, and count."""
    counts = run(_agree, size, directory)
    calls, sent = zip(*counts, strict=True)
    return {
        "calls": sum(calls),
        "calls_of_rank_0": calls[0],
        "calls_of_others": max(calls[1:]),
        "bytes": sum(sent),
    }


def _agree() -> tuple[int, int]:
    world = join()
    store = CountingStore(dist.PrefixStore("counted", dist.distributed_c10d._get_default_store()))
    session.agree(store, int(os.environ["RANK"]), world.size, timedelta(minutes=5))  # type: ignore[arg-type]
    return store.calls.total(), store.bytes

"""Measures of another package: what CONTRIBUTING.md describes, and what can be wrong with one."""

import sys
from contextlib import contextmanager

from gpt2dist import registry
from gpt2dist.evaluation.measures import Measure

NATS_PER_WORD = Measure(
    key="nats_per_word",
    title="nats per word",
    formula="Σ nll / words",
    value=lambda sums: sums.nll_sum / sums.words,
    per="words",
)
LAST_WORD_LOSS = Measure(
    key="last_word_loss",
    title="last-word loss",
    unit="nats",
    value=lambda sums: sums.nll_sum / sums.examples,
    per="examples",
    task="last_words",
)
LOSS_AGAIN = Measure(key="loss", title="loss", value=lambda sums: sums.nll_sum)
STRIDE = Measure(key="stride", title="stride", value=lambda sums: sums.nll_sum)
NATS_PER_WORD_AGAIN = Measure(key="nats_per_word", title="nats", value=lambda sums: sums.nll_sum)
RAISES = Measure(key="raises", title="raises", value=lambda sums: sums.no_such_sum)
TEXT = Measure(key="text", title="text", value=lambda sums: "low")

HERE = f"{__name__}:"


@contextmanager
def installed(directory, monkeypatch, **measures):
    """Installs a package for a while that offers measures: name → `package.module:attribute`."""
    info = directory / "toy_measures-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-measures\nVersion: 1.0\n")
    lines = "".join(f"{name} = {target}\n" for name, target in measures.items())
    (info / "entry_points.txt").write_text(f"[gpt2dist.measures]\n{lines}")
    registry._entry_points.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(directory)])
        yield
    registry._entry_points.cache_clear()

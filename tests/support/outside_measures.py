"""Measures of another package: what CONTRIBUTING.md describes, and what can be wrong with one."""

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

import pytest

from gpt2dist.config import Config
from gpt2dist.training.optimizers import optimizer_kind
from gpt2dist.training.optimizers.weight_decay import decay_per_lr


@pytest.mark.parametrize(("decay", "peak", "expected"), [("coupled", 0.5, 0.1), ("independent", 0.5, 0.2)])
def test_independent_decay_does_not_depend_on_the_peak_rate(decay, peak, expected):
    section = Config(optimizer={"decay": decay}).optimizer
    assert decay_per_lr(section, 0.1, peak) == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cautious": True}, "cautious weight decay 0.1"),
        ({"decay": "independent", "weight_decay": 1e-4}, "weight decay 0.0001 independent of the rate"),
    ],
)
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_card_names_the_variant(kind, settings, words):
    config = Config(optimizer={"kind": kind, **settings})
    assert optimizer_kind(config).describe().endswith(words)

"""The verdict on a step: finite, and no spike."""

import math

import numpy as np
import pytest
import torch

from gpt2dist.training.optimizers.skip_step_adamw import SkipStepAdamW
from gpt2dist.training.skip_step import HISTORY, LEAST_HISTORY, SpikeDetector

CPU = torch.device("cpu")


def should_skip(spike_detector, loss, norm=1.0):
    return bool(spike_detector.should_skip(torch.tensor(loss), torch.tensor(norm)))


@pytest.mark.parametrize("sigma", [None, 6.0])
@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf)])
def test_what_is_not_finite_is_left_out(sigma, loss, norm):
    assert should_skip(SpikeDetector(sigma, CPU), loss, norm)


def test_without_sigma_any_finite_step_is_good():
    spike_detector = SpikeDetector(None, CPU)
    assert not any(should_skip(spike_detector, loss, norm) for loss, norm in [(3.0, 1.0)] * 50 + [(1e9, 1e9)])
    assert spike_detector.state() == {}


def by_hand(values, sigma):
    """numpy's mean and deviation over the last good steps; plain loops."""
    kept, verdicts = [], []
    for pair in values:
        recent = np.array(kept[-HISTORY:])
        spike = len(kept) >= LEAST_HISTORY and any(
            pair[i] > recent[:, i].mean() + sigma * recent[:, i].std() for i in (0, 1)
        )
        verdicts.append(spike)
        if not spike:
            kept.append(pair)
    return verdicts


def test_spikes_are_those_of_a_plain_loop_and_do_not_enter_the_history():
    draw = np.random.default_rng(0)
    values = np.stack([3 + 0.1 * draw.standard_normal(400), 1 + 0.2 * draw.standard_normal(400)], axis=1)
    values[[10, 50, 51, 52, 200, 390], 0] += 2  # the first while the history is too short
    values[[120, 300], 1] += 5
    spike_detector = SpikeDetector(4.0, CPU)
    verdicts = [should_skip(spike_detector, *pair) for pair in values]
    assert verdicts == by_hand(values, 4.0)
    assert [i for i in (10, 50, 51, 52, 120, 200, 300, 390) if verdicts[i]] == [50, 51, 52, 120, 200, 300, 390]


def test_a_resumed_guard_judges_alike():
    draw = np.random.default_rng(1)
    values = 3 + 0.1 * draw.standard_normal((300, 2))
    one, before = SpikeDetector(2.0, CPU), SpikeDetector(2.0, CPU)
    expected = [should_skip(one, *pair) for pair in values]
    first = [should_skip(before, *pair) for pair in values[:150]]
    after = SpikeDetector(2.0, CPU)
    after.load_state(before.state())
    assert first + [should_skip(after, *pair) for pair in values[150:]] == expected
    assert any(expected)


def test_a_run_that_begins_to_look_for_spikes_begins_without_a_past():
    spike_detector = SpikeDetector(6.0, CPU)
    spike_detector.load_state({})
    assert not should_skip(spike_detector, 3.0)


@pytest.mark.parametrize("decay", [{"weight_decay": 0.1}, {"weight_decay": 0.0, "cautious_weight_decay": 0.1}])
def test_a_vetoed_update_changes_nothing(decay):
    weight = torch.nn.Parameter(torch.ones(5))
    adam = SkipStepAdamW([{"params": [weight], **decay}], lr=0.1, fused=True)
    should_skip = torch.zeros(())
    adam.should_skip = lambda: should_skip
    weight.grad = torch.full((5,), 0.5)
    adam.step()
    kept = {key: value.clone() for key, value in adam.state[weight].items()} | {"weight": weight.detach().clone()}
    weight.grad = torch.full((5,), math.nan)
    should_skip.fill_(1.0)
    adam.step()
    now = adam.state[weight] | {"weight": weight.detach()}
    assert all(torch.equal(now[key], value) for key, value in kept.items())
    assert kept["step"] == 1
    should_skip.fill_(0.0)
    weight.grad = torch.full((5,), 0.5)
    adam.step()
    assert adam.state[weight]["step"] == 2 and not torch.equal(weight.detach(), kept["weight"])

import torch

from gpt2dist.training.engine import SkipDecision
from gpt2dist.training.skip_step import SpikeDetector

CPU = torch.device("cpu")


class CountingDetector(SpikeDetector):
    asked = 0

    def should_skip(self, loss, grad_norm):
        self.asked += 1
        return super().should_skip(loss, grad_norm)


def test_a_step_is_judged_once_however_many_parameter_groups_ask():
    detector = CountingDetector(6.0, CPU)
    decision = SkipDecision(detector, torch.tensor(3.0), lambda: torch.tensor(1.0), CPU)
    assert decision() is decision() and decision() == 0
    assert detector.asked == 1 and detector.state()["count"] == [1.0]


def test_the_norm_is_read_when_the_optimizer_asks_and_not_before():
    norms = []
    decision = SkipDecision(SpikeDetector(None, CPU), torch.zeros(()), lambda: norms[-1], CPU)
    norms.append(torch.tensor(float("nan")))  # DeepSpeed computes it in its own step
    assert decision() == 1

"""Cautious and independent weight decay against plain PyTorch."""

import itertools

import pytest
import torch

from tests.support.plain_muon import muon
from tests.support.plain_pytorch import LR, adamw, differences, plain_pytorch
from tests.support.ranks import run_ranks
from tests.support.runs import train_here, write_run

DECAY = 5.0  # large enough to change the losses of 20 steps
CAUTIOUS = ["optimizer.cautious=true", f"optimizer.weight_decay={DECAY}"]
INDEPENDENT = ["optimizer.decay=independent", f"optimizer.weight_decay={DECAY * LR}"]
MUON = ["optimizer.kind=muon", "optimizer.options={lr: 0.02, weight_decay: 0.5}"]
INDEPENDENT_MUON = ["optimizer.kind=muon", "optimizer.options={lr: 0.02, weight_decay: 0.01}"]


class Cautious:
    """An optimizer whose decay acts where the update has the sign of the weight, as in the paper's algorithm."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups, self.zero_grad = optimizer, optimizer.param_groups, optimizer.zero_grad

    @torch.no_grad()
    def step(self):
        decays = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            group["weight_decay"] = 0.0
        before = [[p.clone() for p in group["params"]] for group in self.param_groups]
        self.optimizer.step()
        for group, decay, olds in zip(self.param_groups, decays, before, strict=True):
            for parameter, old in zip(group["params"], olds, strict=True):
                toward_zero = (old - parameter) * old >= 0
                parameter.sub_(group["lr"] * decay * old * toward_zero)
            group["weight_decay"] = decay


def strong_adamw(model):
    (optimizer,) = adamw(model)
    optimizer.param_groups[0]["weight_decay"] = DECAY
    return [optimizer]


def cautious_adamw(model):
    return [Cautious(each) for each in strong_adamw(model)]


def strong_muon(model):
    ours, others = (each.optimizer for each in muon(model, decay=0.5))
    others.param_groups[0]["weight_decay"] = DECAY
    return [ours, others]


def cautious_muon(model):
    ours, others = strong_muon(model)
    ours.muon = Cautious(ours.muon)
    return [ours, Cautious(others)]


WAYS = {
    "AdamW, cautious": (CAUTIOUS, cautious_adamw),
    "AdamW, independent": (INDEPENDENT, strong_adamw),
    "Muon, cautious": ([*MUON, *CAUTIOUS], cautious_muon),
    "Muon, independent": ([*INDEPENDENT_MUON, *INDEPENDENT], strong_muon),
}


@pytest.fixture(scope="module")
def references(tiny_dataset):
    return {
        way: run_ranks(plain_pytorch, 1, [tiny_dataset], [1], build_optimizers=build)[0]
        for way, (_, build) in WAYS.items()
    }


def test_the_ways_differ(references):
    finals = [losses[-1] for losses, _ in references.values()]
    assert all(abs(a - b) > 1e-3 for a, b in itertools.combinations(finals, 2))


@pytest.mark.parametrize(
    ("way", "stage"),
    [
        ("AdamW, cautious", 0),
        ("AdamW, cautious", 1),
        ("AdamW, cautious", 3),
        ("AdamW, independent", 1),
        ("Muon, cautious", 0),
        ("Muon, cautious", 1),
        ("Muon, independent", 2),
    ],
)
def test_is_that_of_plain_pytorch(tiny_dataset, tmp_path, references, way, stage):
    run_file = write_run(tmp_path, tiny_dataset)
    run_ranks(train_here, 2, run_file, [*WAYS[way][0], f"zero.stage={stage}"])
    loss, norm = differences(tmp_path / "run", references[way])
    assert loss < 1e-5
    assert norm < 1e-4

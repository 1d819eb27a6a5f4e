"""The plan of a run, which `preflight` derives from its configuration and world size."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.loading.batch_ramp import BatchSizes, Origin
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.windows import Windows
from gpt2dist.model.flops import flops_per_token
from gpt2dist.model.shape import Shape

WEIGHT_BYTES = 4
"""Bytes per weight in a checkpoint: fp32."""


@dataclass(frozen=True)
class TrainingSet:
    """A dataset whose `train` split is used for training.

    Attributes:
        name: Short name, unique among the datasets: the end of its path.
        dataset: The dataset.
        windows: Windows over its token stream.
        share: Samples from it in each period of the blend; the period is the sum of all shares.
        targets_per_epoch: Targets in the loss per epoch, each counted as often as it is trained on.
    """

    name: str
    dataset: Manifest
    windows: Windows
    share: int
    targets_per_epoch: int


@dataclass(frozen=True)
class ValidationSet:
    """A split that is evaluated during training, as eval/<name>."""

    name: str
    dataset: Manifest
    split: str


@dataclass(frozen=True)
class Plan:
    """The quantities that follow from a configuration at a world size.

    Attributes:
        world_size: Number of ranks.
        batch_sizes: Windows per optimizer step, for each step.
        micro_batch_size: Windows per forward pass and rank.
        shape: Shape of the model.
        optimizer_state_bytes: Size of the optimizer state in a checkpoint.
        datasets: Training sets.
        mixture: Mapping from sample numbers to windows of the training sets.
        validation: Splits that are evaluated during training.
        sequence_length: Tokens per window.
        stride: Tokens between the starts of consecutive windows in training.
        evaluation_stride: The same for validation.
        warmup_steps: Optimizer steps during which the learning rate rises.
        total_steps: Optimizer steps of the whole run.
    """

    world_size: int
    batch_sizes: BatchSizes
    micro_batch_size: int
    shape: Shape
    optimizer_state_bytes: int
    datasets: tuple[TrainingSet, ...]
    mixture: Mixture
    validation: tuple[ValidationSet, ...]
    sequence_length: int
    stride: int
    evaluation_stride: int
    warmup_steps: int
    total_steps: int

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests of all datasets, for training and for validation."""
        return [each.dataset for each in self.datasets] + [each.dataset for each in self.validation]

    @property
    def tokenizer(self) -> Path:
        """A directory that contains the tokenizer, which all datasets share."""
        return self.datasets[0].dataset.directory

    @property
    def tokenizer_fingerprint(self) -> str:
        """The tokenizer's fingerprint."""
        return self.datasets[0].dataset.tokenizer_fingerprint

    @property
    def end_of_text_id(self) -> int:
        """Id of the end-of-text token, which ends each document."""
        return self.datasets[0].dataset.end_of_text_id

    @property
    def global_batch_size(self) -> int:
        """Windows per optimizer step of full size."""
        return self.batch_sizes.full

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank in an optimizer step of full size."""
        return self.global_batch_size // (self.micro_batch_size * self.world_size)

    @property
    def total_samples(self) -> int:
        """Windows in the whole run."""
        return self.batch_sizes.samples(self.total_steps)

    @property
    def targets_per_step(self) -> float:
        """Mean number of targets in the loss of a step of full size."""
        return float(targets_per_sample(self.datasets) * self.global_batch_size)

    def part(self, dataset: TrainingSet) -> float:
        """Return the fraction of all samples that comes from a dataset."""
        return dataset.share / sum(each.share for each in self.datasets)

    def epochs(self, dataset: TrainingSet) -> float:
        """Return the number of passes over all windows of a dataset by the end of the run."""
        samples = self.total_samples - self.batch_sizes.origin.data_from
        return self.part(dataset) * samples / len(dataset.windows)

    def times_seen(self, dataset: TrainingSet) -> float:
        """Return how often each token of a dataset is trained on; overlap counts when `loss_on` is "all"."""
        return self.epochs(dataset) * dataset.targets_per_epoch / dataset.windows.targets

    @property
    def total_flops(self) -> float:
        """Floating-point operations of the whole run, including tokens whose targets are not in the loss."""
        tokens = self.total_samples * self.sequence_length
        return float(tokens) * flops_per_token(self.shape, self.sequence_length)

    def continued(self, origin: Origin, total_steps: int) -> "Plan":
        """Return the plan of a run whose data or batch was changed on the way.

        Args:
            origin: Where the current data and batch sizes begin.
            total_steps: Optimizer steps of the whole run.
        """
        sizes = BatchSizes(self.batch_sizes.full, self.batch_sizes.ramp, origin)
        return replace(self, batch_sizes=sizes, total_steps=total_steps)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of one checkpoint in bytes: the fp32 weights and optimizer state."""
        return WEIGHT_BYTES * self.shape.parameters + self.optimizer_state_bytes


def steps_to(tokens: int, batch_sizes: BatchSizes, datasets: tuple[TrainingSet, ...]) -> int:
    """Return the number of optimizer steps needed to train on at least `tokens` targets."""
    origin = batch_sizes.origin
    further = math.ceil((tokens - origin.targets) / targets_per_sample(datasets))
    return batch_sizes.steps(origin.samples + further)


def targets_per_sample(datasets: tuple[TrainingSet, ...]) -> Fraction:
    """Return the mean number of targets in the loss per sample of a blend, over whole epochs of all datasets."""
    turns = sum(each.share for each in datasets)
    return sum(
        (Fraction(each.share * each.targets_per_epoch, turns * len(each.windows)) for each in datasets),
        start=Fraction(),
    )

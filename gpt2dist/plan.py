"""What a configuration implies at a world size: the plan that `preflight` makes and the rest follows."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from gpt2dist.dataset.manifest import Manifest
from gpt2dist.loading.batch_ramp import BatchSizes
from gpt2dist.loading.mixture import Mixture
from gpt2dist.loading.windows import Windows
from gpt2dist.model.flops import flops_per_token
from gpt2dist.model.shape import Shape

BYTES_PER_PARAMETER = 12
"""In a checkpoint: the weight and AdamW's two moments, all fp32."""


@dataclass(frozen=True)
class TrainingSet:
    """A dataset whose `train` split is trained on.

    Attributes:
        name: Tells it apart from the others: the end of its path.
        dataset: The dataset.
        windows: The windows over its stream.
        share: Samples of it among the samples of a period of the blend, all datasets' shares.
        targets_per_epoch: Targets in the loss per epoch; each counts as often as it is trained on.
    """

    name: str
    dataset: Manifest
    windows: Windows
    share: int
    targets_per_epoch: int


@dataclass(frozen=True)
class ValidationSet:
    """A split that is scored during training as eval/<name>."""

    name: str
    dataset: Manifest
    split: str


@dataclass(frozen=True)
class Plan:
    """What a configuration implies at a world size.

    Attributes:
        world_size: Ranks.
        batch_sizes: Windows of each optimizer step.
        micro_batch_size: Windows per forward pass and rank.
        shape: The model.
        datasets: What is trained on.
        mixture: Which window of which of them is which sample.
        validation: The splits that are scored during training.
        sequence_length: Tokens per window.
        stride: Tokens from window to window, in training.
        evaluation_stride: The same in validation.
        warmup_steps: Optimizer steps in which the learning rate rises.
        total_steps: Optimizer steps of the whole run.
    """

    world_size: int
    batch_sizes: BatchSizes
    micro_batch_size: int
    shape: Shape
    datasets: tuple[TrainingSet, ...]
    mixture: Mixture
    validation: tuple[ValidationSet, ...]
    sequence_length: int
    stride: int
    evaluation_stride: int
    warmup_steps: int
    total_steps: int

    @property
    def tokenizer(self) -> Path:
        """A directory with the tokenizer, which all datasets share."""
        return self.datasets[0].dataset.directory

    @property
    def tokenizer_fingerprint(self) -> str:
        """The tokenizer's fingerprint."""
        return self.datasets[0].dataset.tokenizer_fingerprint

    @property
    def end_of_text_id(self) -> int:
        """The token that ends a document."""
        return self.datasets[0].dataset.end_of_text_id

    @property
    def global_batch_size(self) -> int:
        """Windows per optimizer step, of the full size."""
        return self.batch_sizes.full

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step of the full size and rank."""
        return self.global_batch_size // (self.micro_batch_size * self.world_size)

    @property
    def total_samples(self) -> int:
        """Windows of the whole run."""
        return self.batch_sizes.samples(self.total_steps)

    @property
    def targets_per_step(self) -> float:
        """Targets in the loss of a step of the full size, on average."""
        return float(targets_per_sample(self.datasets) * self.global_batch_size)

    def part(self, dataset: TrainingSet) -> float:
        """The part of all samples that come from a dataset."""
        return dataset.share / sum(each.share for each in self.datasets)

    def epochs(self, dataset: TrainingSet) -> float:
        """Passes of the whole run over all windows of a dataset."""
        return self.part(dataset) * self.total_samples / len(dataset.windows)

    def times_seen(self, dataset: TrainingSet) -> float:
        """How often each token of a dataset is trained on; overlap counts when `loss_on` is "all"."""
        return self.epochs(dataset) * dataset.targets_per_epoch / dataset.windows.targets

    @property
    def total_flops(self) -> float:
        """Floating-point operations of the whole run; windows are computed whole, whatever is in the loss."""
        tokens = self.total_samples * self.sequence_length
        return float(tokens) * flops_per_token(self.shape, self.sequence_length)

    @property
    def checkpoint_bytes(self) -> int:
        """Size of one checkpoint: the fp32 weights and optimizer state."""
        return BYTES_PER_PARAMETER * self.shape.parameters


def targets_per_sample(datasets: tuple[TrainingSet, ...]) -> Fraction:
    """Targets in the loss of a sample of a blend, on average over whole epochs of all datasets."""
    turns = sum(each.share for each in datasets)
    return sum(
        (Fraction(each.share * each.targets_per_epoch, turns * len(each.windows)) for each in datasets),
        start=Fraction(),
    )

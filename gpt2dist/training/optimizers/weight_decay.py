"""Weight decay as the section `optimizer` sets it. Does not import torch."""

from gpt2dist.config.schema import OptimizerSection


def decay_per_lr(section: OptimizerSection, weight_decay: float, peak_lr: float) -> float:
    """Return the factor of the learning rate in the fraction by which a step shrinks a weight.

    Args:
        section: It says whether the decay depends on the peak rate.
        weight_decay: Configured weight decay of a parameter group.
        peak_lr: Peak learning rate of that group.
    """
    return weight_decay / peak_lr if section.decay == "independent" else weight_decay


def describe_decay(section: OptimizerSection, weight_decay: float) -> str:
    """Return a description for the model card, such as "cautious weight decay 0.1"."""
    independent = " independent of the rate" if section.decay == "independent" else ""
    return f"{'cautious ' if section.cautious else ''}weight decay {weight_decay}{independent}"

"""What a token costs, and what a device could do: the two halves of model FLOPs utilisation."""

import re

from gpt2dist.model.shape import Shape

FORMULA = "PaLM appendix B: 6 N + 12 L H Q T per token, without a causal discount or recomputation"

PEAK_BF16_TFLOPS = {
    # Dense bf16 (fp16 for V100 and T4), from the vendors' data sheets. The first name that stands in a device's
    # name counts: "H100 PCIe" comes before the SXM part.
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "B200": 2250,
    "A100": 312,
    "A10G": 70,
    "A10": 125,
    "A40": 149.7,
    "A6000": 154.9,
    "L40S": 362,
    "L4": 121,
    "4090": 165,
    "V100": 125,
    "T4": 65,
    "MI300X": 1307,
}


def flops_per_token(shape: Shape, sequence_length: int) -> int:
    """Floating-point operations for training on one token, forward and backward.

    Chowdhery et al. 2022 (PaLM), appendix B: 6 N + 12 L H Q T, where N leaves out the position embeddings.
    """
    attention = 12 * shape.n_layer * shape.n_embd * sequence_length
    return 6 * shape.parameters_without_positions + attention


def peak_flops(device_name: str) -> float | None:
    """Peak dense bf16 FLOP/s of a GPU by its name; None where it is not known (never a guess)."""
    if re.search(r"\b(Laptop|NVL)\b", device_name):  # slower parts that share their name with another
        return None
    for name, tflops in PEAK_BF16_TFLOPS.items():
        if re.search(rf"\b{name}\b", device_name):  # as a word: an L40 is no L4
            return tflops * 1e12
    return None

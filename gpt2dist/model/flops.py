"""FLOPs per token and peak FLOP/s of a device: the two parts of model FLOPs utilisation."""

import re

from gpt2dist.model.shape import Shape

FORMULA = "PaLM appendix B: 6 N + 12 L H Q T per token, without a causal discount or recomputation"

PEAK_BF16_TFLOPS = {
    # Dense bf16 (fp16 for V100 and T4), from the vendors' data sheets. The first key found in a device's name
    # applies, so "H100 PCIe" precedes "H100", the SXM part.
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
    """Return the floating-point operations for training on one token, forward and backward.

    Chowdhery et al. 2022 (PaLM), appendix B: 6 N + 12 L H Q T, where N excludes the position embeddings.
    """
    attention = 12 * shape.n_layer * shape.n_embd * sequence_length
    return 6 * shape.parameters_without_positions + attention


def peak_flops(device_name: str) -> float | None:
    """Return the peak dense bf16 FLOP/s of a GPU by its name, or None (not a guess) if it is unknown."""
    # Slower GPUs, and parts of one, whose names contain that of a faster one.
    if re.search(r"\b(Laptop|NVL|MIG|D)\b", device_name):
        return None
    for name, tflops in PEAK_BF16_TFLOPS.items():
        if re.search(rf"\b{name}\b", device_name):  # whole words, since an L40 is not an L4
            return tflops * 1e12
    return None

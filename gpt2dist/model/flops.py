"""What a token costs, and what a device could do: the two halves of model FLOPs utilisation."""

from gpt2dist.model.shape import Shape

FORMULA = "PaLM appendix B: 6 N + 12 L H Q T per token, without a causal discount or recomputation"

PEAK_BF16_TFLOPS = {
    # Dense bf16 (fp16 for V100 and T4), from the vendors' data sheets. Longer names first: "H100 PCIe"
    # would otherwise be taken for the SXM part.
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
    for name, tflops in PEAK_BF16_TFLOPS.items():
        if name in device_name:
            return tflops * 1e12
    return None

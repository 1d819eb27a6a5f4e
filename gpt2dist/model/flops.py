"""FLOPs per token and peak FLOP/s of a device: the two parts of model FLOPs utilisation."""

import re
from dataclasses import dataclass

from gpt2dist.model.shape import Shape

FORMULA = "PaLM appendix B: 6 N + 12 L H Q T per token, without a causal discount or recomputation"


@dataclass(frozen=True)
class Peak:
    """Peak dense TFLOP/s of a GPU's matrix products, by the data type of their factors; sums are fp32.

    Attributes:
        fp32: Without tensor cores.
        tf32: fp32 factors that the tensor cores round to TF32; None without it.
        fp16: fp16 factors.
        bf16: bf16 factors; None on a GPU that only emulates it.
    """

    fp32: float
    tf32: float | None
    fp16: float
    bf16: float | None


PEAKS = {
    # From the vendors' data sheets and architecture white papers. "With sparsity" is twice the dense rate.
    # GeForce cards have half the rate if sums are fp32, as in PyTorch. All words of a key must be in a device's
    # name, and the first such key applies, so "H100 PCIe" precedes "H100", the SXM part.
    "B200": Peak(80, 1100, 2250, 2250),  # HGX B200, per GPU
    "H200 NVL": Peak(60, 417, 835, 835),
    "H200": Peak(67, 494, 989, 989),
    "GH200": Peak(67, 494, 989, 989),
    "H100 NVL": Peak(60, 417, 835, 835),
    "H100 PCIe": Peak(51, 378, 756, 756),
    "H100": Peak(67, 494, 989, 989),
    "A100": Peak(19.5, 156, 312, 312),
    "A30": Peak(10.3, 82, 165, 165),
    "A10G": Peak(31.5, 35, 70, 70),
    "A10": Peak(31.2, 62.5, 125, 125),
    "A40": Peak(37.4, 74.8, 149.7, 149.7),
    "RTX A6000": Peak(38.7, 77.4, 154.8, 154.8),
    "L40S": Peak(91.6, 183, 362, 362),
    "L40": Peak(90.5, 90.5, 181, 181),
    "L4": Peak(30.3, 60, 121, 121),
    "RTX 4090": Peak(82.6, 82.6, 165.2, 165.2),
    "RTX 3090": Peak(35.6, 35.6, 71, 71),
    "V100 SXM2": Peak(15.7, None, 125, None),
    "V100 PCIe": Peak(14, None, 112, None),
    "V100S PCIe": Peak(16.4, None, 130, None),
    "T4": Peak(8.1, None, 65, None),
    "MI300X": Peak(163.4, 653.7, 1307.4, 1307.4),
}
OTHER_GPU = re.compile(
    r"\b(?:Laptop|Mobile|Max-Q|Ti|SUPER|D"  # slower or faster cards that share a name with one of PEAKS
    r"|64GB"  # A100 and H100 of single supercomputers, with other numbers of cores
    r"|MIG|GRID|\d+[ABCQ])\b",  # a part of a GPU: an instance of it, or a virtual one such as "A100-40C"
    re.IGNORECASE,
)
"""Words in the name of a GPU, or of a part of one, that is not the one in PEAKS."""


def flops_per_token(shape: Shape, sequence_length: int) -> int:
    """Return the floating-point operations for training on one token, forward and backward.

    Chowdhery et al. 2022 (PaLM), appendix B: 6 N + 12 L H Q T, where N excludes the position embeddings.
    """
    attention = 12 * shape.n_layer * shape.n_embd * sequence_length
    return 6 * shape.parameters_without_positions + attention


def matmul_type(precision: str, allow_tf32: bool = False) -> str:
    """Return the data type in which a run multiplies matrices, a field of `Peak`.

    Args:
        precision: As in the configuration.
        allow_tf32: Whether fp32 products may use TF32.
    """
    if precision == "fp32":
        return "tf32" if allow_tf32 else "fp32"
    return precision.removeprefix("autocast_")


def peak_flops(device_name: str, data_type: str = "bf16") -> float | None:
    """Return the peak dense FLOP/s of a GPU by its name, or None (not a guess) if it is unknown.

    Args:
        device_name: As `torch.cuda.get_device_name` returns it, or part of that.
        data_type: Data type of the factors of a matrix product, a field of `Peak`. A GPU without TF32 computes
            `tf32` in fp32.
    """
    peak = _peak(device_name)
    tflops = peak and (getattr(peak, data_type) or (peak.fp32 if data_type == "tf32" else None))
    return tflops * 1e12 if tflops else None


def _peak(device_name: str) -> Peak | None:
    if OTHER_GPU.search(device_name):
        return None
    words = _words(device_name)
    return next((peak for name, peak in PEAKS.items() if _words(name) <= words), None)


def _words(name: str) -> set[str]:
    """Return the words of a name in lower case: whole ones, since an L40 is not an L4."""
    return set(re.findall(r"\w+", name.lower()))

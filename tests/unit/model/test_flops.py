"""Peak FLOP/s by a GPU's name and a run's precision."""

import pytest

from gpt2dist.model.flops import PEAKS, matmul_type, peak_flops


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A30", 165),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 3090", 71),
        ("AMD Instinct MI300X", 1307.4),
        ("A100", 312),
    ],
)
def test_peak_in_bf16(device, tflops):
    assert peak_flops(device) == peak_flops(device, "fp16") == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla V100S-PCIE-32GB", 130),
        ("Tesla T4", 65),
    ],
)
def test_gpus_without_bf16(device, tflops):
    assert peak_flops(device, "fp16") == tflops * 1e12
    assert peak_flops(device, "bf16") is None
    assert peak_flops(device, "tf32") == peak_flops(device, "fp32")


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        "",
        "NVIDIA T400 4GB",
        "NVIDIA RTX A4000",
        "NVIDIA RTX A1000",
        "NVIDIA RTX 6000 Ada Generation",
        "NVIDIA GB200",
        "NVIDIA H20",
        "NVIDIA A800-SXM4-80GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
        "NVIDIA A100-SXM-64GB",
        "GRID A100-10C",
        "NVIDIA A40-48Q",
        "Tesla V100-FHHL-16GB",
    ],
)
@pytest.mark.parametrize("data_type", ["fp32", "tf32", "fp16", "bf16"])
def test_peak_is_never_guessed(device, data_type):
    assert peak_flops(device, data_type) is None


@pytest.mark.parametrize(
    ("precision", "allow_tf32", "tflops"),
    [
        ("fp32", False, 19.5),
        ("fp32", True, 156),
        ("fp16", False, 312),
        ("bf16", True, 312),
        ("autocast_bf16", False, 312),
    ],
)
def test_a_run_is_divided_by_the_peak_of_its_precision(precision, allow_tf32, tflops):
    assert peak_flops("NVIDIA A100-SXM4-80GB", matmul_type(precision, allow_tf32)) == tflops * 1e12


def test_the_peaks_are_in_the_order_of_the_hardware():
    for name, peak in PEAKS.items():
        assert peak.fp32 <= (peak.tf32 or peak.fp32) < peak.fp16, name
        assert peak.bf16 in (None, peak.fp16), name
        assert peak_flops(name, "fp16") == peak.fp16 * 1e12, name  # no other key applies before it

import os
import warnings
from unittest import mock

import pytest
import torch

from gpt2dist.errors import UserError
from gpt2dist.model import numerics
from gpt2dist.model.numerics import CUBLAS, deterministic_algorithms, fp32_products, prepare_deterministic

NCCL = "NCCL_ALGO"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BACKENDS = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)


def products():
    """The settings of the two backends, and the older one; "mixed" where torch cannot tell the latter."""
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "mixed"
    return (*(each.fp32_precision for each in BACKENDS), older)


@pytest.fixture
def restored():
    """Keeps what a test does to torch's settings from the tests after it."""
    before = [each.fp32_precision for each in BACKENDS]
    yield
    torch.set_float32_matmul_precision("highest")
    for backend, precision in zip(BACKENDS, before, strict=True):
        backend.fp32_precision = precision


@pytest.mark.parametrize(
    ("tf32", "device", "inside", "older"),
    [(False, CUDA, "ieee", "highest"), (True, CUDA, "tf32", "high"), (True, CPU, "ieee", "highest")],
)
def test_products_without_a_warning_or_a_contradiction_of_torchs_two_settings(tf32, device, inside, older):
    before = products()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fp32_products(tf32, device):
            assert torch.backends.cuda.matmul.fp32_precision == inside
            assert torch.get_float32_matmul_precision() == older  # raises if the two contradict each other
            assert torch.backends.cuda.matmul.allow_tf32 == (inside == "tf32")  # and so does this
    assert products() == before


def of_a_backend():
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def older():
    torch.set_float32_matmul_precision("medium")


@pytest.mark.parametrize("choose", [of_a_backend, older])
def test_what_a_script_chose_neither_matters_inside_nor_is_lost(restored, choose):
    choose()
    before = products()
    for tf32, inside in ((False, "ieee"), (True, "tf32")):
        with pytest.raises(ZeroDivisionError), fp32_products(tf32, CUDA):
            assert torch.backends.cuda.matmul.fp32_precision == inside
            raise ZeroDivisionError
        assert products() == before


def settings():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.backends.cuda.cudnn_sdp_enabled(),
    )


def test_deterministic_algorithms_for_a_while():
    before = settings()
    with deterministic_algorithms(False):
        assert settings() == before
    with deterministic_algorithms(True):
        assert settings() == (True, False, False, False, False)
        # The two kernels of attention that torch may still choose on a GPU are deterministic in this mode.
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert settings() == before


def test_a_scripts_own_choice_of_deterministic_algorithms_is_kept():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = settings()
        with deterministic_algorithms(False):
            assert settings() == before
        with pytest.raises(ZeroDivisionError), deterministic_algorithms(True):
            raise ZeroDivisionError
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def cuda(monkeypatch):
    """A CUDA that is there, and has started or not."""

    def call(started):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)

    monkeypatch.setattr(numerics, "_cublas_is_prepared", False)
    with mock.patch.dict(os.environ):
        for name in (CUBLAS, NCCL):
            os.environ.pop(name, None)
        yield call


def told():
    return os.environ.get(CUBLAS), os.environ.get(NCCL)


def test_cublas_and_nccl_are_told_before_cuda_starts(cuda):
    cuda(started=False)
    prepare_deterministic(False)
    assert told() == (None, None)
    prepare_deterministic(True)
    assert told() == (":4096:8", "^NVLS,NVLSTree")


def test_what_the_environment_says_of_cublas_and_nccl_stays(cuda):
    cuda(started=True)
    os.environ.update({CUBLAS: ":16:8", NCCL: "Ring"})
    prepare_deterministic(True)
    assert told() == (":16:8", "Ring")


def test_a_second_training_in_the_same_process(cuda):
    cuda(started=False)
    prepare_deterministic(True)
    del os.environ[CUBLAS], os.environ[NCCL]  # as `gpt2dist.train` does at its end
    cuda(started=True)
    prepare_deterministic(True)
    assert told() == (":4096:8", "^NVLS,NVLSTree")


def test_cuda_that_has_started_otherwise(cuda):
    cuda(started=True)
    message = (
        r"run\.deterministic: CUDA has already started in this process without "
        r"CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8, .*; set it before the process uses the GPU, or set "
    )
    with pytest.raises(UserError, match=message):
        prepare_deterministic(True)
    assert told() == (None, None)


@pytest.mark.parametrize("started", [False, True])
def test_another_workspace_of_cublas(cuda, started):
    cuda(started)
    os.environ[CUBLAS] = ":0:0"
    message = (
        r"run\.deterministic: CUBLAS_WORKSPACE_CONFIG is :0:0, with which cuBLAS is not deterministic; unset it, "
        r"set CUBLAS_WORKSPACE_CONFIG=:4096:8 or :16:8, or set run\.deterministic to false"
    )
    with pytest.raises(UserError, match=message):
        prepare_deterministic(True)


def test_without_a_gpu_there_is_nothing_to_prepare(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepare_deterministic(True)
    assert told() == (None, None)

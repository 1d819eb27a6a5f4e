"""Which GPU a rank uses, where CUDA and the other ranks are played."""

import os
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from gpt2dist.distributed import deepspeed_import, gpu
from gpt2dist.distributed.world import World, join, leave
from gpt2dist.errors import RankUserError, UserError

CUDA = torch.device("cuda", 0)


def show(monkeypatch, count, uuid="GPU-1"):
    """Make this process see GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=uuid))


@pytest.mark.parametrize(
    ("visible", "local_rank", "number"),
    [(8, 0, 0), (8, 7, 7), (1, 0, 0), (1, 3, 0)],  # the last: srun --gpus-per-task=1
)
def test_the_gpu_of_a_rank(monkeypatch, visible, local_rank, number):
    show(monkeypatch, visible)
    assert gpu.own_gpu(local_rank) == torch.device("cuda", number)


def test_more_processes_than_gpus(monkeypatch):
    show(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    said = r"local rank 2 has no GPU: this process sees 2; start one process per GPU, or show each"
    with pytest.raises(RankUserError, match=said):
        join()


def test_a_process_that_sees_one_gpu_uses_it_whatever_its_rank(monkeypatch):
    show(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    used = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **kwargs: None)
    assert join() == World(0, 3, 1, CUDA)
    assert used == [CUDA]
    leave()


HERE = socket.gethostname()


@pytest.mark.parametrize(
    "others",
    [
        [(HERE, "GPU-2"), (HERE, "GPU-3")],
        [(HERE, "MIG-2"), ("elsewhere", "GPU-1")],
    ],
)
def test_ranks_with_a_gpu_each(monkeypatch, others):
    show(monkeypatch, 1)
    gpu.require_own_gpus(CUDA, lambda mine: [mine, *others])


def test_ranks_that_share_a_gpu_are_told_which(monkeypatch):
    show(monkeypatch, 1, uuid="MIG-7")
    said = (
        rf"ranks 1 and 3 share the GPU MIG-7 of {HERE}; start at most one process per GPU\. "
        r"A process can use one MIG instance: set CUDA_VISIBLE_DEVICES of each to its own"
    )
    with pytest.raises(UserError, match=said):
        gpu.require_own_gpus(CUDA, lambda mine: [(HERE, "MIG-6"), mine, (HERE, "MIG-8"), mine])


def test_emulated_bf16_does_not_count(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: asked.append(1))
    gpu.supports_bf16()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert asked and not gpu.supports_bf16()
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # a torch without that parameter
    assert gpu.supports_bf16()


class Nvml(SimpleNamespace):
    """NVML on a host with one GPU, which knows no UUIDs here."""

    NVMLError = OSError

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByIndex(self, number):
        raise AssertionError("asked for a GPU by its number")


@pytest.mark.parametrize("visible", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-1,MIG-2", "3,4"])
def test_deepspeed_learns_the_free_memory_whatever_the_gpus_are_called(monkeypatch, visible):
    from deepspeed.accelerator import cuda_accelerator

    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    monkeypatch.setattr(cuda_accelerator, "pynvml", None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5, 9))
    with pytest.raises((ValueError, AssertionError)):  # else this class is no longer needed
        cuda_accelerator.CUDA_Accelerator().available_memory()
    assert deepspeed_import.Accelerator().available_memory() == 5


@pytest.fixture
def accelerator():
    from deepspeed.accelerator import real_accelerator

    kept = real_accelerator.ds_accelerator
    yield real_accelerator
    real_accelerator.ds_accelerator = kept


def test_deepspeed_uses_the_gpu_of_the_rank(monkeypatch, accelerator):
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

    accelerator.set_accelerator(CUDA_Accelerator())
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    for name in ("LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("LOCAL_SIZE", "4")
    deepspeed_import.start_quietly(World(3, 3, 4, CUDA))
    assert type(accelerator.get_accelerator()) is deepspeed_import.Accelerator
    assert os.environ["LOCAL_RANK"] == os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] == "0"
    deepspeed_import.start_quietly(World(3, 3, 4, torch.device("cpu")))
    assert os.environ["LOCAL_RANK"] == "0"

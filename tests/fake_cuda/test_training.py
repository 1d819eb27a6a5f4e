"""What a run asks of a GPU besides the passes of the model: pinned memory, copies, waits, and its memory."""

import contextlib
import gc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from gpt2dist.checkpoint.parts import make_parts
from gpt2dist.checkpoint.store import CheckpointStore
from gpt2dist.checkpoint.whole_state import Unpartitioned, saved_shape
from gpt2dist.config import Config
from gpt2dist.distributed.world import World
from gpt2dist.loading.loader import MicroBatch
from gpt2dist.model.gpt2 import LanguageModel
from gpt2dist.model.shape import Shape
from gpt2dist.monitoring.meter import Meter
from gpt2dist.monitoring.profile import Profile
from gpt2dist.training import verify_resume
from gpt2dist.training.engine import Engine
from gpt2dist.training.setup import device_peak_flops, summary
from tests.support.fake_cuda import CUDA, mock_driver, on_fake_cuda

WORLD = World(0, 0, 1, CUDA)
SHAPE = Shape(n_layer=2, n_head=4, n_embd=32, context_length=40, vocab_size=100)
END = 99


def engine(**options):
    """What `Engine` is when DeepSpeed has started, as far as micro-batches go."""
    made = object.__new__(Engine)
    model = on_fake_cuda(lambda: LanguageModel(SHAPE, END, **options), torch.bfloat16)
    made.world, made._engine = WORLD, lambda method: method(model)

    def borders(tokens):
        assert tokens.device.type == "cpu"
        with _disable_current_modes():  # they depend on the values
            return model.borders(torch.from_numpy(micro_batch().tokens))

    made._borders = borders
    return made


def micro_batch():
    tokens = np.full((2, 41), 5, np.uint16)
    tokens[0, 7] = tokens[1, 0] = END
    return MicroBatch(tokens, np.zeros(2, np.int64), np.full(2, 40, np.int64))


@contextlib.contextmanager
def noted(calls, name):
    calls.append(f"{name} begins")
    yield
    calls.append(f"{name} ends")


@pytest.fixture
def current(device, monkeypatch):
    """Notes of `torch.cuda.device`, which makes a GPU the current one."""
    monkeypatch.setattr(torch.cuda, "device", lambda which: noted(device.calls, which))


@pytest.mark.parametrize("isolate", [False, True])
def test_micro_batches_are_pinned_on_the_ranks_gpu_and_copied_without_waiting(device, current, isolate):
    """The thread that stages them has another current GPU, on which pinning would start CUDA."""
    running = engine(isolate=isolate, attention="varlen")
    borders = ["int32 [5]"] * isolate  # three documents, rounded up to four
    device.calls.clear()
    staged = running.stage(micro_batch())
    parts = ["uint16 [2, 41]", "int64 [2]", "int64 [2]", *borders]
    assert device.calls == ["cuda:0 begins", *(f"pin {part}" for part in parts), "cuda:0 ends"]
    device.calls.clear()
    running._loss(staged)
    assert device.calls == [f"copy {part} to the device, pinned without waiting" for part in parts]


def test_each_micro_batch_has_pinned_memory_of_its_own(device, current):
    """A copy may still be under way when the next micro-batch is staged."""
    running = engine()
    first, second = running.stage(micro_batch()), running.stage(micro_batch())
    assert all(a is not b for a, b in zip(first, second, strict=True)) and len(device.pinned) == 6


class State(Unpartitioned):
    """The state of a run, as `PartitionedState` gives it: the embedding and a bias, on the device."""

    parameters = ("transformer.wte.weight", "transformer.ln_f.bias")

    def link(self):
        pass

    def shape_of(self, name):
        return torch.Size((128, 32) if "wte" in name else (32,))

    def state_names(self, name):
        return ("exp_avg",)

    def gather(self, name):
        return {key: torch.empty(self.shape_of(name), device=CUDA) for key in ("param", *self.state_names(name))}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path, WORLD, 1, None, 100, lambda directory: None)


def snapshot(device, store, state):
    """What a snapshot of all parameters returns, and what it asks of the device."""
    device.calls.clear()
    with mock_driver(device.calls, synchronize=None):
        taken = store._snapshot.take(state, parts(store.vocab_size))
    return {f"{piece.key}.{piece.name}": tensor for piece, tensor in taken.items()}, list(device.calls)


def parts(vocab_size):
    shapes = {name: saved_shape(name, State().shape_of(name), vocab_size) for name in State.parameters}
    return make_parts(shapes, dict.fromkeys(shapes, ("exp_avg",)), 1)


def test_a_snapshot_overlaps_its_copies_and_waits_once_for_them_all(device, store):
    taken, calls = snapshot(device, store, State())
    assert {name: list(tensor.shape) for name, tensor in taken.items()} == {
        "param.transformer.wte.weight": [100, 32],  # without the padding
        "exp_avg.transformer.wte.weight": [100, 32],
        "param.transformer.ln_f.bias": [32],
        "exp_avg.transformer.ln_f.bias": [32],
    }
    assert all(tensor.device.type == "cpu" and device.is_pinned(tensor) for tensor in taken.values())
    copies = [f"copy float32 [{size}] to the host, pinned without waiting" for size in (3200, 32)]
    assert [call for call in calls if not call.startswith("pin")] == [
        *(copies * 2),
        "synchronize(cuda:0)",
    ]
    assert calls[0].startswith("pin float32")


def test_the_next_snapshot_uses_the_pinned_memory_again(device, store):
    first, _ = snapshot(device, store, State())
    second, calls = snapshot(device, store, State())
    assert all(second[name] is tensor for name, tensor in first.items())
    assert [call.split()[0] for call in calls] == ["copy"] * 4 + ["synchronize(cuda:0)"]


def test_memory_of_another_shape_is_pinned_again(device, store):
    first, _ = snapshot(device, store, State())
    store.vocab_size = 90
    second, calls = snapshot(device, store, State())
    assert second["param.transformer.wte.weight"].shape == (90, 32) != first["param.transformer.wte.weight"].shape
    assert calls[0].startswith("pin") and all(device.is_pinned(tensor) for tensor in second.values())


def test_a_rank_that_writes_nothing_gathers_and_copies_nothing(device, store):
    with mock_driver(device.calls, synchronize=None):
        assert store._snapshot.take(State(), []) == {}
    assert device.calls == ["synchronize(cuda:0)"]


def test_the_peak_memory_is_that_of_the_gpu():
    calls = []
    with mock_driver(calls, max_memory_allocated=3 * 2**30):
        assert Meter(WORLD, flops_per_token=1, peak_flops=None)._peak_memory() == 3 * 2**30
    assert len(calls) == 1


def test_the_peak_flops_are_those_of_the_gpus_name():
    calls = []
    with mock_driver(calls, get_device_name="NVIDIA H100 80GB HBM3"):
        assert device_peak_flops(Config(precision="bf16"), WORLD) == 989e12
    assert calls == ["get_device_name(cuda:0)"]


def test_the_summary_names_the_device():
    plan = SimpleNamespace(
        datasets=[SimpleNamespace(name="a")], epochs=lambda each: 1.0, shape=SHAPE, total_steps=3, accumulation=1,
        sequence_length=40, stride=20,
    )  # fmt: skip
    assert ", on cuda; writing " in summary(Config(), plan, WORLD)


@pytest.mark.parametrize(("gpu", "activities"), [(True, ["CPU", "CUDA"]), (False, ["CPU"])])
def test_a_trace_has_the_kernels_of_the_gpu(monkeypatch, tmp_path, gpu, activities):
    given = []

    class Profiler:
        def __init__(self, activities, **options):
            given.extend(each.name for each in activities)

        def start(self):
            pass

        stop = step = start

    monkeypatch.setattr("gpt2dist.monitoring.profile.profiler.profile", Profiler)
    with mock_driver([], is_available=gpu), Profile(tmp_path / "trace", range(2, 4)) as profile:
        profile._begin(warmup=1)
    assert given == activities


def test_verify_resume_frees_the_memory_of_each_training(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(verify_resume, "train", lambda *args: calls.append("train"))
    monkeypatch.setattr(verify_resume, "_differences", lambda *args: [])
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collect"))
    config, plan = Config(run={"output_dir": tmp_path}), SimpleNamespace(total_steps=4)
    with mock_driver(calls, empty_cache=None):
        verify_resume.verify_resume(config, plan, WORLD, 2)
    trainings = calls.count("train")
    assert trainings >= 3 and calls == ["train", "collect", "empty_cache()"] * trainings

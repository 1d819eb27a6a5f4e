"""Every place in the package that treats a GPU in another way than a CPU is tested with a stand-in for a GPU.

`TESTED` lists them. A new place fails until it has an entry here, and a test of what it asks of the device.
"""

import ast
import re
from collections.abc import Iterator

from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "gpt2dist"
MODULES = ("torch.cuda.", "torch.accelerator.", "torch.backends.cuda.")
WORDS = {
    *("pin_memory", "is_pinned", "non_blocking", "is_cuda", "get_accelerator"),
    *("synchronize", "record_stream", "wait_stream", "current_stream", "wait_event"),
}

MODEL = "fake_cuda/test_model.py"
TRAINING = "fake_cuda/test_training.py"
DEVICES = "fake_cuda/test_devices.py"
REQUIREMENTS = "unit/model/test_requirements.py"
VERIFY_RESUME = "unit/training/test_verify_resume.py"
GPU = "unit/distributed/test_gpu.py"
NUMERICS = "unit/model/test_numerics.py"
METER = "unit/monitoring/test_meter.py"
REFUSALS = "distributed/test_refusals.py"
TESTED = {
    "checkpoint/pinned.py HostTensors.get": (
        "pin_memory",
        "unit/checkpoint/test_pinned.py test_pinned_tensors_share_blocks_which_are_reused",
    ),
    "checkpoint/snapshot.py Snapshot.__init__": (
        "is cuda",
        f"{TRAINING} test_the_next_snapshot_uses_the_pinned_memory_again",
    ),
    "checkpoint/snapshot.py Snapshot._copy": (
        "non_blocking, is cuda",
        f"{TRAINING} test_the_next_snapshot_uses_the_pinned_memory_again",
    ),
    "checkpoint/snapshot.py Snapshot.take": (
        "torch.cuda.synchronize",
        f"{TRAINING} test_a_snapshot_overlaps_its_copies_and_waits_once_for_them_all",
    ),
    "commands/launch.py _gpus": (
        "torch.cuda.device_count",
        f"{DEVICES} test_launch_starts_a_rank_per_gpu",
    ),
    "distributed/deepspeed_import.py": (
        "torch.cuda.is_available",
        f"{DEVICES} test_deepspeed_finds_the_gpu_by_itself",
    ),
    "distributed/deepspeed_import.py Accelerator.available_memory": (
        "torch.cuda.mem_get_info",
        f"{GPU} test_deepspeed_learns_the_free_memory_whatever_the_gpus_are_called",
    ),
    "distributed/deepspeed_import.py start_quietly": (
        "is cuda",
        f"{GPU} test_deepspeed_uses_the_gpu_of_the_rank",
    ),
    "distributed/fabric.py load_of": (
        "device.type",
        f"{DEVICES} test_the_fabric_check_gives_a_gpu_more_to_do_and_compares_its_versions",
    ),
    "distributed/fabric.py versions": (
        "torch.cuda.is_available, torch.cuda.get_device_name, torch.cuda.nccl.version, torch.cuda.nccl",
        f"{DEVICES} test_the_fabric_check_gives_a_gpu_more_to_do_and_compares_its_versions",
    ),
    "distributed/gpu.py own_gpu": (
        "torch.cuda.device_count, names cuda",
        f"{GPU} test_the_gpu_of_a_rank",
    ),
    "distributed/gpu.py require_own_gpus": (
        "torch.cuda.get_device_properties",
        f"{GPU} test_ranks_that_share_a_gpu_are_told_which",
    ),
    "distributed/gpu.py supports_bf16": (
        "torch.cuda.is_bf16_supported",
        f"{GPU} test_emulated_bf16_does_not_count",
    ),
    "distributed/world.py World.device_bytes": (
        "is cuda, torch.cuda.get_device_properties",
        f"{DEVICES} test_the_memory_of_a_rank_is_that_of_its_gpu",
    ),
    "distributed/world.py join": (
        "torch.cuda.is_available, torch.cuda.set_device, is cuda, is cuda",
        f"{DEVICES} test_a_rank_takes_the_gpu_of_its_local_rank",
    ),
    "evaluation/model_forward.py load_model": (
        "is cpu",
        f"{DEVICES} test_only_a_cpu_evaluates_with_onednn",
    ),
    "evaluation/model_forward.py require_dtype": (
        "is cuda, torch.cuda.get_device_name, is cuda, torch.cuda.get_device_capability, is cuda",
        "unit/evaluation/test_model_forward.py test_a_dtype_that_a_device_lacks",
    ),
    "evaluation/model_forward.py require_dtype_of_host": (
        "torch.cuda.is_available",
        "unit/evaluation/test_model_forward.py test_the_host_decides_only_without_a_gpu",
    ),
    "generation/continuations.py load_generator": (
        "names cuda, torch.cuda.is_available",
        f"{DEVICES} test_texts_are_generated_on_the_gpu",
    ),
    "model/gpt2.py _eager": (
        "device.type",
        f"{MODEL} test_under_autocast_eager_attention_has_an_fp32_softmax",
    ),
    "model/lm_head.py Head._in_chunks": (
        "is cpu",
        f"{MODEL} test_auto_is_chunked_where_a_batch_is_more_than_a_chunk",
    ),
    "model/loss.py _add_product": (
        "is cuda",
        f"{MODEL} test_products_of_16_bits_are_summed_in_fp32",
    ),
    "model/loss.py chunked_nll": (
        "device.type",
        f"{MODEL} test_under_autocast_products_are_in_16_bits_and_the_loss_is_not",
    ),
    "model/numerics.py deterministic_algorithms": (
        "torch.backends.cuda.cudnn_sdp_enabled, "
        "torch.backends.cuda.enable_cudnn_sdp, torch.backends.cuda.enable_cudnn_sdp",
        f"{NUMERICS} test_deterministic_algorithms_for_a_while",
    ),
    "model/numerics.py fp32_products": (
        "torch.backends.cuda.matmul, names cuda, is cuda",
        f"{NUMERICS} test_products_without_a_warning_or_a_contradiction_of_torchs_two_settings",
    ),
    "model/numerics.py prepare_deterministic": (
        "torch.cuda.is_available, torch.cuda.is_initialized",
        f"{NUMERICS} test_cuda_that_has_started_otherwise",
    ),
    "model/requirements.py require_compiler": (
        "is cuda",
        f"{REQUIREMENTS} test_a_gpu_without_triton",
    ),
    "model/requirements.py require_flash_attention": (
        "is cuda, device.type",
        f"{REQUIREMENTS} test_flash_attention_with_and_without_its_package",
    ),
    "model/requirements.py require_varlen": (
        "is cuda, device.type, "
        "torch.backends.cuda.is_flash_attention_available, torch.cuda.get_device_capability",
        f"{REQUIREMENTS} test_varlen_needs_a_gpu_of_ampere_or_newer_and_a_torch_with_flash_attention",
    ),
    "monitoring/meter.py GpuClock.mark": (
        "torch.cuda.Event, torch.cuda.Event",
        f"{METER} test_a_gpu_is_timed_by_events_in_its_queue",
    ),
    "monitoring/meter.py GpuClock.seconds": (
        "torch.cuda.Event, torch.cuda.Event, synchronize",
        f"{METER} test_a_gpu_is_timed_by_events_in_its_queue",
    ),
    "monitoring/meter.py Meter.__init__": (
        "is cuda",
        f"{METER} test_a_gpu_is_timed_by_events_in_its_queue",
    ),
    "monitoring/meter.py Meter._peak_memory": (
        "is cuda, torch.cuda.max_memory_allocated",
        f"{TRAINING} test_the_peak_memory_is_that_of_the_gpu",
    ),
    "monitoring/profile.py Profile._begin": (
        "torch.cuda.is_available",
        f"{TRAINING} test_a_trace_has_the_kernels_of_the_gpu",
    ),
    "publishing/exporter.py export": (
        "names cuda, torch.cuda.is_available",
        f"{DEVICES} test_an_export_is_compared_on_the_gpu",
    ),
    "run/environment.py describe": (
        "torch.cuda.is_available, torch.cuda.get_device_name",
        f"{DEVICES} test_the_environment_of_a_run_names_the_gpu",
    ),
    "quickstart/pipeline.py print_devices": (
        "torch.cuda.device_count",
        f"{DEVICES} test_the_quickstart_counts_gpus_and_asks_one_for_bf16",
    ),
    "training/deepspeed_config.py _ours": (
        "pin_memory",
        "unit/training/test_deepspeed_config.py test_offloaded_state_is_in_pinned_memory",
    ),
    "training/engine.py Engine._loss": (
        "non_blocking",
        f"{TRAINING} test_micro_batches_are_pinned_on_the_ranks_gpu_and_copied_without_waiting",
    ),
    "training/engine.py Engine.stage": (
        "is cuda, torch.cuda.device, pin_memory",
        f"{TRAINING} test_each_micro_batch_has_pinned_memory_of_its_own",
    ),
    "training/engine.py _check_precision": (
        "get_accelerator, device.type, is cuda",
        f"{REFUSALS} test_bf16_on_a_gpu_that_only_emulates_it",
    ),
    "training/setup.py device_peak_flops": (
        "is cuda, torch.cuda.get_device_name",
        f"{TRAINING} test_the_peak_flops_are_those_of_the_gpus_name",
    ),
    "training/setup.py summary": (
        "is cuda, device.type",
        f"{TRAINING} test_the_summary_names_the_device",
    ),
    "training/verify_resume.py _not_deterministic": (
        "is cuda, torch.cuda.get_device_name",
        f"{VERIFY_RESUME} test_a_gpu_that_does_not_repeat_its_results_is_named_and_no_resume_is_blamed",
    ),
    "training/verify_resume.py verify_resume": (
        "is cpu",
        f"{VERIFY_RESUME} test_where_results_repeat_an_equal_resume_needs_no_second_training",
    ),
    "training/verify_resume.py verify_resume.train_to": (
        "is cuda, torch.cuda.empty_cache",
        f"{TRAINING} test_verify_resume_frees_the_memory_of_each_training",
    ),
}
"""A place, as file and function → what it asks about or of a device, in order; and the test of it."""


def nodes(node: ast.AST, function: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yields each node below a node in the order of the text, with the function or class around it."""
    for child in sorted(ast.iter_child_nodes(node), key=lambda each: getattr(each, "lineno", 0)):
        inner = isinstance(child, ast.FunctionDef | ast.ClassDef)
        around = f"{function}.{child.name}".lstrip(".") if inner else function
        yield around, child
        if not asked(child).startswith("is "):  # of which "device.type" is a part
            yield from nodes(child, around)


def asked(node: ast.AST) -> str:
    """What a node asks about or of a device; empty for most nodes."""
    text = ast.unparse(node) if isinstance(node, ast.Compare | ast.Attribute) else ""
    if isinstance(node, ast.Compare):
        kind = re.search(r"'(cuda|cpu)\b", text)
        return f"is {kind[1]}" if kind and (kind[1] == "cuda" or "device" in text) else ""
    if isinstance(node, ast.Call):
        given = [each.value for part in node.args for each in ast.walk(part) if isinstance(each, ast.Constant)]
        return "names cuda" if any(re.match("cuda", str(each)) for each in given) else ""
    if isinstance(node, ast.Attribute):
        if text.startswith(MODULES):
            return text if re.fullmatch(r"[\w.]+", text) else ""
        if node.attr == "cuda" and text not in ("torch.cuda", "torch.backends.cuda", "torch.version.cuda"):
            return "cuda"
        return "device.type" if text.endswith("device.type") else node.attr if node.attr in WORDS else ""
    word = node.arg if isinstance(node, ast.keyword) else node.value if isinstance(node, ast.Constant) else ""
    return word if isinstance(word, str) and word in WORDS else ""


def places_in(source: str) -> dict[str, str]:
    """The functions in a source that ask about a device → what they ask."""
    found: dict[str, list[str]] = {}
    for function, node in nodes(ast.parse(source)):
        if what := asked(node):
            found.setdefault(function, []).append(what)
    return {function: ", ".join(whats) for function, whats in found.items()}


def test_every_place_that_knows_a_gpu_has_a_test():
    found = {
        f"{path.relative_to(PACKAGE)} {function}".strip(): what
        for path in PACKAGE.rglob("*.py")
        for function, what in places_in(path.read_text(encoding="utf-8")).items()
    }
    assert found == {place: what for place, (what, _) in TESTED.items()}


def test_the_tests_exist():
    for _, test in TESTED.values():
        file, name = test.split()
        tree = ast.parse((REPOSITORY / "tests" / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


BRANCHES = {
    "if tensor.is_cuda: pass": "is_cuda",
    "if device.type == 'cuda': pass": "is cuda",
    "if device != torch.device('cuda'): pass": "is cuda",
    "if 'cuda:0' == str(device): pass": "is cuda",
    "if str(device) == 'cuda:0': pass": "is cuda",
    "kind = world.device.type": "device.type",
    "tensor.to('cuda:1')": "names cuda",
    "tensor.cuda()": "cuda",
    "if place == 'cpu': pass": "",  # of an offload
    "if hidden.device.type == 'cpu': pass": "is cpu",
    "torch.cuda.Stream()": "torch.cuda.Stream",
    "torch.accelerator.synchronize()": "torch.accelerator.synchronize",
    "torch.empty(3, pin_memory=True)": "pin_memory",
    "x.copy_(y, non_blocking=is_pinned)": "non_blocking",
    "event.synchronize()": "synchronize",
    "stream.read(); read('cpu')": "",
}


def test_branches_are_found_in_every_form():
    assert {source: places_in(source).get("", "") for source in BRANCHES} == BRANCHES

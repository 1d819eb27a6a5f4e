"""Saving with several ranks, failures on the way, and what else may lie in the directory."""

import errno
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from gpt2dist import atomic_io
from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint import store as store_module
from gpt2dist.checkpoint.parts import PART_BYTES, PartBytes
from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError
from gpt2dist.model.shape import Shape
from tests.support.stores import CPU, SHAPE, SMALL, ModelState, ThreadWorld, names, store_of, trainer_state


@pytest.fixture
def store(tmp_path):
    return store_of(tmp_path, World(0, 0, 1, CPU))


def save_on_ranks(directory, ranks, step, part_bytes=SMALL, shape=SHAPE):
    """Saves with one thread per rank; returns what each rank returned or raised."""
    board, meet = {}, threading.Barrier(ranks)

    def save(rank):
        world = ThreadWorld(rank, rank, ranks, CPU, board, meet)
        store = store_of(directory, world, part_bytes=part_bytes, shape=shape)
        try:
            return store.save(ModelState(shape), trainer_state(step))
        except RunError as error:
            return error

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(save, range(ranks)))


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("ranks", [1, 3])
def test_transformers_reads_a_checkpoint_of_any_number_of_ranks(tmp_path, ranks):
    path = save_on_ranks(tmp_path, ranks, 7)[0]
    assert store_of(tmp_path, World(0, 0, 1, CPU)).fault(path) == ""
    assert len(list(path.glob("model-*.safetensors"))) == len(list(path.glob("optimizer-*.safetensors"))) == ranks
    model = GPT2LMHeadModel.from_pretrained(path)
    state = ModelState()
    assert model.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, state.parameters[name][: len(parameter)])
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("ranks", [1, 3])
def test_parts_of_a_mebibyte_are_a_hugging_face_directory_and_load_again(tmp_path, ranks):
    """Of 5 MiB of weights, no file exceeds 1 MiB but for a larger tensor, and no weight is cut."""
    mebibyte = 2**20
    large = Shape(2, 2, 192, 64, 2000)
    path = save_on_ranks(tmp_path, ranks, 7, PartBytes(mebibyte, mebibyte), large)[0]
    model_files, optimizer_files = (sorted(path.glob(f"{kind}-*")) for kind in ("model", "optimizer"))
    assert len(model_files) >= 4 and len(optimizer_files) >= 10
    for file in model_files:
        assert file.stat().st_size < mebibyte + 2000 or len(load_file(file)) == 1
    assert all(file.stat().st_size < mebibyte + 4000 for file in optimizer_files)
    expected, state = ModelState(large), ModelState(large, seed=1)
    model = GPT2LMHeadModel.from_pretrained(path)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.parameters[name][: len(parameter)])
    assert sum(len(load_file(file)) for file in model_files) == len(expected.parameters)
    alone = store_of(tmp_path, World(0, 0, 1, CPU), shape=large)
    assert alone.fault(path) == "" and alone.load(path, state) == trainer_state(7)
    for name in expected.parameters:
        for key, tensor in expected.gather(name).items():
            assert torch.equal(state.loaded[name][key][:2000], tensor[:2000])


def test_a_small_model_has_one_file_of_each_kind_on_any_number_of_ranks(tmp_path):
    path = save_on_ranks(tmp_path, 3, 7, PART_BYTES)[0]
    assert [file.name for file in sorted(path.glob("*.safetensors"))] == [
        "model-00001-of-00001.safetensors",
        "optimizer-00001-of-00001.safetensors",
    ]


def test_each_tensor_is_in_one_file_the_one_that_the_index_names(tmp_path):
    path = save_on_ranks(tmp_path, 3, 7)[0]
    index = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
    found = [(name, file.name) for file in path.glob("model-*.safetensors") for name in load_file(file)]
    assert sorted(found) == sorted(index.items())


def test_what_was_saved_by_three_ranks_loads_on_one(tmp_path, store):
    path = save_on_ranks(tmp_path, 3, 7)[0]
    state, expected = ModelState(seed=1), ModelState()
    assert store.load(path, state) == trainer_state(7)
    for name in expected.parameters:
        for key, tensor in expected.gather(name).items():
            assert torch.equal(state.loaded[name][key], tensor)


def test_a_rank_that_cannot_write_stops_all_of_them(tmp_path, monkeypatch):
    original = store_module.write_tensors
    monkeypatch.setattr(
        store_module,
        "write_tensors",
        lambda path, tensors: (full_disk if "2-of" in path.name else original)(path, tensors),
    )
    outcomes = save_on_ranks(tmp_path, 3, 7)
    assert [str(error) for error in outcomes] == [
        "saving step-00000007 failed: rank 1: OSError: [Errno 28] No space left on device; "
        f"free disk space or repair {tmp_path}, and start again: the run resumes from the newest complete "
        "checkpoint there"
    ] * 3
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("module", "function"),
    [(atomic_io, "write_json"), (atomic_io, "sync"), (manifest, "seal"), (manifest, "write")],
)
def test_no_failure_of_rank_0_makes_the_others_wait(tmp_path, monkeypatch, module, function):
    monkeypatch.setattr(module, function, full_disk)
    assert all("rank 0: OSError" in str(error) for error in save_on_ranks(tmp_path, 2, 7))
    assert names(tmp_path) == []


def test_a_directory_that_cannot_be_made_stops_all_of_them(tmp_path):
    (tmp_path / "checkpoints").write_text("a file in the way")
    outcomes = save_on_ranks(tmp_path / "checkpoints", 2, 7)
    assert all("rank 0: NotADirectoryError" in str(error) for error in outcomes)


def test_a_failed_commit_leaves_the_older_checkpoint_in_force(store, monkeypatch):
    older = store.save(ModelState(), trainer_state(10))
    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(RunError, match="No space left"):
        store.save(ModelState(), trainer_state(20))
    assert names(store.directory) == ["latest", "saved", "step-00000010"]
    assert store.newest() == (older, [])


def test_a_save_that_fails_behind_its_commit_is_there_all_the_same(store, monkeypatch):
    store.save(ModelState(), trainer_state(10))
    write_text = atomic_io.write_text
    monkeypatch.setattr(
        atomic_io,
        "write_text",
        lambda path, text: (full_disk if path.name == "latest" else write_text)(path, text),
    )
    with pytest.raises(
        RunError, match=r"saving step-00000020 failed: .* resumes from the newest complete checkpoint"
    ):
        store.save(ModelState(), trainer_state(20))
    assert store.newest() == (store.directory / "step-00000020", [])


def test_a_save_after_a_return_to_an_older_checkpoint_is_not_pruned_for_it(store):
    for step in (10, 20, 30, 40):
        store.save(ModelState(), trainer_state(step))
    saved = store.save(ModelState(), trainer_state(15))  # resumed from somewhere before 15
    assert store.fault(saved) == ""
    assert (store.directory / "latest").read_text() == "step-00000015\n"
    assert names(store.directory) == ["latest", "saved", "step-00000015", "step-00000030", "step-00000040"]


def test_a_checkpoint_in_the_way_of_its_successor_is_replaced(store):
    (store.save(ModelState(), trainer_state(10)) / "trainer_state.json").write_text("damaged")
    again = store.save(ModelState(), trainer_state(10))
    assert store.newest() == (again, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"context_length": 16},
            r"transformer\.wpe\.weight has the shape \[8, 16\], but \[16, 16\] in the model",
        ),
        ({"n_layer": 1}, r"has a tensor transformer\.h\.1\.attn\.c_attn\.bias, which the model does not have"),
        ({"n_layer": 3}, r"no tensor transformer\.h\.2\.ln_1\.weight"),
    ],
)
def test_a_model_section_that_changed_is_refused(store, change, message):
    path = store.save(ModelState(), trainer_state(10))
    other = Shape(**{**SHAPE.__dict__, **change})
    with pytest.raises(UserError, match=message):
        store.load(path, ModelState(other))


def test_a_file_that_the_disk_no_longer_gives_back_is_damage(store, monkeypatch):
    path = store.save(ModelState(), trainer_state(10))

    def unreadable(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(atomic_io, "sha256_of", unreadable)
    assert re.search(r"cannot be read \(.*Input/output error", store.fault(path))


@pytest.mark.parametrize(
    "manifest",
    ["[]", '{"format_version": 3, "files": ["a"]}', '{"format_version": 3, "files": {"a": {}}}', "\xff"],
)
def test_a_manifest_of_another_make_is_damage(store, tmp_path, manifest):
    (tmp_path / "manifest.json").write_bytes(manifest.encode("latin-1"))
    assert store.fault(tmp_path).startswith("its manifest.json cannot be read")

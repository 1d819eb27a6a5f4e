"""Who reads what when a checkpoint is checked, with ranks that are threads on two hosts."""

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpt2dist import atomic_io
from gpt2dist.checkpoint import manifest
from gpt2dist.checkpoint.shared_hashing import find_fault, require_whole_model
from gpt2dist.distributed.world import World
from gpt2dist.errors import UserError
from tests.support.stores import CPU, ModelState, ThreadWorld, store_of, trainer_state

HOSTS = "aabb"


@pytest.fixture
def checkpoint(tmp_path):
    return store_of(tmp_path, World(0, 0, 1, CPU)).save(ModelState(), trainer_state(7))


@pytest.fixture
def on_ranks(monkeypatch):
    """Runs a function on four ranks; returns what each returned or raised, and who read which file."""
    place, seen = threading.local(), {"manifest": [], "hashed": []}
    read, digest = manifest.read, atomic_io.sha256_of
    monkeypatch.setattr(socket, "gethostname", lambda: HOSTS[place.rank])

    def noting_read(*args):
        seen["manifest"].append(place.rank)
        return read(*args)

    def noting_digest(path):
        seen["hashed"].append((HOSTS[place.rank], path.name))
        return digest(path)

    monkeypatch.setattr(manifest, "read", noting_read)
    monkeypatch.setattr(atomic_io, "sha256_of", noting_digest)

    def run(function):
        board, meet = {}, threading.Barrier(len(HOSTS))

        def rank(number):
            place.rank = number
            world = ThreadWorld(number, HOSTS[:number].count(HOSTS[number]), len(HOSTS), CPU, board, meet)
            try:
                return function(world)
            except UserError as error:
                return str(error)

        with ThreadPoolExecutor(len(HOSTS)) as pool:
            return list(pool.map(rank, range(len(HOSTS)))), seen

    return run


def listed(checkpoint):
    return sorted(json.loads((checkpoint / "manifest.json").read_text())["files"])


def test_each_file_is_hashed_once_and_each_host_reads_the_manifest_once(checkpoint, on_ranks):
    faults, seen = on_ranks(lambda world: find_fault(checkpoint, world))
    assert faults == [""] * 4
    assert sorted(seen["manifest"]) == [0, 2]
    assert sorted(name for _, name in seen["hashed"]) == listed(checkpoint)


def test_a_model_to_evaluate_is_hashed_once_on_each_host(checkpoint, on_ranks):
    outcomes, seen = on_ranks(lambda world: require_whole_model(checkpoint, world, each_host=True))
    assert outcomes == [None] * 4
    names = [name for name in listed(checkpoint) if not name.startswith("optimizer-")]
    assert sorted(seen["hashed"]) == sorted((host, name) for host in "ab" for name in names)


def test_damage_is_the_same_message_on_every_rank(checkpoint, on_ranks):
    (model,) = checkpoint.glob("model-*.safetensors")
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    outcomes, _ = on_ranks(lambda world: require_whole_model(checkpoint, world))
    assert len(set(outcomes)) == 1
    assert outcomes[0].startswith(f"{checkpoint}: not a complete checkpoint: host ")
    assert outcomes[0].endswith(f": {model.name} was changed after it was written (sha256 differs); name another")


def test_a_manifest_that_is_missing_is_found_before_anything_is_hashed(checkpoint, on_ranks):
    (checkpoint / "manifest.json").unlink()
    faults, seen = on_ranks(lambda world: find_fault(checkpoint, world))
    assert set(faults) == {"has no manifest.json"} and seen["hashed"] == []


def test_a_model_directory_of_another_make_is_accepted(tmp_path, on_ranks):
    outcomes, seen = on_ranks(lambda world: require_whole_model(tmp_path, world))
    assert outcomes == [None] * 4 and seen == {"manifest": [], "hashed": []}

"""What the ranks read when a run starts: each byte of a checkpoint once, and each dataset once on a host."""

import json
import os
import socket
from pathlib import Path

import pytest

from gpt2dist.dataset.manifest import Manifest
from tests.support.ranks import RankFailedError, run_ranks
from tests.support.runs import train, train_here, write_run

SAVED = ["run.stop_after_steps=1", "batch.global_batch_size=12", "batch.micro_batch_size=12"]


def counting_reads(config, overrides):
    """Resumes; returns the bytes of tensors that this rank read, and the files that it hashed."""
    from gpt2dist import atomic_io

    count, hashed = [0], []
    read, digest = os.preadv, atomic_io.sha256_of

    def counted(descriptor, buffers, place):
        count[0] += (size := read(descriptor, buffers, place))
        return size

    def noted(path):
        hashed.append(Path(path).name)
        return digest(path)

    os.preadv, atomic_io.sha256_of = counted, noted
    train_here(config, overrides)
    return count[0], hashed


@pytest.fixture(scope="module")
def saved(tiny_dataset, tmp_path_factory):
    """A run with a checkpoint of one rank."""
    config = write_run(tmp_path_factory.mktemp("saved"), tiny_dataset)
    train(config, *SAVED)
    return config


def tensor_bytes(checkpoint):
    """The bytes of all tensors of a checkpoint, without the headers of their files."""
    files = list(checkpoint.glob("*.safetensors"))
    headers = [8 + int.from_bytes(file.read_bytes()[:8], "little") for file in files]
    return sum(file.stat().st_size for file in files) - sum(headers)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_resume_reads_each_byte_of_its_checkpoint_once(saved, world_size, stage):
    (checkpoint,) = (saved.parent / "run/checkpoints").glob("step-*")
    words = [*SAVED, f"zero.stage={stage}", f"batch.micro_batch_size={12 // world_size}"]
    found = run_ranks(counting_reads, world_size, saved, words)
    counts = [count for count, _ in found]
    assert sum(counts) == tensor_bytes(checkpoint)
    assert max(counts) < 1.35 * sum(counts) / world_size  # no rank much more than its share
    hashed = [name for _, names in found for name in names]
    assert sorted(hashed) == sorted(json.loads((checkpoint / "manifest.json").read_text())["files"])


def starting(config, hosts, lacking=""):
    """Starts a run as the verb does; returns how many files' sizes this rank asked for."""
    from gpt2dist.commands import train
    from gpt2dist.loading import token_stream

    rank = int(os.environ["RANK"])
    os.environ["LOCAL_RANK"] = str(hosts[:rank].count(hosts[rank]))
    socket.gethostname = lambda: hosts[rank]
    sizes, size_of = [0], token_stream._file_size

    def counted(path):
        sizes[0] += 1
        return None if hosts[rank] == lacking and path.name == "train-00000.bin" else size_of(path)

    token_stream._file_size = counted
    _, plan, world = train.start(config, [])
    return sizes[0], world.gather(plan.tokenizer_fingerprint), plan.datasets[0].dataset.sha256


def test_one_rank_of_each_host_looks_at_the_files_of_a_dataset(tiny_dataset, tmp_path):
    config = write_run(tmp_path, tiny_dataset)
    manifest = Manifest.load(tiny_dataset)
    files = 2 * len(manifest.shards_of("train"))
    found = run_ranks(starting, 4, config, ["a", "a", "b", "b"])
    assert [sizes for sizes, *_ in found] == [files, 0, files, 0]
    assert {(tuple(fingerprints), sha256) for _, fingerprints, sha256 in found} == {
        ((manifest.tokenizer_fingerprint,) * 4, manifest.sha256)
    }


def refused(config, hosts, lacking):
    """The error of this rank."""
    from gpt2dist.errors import UserError

    try:
        return starting(config, hosts, lacking)
    except UserError as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize(("lacking", "prefix"), [("a", "host a: "), ("b", "host b: ")])
def test_a_host_that_lacks_a_file_is_named_on_every_rank(tiny_dataset, tmp_path, lacking, prefix):
    config = write_run(tmp_path, tiny_dataset)
    found = run_ranks(refused, 4, config, ["a", "a", "b", "b"], lacking)
    assert len(set(found)) == 1
    kind, message = found[0]
    assert kind == "UserError"
    assert message.startswith(prefix) and f"{tiny_dataset}/train-00000.bin: no such file" in message


def resuming_without_a_file(config, overrides, hosts, name):
    """Resumes; on host b, a file of the checkpoint is missing."""
    rank = int(os.environ["RANK"])
    os.environ["LOCAL_RANK"] = str(hosts[:rank].count(hosts[rank]))
    socket.gethostname = lambda: hosts[rank]
    stat = Path.stat

    def without(self, **options):
        if hosts[rank] == "b" and self.name == name:
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return stat(self, **options)

    Path.stat = without
    train_here(config, overrides)


def test_a_host_that_lacks_a_file_of_the_checkpoint_is_named(saved):
    words = [*SAVED, "batch.micro_batch_size=6", "checkpoint.resume=" + str(saved.parent / "run")]
    message = (
        r"UserError: checkpoint\.resume: .*step-00000001 is not a complete checkpoint: host b: "
        r"optimizer-00001-of-00001\.safetensors is missing; name another"
    )
    with pytest.raises(RankFailedError, match=message):
        run_ranks(resuming_without_a_file, 2, saved, words, ["a", "b"], "optimizer-00001-of-00001.safetensors")

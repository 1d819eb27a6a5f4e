"""Our writer against the library's reader."""

import hashlib
import os
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from gpt2dist.checkpoint import safetensors_io as module
from gpt2dist.checkpoint.safetensors_io import write_tensors


@pytest.mark.parametrize("piece", [8, 1000, 2**24])
def test_the_library_reads_what_was_written(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(module, "PIECE", piece)
    draw = torch.Generator().manual_seed(0)
    named = {"a.weight": torch.randn(7, 5, generator=draw), "ö": torch.randn(3, generator=draw)}
    named |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4)}
    path = tmp_path / "x.safetensors"
    record = write_tensors(path, named)
    found = load_file(path)
    assert found.keys() == named.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in named.items())
    assert record == {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_write_that_takes_less_than_it_is_given_goes_on(tmp_path, monkeypatch):
    original = module.Path.open

    class Slow:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, data):
            return self.file.write(data[:7])

        def fileno(self):
            return self.file.fileno()

    path = tmp_path / "x.safetensors"
    monkeypatch.setattr(module.Path, "open", lambda *a, **k: Slow(original(*a, **k)))
    write_tensors(path, {"a": torch.arange(20.0)})
    monkeypatch.undo()
    assert torch.equal(load_file(path)["a"], torch.arange(20.0))


def test_the_disk_is_asked_to_write_each_piece_as_soon_as_it_is_there(tmp_path, monkeypatch):
    asked = []

    def sync_file_range(descriptor, begin, size, flags):
        assert os.fstat(descriptor).st_size == begin.value + size.value and flags == 2
        asked.append(size.value)
        return -1  # this file system does not take the hint

    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: SimpleNamespace(sync_file_range=sync_file_range))
    monkeypatch.setattr(module, "PIECE", 1000)
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(600.0)})
    assert torch.equal(load_file(path)["a"], torch.arange(600.0))
    assert asked[1:] == [1000, 1000, 400] and sum(asked) == path.stat().st_size
    monkeypatch.setattr(module.ctypes, "CDLL", lambda name: SimpleNamespace())  # as on macOS
    write_tensors(path, {"a": torch.arange(5.0)})
    assert load_file(path)["a"].tolist() == [0, 1, 2, 3, 4]


def test_only_contiguous_fp32_is_written(tmp_path):
    for wrong in (torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, 4).t()):
        with pytest.raises(ValueError, match="a is not a contiguous fp32 tensor"):
            write_tensors(tmp_path / "x", {"a": wrong})


def test_a_full_disk_is_an_error(tmp_path):
    if not module.Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match="No space left"):
        write_tensors(module.Path("/dev/full"), {"a": torch.zeros(10)})

"""Reading tensors by name, whole and in ranges, from files of the library and of ours."""

import itertools
import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from gpt2dist.checkpoint.safetensors_io import write_tensors
from gpt2dist.checkpoint.tensor_files import RangeReaders, TensorFiles, zeros
from gpt2dist.errors import UserError


@pytest.fixture
def cut(tmp_path):
    """A tensor of 9 rows in three files, out of order, and a whole one."""
    whole = torch.arange(36.0).view(9, 4)
    write_tensors(tmp_path / "a.safetensors", {"x[7:9]": whole[7:9], "y": torch.ones(3)})
    write_tensors(tmp_path / "b.safetensors", {"x[0:2]": whole[0:2]})
    write_tensors(tmp_path / "c.safetensors", {"x[2:7]": whole[2:7]})
    return whole


def files_of(directory):
    return TensorFiles(sorted(directory.glob("*.safetensors")))


def test_a_tensor_that_is_cut_by_rows_is_read_whole(tmp_path, cut):
    files = files_of(tmp_path)
    assert list(files) == ["x", "y"]
    assert torch.equal(files.read("x"), cut)
    assert files.read("y").tolist() == [1, 1, 1]
    assert [(part.tensor.file.name, part.begin, part.end) for part in files.parts["x"]] == [
        ("b.safetensors", 0, 2),
        ("c.safetensors", 2, 7),
        ("a.safetensors", 7, 9),
    ]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"x[2:7]": (4, 4)}, r"c\.safetensors: x\[2:7\] has 4 rows; save or copy the checkpoint again"),
        ({"x[3:7]": (4, 4)}, r"c\.safetensors: no file has the rows 2 to 3 of x; copy it again"),
        ({"x[1:7]": (6, 4)}, r"c\.safetensors: another file also has the tensor x; copy the model again"),
        ({"x[2:7]": (5, 4), "x": (9, 4)}, r"another file also has the tensor x; copy the model again"),
        ({"x[2:7]": (5, 3)}, r"c\.safetensors: x\[2:7\] has other columns than x\[0:2\]; copy it again"),
        ({"x[2:7]": (5, 4), "y": (3,)}, r"c\.safetensors: another file also has the tensor y"),
    ],
)
def test_rows_that_do_not_make_up_a_tensor_are_refused(tmp_path, cut, more, message):
    write_tensors(tmp_path / "c.safetensors", {name: torch.zeros(shape) for name, shape in more.items()})
    with pytest.raises(UserError, match=message):
        files_of(tmp_path)


@given(st.data())
def test_a_range_has_the_elements_of_the_whole_tensor(tmp_path_factory, data):
    """Of tensors that are cut anywhere, over any number of files."""
    shape = data.draw(st.sampled_from([(9, 4), (7,), (3, 2, 5)]))
    whole = torch.arange(float(math.prod(shape))).view(shape)
    borders = sorted({0, shape[0], *data.draw(st.lists(st.integers(0, shape[0]), max_size=3))})
    directory = tmp_path_factory.mktemp("cut")
    for begin, end in itertools.pairwise(borders):
        write_tensors(directory / f"{begin}.safetensors", {f"x[{begin}:{end}]": whole[begin:end]})
    files = files_of(directory)
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, whole.numel())] * 2)))
    assert files.shape("x") == shape
    assert torch.equal(files.read_range("x", begin, end), whole.flatten()[begin:end])
    assert torch.equal(files.read("x"), whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_any_floating_point_type_of_the_library_is_read(tmp_path, dtype):
    tensors = {
        "a": torch.randn(3, 5).to(dtype),
        "scalar": torch.tensor(2.5, dtype=dtype),
        "empty": torch.zeros(0, 4, dtype=dtype),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    files = TensorFiles([tmp_path / "x.safetensors"])
    for name, tensor in tensors.items():
        found = files.read(name)
        assert found.dtype == dtype and torch.equal(found, tensor)
    assert torch.equal(files.read_range("a", 4, 9), tensors["a"].flatten()[4:9])


def test_only_the_bytes_of_a_range_are_read(tmp_path, cut, monkeypatch):
    files, read, counts = files_of(tmp_path), os.preadv, []
    monkeypatch.setattr(os, "preadv", lambda *args: counts.append(read(*args)) or counts[-1])
    files.read_range("x", 6, 30)
    assert counts == [2 * 4, 20 * 4, 2 * 4]
    files.read_range("x", 8, 9)
    assert counts[3:] == [4]


def test_a_read_that_gives_less_than_it_is_asked_for_goes_on(tmp_path, cut, monkeypatch):
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, place: read(file, [buffers[0][:7]], place))
    assert torch.equal(files_of(tmp_path).read("x"), cut)


def open_files(directory):
    """Names of the files of a directory that this process has open."""
    links = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return {path.name for path in links if path.parent == directory}


def test_files_are_opened_for_the_first_read_and_closed(tmp_path, cut):
    files = files_of(tmp_path)
    assert open_files(tmp_path) == set()
    files.read_range("x", 0, 4)
    assert open_files(tmp_path) == {"b.safetensors"}
    again = pickle.loads(pickle.dumps(files))
    files.close()
    assert open_files(tmp_path) == set()
    assert torch.equal(files.read("x"), cut) and torch.equal(again.read("x"), cut)
    del files, again
    assert open_files(tmp_path) == set()


def test_a_reader_returns_fp32_and_no_more_than_its_elements(tmp_path):
    save_file({"a": torch.arange(6, dtype=torch.bfloat16).view(3, 2)}, tmp_path / "x.safetensors")
    files, readers = files_of(tmp_path), RangeReaders()
    short, padded = readers.reader(files, "a", 5), readers.reader(files, "a", 5, zero_rest=True)
    assert short(3, 6).tolist() == [3, 4] and short(5, 8).tolist() == []
    assert padded(3, 7).tolist() == [3, 4, 0, 0] and padded(6, 8).tolist() == [0, 0]
    assert short(0, 1).dtype == padded(0, 7).dtype == zeros(0, 2).dtype == torch.float32
    assert readers.fault == ""


def test_a_file_that_has_shrunk_or_is_gone_is_a_fault_and_no_exception(tmp_path, cut):
    """Other ranks may wait for this one in the next collective."""
    files, readers = files_of(tmp_path), RangeReaders()
    read = readers.reader(files, "x", 36)
    path = tmp_path / "c.safetensors"
    os.truncate(path, path.stat().st_size - 8)
    assert read(8, 28).shape == (20,)
    assert readers.fault == f"{path}: it ends at byte {path.stat().st_size:,}, where its header describes more"
    (tmp_path / "a.safetensors").unlink()
    assert read(28, 36).tolist() == [0] * 8
    gone = RangeReaders()
    gone.reader(files, "y", 3)(0, 3)
    assert "a.safetensors" in gone.fault and "No such file" in gone.fault

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from gpt2dist.errors import UserError
from gpt2dist.publishing.output_directory import published, require_room


def test_a_directory_appears_whole(tmp_path):
    output = tmp_path / "deep" / "model"
    require_room(output, 1)
    with published(output) as partial:
        (partial / "weights").write_bytes(b"abc")
        (partial / "weights").chmod(0o600)  # as safetensors leaves it
        assert not output.exists()
        assert partial.parent == output.parent  # the same file system, for the rename
    assert (output / "weights").read_bytes() == b"abc"
    assert [path.name for path in output.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_may_be_read_by_whom_the_user_lets(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with published(tmp_path / "model") as partial:
            (partial / "weights").touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "model/weights").stat().st_mode & 0o777 == mode


def test_an_empty_directory_is_taken(tmp_path):
    output = tmp_path / "model"
    output.mkdir()
    require_room(output, 1)
    with published(output) as partial:
        (partial / "weights").touch()
    assert [path.name for path in output.iterdir()] == ["weights"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_is_interrupted_leaves_nothing(tmp_path, error):
    with pytest.raises(error), published(tmp_path / "model") as partial:
        (partial / "weights").touch()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_is_killed_leaves_nothing_under_the_name(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from gpt2dist.publishing.output_directory import published
with published(Path({str(tmp_path / "model")!r})) as partial:
    (partial / "weights").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".model.") and left.name.endswith(".tmp")
    require_room(tmp_path / "model", 1)  # and the name is still free


def test_a_name_that_was_taken_meanwhile_is_left_alone(tmp_path):
    output = tmp_path / "model"
    with pytest.raises(UserError, match=r"model cannot be created \(.+\); name another"), published(output):
        output.mkdir()
        (output / "theirs").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert [path.name for path in output.iterdir()] == ["theirs"]


def test_names_that_cannot_be_published_under(tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").touch()
    with pytest.raises(UserError, match=r"taken is not empty; name a new directory"):
        require_room(taken, 1)
    for path in (taken / "file", taken / "file" / "model"):
        with pytest.raises(UserError, match=r"--output: .*taken/file is a file; name a directory"):
            require_room(path, 1)


def test_a_place_that_cannot_be_written_to():
    with (
        pytest.raises(UserError, match=r"--output: /proc cannot be written to \(.+\)"),
        published(Path("/proc/model")),
    ):
        pass


def test_too_full_a_disk_is_told_before(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or usage(0, 0, 1_500_000_000))
    require_room(tmp_path / "deep/model", 1_500_000_000)
    with pytest.raises(UserError) as raised:
        require_room(tmp_path / "deep/model", 2_000_000_000)
    assert str(raised.value) == (
        f"--output: {tmp_path} has 1.5 GB free and the model takes 2 GB; free some, or name a directory on a "
        "larger disk"
    )
    assert asked == [tmp_path, tmp_path]
    assert list(tmp_path.iterdir()) == []

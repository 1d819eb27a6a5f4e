"""Places where no output can be created are refused before the work; all others get what was written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2dist import cli, output_paths
from gpt2dist.errors import RunError, UserError
from gpt2dist.output_paths import check_directory, check_file, check_new_directory, new_directory, write_file

AS_ROOT = os.geteuid() == 0


def refusals(path):
    """The messages of the checks of a new directory, a directory and a file."""
    found = []
    for check in (check_new_directory, check_directory, check_file):
        try:
            check(Path(path))
            found.append("")
        except UserError as error:
            found.append(str(error).removeprefix("--output: "))
    return found


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_place_that_is_free(tmp_path):
    assert refusals(tmp_path / "new") == refusals(tmp_path / "deep/new") == ["", "", ""]
    (tmp_path / "empty").mkdir()
    assert refusals(tmp_path / "empty")[:2] == ["", ""]
    assert names(tmp_path) == ["empty"]


def test_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    message = f"{tmp_path}/file is a file; name a directory"
    assert refusals(tmp_path / "file") == [message, message, ""]
    assert refusals(tmp_path / "file/deep/new") == [message] * 3


def test_a_directory_that_is_not_empty(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/thesis.txt").touch()
    assert refusals(tmp_path / "taken") == [
        f"{tmp_path}/taken is not empty; name a new directory",
        "",
        f"{tmp_path}/taken is a directory; name a file, such as {tmp_path}/taken/output",
    ]
    check_new_directory(tmp_path / "taken", reuse=True)  # the caller decides


@pytest.mark.parametrize("name", [".", "..", "sub/.."])
def test_the_working_directory(tmp_path, monkeypatch, name):
    (tmp_path / "here/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert refusals(name)[0] == f"{Path(name)} is not empty; name a new directory"
    (tmp_path / "here/sub").rmdir()
    if name == ".":
        assert refusals(name)[0] == (
            ". is the working directory, which the finished directory would replace; name a new one, such as new"
        )
        assert refusals(tmp_path / "here")[0].startswith(f"{tmp_path}/here is the working directory")


def test_a_link_is_followed_to_what_it_points_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/data")  # not there yet
    nowhere = f"{tmp_path}/link is a broken link; create the directory that it points to"
    assert refusals(tmp_path / "link") == ["", nowhere, ""]
    assert refusals(tmp_path / "link/run")[1] == nowhere
    assert output_paths.resolved(tmp_path / "link") == tmp_path / "disk/data"
    with new_directory(tmp_path / "link") as partial:
        assert partial.parent == tmp_path / "disk"  # the disk of the target
        (partial / "a").write_text("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk/data/a").read_text() == "x"
    (tmp_path / "page").symlink_to("disk/page.html")
    write_file(tmp_path / "page", "1")
    write_file(tmp_path / "page", "2")
    assert (tmp_path / "page").is_symlink() and (tmp_path / "disk/page.html").read_text() == "2"
    assert names(tmp_path / "disk") == ["data", "page.html"]


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    for message in (*refusals(tmp_path / "loop")[:2], *refusals(tmp_path / "loop/new")):
        assert message in (
            f"{tmp_path}/loop is a broken link; name a directory",
            f"{tmp_path}/loop is a broken link; create the directory that it points to",
            f"'{tmp_path}/loop' cannot be used (Too many levels of symbolic links); name another",
            f"'{tmp_path}/loop/new' cannot be used (Too many levels of symbolic links); name another",
        )


@pytest.mark.parametrize("name", ["x" * 245, "y" * 300, "nul\0", "/proc/new", "/sys/deep/new"])
def test_names_under_which_nothing_can_be_created(tmp_path, name):
    """The first is a legal name, but those of what stands beside it while it is built are too long."""
    messages = refusals(tmp_path / name)
    assert "; name " in messages[0] and messages[0] == messages[2]


@pytest.mark.skipif(AS_ROOT, reason="root may write anywhere")
def test_a_read_only_parent(tmp_path):
    tmp_path.chmod(0o500)
    message = f" be created in {tmp_path} (Permission denied); name another place"
    assert refusals(tmp_path / "new") == [
        f"'new' cannot{message}",
        f"nothing can{message}",
        f"'new' cannot{message}",
    ]
    tmp_path.chmod(0o700)


def test_a_parent_that_says_it_can_be_written_to(tmp_path, monkeypatch):
    """The permissions allow it, as root's always do and those of network disks may; creating something fails."""

    def refuse(self, *rest):
        raise PermissionError(1, "Operation not permitted")

    assert os.access(tmp_path, os.W_OK)
    monkeypatch.setattr(Path, "mkdir", refuse)
    message = f"'new' cannot be created in {tmp_path} (Operation not permitted); name another place"
    assert refusals(tmp_path / "new") == [message, "", message]
    monkeypatch.undo()
    monkeypatch.setattr(Path, "rename", refuse)
    assert refusals(tmp_path / "new")[0] == message
    assert names(tmp_path) == []


@pytest.mark.parametrize("point", ["disk", "a b\\c"])
def test_a_mount_point(tmp_path, monkeypatch, point):
    """As Linux lists it, bind mounts included."""
    (tmp_path / point).mkdir()
    listed = str(tmp_path / point).replace("\\", "\\134").replace(" ", "\\040")
    (tmp_path / "mounts").write_text(
        f"29 1 254:0 / / rw - ext4 /dev/vda rw\n30 29 254:0 /x {listed} rw - ext4 x rw\n"
    )
    monkeypatch.setattr(output_paths, "_MOUNTS", tmp_path / "mounts")
    assert refusals(tmp_path / point)[:2] == [
        f"{tmp_path}/{point} is a mount point, which the finished directory cannot replace; name a new directory "
        f"on it, such as {tmp_path}/{point}/new",
        "",
    ]
    assert refusals(tmp_path / point / "new")[0] == ""
    monkeypatch.setattr(output_paths, "_MOUNTS", tmp_path / "none")  # another system
    assert refusals(tmp_path / point)[0] == ""
    monkeypatch.setattr(os.path, "ismount", lambda path: True)
    assert "is a mount point" in refusals(tmp_path / point)[0]


@pytest.mark.skipif(not AS_ROOT or sys.platform != "linux", reason="mounting takes root")
def test_a_real_bind_mount(tmp_path):
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    if subprocess.run(["mount", "--bind", tmp_path / "from", tmp_path / "to"], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        assert "to is a mount point" in refusals(tmp_path / "to")[0]
    finally:
        subprocess.run(["umount", tmp_path / "to"], check=True)


def test_devices_and_pipes_are_written_to():
    reader, writer = os.pipe()
    check_file(Path(f"/dev/fd/{writer}"))
    write_file(Path(f"/dev/fd/{writer}"), "é\n")
    assert os.read(reader, 9) == "é\n".encode()
    os.close(reader)
    os.close(writer)
    write_file(Path("/dev/null"), "x")
    assert refusals("/dev/null")[:1] == ["/dev/null is a file; name a directory"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    write_file(tmp_path / "deep/result.json", "old")
    full = r"--output: /dev/full cannot be written \(No space left on device\)"
    with pytest.raises(RunError, match=full):
        write_file(Path("/dev/full"), "new")
    (tmp_path / "deep/result.json").chmod(0o400)
    if not AS_ROOT:
        assert refusals(tmp_path / "deep/result.json")[2].endswith("is write-protected; name another file")
    write_file(tmp_path / "lone", "a\ud800b")  # a lone surrogate cannot be encoded
    assert (tmp_path / "lone").read_text() == "a?b"


def test_a_directory_that_was_taken_meanwhile_is_kept(tmp_path):
    refused = pytest.raises(UserError, match=r"--output: .*out cannot be created \(.*\); name another")
    with refused, new_directory(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/theirs").touch()
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["theirs"]


VERBS = {
    "preprocess": ["preprocess", "corpus", "--tokenizer", "tok", "--output"],
    "tokenizer train": ["tokenizer", "train", "corpus", "--vocab-size", "300", "--output"],
    "tokenizer import": ["tokenizer", "import", "--vocab", "no", "--merges", "no", "--output"],
    "adopt": ["adopt", "corpus", "--format", "nanogpt", "--tokenizer", "tok", "--output"],
    "export": ["export", "no-model", "--output"],
    "evaluate": ["evaluate", "no-model", "--data", "none", "--output"],
    "lambada": ["lambada", "no-model", "--data", "none", "--output"],
    "multiple-choice": ["multiple-choice", "no-model", "--data", "none", "--output"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_looks_before_it_reads_anything(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.main([*VERBS[verb], "file/below/out"]) == 2
    assert (
        capsys.readouterr().err
        == f"gpt2dist {verb.split()[0]}: --output: {tmp_path}/file is a file; name a directory\n"
    )
    assert names(tmp_path) == ["file"]

"""The walk and the patterns: equal to `os.walk` and `glob`, but for links in circles and for errors."""

import glob
import os
import random
from pathlib import Path

import pytest

from gpt2dist.corpus import discover
from gpt2dist.corpus.directories import expand, walk
from gpt2dist.errors import UserError


def no_error(path, error):
    raise error


def everything(directory):
    return True


def found(root, pattern):
    """What matches a pattern, relative to `root`."""
    return {str(path.relative_to(root)) for path in expand(f"{root}/{pattern}", everything, no_error)}


def below(root, suffixes=(".txt",)):
    return [source.path.removeprefix(f"{root}/") for source in discover([str(root)], suffixes)]


@pytest.fixture
def tree(tmp_path):
    """A random tree with hidden names, without links."""
    random.seed(7)
    names = ["a", "b", ".h", "x1", "x2"]
    for _ in range(60):
        directory = tmp_path.joinpath(*random.choices(names, k=random.randint(0, 4)))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / random.choice(["f.txt", "g.py", ".i.txt", "a.txt"])).touch()
    return tmp_path


@pytest.mark.parametrize(
    "pattern",
    [
        *("*", "*.txt", "a/*", "x?/*.txt", "[ab]/*/f.txt", "**", "**/*.txt", "a/**", "**/b/*.txt"),
        *("a/**/b/**/f.txt", ".h/*", "**/.h/*.txt", "*/.*", "**/f.txt", "**/a/b", "nothing/*", "*/nothing/*"),
        *("a*/**/x[!1]/*", "**x/*"),
    ],
)
def test_patterns_match_what_glob_matches(tree, pattern):
    expected = {str(Path(path)) for path in glob.glob(pattern, root_dir=tree, recursive=True)}  # noqa: PTH207
    assert found(tree, pattern) == expected - {".", "a" if pattern == "a/**" else "."}


def test_the_walk_visits_what_os_walk_visits(tree):
    expected = {}
    for root, folders, files in os.walk(tree):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = [name for name in folders if name not in hidden]
        expected[Path(root)] = sorted(files + hidden)
    assert {directory: sorted(names) for directory, names in walk(tree, everything, no_error)} == expected


@pytest.fixture
def linked(tmp_path):
    """A corpus with links: to a directory elsewhere, to ones of its own, to itself and to what contains it."""
    root = tmp_path / "home/corpus"
    for path in (
        "home/corpus/real/deep/a.txt",
        "home/corpus/z/b.txt",
        "elsewhere/sub/c.txt",
        "home/not-mine.txt",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    links = {
        "aaa": "z",
        "disk": "../../elsewhere",
        "real/again": "deep",
        "self": ".",
        "up": "..",
        "real/root": "/",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere/back").symlink_to(root)
    (tmp_path / "elsewhere/f.txt").write_text("f")
    (root / "one.txt").symlink_to("../../elsewhere/f.txt")
    return root


def test_links_are_followed_and_each_directory_read_once(linked):
    """Under its real path where it has one in the corpus."""
    expected = ["disk/f.txt", "disk/sub/c.txt", "one.txt", "real/deep/a.txt", "z/b.txt"]
    assert below(linked) == expected
    assert found(linked, "**/*.txt") == set(expected)
    assert found(linked, "real/**/*.txt") == {"real/deep/a.txt"}
    assert found(linked, "aaa/*.txt") == {"aaa/b.txt"}  # by the name that was given


def test_a_corpus_that_is_a_link_itself(linked, tmp_path):
    (tmp_path / "link").symlink_to(linked)
    assert "z/b.txt" in below(tmp_path / "link")


def test_two_links_in_circles_take_no_time(tmp_path):
    for name in ("p", "q", "r"):
        (tmp_path / name).symlink_to(".")
    (tmp_path / "a.txt").touch()
    assert found(tmp_path, "**/*.txt") == {"a.txt"}  # glob would follow 3 ** 40 paths
    assert below(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("what", ["{root}", "{root}/**/*.txt", "{root}/*/*.txt"])
def test_directories_that_cannot_be_listed_are_named_together(tmp_path, monkeypatch, what):
    for name in ("a/x.txt", "b/y.txt", "c/z.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    scandir, iterdir = os.scandir, Path.iterdir

    def refusing(function):
        def call(path):
            if Path(path).name in "bc":
                raise PermissionError(13, "Permission denied")
            return function(path)

        return call

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(Path, "iterdir", refusing(iterdir))
    with pytest.raises(UserError) as raised:
        discover([what.format(root=tmp_path)])
    both = f"{tmp_path}/b (Permission denied), {tmp_path}/c (Permission denied)"
    assert str(raised.value) == f"cannot be read: {both}; make them readable, or name inputs without them"


def test_files_that_may_not_be_read_are_named_with_the_directories(tmp_path, monkeypatch):
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "lost").symlink_to("/nowhere")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "b.txt" and access(path, mode))
    expected = (
        f"cannot be read: {tmp_path}/lost (No such file or directory), {tmp_path}/b.txt (Permission denied); "
    )
    with pytest.raises(UserError) as raised:
        discover([str(tmp_path)])
    assert str(raised.value).startswith(expected)


def test_a_file_in_a_directory_that_may_not_be_searched(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UserError, match=r"cannot be read: .*/a\.txt \(Permission denied\); make them readable"):
        discover([str(tmp_path / "a.txt")])


@pytest.mark.parametrize("what", ["{root}", "{root}/*", "{root}/lost"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path, what):
    """Where it led to may have been half of the corpus, on a disk that is not mounted."""
    (tmp_path / "a.txt").touch()
    (tmp_path / "lost").symlink_to("/nowhere")
    (tmp_path / ".#a.txt").symlink_to("me@host.1")  # an editor's lock
    with pytest.raises(
        UserError, match=r"cannot be read: .*/lost \(No such file or directory\); make them readable"
    ):
        discover([what.format(root=tmp_path)])
    (tmp_path / "lost").unlink()
    assert len(discover([str(tmp_path)])) == 1

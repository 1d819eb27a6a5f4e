"""The interpreter of .venv, with stand-ins for Python."""

import os
import shutil
import subprocess

import pytest

PYTHON = """\
#!/bin/sh
# A Python of the identity NAME, which makes virtual environments that are copies of itself.
case "$*" in
  *version_info*) exit ${OLD:-0} ;;
  *_base_executable*) echo @HOME@/NAME ;;
  *base_prefix*) echo NAME ;;
  "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo "venv NAME" >>record ;;
  "-m pytest"*) echo "tests NAME" >>record ;;
esac
"""


@pytest.fixture
def make(repository, tmp_path):
    """A checkout with a Makefile and two Pythons, a and b; returns how to call make there."""
    shutil.copy(repository / "Makefile", tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    for name in ("a", "b", "python3"):
        program = tmp_path / name
        program.write_text(PYTHON.replace("NAME", name).replace("@HOME@", str(tmp_path)))
        program.chmod(0o755)

    def call(*words, **settings):
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"} | settings
        for name in ("PYTHON", "VENV", "CONSTRAINTS", "WORKERS", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
            if name not in settings:
                environment.pop(name, None)
        done = subprocess.run(
            ["make", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        record = tmp_path / "record"
        lines = record.read_text().splitlines() if record.exists() else []
        record.unlink(missing_ok=True)
        return done, lines

    return call


def test_another_python_replaces_the_environment(make):
    assert make("test", "PYTHON=./a")[1] == ["venv a", "tests a"]
    assert make("test", "PYTHON=./a")[1] == ["tests a"]
    assert make("test", "PYTHON=./b")[1] == ["venv b", "tests b"]
    assert make("test", PYTHON="./a")[1] == ["venv a", "tests a"]


def test_without_python_the_environment_stays(make):
    assert make("test")[1] == ["venv python3", "tests python3"]
    assert make("test", "PYTHON=./b")[1] == ["venv b", "tests b"]
    assert make("test")[1] == ["tests b"]


def test_changed_packages_are_installed_for_the_same_python(make, tmp_path):
    make("test", "PYTHON=./b")
    os.utime(tmp_path / "constraints.txt", (2**32, 2**32))
    assert make("test")[1] == ["venv b", "tests b"]


@pytest.mark.parametrize(("words", "settings"), [(["PYTHON=./gone"], {}), (["PYTHON=./b"], {"OLD": "1"})])
def test_a_python_that_is_too_old_or_missing_is_refused(make, tmp_path, words, settings):
    make("test", "PYTHON=./a")
    done, lines = make("test", *words, **settings)
    assert (done.returncode, lines) == (2, [])
    assert "gpt2dist needs Python 3.11 or later; name one with: make PYTHON=python3.12" in done.stdout
    assert (tmp_path / ".venv/bin/python").exists()

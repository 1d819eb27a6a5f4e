"""What .ci/run does around `make check`, with stand-ins for all that it calls."""

import os
import shutil
import signal
import subprocess

import pytest

from tests.support.commands import wait_until

BED = """\
#!/bin/sh
echo "bed $1" >>record
[ "$1" != up ] || exit ${UP_CODE:-0}
"""
PROGRAMS = {
    "id": "#!/bin/sh\necho ${USER_ID:-0}\n",
    "make": '#!/bin/sh\necho "make $*" >>record\n[ -z "$HANG" ] || exec sleep 60\nexit ${MAKE_CODE:-0}\n',
    "python3": '#!/bin/sh\necho "003.012.001 /usr/bin/python3.12"\n',
    "apt-get": '#!/bin/sh\necho "apt-get $2" >>record\necho "E: no network"\nexit ${APT_CODE:-0}\n',
}
TEST = "make check PYTHON=/usr/bin/python3.12"
SLURM = ("slurmctld", "slurmd", "munged", "sinfo", "ip")


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def ci(repository, tmp_path):
    """A checkout in which nothing real is called; returns how to start its .ci/run."""
    for name in (".ci/run", ".ci/nightly", "tools/pythons.sh"):
        write(tmp_path / name, (repository / name).read_text())
    write(tmp_path / "tools/slurm_testbed.sh", BED)
    for name, text in PROGRAMS.items():
        write(tmp_path / "bin" / name, text)
    for name in SLURM:
        write(tmp_path / "bin" / name, "#!/bin/sh\n")
    for name in ("bash", "sh", "dirname", "mktemp", "sed", "sort", "tail", "timeout", "sleep"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))

    def start(script="run", **settings):
        kept = {"PATH": str(tmp_path / "bin"), "GPT2DIST_SLURM_TESTBED": str(tmp_path / "bed")}
        return subprocess.Popen(
            [tmp_path / ".ci" / script],
            env=kept | settings,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def finish(process):
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def record(tmp_path):
    path = tmp_path / "record"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("code", [0, 2])
def test_slurm_is_up_for_the_tests_and_down_afterwards(ci, tmp_path, code):
    assert finish(ci(MAKE_CODE=str(code))) == (code, "")
    assert record(tmp_path) == ["bed up", TEST, "bed down"]


def test_slurm_is_taken_down_when_the_tests_are_cut_short(ci, tmp_path):
    process = ci(HANG="1")
    wait_until(lambda: TEST in record(tmp_path))
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert record(tmp_path)[-1] == "bed down"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody stays


def test_one_that_is_up_already_is_used_and_left(ci, tmp_path):
    write(tmp_path / "bed/slurmctld.pid", "1")
    assert finish(ci()) == (0, f".ci/run: Slurm is up in {tmp_path}/bed\n")
    assert record(tmp_path) == [TEST]


def test_where_slurm_is_missing_it_is_installed(ci, tmp_path):
    (tmp_path / "bin/slurmd").unlink()
    assert finish(ci()) == (0, ".ci/run: installing Slurm\n")
    assert record(tmp_path) == ["apt-get update", "apt-get install", "bed up", TEST, "bed down"]


@pytest.mark.parametrize(
    ("settings", "missing", "reason"),
    [
        ({"USER_ID": "1000"}, [], "Slurm needs root"),
        ({}, ["slurmd", "apt-get"], "Slurm is not installed, and there is no apt-get to do it"),
        ({"APT_CODE": "100"}, ["slurmd"], "Slurm could not be installed: E: no network"),
        ({"UP_CODE": "2"}, [], "Slurm did not come up"),
    ],
)
def test_where_it_cannot_be_had_the_reason_is_told_and_the_tests_run(ci, tmp_path, settings, missing, reason):
    for name in missing:
        (tmp_path / "bin" / name).unlink()
    code, said = finish(ci(**settings))
    assert code == 0
    assert said.splitlines()[-2:] == [f".ci/run: {reason}", ".ci/run: so the tests under Slurm are skipped"]
    assert TEST in record(tmp_path)


def test_the_oldest_python_tests(ci, tmp_path):
    write(tmp_path / "bin/python3.11", '#!/bin/sh\necho "003.011.002 /opt/python 3.11.2/bin/python3.11"\n')
    write(tmp_path / "bin/python3.13", "#!/bin/sh\necho python3.13: command not found >&2\nexit 127\n")
    write(tmp_path / "bin/python3.14", "#!/bin/sh\n")  # too old, or without ensurepip
    assert finish(ci()) == (0, "")
    assert record(tmp_path)[1] == "make check PYTHON=/opt/python 3.11.2/bin/python3.11"


def test_without_a_python_make_decides(ci, tmp_path):
    (tmp_path / "bin/python3").unlink()
    assert finish(ci())[1] == ".ci/run: no Python 3.11 or later with ensurepip was found; trying python3\n"
    assert record(tmp_path)[1] == "make check"


def test_the_nightly_run_has_the_same_surroundings(ci, tmp_path):
    assert finish(ci("nightly")) == (0, "")
    assert record(tmp_path) == ["bed up", "make nightly PYTHON=/usr/bin/python3.12", "bed down"]


def test_the_pythons_come_oldest_first(repository, tmp_path):
    for name, version in (("python3", "3.12.1"), ("python3.11", "3.11.10"), ("python3.13", "3.13.0")):
        printed = ".".join(f"{int(part):03}" for part in version.split("."))
        write(tmp_path / name, f'#!/bin/sh\necho "{printed} /bin/{name}"\n')
    for name in ("bash", "sed", "sort", "sh"):
        (tmp_path / name).symlink_to(shutil.which(name))
    done = subprocess.run(
        [repository / "tools/pythons.sh"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["/bin/python3.11", "/bin/python3", "/bin/python3.13"]

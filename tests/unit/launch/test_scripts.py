"""The shell scripts: right for bash and shellcheck, what they start, what they refuse."""

import os
import shutil
import subprocess

import pytest

from tests.support import REPOSITORY

GOLDEN = REPOSITORY / "tests/golden/launch"
SCRIPTS = sorted(
    path
    for pattern in ("launch/*.sh", "launch/*.sbatch", "tools/*.sh", "configs/*.sh", "examples/*.sh", ".ci/run")
    for path in REPOSITORY.glob(pattern)
)
RUN = ["run.yaml", "optimizer.lr=3e-4", "run.name=a b"]
HOSTS = "# the cluster\nn1 slots=4\n\nn2 slots=4\n"
RECORD = """\
#!/usr/bin/env bash
seconds=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-}
{
  printf '%s' "${seconds:+TORCH_ELASTIC_SHUTDOWN_TIMEOUT=$seconds }"
  printf '%q' "${0##*/}"
  printf ' %q' "$@"
  echo
} >>"$RECORD"
"""
NODE = {"NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "n1"}
COMMANDS = {
    "torchrun": ("torchrun.sh", {"GPUS": "4"}),
    "torchrun-nodes": ("torchrun-nodes.sh", NODE | {"GPUS": "4"}),
    "deepspeed": ("deepspeed.sh", {"GPUS": "4"}),
    "deepspeed-gpus": ("deepspeed.sh", {"GPUS": "2", "CUDA_VISIBLE_DEVICES": "4,5,7"}),
    "deepspeed-nodes": ("deepspeed.sh", {"HOSTFILE": "hosts"}),
    "deepspeed-ssh": ("deepspeed.sh", {"HOSTFILE": "hosts", "SSH": "1", "MASTER_PORT": "29600"}),
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_bash_can_parse_it(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-x", path], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def start(tmp_path):
    """Starts a script on the host n2, where launchers only write down how they were called."""
    stand_ins = tmp_path / "bin"
    stand_ins.mkdir()
    for name in ("torchrun", "deepspeed", "pdsh"):
        (stand_ins / name).write_text(RECORD)
        (stand_ins / name).chmod(0o755)
    (stand_ins / "hostname").write_text("#!/bin/sh\necho n2\n")
    (stand_ins / "hostname").chmod(0o755)
    (tmp_path / "run.yaml").touch()
    (tmp_path / "hosts").write_text(HOSTS)

    def call(script, words, settings):
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment = kept | {"PATH": f"{stand_ins}:{kept['PATH']}", "RECORD": str(tmp_path / "record")}
        return subprocess.run(
            [REPOSITORY / "launch" / script, *words],
            cwd=tmp_path,
            env=environment | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return call


@pytest.mark.parametrize("name", list(COMMANDS))
def test_the_command_is_the_golden_one(start, tmp_path, name):
    """After a change that is meant, GPT2DIST_WRITE_GOLDEN=1 writes them anew."""
    script, settings = COMMANDS[name]
    done = start(script, RUN, settings)
    assert (done.returncode, done.stderr) == (0, "")
    command, golden = (tmp_path / "record").read_text(), GOLDEN / f"{name}.txt"
    if os.environ.get("GPT2DIST_WRITE_GOLDEN"):
        golden.write_text(command)
    assert command == golden.read_text()


@pytest.mark.parametrize(
    ("script", "words", "settings", "message"),
    [
        ("torchrun.sh", [], {}, "CONFIG is missing; write torchrun.sh CONFIG [section.key=value …]"),
        ("torchrun.sh", ["x.yaml"], {}, "x.yaml: no such file; the first argument is the run's YAML file"),
        ("torchrun.sh", RUN, {"GPUS": "two"}, "GPUS=two: write a whole number of at least 1"),
        (
            "torchrun-nodes.sh",
            RUN,
            {},
            "NODES is not set; on every host, set NODES, NODE_RANK and MASTER_ADDR: NODES=2",
        ),
        ("torchrun-nodes.sh", RUN, NODE | {"NODES": "0"}, "NODES=0: write a whole number of at least 1"),
        ("torchrun-nodes.sh", RUN, NODE | {"NODE_RANK": "2"}, "the hosts are numbered 0 … 1, since NODES=2"),
        (
            "deepspeed.sh",
            RUN,
            {"GPUS": "1", "CUDA_VISIBLE_DEVICES": "GPU-1"},
            "launcher takes only numbers; write",
        ),
        ("deepspeed.sh", RUN, {"HOSTFILE": "none"}, "HOSTFILE=none: no such file"),
        ("deepspeed.sh", RUN, {"HOSTFILE": "hosts", "NODE_RANK": "2"}, "NODE_RANK=2: hosts has 2 hosts"),
        ("deepspeed.sh", RUN, {"HOSTFILE": "others"}, "n2 is not in others; set NODE_RANK"),
    ],
)
def test_what_is_wrong_is_told_with_the_way_out(start, tmp_path, script, words, settings, message):
    (tmp_path / "others").write_text("n3 slots=1\n")
    done = start(script, words, settings)
    assert done.returncode == 2
    assert done.stderr.startswith(f"{script}: ") and message in done.stderr
    assert not (tmp_path / "record").exists()


def test_a_launcher_that_is_not_installed_is_named(start, tmp_path):
    for name in ("torchrun", "deepspeed"):
        (tmp_path / "bin" / name).unlink()
        done = start(f"{name}.sh", RUN, {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"})
        assert done.returncode == 2
        assert f"no {name} on PATH; activate the environment that has gpt2dist" in done.stderr


def test_without_pdsh_deepspeed_is_to_be_started_on_every_host(start, tmp_path):
    (tmp_path / "bin/pdsh").unlink()
    done = start(
        "deepspeed.sh", RUN, {"HOSTFILE": "hosts", "SSH": "1", "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    )
    if shutil.which("pdsh", path="/usr/bin:/bin"):
        pytest.skip("pdsh is installed")
    assert done.returncode == 2
    assert "SSH=1 needs pdsh; without it, start this on every host of hosts" in done.stderr

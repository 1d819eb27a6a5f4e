"""`gpt2dist submit`, with an sbatch that only notes what it was given."""

import json
import os
import signal
import stat
import sys

import pytest
import yaml

from gpt2dist import cli
from gpt2dist.config import read
from tests.support.commands import wait_until
from tests.support.runs import write_run

SLURM = ["--scheduler", "slurm", "--nodes", "2", "--gpus-per-node", "2"]
LOCAL = ["--scheduler", "local", "--gpus-per-node", "1"]
KUBERNETES = ["--scheduler", "kubernetes", "--gpus-per-node", "1", "--container-image", "image"]


@pytest.fixture
def run_file(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path, tiny_dataset)


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A stand-in that prints what is in `answer` and ends with the code in `code`; it notes its arguments."""
    home = tmp_path / "bin"
    home.mkdir()
    for name in ("sbatch", "kubectl"):
        program = home / name
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{home}/arguments\ncat {home}/answer\nexit $(cat {home}/code)\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (home / "answer").write_text("4711;cluster\n")
    (home / "code").write_text("0")
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    return home


def submit(*words: object) -> int:
    return cli.main(["submit", *map(str, words)])


def test_a_job_is_recorded_submitted_and_told_how_to_follow(run_file, tmp_path, sbatch, capsys):
    assert submit(run_file, "optimizer.lr=0.004", *SLURM, "--time", "1:00:00", "--env", "A=b c") == 0
    record = tmp_path / "run/submission/001"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[:2] == [
        f"sbatch --parsable {record}/job.sh",
        f"job 4711, its files are in {record}",
    ]
    for word in ("squeue --jobs=4711", f"tail -F {record}/job-4711.log", "scancel 4711"):
        assert word in captured.err
    assert (sbatch / "arguments").read_text() == f"--parsable {record}/job.sh\n"
    script = (record / "job.sh").read_text()
    assert os.access(record / "job.sh", os.X_OK)
    assert "#SBATCH --nodes=2\n" in script and "#SBATCH --time=1:00:00\n" in script
    assert "export A='b c'\n" in script and f"{sys.executable} -m gpt2dist launch" in script
    facts = json.loads((record / "submission.json").read_text())
    assert (facts["scheduler"], facts["jobs"]) == ("slurm", [4711])
    assert facts["asked"]["gpus_per_node"] == 2 and facts["asked"]["env"] == ["A=b c"]
    assert {"git_commit", "git_uncommitted", "user", "host", "gpt2dist", "directory"} <= set(facts)


def test_the_recorded_configuration_is_the_one_asked_for_at_its_world_size(run_file, tmp_path, sbatch):
    submit(run_file, "optimizer.lr=0.004", *SLURM)
    config, wrong = read(tmp_path / "run/submission/001/config.yaml")
    expected, _ = read(run_file, ["optimizer.lr=0.004", "run.world_size=4"])
    assert (config, wrong) == (expected, [])


def test_each_submission_has_a_record_of_its_own(run_file, tmp_path, sbatch):
    submit(run_file, *SLURM)
    submit(run_file, "optimizer.lr=0.004", *SLURM)
    assert sorted(path.name for path in (tmp_path / "run/submission").iterdir()) == ["001", "002"]
    first = yaml.safe_load((tmp_path / "run/submission/001/config.yaml").read_text())
    assert first["optimizer"]["lr"] == 0.002


def test_a_dry_run_prints_the_script_and_submits_nothing(run_file, tmp_path, sbatch, capsys):
    assert submit(run_file, *SLURM, "--dry-run") == 0
    captured = capsys.readouterr()
    script = tmp_path / "run/submission/001/job.sh"
    assert captured.out == script.read_text()
    assert "nothing was submitted" in captured.err
    assert captured.err.rstrip().endswith(f"sbatch --parsable {script}")
    assert not (sbatch / "arguments").exists()


def test_a_patch_is_part_of_what_is_written(run_file, tiny_dataset, tmp_path, sbatch, capsys):
    (tmp_path / "patch.yaml").write_text("kind: Job\nspec: {suspend: true}\n")
    volume = f"claim:{os.path.commonpath([tmp_path, tiny_dataset])}"
    words = [run_file, *KUBERNETES, "--volume", volume, "--dry-run", "--patch"]
    assert submit(*words, "none.yaml") == 2
    assert "--patch none.yaml: cannot be read (No such file or directory)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert submit(*words, "patch.yaml") == 0
    (manifest,) = (tmp_path / "run/submission/001").glob("job.yaml")
    assert capsys.readouterr().out == manifest.read_text()
    *_, job = yaml.safe_load_all(manifest.read_text())
    assert job["kind"] == "Job" and job["spec"]["suspend"] is True


def test_variables_that_may_hold_secrets_are_not_recorded(run_file, tmp_path, sbatch, monkeypatch):
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_API_KEY", "secret")
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    submit(run_file, *SLURM, "--dry-run")
    text = (tmp_path / "run/submission/001/submission.json").read_text()
    assert json.loads(text)["environment"]["NCCL_DEBUG"] == "INFO"
    assert "secret" not in text


def test_a_refusal_of_sbatch_is_told(run_file, tmp_path, sbatch, capsys):
    (sbatch / "answer").write_text("sbatch: error: invalid partition specified: a100\n")
    (sbatch / "code").write_text("1")
    assert submit(run_file, *SLURM, "--partition", "a100") == 1
    assert "(exit code 1): sbatch: error: invalid partition specified: a100" in capsys.readouterr().err


def test_without_sbatch_the_command_for_a_login_node_is_told(run_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert submit(run_file, *SLURM) == 2
    script = tmp_path / "run/submission/001/job.sh"
    assert (
        f"sbatch not found on this machine; on a login node of the cluster, run: sbatch --parsable {script}"
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SLURM, "batch.micro_batch_size=3"], "is not a multiple of micro_batch_size 3 × world size 4"),
        ([*SLURM, "run.world_size=8"], "submitted for 8 ranks but started with 4"),
        ([*SLURM, "--device-memory", "0.0001"], "use more or larger GPUs"),
        ([*SLURM, "--device-memory", "0"], "--device-memory 0: must be above 0, in GiB per GPU"),
        ([*SLURM, "--nodes", "0"], "--nodes 0: must be at least 1, the machines of the job"),
        ([*SLURM, "--gpus-per-node", "-1"], "--gpus-per-node -1: must be at least 1, the ranks of each machine"),
        ([*SLURM, "--env", "A"], "--env A: write NAME=VALUE"),
        ([*SLURM, "--time", "1h"], "--time 1h: write minutes"),
        ([*SLURM, "--time", "5"], "--time 5: must be above the 300 seconds"),
        ([*SLURM, "--sbatch", "qos"], "--sbatch qos: write an option of sbatch"),
        (
            [*SLURM, "--sbatch=--mem=0"],
            "--sbatch --mem=0: submit sets or relies on --mem; omit it (give submit's own",
        ),
        ([*SLURM, "--gres", "gpu:a100:4"], "--gres gpu:a100:4: 4 GPUs on each node, but --gpus-per-node is 2"),
        ([*SLURM, "--mem", "much"], "--mem much: write the memory of each node, as 64G"),
        ([*SLURM, "--patch", "a.yaml"], "--patch: for --scheduler kubernetes only; omit it"),
        ([*LOCAL, "--mem", "1G", "--gres", "gpu"], "--mem, --gres: for --scheduler slurm only; omit it"),
        (["--scheduler", "slurm"], "--gpus-per-node: missing; one rank is started for each GPU"),
        ([*SLURM, "--tasks", "3"], "--tasks and --dask: for --job preprocess only; omit them"),
        ([*SLURM, "--volume", "a:/b"], "--volume: for --scheduler kubernetes only; omit it"),
        ([*SLURM, "--", "x"], "-- x: only --job evaluate and preprocess take arguments after `--`"),
        ([*LOCAL, "--cpus-per-node", "2"], "--cpus-per-node: for --scheduler slurm or kubernetes only"),
        (
            [*LOCAL, "--nodes", "2"],
            "--nodes 2: not with --scheduler local, which runs on this machine only; omit it",
        ),
        (
            [*LOCAL, "--time", "9", "--account", "x"],
            "--account, --time: for --scheduler slurm only; omit it",
        ),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_nothing(run_file, tmp_path, sbatch, capsys, words, message):
    assert submit(run_file, *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scheduler", [SLURM, LOCAL, [*SLURM, "--dry-run"], [*LOCAL, "--dry-run"]])
def test_a_newline_in_a_path_cannot_become_a_command(run_file, tmp_path, sbatch, capsys, scheduler):
    before = sorted(tmp_path.rglob("*"))
    assert submit(run_file, 'run.output_dir="out/x\\ntouch MARKER\\n#"', *scheduler) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert (
        "run.output_dir: " in err
        and r"out/x\ntouch MARKER\n#' has a control character ('\n'), which a job" in err
    )
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("option", ["--partition", "--account", "--container-image", "--env", "--sbatch"])
def test_a_newline_in_an_option_cannot_become_a_command(run_file, tmp_path, sbatch, capsys, option):
    value = {"--env": "A=a\ntouch X", "--sbatch": "--qos=a\ntouch X"}.get(option, "a\ntouch X")
    assert submit(run_file, *SLURM, f"{option}={value}") == 2
    assert (
        r"a\ntouch X' has a control character ('\n'), which a job script must not contain"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_a_configuration_is_needed(sbatch, capsys):
    assert submit(*SLURM) == 2
    assert "no CONFIG; name the YAML file of the run, or another --job" in capsys.readouterr().err


def test_a_run_directory_that_cannot_be_made_is_told(run_file, tmp_path, sbatch, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/submission").write_text("a file")
    assert submit(run_file, *SLURM) == 2
    assert f"{tmp_path}/run/submission: cannot be written (" in capsys.readouterr().err


def test_a_local_job_runs_in_the_background_to_its_end(run_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert submit(run_file, *LOCAL) == 0
    record = tmp_path / "run/submission/001"
    (pid,) = json.loads((record / "submission.json").read_text())["jobs"]
    captured = capsys.readouterr()
    assert f"process {pid}, its files are in {record}" in captured.err
    assert f"kill {pid}" in captured.err and f"tail -F {record}/job.log" in captured.err
    try:
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 120)
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        raise
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-00000020\n"
    assert "20/20" in (record / "job.log").read_text()

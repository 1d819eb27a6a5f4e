"""`gpt2dist submit` of evaluations and preprocessing, and to Kubernetes, with stand-ins for the schedulers."""

import json
import os
import shutil
import signal
import stat
from pathlib import Path

import pytest
import yaml

from gpt2dist import cli
from gpt2dist.commands import jobs
from gpt2dist.dataset.manifest import Manifest
from tests.support.commands import wait_until
from tests.support.runs import train, write_run

EVALUATE = ["--job", "evaluate", "--scheduler", "slurm", "--gpus-per-node", "2"]
PREPROCESS = ["--job", "preprocess", "--scheduler", "slurm"]
CLUSTER = ["--scheduler", "kubernetes", "--container-image", "image:1"]


@pytest.fixture(scope="module")
def trained_once(tiny_dataset, tmp_path_factory):
    home = tmp_path_factory.mktemp("trained")
    return train(write_run(home, tiny_dataset), "schedule.total_steps=4", "schedule.warmup_steps=1")


@pytest.fixture
def trained(trained_once):
    """A run with a checkpoint at its step 4, for which nothing was submitted."""
    yield trained_once
    shutil.rmtree(trained_once / "submission", ignore_errors=True)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory; schedulers answer 1, 2, 3 … and their arguments are in `asked`."""
    home = tmp_path / "bin"
    home.mkdir()
    for name in ("sbatch", "kubectl"):
        program = home / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{home}/asked\nwc -l <{home}/asked | tr -d " "\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(*words: object) -> int:
    return cli.main(["submit", *map(str, words)])


def asked(here: Path) -> list[str]:
    path = here / "bin/asked"
    return path.read_text().splitlines() if path.exists() else []


def corpus(tiny_dataset: Path) -> list[str]:
    home = tiny_dataset.parent
    return [str(home / "corpus"), "--tokenizer", str(home / "tokenizer"), "--val-fraction", "0.1"]


# --- Evaluation -------------------------------------------------------------------------------------------


def test_an_evaluation_of_a_run_is_recorded_there(here, trained, tiny_dataset, capsys):
    words = [trained, "--data", tiny_dataset, "--all-checkpoints", "--watch"]
    assert submit(*EVALUATE, "--nodes", 2, "--", *words) == 0
    record = trained / "submission/001"
    assert asked(here) == [f"sbatch --parsable {record}/job.sh"]
    said = capsys.readouterr().err
    assert f"job 1, its files are in {record}" in said and f"tail -F {record}/job-1.log" in said
    script = (record / "job.sh").read_text()
    assert f" evaluate {trained} --data {tiny_dataset} --all-checkpoints --watch &" in script
    assert "#SBATCH --signal=B:USR1@300" in script  # it is put back into the queue near its limit
    facts = json.loads((record / "submission.json").read_text())
    assert facts["asked"]["job"] == "evaluate" and facts["asked"]["words"] == [str(word) for word in words]


def test_an_evaluation_with_an_end_runs_to_its_limit(here, trained, tiny_dataset):
    assert (
        submit(*EVALUATE, "--time", "3", "--", trained / "checkpoints/step-00000004", "--data", tiny_dataset) == 0
    )
    (script,) = trained.glob("submission/*/job.sh")
    assert "#SBATCH --signal" not in script.read_text()


def test_an_evaluation_of_a_model_that_is_of_no_run_is_recorded_here(here, trained, tiny_dataset, capsys):
    assert cli.main(["export", str(trained), "--output", "model"]) == 0
    assert submit(*EVALUATE, "--dry-run", "--", "model", "--data", tiny_dataset) == 0
    assert f"the files are in {here}/submission/001; to submit them" in capsys.readouterr().err


def test_the_text_of_an_evaluation_may_be_files(here, trained, tiny_dataset):
    assert submit(*EVALUATE, "--dry-run", "--", trained, "--text", tiny_dataset.parent / "corpus") == 0


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        ([], ["RUN", "--data", "nowhere"], "nowhere"),
        ([], ["RUN", "--text", "nowhere"], "nowhere: no such file"),
        ([], ["RUN"], "give one of --data DATASET, --text FILE… and --tasks NAMES"),
        ([], ["nothing/there", "--data", "DATA"], "nothing/there: no such directory"),
        (
            [],
            ["RUN", "--data", "DATA", "--sequence-length", "99"],
            "a sequence length of 99 is not between 1 and",
        ),
        ([], ["RUN", "--data", "DATA", "--watch"], "--watch: needs --all-checkpoints; add it"),
        ([], ["RUN", "--data", "DATA", "--all-checkpoints", "--name", "a/b"], "--name 'a/b' is not a valid name"),
        (["run.yaml"], ["RUN"], "run.yaml: --job evaluate takes no configuration; write the arguments of"),
        ([], [], "--job evaluate: arguments missing; write those of `gpt2dist evaluate` after `--`"),
        (["--device-memory", "80"], ["RUN"], "--device-memory: for --job train only; omit it"),
        (
            ["--save-seconds", "9"],
            ["RUN", "--data", "DATA"],
            "--save-seconds: only training and `evaluate --watch`",
        ),
    ],
)
def test_an_evaluation_that_could_not_be_is_refused(here, trained, tiny_dataset, capsys, options, words, message):
    words = [{"RUN": str(trained), "DATA": str(tiny_dataset)}.get(word, word) for word in words]
    assert submit(*EVALUATE, *options, "--", *words) == 2
    assert message in capsys.readouterr().err
    assert not asked(here)
    assert not (trained / "submission").exists() and not (here / "submission").exists()


def test_options_that_the_verb_does_not_know_are_refused_by_it(here, capsys):
    with pytest.raises(SystemExit) as exit_:
        submit(*EVALUATE, "--", "gpt2", "--dataset", "x")
    assert exit_.value.code == 2
    assert "unrecognized arguments: --dataset x" in capsys.readouterr().err


# --- Preprocessing ----------------------------------------------------------------------------------------


@pytest.fixture
def small_tasks(monkeypatch):
    """A corpus of some kilobytes is cut into several tasks."""
    from gpt2dist.preprocessing import tasks

    monkeypatch.setattr(tasks, "MIN_TASK_BYTES", 5000)


def test_preprocessing_is_an_array_and_a_job_that_finishes(here, tiny_dataset, small_tasks, capsys):
    words = [*corpus(tiny_dataset), "--output", "web"]
    assert submit(*PREPROCESS, "--tasks", 3, "--cpus-per-node", 4, "--", *words) == 0
    record = here / "web.submission/001"
    assert asked(here) == [
        f"sbatch --parsable {record}/job.sh",
        f"sbatch --parsable --dependency=afterok:1 --kill-on-invalid-dep=yes {record}/finish.sh",
    ]
    array, finish = ((record / name).read_text() for name in ("job.sh", "finish.sh"))
    assert "#SBATCH --array=0-2\n" in array and "--array" not in finish
    assert '--output web --task-index "$SLURM_ARRAY_TASK_ID" --task-count 3\n' in array
    assert "--output web --finish\n" in finish
    said = capsys.readouterr().err
    assert "scancel 1 2 " in said and f"{record}/job-1-*.log {record}/finish-2.log" in said
    assert "Job 2 merges the parts into the dataset" in said
    assert json.loads((record / "submission.json").read_text())["jobs"] == [1, 2]


def test_the_command_that_is_printed_does_what_the_verb_does(here, tiny_dataset, small_tasks, capsys):
    words = [*corpus(tiny_dataset), "--output", "it's web"]
    assert submit(*PREPROCESS, "--tasks", 2, "--dry-run", "--", *words) == 0
    captured = capsys.readouterr()
    assert captured.out.count("#!/usr/bin/env bash") == 2
    assert not asked(here)
    os.system(captured.err.partition("to submit them: ")[2])
    record = here / "it's web.submission/001"
    assert asked(here) == [
        f"sbatch --parsable {record}/job.sh",
        f"sbatch --parsable --dependency=afterok:1 --kill-on-invalid-dep=yes {record}/finish.sh",
    ]


def test_an_array_whose_finish_is_refused_is_told_of(here, tiny_dataset, small_tasks, capsys):
    program = here / "bin/sbatch"
    program.write_text('#!/bin/sh\ncase "$*" in *afterok*) echo no >&2; exit 1;; *) echo 7;; esac\n')
    assert submit(*PREPROCESS, "--tasks", 2, "--", *corpus(tiny_dataset), "--output", "web") == 1
    said = capsys.readouterr().err
    assert "finish.sh (exit code 1): no; job 7, which does the parts, is submitted already" in said


def test_an_array_of_one_is_a_job(here, tiny_dataset):
    assert submit(*PREPROCESS, "--", *corpus(tiny_dataset), "--output", "web") == 0
    assert asked(here) == [f"sbatch --parsable {here}/web.submission/001/job.sh"]


def test_preprocessing_by_dask_is_one_job(here, tiny_dataset):
    words = [*corpus(tiny_dataset), "--output", "web"]
    assert submit(*PREPROCESS, "--dask", "--nodes", 4, "--", *words) == 0
    record = here / "web.submission/001"
    assert asked(here) == [f"sbatch --parsable {record}/job.sh"]
    script = (record / "job.sh").read_text()
    assert "#SBATCH --nodes=4\n" in script and "-m dask scheduler" in script


def test_dask_that_is_not_installed_is_told(here, tiny_dataset, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert submit(*PREPROCESS, "--dask", "--", *corpus(tiny_dataset), "--output", "web") == 2
    assert "--dask: needs Dask; install it with pip install 'gpt2dist[dask]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words", "message"),
    [
        (["--tasks", "2", "--dask"], ["CORPUS", "--output", "web"], "an array of jobs, or one job with a Dask"),
        (["--tasks", "0"], ["CORPUS", "--output", "web"], "--tasks 0: must be at least 1, the jobs of the array"),
        (
            ["--tasks", "9"],
            ["CORPUS", "--output", "web"],
            "--tasks 9: this corpus can be divided into at most 1; set",
        ),
        (
            ["--nodes", "2"],
            ["CORPUS", "--output", "web"],
            "--nodes: --job preprocess takes it only with --dask",
        ),
        (
            ["--gpus-per-node", "2"],
            ["CORPUS", "--output", "web"],
            "--gpus-per-node: --job preprocess uses no GPUs",
        ),
        ([], ["CORPUS", "--output", "web", "--finish"], "--finish: submit sets it for each job; omit it"),
        (
            [],
            ["CORPUS", "--output", "web", "--task-index", "1"],
            "--task-index: submit sets it for each job; omit it",
        ),
        (
            [],
            ["CORPUS", "--output", "web", "--scheduler", "tcp://a:1"],
            "--scheduler: submit sets it for each job",
        ),
        ([], ["-", "--tokenizer", "gpt2", "--output", "web"], "-: a job has no standard input; name the files"),
        ([], ["nowhere", "--tokenizer", "TOKENIZER", "--output", "web"], "nowhere: no such file"),
        ([], ["CORPUS", "--output", "web", "--workers", "0"], "--workers 0: must be at least 1"),
        ([], ["CORPUS", "--output", "DATA"], "holds another dataset"),
    ],
)
def test_preprocessing_that_could_not_be_is_refused(here, tiny_dataset, capsys, options, words, message):
    found = {
        "CORPUS": corpus(tiny_dataset),
        "DATA": [str(tiny_dataset)],
        "TOKENIZER": [str(tiny_dataset.parent / "tokenizer")],
    }
    given = [each for word in words for each in found.get(word, [word])]
    if message.startswith("holds another"):
        given += ["--min-chars", "3"]
    assert submit(*PREPROCESS, *options, "--", *given) == 2
    assert message in capsys.readouterr().err
    assert not asked(here) and not list(here.glob("web*"))


def test_unfinished_work_of_another_job_is_told_before_anything_is_submitted(
    here, tiny_dataset, small_tasks, capsys
):
    words = [*corpus(tiny_dataset), "--output", "web"]
    assert cli.main(["preprocess", *words, "--workers", "1", "--task-index", "0", "--task-count", "2"]) == 0
    assert submit(*PREPROCESS, "--", *words) == 0  # the same
    assert submit(*PREPROCESS, "--", *words, "--max-chars", "9") == 2
    assert "holds the unfinished work of another job: --max-chars" in capsys.readouterr().err


def test_records_beside_the_output_are_no_part_of_the_corpus(here, tiny_dataset):
    (here / "a.txt").write_text("a b c")
    words = [".", "--tokenizer", str(tiny_dataset.parent / "tokenizer"), "--output", "web"]
    assert submit(*PREPROCESS, "--", *words, "--suffix", ".txt", "--suffix", ".json") == 0
    assert cli.main(["preprocess", *words, "--suffix", ".txt", "--suffix", ".json"]) == 0
    assert Manifest.load(here / "web").sources["files"] == 1


# --- This machine -----------------------------------------------------------------------------------------


def wait_for(record: Path) -> None:
    """Waits until a local job has ended."""
    (pid,) = json.loads((record / "submission.json").read_text())["jobs"]
    try:
        wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, 120)
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        raise


def test_local_preprocessing_runs_to_its_end(here, tiny_dataset, monkeypatch):
    words = [*corpus(tiny_dataset), "--output", "web"]
    assert submit("--job", "preprocess", "--scheduler", "local", "--", *words) == 0
    record = here / "web.submission/001"
    wait_for(record)
    made = {path.name: path.read_bytes() for path in (here / "web").glob("*.bin")}
    assert made == {path.name: path.read_bytes() for path in tiny_dataset.glob("*.bin")}


def test_a_local_evaluation_leaves_its_result(here, trained, tiny_dataset, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = [trained, "--data", tiny_dataset, "--output", "result.json"]
    assert submit("--job", "evaluate", "--scheduler", "local", "--gpus-per-node", 2, "--", *words) == 0
    wait_for(trained / "submission/001")
    assert json.loads((here / "result.json").read_text())["world_size"] == 2


# --- Kubernetes -------------------------------------------------------------------------------------------


def test_a_run_is_given_to_kubernetes(here, tiny_dataset, capsys):
    run_file = write_run(here, tiny_dataset)
    volumes = ["--volume", f"here:{here}", "--volume", f"data:{tiny_dataset.parent}"]
    assert submit(run_file, *CLUSTER, *volumes, "--nodes", 2, "--gpus-per-node", 2, "--env", "A=b c") == 0
    record = here / "run/submission/001"
    assert asked(here) == [f"kubectl create -f {record}/job.yaml"]
    found = {each["kind"]: each for each in yaml.safe_load_all((record / "job.yaml").read_text())}
    name = found["Job"]["metadata"]["name"]
    said = capsys.readouterr().err
    assert f"job {name}, its files are in {record}" in said and f"kubectl delete -f {record}/job.yaml" in said
    assert found["ConfigMap"]["data"]["config.yaml"] == (record / "config.yaml").read_text()
    assert yaml.safe_load(found["ConfigMap"]["data"]["config.yaml"])["run"]["world_size"] == 4
    assert "export A='b c'\n" in found["ConfigMap"]["data"]["job.sh"]
    assert json.loads((record / "submission.json").read_text())["jobs"] == [name]


def test_a_dry_run_for_kubernetes_prints_the_manifest(here, trained, tiny_dataset, capsys):
    words = ["--", trained, "--data", tiny_dataset]
    volumes = ["--volume", f"a:{trained}", "--volume", f"b:{tiny_dataset}"]
    assert submit("--job", "evaluate", *CLUSTER, *volumes, "--gpus-per-node", 1, "--dry-run", *words) == 0
    captured = capsys.readouterr()
    assert captured.out == (trained / "submission/001/job.yaml").read_text()
    assert not asked(here)


def test_without_kubectl_the_command_is_told(here, tiny_dataset, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    words = ["--volume", f"a:{here}", "--volume", f"b:{tiny_dataset.parent}", "--", *corpus(tiny_dataset)]
    assert submit("--job", "preprocess", *CLUSTER, *words, "--output", "web") == 2
    record = here / "web.submission/001"
    said = capsys.readouterr().err
    assert (
        f"kubectl not found on this machine; where it is installed, run: kubectl create -f {record}/job.yaml"
        in said
    )


def test_a_refusal_of_kubectl_is_told(here, tiny_dataset, capsys):
    (here / "bin/kubectl").write_text("#!/bin/sh\necho error: no access >&2\nexit 1\n")
    run_file = write_run(here, tiny_dataset)
    volumes = ["--volume", f"here:{here}", "--volume", f"data:{tiny_dataset.parent}"]
    assert submit(run_file, *CLUSTER, *volumes, "--gpus-per-node", 1) == 1
    assert "job.yaml (exit code 1): error: no access" in capsys.readouterr().err


def test_data_that_the_pods_would_not_see_is_refused(here, tiny_dataset, capsys):
    run_file = write_run(here, tiny_dataset)
    assert submit(run_file, *CLUSTER, "--volume", f"here:{here}", "--gpus-per-node", 1) == 2
    assert f"{tiny_dataset}: in no volume of the pods; add --volume" in capsys.readouterr().err
    assert not (here / "run").exists()


def test_of_a_pattern_the_directory_above_it_is_what_a_job_needs(tmp_path):
    (tmp_path / "dumps/[2024]").mkdir(parents=True)
    patterns = {
        "dumps/*/x.jsonl": "dumps",
        "dumps/**/*.txt": "dumps",
        "dumps/?": "dumps",
        "dumps/[2024]": "dumps/[2024]",
    }
    for pattern, needed in patterns.items():
        assert list(jobs._existing([str(tmp_path / pattern)])) == [tmp_path / needed]
    assert list(jobs._existing([str(tmp_path / "gone"), "s3://bucket/*.txt"])) == []

"""--quiet: results and what is wrong, nothing else."""

import sys

from tests.support.commands import launch
from tests.support.runs import write_run


def test_training_says_nothing(tiny_dataset, tmp_path):
    run_file = write_run(tmp_path, tiny_dataset, validation=True)
    words = ["train", str(run_file), "schedule.total_steps=2", "schedule.warmup_steps=0", "--quiet"]
    told = launch([sys.executable, "-m", "gpt2dist", "launch", "--nproc-per-node", "2", *words])
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    log = (tmp_path / "run/logs/rank-00000.log").read_text()
    assert "INFO gpt2dist: " in log and "ZeRO stage 1" in log, "the log of the rank has all the same"


def test_an_evaluation_is_its_result(gpt2dist, small_model, tiny_dataset):
    code, out, err = gpt2dist("evaluate", small_model, "--data", tiny_dataset, "--quiet")
    assert (code, err) == (0, "") and out.splitlines()[0].split()[0] == "loss"
    code, _, err = gpt2dist("evaluate", small_model, "--data", tiny_dataset)
    assert err.startswith("evaluate: 100%"), "only where it is asked for"


def test_wrong_input_is_told(gpt2dist, tmp_path):
    code, _, err = gpt2dist("evaluate", tmp_path, "--data", tmp_path, "--quiet")
    assert code == 2 and "not a dataset directory" in err

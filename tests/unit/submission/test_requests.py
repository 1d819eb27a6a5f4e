"""What a job asks for, and what is refused."""

from pathlib import Path

import pytest

from gpt2dist.config import Config
from gpt2dist.errors import UserError
from gpt2dist.submission.plan import Work, parse_environment, require_positive
from gpt2dist.submission.slurm import Slurm, seconds

HOME = Path("/runs/a")
TRAINING = Work("train", "a", (), HOME, (HOME,), config=Config.model_construct(), run=HOME)
SCORING = Work("evaluate", "a", ("a",), HOME, (HOME,))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("90", 5400),
        ("10:30", 630),
        ("1:00:00", 3600),
        ("2-0", 172_800),
        ("1-2:03", 93_780),
        ("1-02:03:04", 93_784),
    ],
)
def test_times_as_slurm_writes_them(time, expected):
    assert seconds(time) == expected


@pytest.mark.parametrize("time", ["", "two hours", "1:2:3:4", "1-", "-5", "1h", "1-1:2:3:4"])
def test_other_times_are_refused(time):
    with pytest.raises(UserError, match=r"^--time .*: write minutes, H:MM:SS, or D-HH:MM:SS"):
        seconds(time)


@pytest.mark.parametrize(
    ("slurm", "message"),
    [
        (Slurm(time="5"), "--time 5: not above the 300 seconds kept for saving; give it more time, or set"),
        (Slurm(save_seconds=0), "--save-seconds 0: must be at least 1"),
        (Slurm(cpus_per_node=0), "--cpus-per-node 0: must be at least 1"),
        (Slurm(options=("qos=high",)), "--sbatch qos=high: write an option of sbatch, as --sbatch=--qos=high"),
        (Slurm(options=("--a\nrm",)), "write an option of sbatch"),
    ],
)
def test_what_slurm_would_refuse_is_refused_before(slurm, message):
    with pytest.raises(UserError) as raised:
        slurm.check(TRAINING)
    assert message in str(raised.value)


def test_a_right_request_passes():
    Slurm(time="5:01", cpus_per_node=1, options=("--qos=high", "-x n7")).check(TRAINING)


def test_work_that_is_not_asked_to_stop_may_have_any_limit():
    Slurm(time="5").check(SCORING)
    with pytest.raises(UserError, match=r"^--save-seconds: training and .* are asked to stop before the limit"):
        Slurm(save_seconds=5).check(SCORING)


def test_the_environment_is_taken_apart():
    assert parse_environment(["A=1", "B_2=x=y", "C="]) == {"A": "1", "B_2": "x=y", "C": ""}


@pytest.mark.parametrize("word", ["A", "=1", "1A=2", "A B=1", "$(rm)=1"])
def test_a_variable_without_a_right_name_is_refused(word):
    with pytest.raises(UserError, match="write NAME=VALUE"):
        parse_environment([word])


def test_a_variable_of_several_lines_is_refused():
    with pytest.raises(UserError, match="--env A: its value is of several lines"):
        parse_environment(["A=1\n2"])


def test_a_count_is_at_least_one():
    with pytest.raises(UserError, match=r"--nodes 0: must be at least 1, the machines"):
        require_positive("--nodes", 0, "the machines")

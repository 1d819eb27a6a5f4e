import pytest

from gpt2dist.cli import DISTRIBUTED_VERBS, main
from gpt2dist.distributed import launch_environment
from gpt2dist.errors import RankUserError, UserError

WHOLE = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
STARTERS = {name for _, count, number in launch_environment.STARTERS for name in (count, number)}


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables of a launcher, and no others."""

    def set_to(**values):
        for name in {*launch_environment.NEEDED, *STARTERS}:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    monkeypatch.setattr(launch_environment, "RESOLVE_SECONDS", 0)
    return set_to


@pytest.mark.parametrize(
    "values",
    [
        {},
        WHOLE,
        WHOLE | {"RANK": "0", "MASTER_ADDR": "127.0.0.1"},
        {"RANK": "0", "WORLD_SIZE": "1"},  # some platforms set them for a job of one process
        {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        WHOLE | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"},
    ],
)
def test_whole_environments_are_taken(environment, values):
    environment(**values)
    launch_environment.check()


@pytest.mark.parametrize("name", sorted({*WHOLE} - {"WORLD_SIZE"}))
def test_a_missing_variable_is_named(environment, name):
    environment(**{each: value for each, value in WHOLE.items() if each != name})
    with pytest.raises(UserError, match=rf"but not {name}; every rank needs all of RANK, LOCAL_RANK, .*launch"):
        launch_environment.check()


def test_a_rank_without_a_world_size(environment):
    environment(RANK="0")
    with pytest.raises(UserError, match="has RANK, but not LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"):
        launch_environment.check()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "one", "RANK='one': must be a whole number"),
        ("RANK", "2", "RANK=2: must be at least 0 and below WORLD_SIZE=2"),
        ("RANK", "-1", "RANK=-1: must be at least 0 and below WORLD_SIZE=2"),
        ("LOCAL_RANK", "2", "LOCAL_RANK=2: must be at least 0 and below WORLD_SIZE=2"),
        ("WORLD_SIZE", "0", "WORLD_SIZE=0: must be at least 1"),
        ("WORLD_SIZE", "2.0", "WORLD_SIZE='2.0': must be a whole number"),
        ("MASTER_PORT", "0", "MASTER_PORT=0: not a port; set it to one from 1 to 65535"),
        ("MASTER_PORT", "x", "MASTER_PORT='x': must be a whole number"),
        ("MASTER_ADDR", "no-such-host.invalid", "MASTER_ADDR=no-such-host.invalid: .* cannot resolve it"),
        ("MASTER_ADDR", "a..b", r"MASTER_ADDR=a\.\.b: .* cannot resolve it"),
    ],
)
def test_each_wrong_value_is_named_by_the_rank_that_has_it(environment, name, value, message):
    environment(**WHOLE | {name: value})
    with pytest.raises(RankUserError, match=message):
        launch_environment.check()


@pytest.mark.parametrize(("starter", "count", "number"), launch_environment.STARTERS)
@pytest.mark.parametrize("verb", DISTRIBUTED_VERBS)
def test_processes_that_do_not_know_of_each_other_are_refused_once(
    environment, capsys, monkeypatch, starter, count, number, verb
):
    """Before, each trained alone, into the same run directory."""
    monkeypatch.setattr("gpt2dist.cli.SECONDS_TO_REPORT", 0)
    arguments = {
        "evaluate": ["m", "--data", "d"],
        "lambada": ["m", "--data", "d"],
        "multiple-choice": ["m", "--data", "d"],
        "check": [],
    }.get(verb, ["run.yaml"])
    for process in ("0", "1"):
        environment(**{count: "8", number: process})
        assert main([verb, *arguments]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"gpt2dist {verb}: {starter} started 8 processes without RANK") == (process == "0")

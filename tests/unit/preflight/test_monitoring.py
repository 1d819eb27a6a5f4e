import sys

import pytest

from gpt2dist.preflight import resolve
from gpt2dist.training.hooks import HOOKS
from tests.support.mistakes import mistakes
from tests.support.packages import installed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["monitoring.samples.prompts=[a]"],
            "monitoring.samples.every_steps: missing; samples need both prompts and every_steps",
        ),
        (
            ["monitoring.samples.every_steps=5"],
            "monitoring.samples.prompts: missing; samples need both prompts and every_steps",
        ),
        (
            ["monitoring.samples.temperature=0.001"],
            "monitoring.samples.temperature: too small; set it to 0 (greedy), or to 0.01 or more",
        ),
    ],
)
def test_what_is_wrong_with_samples_and_the_way_out(run_file, overrides, message):
    assert mistakes(run_file, overrides) == [message]


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            ["monitoring.profile={start: 0}"],
            ["monitoring.profile.start: should be above 0, not 0"],
        ),
        (
            ["monitoring.profile={start: 5, steps: 0}"],
            ["monitoring.profile.steps: should be above 0, not 0"],
        ),
        (
            ["monitoring.profile={steps: 5}"],
            ["monitoring.profile.start: missing; add it, since it has no default"],
        ),
        (
            ["monitoring.profile={start: 99, steps: 3}"],
            ["monitoring.profile: traces steps 99 to 101, but the run has only 100; lower start or steps"],
        ),
        (
            ["monitoring.profile={start: 200, steps: 1}", "schedule={total_tokens: 9000, warmup_steps: 2}"],
            ["monitoring.profile: traces steps 200 to 200, but the run has only 18; lower start or steps"],
        ),
        (
            ["monitoring.profile={start: 200}", "schedule={total_tokens: 9000}", "data.train=[{path: gone}]"],
            ["data.train.0.path: gone"],
        ),
    ],
)
def test_what_is_wrong_with_the_steps_to_trace(run_file, overrides, messages):
    found = mistakes(run_file, overrides)
    assert len(found) == len(messages) and all(map(str.startswith, found, messages)), found


@pytest.mark.parametrize("profile", ["{start: 1, steps: 100}", "{start: 100, steps: 1}"])
def test_any_steps_of_the_run_can_be_traced(run_file, profile):
    config, _ = resolve(run_file, [f"monitoring.profile={profile}"], 1)
    assert config.monitoring.profile


def test_every_tracker_that_cannot_be_imported_is_told_with_the_way_out(run_file):
    assert mistakes(run_file, ["monitoring.trackers=[gone_module:A, tracker]"]) == [
        "monitoring.trackers: gone_module:A cannot be imported (ModuleNotFoundError: No module named "
        "'gone_module'); install it, put its folder on PYTHONPATH, or omit it",
        "monitoring.trackers: unknown tracker 'tracker' (known: wandb, mlflow); write one of these, or "
        "package.module:attribute",
    ]


def test_a_tracker_whose_library_is_missing_is_told_with_the_command_that_installs_it(run_file, monkeypatch):
    monkeypatch.setattr("gpt2dist.registry._is_installed", lambda package: False)
    assert mistakes(run_file, ["monitoring.trackers=[wandb, mlflow]"]) == [
        "monitoring.trackers: wandb is not installed; pip install 'gpt2dist[wandb]', or omit it",
        "monitoring.trackers: mlflow is not installed; pip install 'gpt2dist[mlflow]', or omit it",
    ]


def test_a_look_at_a_run_does_not_import_the_library_of_a_tracker(run_file, monkeypatch):
    monkeypatch.setattr("gpt2dist.registry._is_installed", lambda package: True)
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)  # its import would fail
    config, _ = resolve(run_file, ["monitoring.trackers=[wandb, mlflow]"], 1)
    assert config.monitoring.trackers == ("wandb", "mlflow")


def test_every_hook_that_cannot_be_imported_is_reported_with_the_way_out(run_file):
    tracker = "tests.support.recording_tracker:FileTracker"
    methods = "after_step, after_log, evaluate, after_evaluation, after_save"
    assert mistakes(run_file, [f"run.hooks=[gone_module:A, counter, '{tracker}']"]) == [
        "run.hooks: gone_module:A cannot be imported (ModuleNotFoundError: No module named 'gone_module'); "
        "install it, put its folder on PYTHONPATH, or omit it",
        "run.hooks: unknown training hook 'counter'; write package.module:attribute",
        f"run.hooks: the training hook {tracker} lacks {methods} (needed: start, {methods}, close)",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gone_module:upload",
            "gone_module:upload cannot be imported (ModuleNotFoundError: No module named 'gone_module'); "
            "install it, put its folder on PYTHONPATH, or omit it",
        ),
        ("upload", "unknown on_commit function 'upload'; write package.module:attribute"),
        (
            "tests.support.uploads:of_one_argument",
            "tests.support.uploads:of_one_argument cannot be called with a checkpoint and a step (too many "
            "positional arguments); define it as def upload(checkpoint: Path, step: int)",
        ),
        (
            "tests.support.uploads:__doc__",
            "tests.support.uploads:__doc__ cannot be called with a checkpoint and a step ('Functions",
        ),
    ],
)
def test_an_on_commit_function_that_cannot_be_called_is_reported_with_the_way_out(run_file, name, message):
    (found,) = mistakes(run_file, [f"checkpoint.on_commit={name}"])
    assert found.startswith(f"checkpoint.on_commit: {message}")


def test_a_package_offers_a_hook_by_name(run_file, tmp_path):
    hook = "tests.support.counting_hook:CountingHook"
    with installed(tmp_path, "counting", "gpt2dist.hooks", counter=hook):
        config, _ = resolve(run_file, ["run.hooks=[counter]"], 1)
        assert HOOKS.get(*config.run.hooks).__name__ == "CountingHook"


def test_a_look_at_a_run_imports_its_trackers_and_starts_none(run_file, monkeypatch):
    module = "tests.support.recording_tracker"
    monkeypatch.delitem(sys.modules, module, raising=False)
    config, _ = resolve(run_file, [f"monitoring.trackers=[{module}:FileTracker]"], 1)
    assert config.monitoring.trackers == (f"{module}:FileTracker",) and module in sys.modules

import logging
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from gpt2dist.distributed.world import World
from gpt2dist.errors import RunError, UserError
from gpt2dist.training.hooks import Hook, HookError, Hooks

TRAINER = SimpleNamespace(world=World(0, 0, 1, torch.device("cpu")), step=7)


class Diary(Hook):
    """Notes its name and the method; the method named by `fails_in` raises."""

    def __init__(self, name, calls, fails_in="", error=None):
        self.name, self.calls, self.fails_in, self.error = name, calls, fails_in, error or OSError("full")

    def _note(self, method, *what):
        self.calls.append((self.name, method, *what))
        if self.fails_in == method:
            raise self.error

    def start(self, trainer):
        self._note("start")

    def after_step(self, trainer, result):
        self._note("step", result)

    def evaluate(self, trainer):
        self._note("evaluate")
        yield {"a": 1}
        yield {"b": 2}

    def after_evaluation(self, trainer, values):
        self._note("evaluation", *values)

    def close(self, failed):
        self._note("close", failed)


class OnlySteps(Hook):
    def after_step(self, trainer, result):
        result.append(trainer.step)


def test_a_hook_implements_only_what_it_needs():
    steps, hooks = [], Hooks([], {"a": OnlySteps})
    with hooks.running(TRAINER):
        hooks.after_step(TRAINER, steps)
        hooks.after_log(TRAINER, {"train/loss": 1.0})
        hooks.evaluate(TRAINER)
        hooks.after_save(TRAINER, None)
    assert steps == [7]


def test_all_hooks_receive_each_result_before_the_next_is_computed():
    calls: list = []
    hooks = Hooks([OnlySteps(), Diary("one", calls)], {"two": lambda: Diary("two", calls)})
    with hooks.running(TRAINER):
        hooks.evaluate(TRAINER)
    after = [[("one", "evaluation", tag), ("two", "evaluation", tag)] for tag in "ab"]
    evaluations = [call for name in ("one", "two") for call in ((name, "evaluate"), *after[0], *after[1])]
    starts, closes = [("one", "start"), ("two", "start")], [("two", "close", False), ("one", "close", False)]
    assert calls == [*starts, *evaluations, *closes]


def failing(where, error=None, ours=False):
    """Hooks of which one fails, and the calls of both."""
    calls: list = []
    bad = Diary("bad", calls, where, error)
    good = Diary("good", calls)
    return (Hooks([good, bad], {}) if ours else Hooks([good], {"my:Bad": lambda: bad})), calls


@pytest.mark.parametrize("where", ["step", "evaluate", "evaluation", "close"])
def test_a_failing_hook_ends_the_run_with_its_name(where):
    hooks, calls = failing(where)
    with pytest.raises(HookError) as raised, hooks.running(TRAINER):
        hooks.after_step(TRAINER, "result")
        hooks.evaluate(TRAINER)
    assert str(raised.value) == (
        "my:Bad failed (OSError: full); fix it, or remove it from run.hooks, and start again: the run resumes "
        "from its newest checkpoint"
    )
    assert isinstance(raised.value.__cause__, OSError)
    failed = where != "close"
    assert calls[-2:] == [("bad", "close", failed), ("good", "close", failed)]


@pytest.mark.parametrize(
    "error", [RunError("diverged"), dist.DistNetworkError("gone")], ids=["of the run", "a lost rank"]
)
def test_what_a_hook_is_not_to_blame_for_passes_unchanged(error):
    hooks, _ = failing("step", error)
    with pytest.raises(type(error)) as raised, hooks.running(TRAINER):
        hooks.after_step(TRAINER, "result")
    assert raised.value is error


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, "it yielded the tag 'step', which training uses; choose another"),
        ({"train/loss": 3.0}, "it yielded the tag 'train/loss', which training uses; choose another"),
        ({"a/b": torch.ones(())}, "it yielded a Tensor as 'a/b'; convert it to a number or a text"),
    ],
)
def test_an_evaluation_that_yields_what_cannot_be_recorded_ends_the_run(values, message):
    class Bad(Hook):
        def evaluate(self, trainer):
            yield values

    hooks = Hooks([], {"my:Bad": Bad})
    with pytest.raises(HookError) as raised, hooks.running(TRAINER):
        hooks.evaluate(TRAINER)
    assert str(raised.value).startswith(f"my:Bad failed (ValueError: {message}); fix it")


def test_an_error_of_our_own_hooks_is_a_bug_and_passes_unchanged():
    hooks, _ = failing("step", ours=True)
    with pytest.raises(OSError, match="full"), hooks.running(TRAINER):
        hooks.after_step(TRAINER, "result")


def test_a_hook_that_cannot_close_does_not_hide_why_the_run_failed(caplog):
    hooks, calls = failing("close")
    with pytest.raises(ZeroDivisionError), caplog.at_level(logging.WARNING), hooks.running(TRAINER):
        raise ZeroDivisionError
    assert calls[-2:] == [("bad", "close", True), ("good", "close", True)]
    assert caplog.messages[0].startswith("my:Bad failed (OSError: full)")


def test_a_hook_that_cannot_start_refuses_the_run_and_closes_those_before_it():
    hooks, calls = failing("start")
    with pytest.raises(UserError) as raised, hooks.running(TRAINER):
        pass
    assert str(raised.value) == ("my:Bad could not start (OSError: full); fix it, or remove it from run.hooks")
    assert calls == [("good", "start"), ("bad", "start"), ("good", "close", True)]

import logging
import os
import signal
import threading

import pytest
import torch

import gpt2dist
from gpt2dist.errors import UserError
from tests.support.ranks import run_ranks
from tests.support.runs import metrics, train, weights_of, write_run

SHORT = ("schedule.total_steps=4", "schedule.warmup_steps=1")


def train_twice(path, home):
    """Train a run in two parts, then another run, in one process; return what is left of each call."""
    state = process_state()
    config = gpt2dist.Config.read(path, *SHORT)
    first = gpt2dist.train(config.override("run.stop_after_steps=2"))
    stopped = first.status.state
    resumed = gpt2dist.train(config, quiet=True)
    other = gpt2dist.train(config.override("run.seed=1", f"run.output_dir={home / 'other'}"), quiet=True)
    return {
        "states": (stopped, resumed.status.state, other.status.state),
        "losses": [run.metrics()["train/loss"].values.tolist() for run in (resumed, other)],
        "changed": {name: value for name, value in process_state().items() if value != state[name]},
    }


def process_state():
    return {
        "handlers": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)],
        "level": logging.getLogger().level,
        "log handlers": (list(logging.getLogger().handlers), list(logging.getLogger("gpt2dist").handlers)),
        "environment": dict(os.environ),
        "linear": torch.nn.functional.linear,
        "joined": torch.distributed.is_initialized(),
    }


def use_what_stage_3_trained(path, home):
    """Train at ZeRO stage 3, and evaluate, sample and train again in the same process."""
    config = gpt2dist.Config.read(path, *SHORT, "zero.stage=3")
    run = gpt2dist.train(config, quiet=True)
    result = gpt2dist.evaluate(run, documents=["abc def"], stride=16, quiet=True)
    again = gpt2dist.train(config.override(f"run.output_dir={home / 'again'}"), quiet=True)
    same = (run.metrics()["train/loss"].values == again.metrics()["train/loss"].values).all()
    return result["targets"], len(gpt2dist.generate(run, "a", max_new_tokens=3, quiet=True)), bool(same)


def test_stage_3_leaves_a_process_that_can_do_everything_else(tiny_dataset, tmp_path):
    ((targets, texts, same),) = run_ranks(
        use_what_stage_3_trained, 1, write_run(tmp_path, tiny_dataset), tmp_path
    )
    assert targets > 1 and texts == 1 and same


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_runs_twice_in_one_process_and_gives_the_numbers_of_the_verb(tiny_dataset, tmp_path, ranks):
    (tmp_path / "verb").mkdir()
    expected = train(write_run(tmp_path / "verb", tiny_dataset), *SHORT, world_size=ranks)
    for result in run_ranks(train_twice, ranks, write_run(tmp_path, tiny_dataset), tmp_path):
        assert result["states"] == ("stopped", "finished", "finished")
        assert result["losses"][0] == metrics(expected, "train/loss") != result["losses"][1]
        assert result["changed"] == {}


def train_after_interruptions(path):
    """Interrupt a run by Ctrl-C at its third step and by SIGTERM at its first, then let it finish."""
    from gpt2dist.training.engine import Engine

    config, step = gpt2dist.Config.read(path, *SHORT), Engine.train_step
    left = iter(range(2, -1, -1))

    def interrupted(self, *args):
        if next(left, 1) == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    def stopped(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args)

    Engine.train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        gpt2dist.train(config)
    after_ctrl_c = gpt2dist.Run(config.output_dir).status
    assert (after_ctrl_c.state, after_ctrl_c.reason) == ("stopped", "by SIGINT, with everything saved")
    assert after_ctrl_c.checkpoint.step in (2, 3)
    Engine.train_step = stopped
    after_signal = gpt2dist.train(config).status
    Engine.train_step = step
    run = gpt2dist.train(config)
    return after_signal.state, run.status.state, run.metrics()["train/loss"].values.tolist(), weights(run)


def weights(run):
    return weights_of(run.checkpoints[-1])


def test_an_interrupted_run_resumes_in_the_same_process(tiny_dataset, tmp_path):
    (tmp_path / "whole").mkdir()
    whole = gpt2dist.Run(train(write_run(tmp_path / "whole", tiny_dataset), *SHORT))
    ((state, end, losses, found),) = run_ranks(train_after_interruptions, 1, write_run(tmp_path, tiny_dataset))
    assert (state, end) == ("stopped", "finished")
    assert losses == metrics(whole.directory, "train/loss")
    assert [found] == run_ranks(weights, 1, whole)


def test_all_mistakes_are_in_one_message(tmp_path):
    config = gpt2dist.Config.from_dict(
        {"run": {"output_dir": tmp_path / "run"}, "data": {"train": [{"path": tmp_path / "nowhere"}]}}
    )
    with pytest.raises(UserError) as refused:
        gpt2dist.train(config)
    message = str(refused.value)
    assert message.startswith("run: ") and "mistakes in the configuration" in message
    assert "data.train.0.path: " in message and "schedule.total_steps: " in message
    assert not (tmp_path / "run").exists()


def test_a_configuration_without_a_name_is_refused():
    with pytest.raises(UserError, match=r"run\.name: is required here and missing; set it, or run\.output_dir"):
        gpt2dist.train(gpt2dist.Config())


def test_another_thread_is_refused():
    caught = []

    def call():
        try:
            gpt2dist.train(gpt2dist.Config())
        except UserError as error:
            caught.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert caught == ["train must be called from the main thread, which receives the signals that stop a run"]

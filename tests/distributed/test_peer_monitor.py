"""Ranks whose main thread is stuck in C code learn of a killed rank, and of nothing else."""

import atexit
import ctypes
import json
import os
import signal
import threading
import time

import pytest
import torch.distributed as dist

from gpt2dist.distributed.world import join, leave
from tests.support.ranks import exit_codes, run_ranks
from tests.support.runs import write_run

STUCK = 100
"""Seconds in C code, without the GIL. The tests must end long before."""
KILLED = -signal.SIGKILL


def stuck_but_one(victim, way):
    """All ranks but one are stuck when that one ends."""
    from gpt2dist.api.ranks import joined_ranks

    with joined_ranks() as world:
        dist.barrier()
        if world.rank == victim:
            if way == "forks":
                child = os.fork()  # has copies of the descriptors
                if not child:
                    time.sleep(4)
                    os.write(2, b"the child ends\n")
                    os._exit(0)
            if way == "fails":
                raise ValueError("a bad number\nand more")
            os.kill(os.getpid(), signal.SIGKILL)
        ctypes.CDLL(None).sleep(STUCK)


@pytest.mark.parametrize(
    ("size", "victim", "way"),
    # In the tree of four ranks 2 and 3 are not connected with each other, nor is 1 with 2.
    [(2, 0, "is killed"), (2, 1, "forks"), (3, 2, "is killed"), (4, 3, "is killed")],
)
def test_a_killed_rank_ends_all_others_that_are_stuck(size, victim, way, capfd):
    codes = exit_codes(stuck_but_one, size, victim, way, timeout=STUCK / 2)
    assert codes == [KILLED if rank == victim else 1 for rank in range(size)]
    said = capfd.readouterr().err
    for rank in set(range(size)) - {victim}:
        loss = f"rank {rank}: PeerLostError: rank {victim} is gone: its connection closed\n  another rank failed"
        assert said.count(loss) == 1
    assert said.count("PeerLostError") == size - 1
    assert way != "forks" or said.index("PeerLostError") < said.index("the child ends")


def test_a_rank_that_fails_is_named_with_its_error_by_those_that_are_stuck(capfd):
    codes = exit_codes(stuck_but_one, 3, 1, "fails", timeout=STUCK / 2)
    assert codes == [1, 0, 1]  # the harness catches the error
    said = capfd.readouterr().err
    for rank in (0, 2):
        assert said.count(f"rank {rank}: PeerLostError: rank 1 failed: ValueError: a bad number\n  another") == 1


def train_until_one_is_killed(config, overrides):
    """Rank 1 is killed in its third step, where rank 0 is stuck in C code."""
    from gpt2dist import cli
    from gpt2dist.training.engine import Engine

    step, count = Engine.train_step, iter(range(100))

    def train_step(self, *args):
        if next(count) == 2:
            dist.barrier()
            if self.world.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            ctypes.CDLL(None).sleep(STUCK)
        return step(self, *args)

    Engine.train_step = train_step
    cli.main(["train", str(config), *overrides])


def test_a_stuck_rank_of_a_run_leaves_the_same_records_as_one_that_notices(tiny_dataset, tmp_path, capfd):
    config = write_run(tmp_path, tiny_dataset)
    overrides = ["batch.micro_batch_size=2"]
    assert exit_codes(train_until_one_is_killed, 2, config, overrides, timeout=STUCK / 2) == [1, KILLED]
    loss, log = "rank 1 is gone: its connection closed", tmp_path / "run/logs/rank-00000.log"
    word = json.loads((tmp_path / "run/failed.json").read_text())
    assert (word["rank"], word["kind"], word["reason"]) == (0, "PeerLostError", loss)
    said = capfd.readouterr().err
    assert said.count(f"rank 0: PeerLostError: {loss}\n  another rank failed first") == 1
    assert f"  traceback: {log}" in said
    assert f"PeerLostError: {loss}" in log.read_text()


def leave_one_after_another(pause):
    """The later a rank leaves, the higher its number; the last one is alone for longer than the grace period."""
    world = join()
    dist.barrier()
    time.sleep(pause * world.rank)
    leave()
    join_again = world.rank, threads("gpt2dist-peers")
    time.sleep(pause * (world.size - world.rank))
    return join_again


def threads(name):
    return sum(thread.name == name for thread in threading.enumerate())


def test_ranks_that_leave_at_different_times_are_no_losses(capfd):
    assert run_ranks(leave_one_after_another, 3, 1.5) == [(rank, 0) for rank in range(3)]
    assert "PeerLostError" not in capfd.readouterr().err


def exit_one_after_another():
    """As in `cli.main`, where all ranks find the same error: none leaves the group, and rank 0 exits first."""
    atexit._clear()  # what the parent has registered
    world = join()
    dist.barrier()
    time.sleep(3 * world.rank)
    atexit._run_exitfuncs()  # as at the exit of an interpreter, which the harness keeps from ranks
    os._exit(2)


def test_a_normal_exit_of_the_interpreter_says_goodbye(capfd):
    assert exit_codes(exit_one_after_another, 2, timeout=STUCK / 2) == [2, 2]
    assert "PeerLostError" not in capfd.readouterr().err

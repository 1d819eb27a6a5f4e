"""`gpt2dist check` on real ranks, and with a stand-in for a slow one."""

import contextlib
import io
import time

import pytest
import torch.distributed as dist

from gpt2dist import cli
from gpt2dist.distributed import fabric, launch_environment
from tests.support.ranks import run_ranks

SHORT = 0.05


def check(directory, *words, hosts=False, slow=None, broken=None):
    """Run the command on this rank, and return its exit code and what it printed."""
    rank = launch_environment.rank()
    if hosts:
        fabric.socket.gethostname = lambda: f"node{rank}"
    if slow == rank:
        exchange = dist.batch_isend_irecv

        def late(operations):
            time.sleep(0.3)
            return exchange(operations)

        dist.batch_isend_irecv = late
    if broken == rank:
        fabric.use_disk = lambda *args: fabric.Disk(fault="Stale file handle")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = cli.main(["check", "--directory", str(directory), "--seconds", str(SHORT), *words])
    return code, printed.getvalue()


@pytest.mark.parametrize("hosts", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_healthy_ranks(tmp_path, world_size, hosts):
    # A limit that busy cores do not reach either.
    outcomes = run_ranks(check, world_size, tmp_path, "--slow-below", "1e-6", hosts=hosts)
    assert [code for code, _ in outcomes] == [0] * world_size
    assert [printed for _, printed in outcomes[1:]] == [""] * (world_size - 1)
    lines = outcomes[0][1].splitlines()
    assert lines[-1] == "nothing is wrong"
    ranks = f"{world_size} rank{'s' * (world_size > 1)}"
    count = world_size if hosts else 1
    assert lines[0].startswith(f"{ranks} on {count} host{'s' * (count > 1)}: torch ")
    names = {line.split("  ")[1] for line in lines if line.startswith("  ")}
    network = {"all-reduce", "clocks", "between hosts" if hosts else "within hosts"} if world_size > 1 else set()
    together = {"disks together"} if count > 1 else set()
    assert names == {"matrix product", "disk write", "disk read"} | network | together
    assert sum(line.startswith("node" if hosts else fabric.socket.gethostname()) for line in lines) == count
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hosts", [False, True])
def test_a_slow_rank_is_named_and_its_partners_are_not(tmp_path, hosts):
    outcomes = run_ranks(check, 3, tmp_path, "--slow-below", "0.1", hosts=hosts, slow=1)
    assert [code for code, _ in outcomes] == [1] * 3
    wrong = [line for line in outcomes[0][1].splitlines() if line.startswith("wrong: ")]
    (network,) = [line for line in wrong if "hosts" in line]  # on busy cores, a product may be slow, too
    assert f"(rank 1): {'between' if hosts else 'within'} hosts " in network


def test_a_host_with_a_bad_disk_is_named(tmp_path):
    outcomes = run_ranks(check, 2, tmp_path, "--slow-below", "1e-6", hosts=True, broken=1)
    assert [code for code, _ in outcomes] == [1] * 2
    assert outcomes[0][1].splitlines()[-1] == "wrong: node1: cannot use the directory: Stale file handle"


def test_a_directory_that_does_not_exist_is_wrong_input(tmp_path, capfd):
    outcomes = run_ranks(check_without_waiting, 2, tmp_path / "absent")
    assert outcomes == [(2, "")] * 2
    told = (
        f"gpt2dist check: {tmp_path / 'absent'}: no such directory; create it, or name another with --directory\n"
    )
    assert capfd.readouterr().err == told


def check_without_waiting(directory):
    cli.SECONDS_TO_REPORT = 0
    return check(directory)


def every_rank_has_all(directory):
    from gpt2dist.distributed.world import join

    world = join()
    measured = fabric.measure(world, directory, SHORT, f"node{world.rank // 2}")
    return [
        (each.host, [(found.kind, found.partner) for found in each.exchanges], each.disk is not None)
        for each in measured
        if each.product > 0 and each.all_reduce > 0 and len(each.clocks) == fabric.CLOCK_ROUNDS
        if all(found.rate > 0 for found in each.exchanges)
    ]


def test_every_rank_knows_what_all_have_measured(tmp_path):
    within, between = fabric.WITHIN, fabric.BETWEEN
    expected = [
        ("node0", [(within, 1), (between, 2)], True),
        ("node0", [(within, 0)], False),
        ("node1", [(between, 0)], True),
    ]
    assert run_ranks(every_rank_has_all, 3, tmp_path) == [expected] * 3

import resource

import pytest

from gpt2dist.preflight import resolve
from tests.support.mistakes import mistakes


def test_a_hard_limit_that_is_too_low_for_the_ranks_is_named_with_the_way_out(run_file, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 257))
    (found,) = mistakes(run_file, [])
    assert (
        "data.train: rank 0 needs up to 260 open files: 1 for the ranks, 3 for the shards and 256 others."
        in found
    )
    assert "A process of this host may open only 257 (`ulimit -Hn`); raise this limit: LimitNOFILE of" in found


@pytest.mark.parametrize("hard", [260, resource.RLIM_INFINITY])
def test_a_limit_that_is_enough_is_not_told(run_file, monkeypatch, hard):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, hard))
    resolve(run_file, [], 1)


def test_ranks_other_than_rank_0_do_not_check(run_file, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 257))
    monkeypatch.setenv("RANK", "1")
    resolve(run_file, [], 1)

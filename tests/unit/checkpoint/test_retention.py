from gpt2dist.checkpoint.retention import outdated


def test_the_newest_stay():
    assert outdated([10, 20, 30, 40], 40, keep_last=2, keep_every=None) == [10, 20]


def test_multiples_stay_for_ever_and_do_not_count():
    assert outdated([5, 10, 15, 20, 25, 30], 30, keep_last=2, keep_every=20) == [5, 10, 15]


def test_checkpoints_of_another_past_neither_go_nor_count():
    assert outdated([10, 15, 30, 40], 15, keep_last=2, keep_every=None) == []


def test_nothing_goes_while_there_are_few():
    assert outdated([10], 10, keep_last=3, keep_every=None) == []

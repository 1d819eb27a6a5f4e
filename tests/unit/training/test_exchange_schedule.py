"""All ranks exchange at the same polls, about once a second, whatever their clocks say."""

import itertools

import pytest

from gpt2dist.training.exchange_schedule import SECONDS, WARM_UP_POLLS, ExchangeSchedule


class Ranks:
    """Ranks whose clocks run at different speeds; `at` has the seconds of each exchange."""

    def __init__(self, speeds):
        self.now, self.sent, self.at, self.polls = [100.0 * n for n in range(len(speeds))], None, [], 0
        self.speeds, self.time = speeds, 0.0
        self.schedules = [ExchangeSchedule(lambda rank=rank: self.now[rank]) for rank in range(len(speeds))]

    def poll(self, seconds):
        """Polls this long after the last poll; gives whether the ranks send at it, and whether they receive."""
        self.time += seconds
        self.polls += 1
        self.now = [now + seconds * speed for now, speed in zip(self.now, self.speeds, strict=True)]
        for each in self.schedules:
            each.count()
        assert len({each.receives for each in self.schedules}) == 1
        received = self.schedules[0].receives and self.sent is not None
        if received:
            for each in self.schedules:
                each.received(max(self.sent))
            self.sent = None
        assert len({each.sends for each in self.schedules}) == 1
        if sends := self.schedules[0].sends:
            assert self.sent is None
            self.sent = [each.sent() for each in self.schedules]
            self.at.append(self.time)
        return sends, received


@pytest.mark.parametrize("seconds", [0.0005, 0.01, 0.2, 0.6, 3.0])
def test_an_exchange_a_second_or_a_poll_and_a_request_is_known_by_then(seconds):
    ranks = Ranks([1.0, 1.02, 0.97])
    steps = [ranks.poll(seconds) for _ in range(int(200 + 30 / seconds))]
    late = [time for time in ranks.at if time > ranks.time - 10]
    assert len(late) <= 10 * 1.2 / SECONDS + 10 / (2 * seconds) * (seconds > SECONDS / 4) + 2
    # A request just after an exchange is sent with the next one, and known where that is received.
    sent = [number for number, (sends, _) in enumerate(steps) if sends]
    received = [number for number, (_, receives) in enumerate(steps) if receives]
    for before, after in zip(sent[-5:-2], sent[-4:-1], strict=True):
        known = next(number for number in received if number > after)
        assert (known - before) * seconds <= max(1.05 * SECONDS, 2 * seconds)


def test_the_first_polls_exchange_each():
    ranks = Ranks([1.0, 1.0])
    assert all(ranks.poll(0.001)[0] for _ in range(WARM_UP_POLLS))


def test_slower_polls_shorten_the_interval_at_once_and_faster_ones_lengthen_it_step_by_step():
    ranks = Ranks([1.0, 1.0])
    for _ in range(3000):
        ranks.poll(0.001)
    while not ranks.poll(0.001)[0]:
        pass
    for _ in range(1000):  # an interval at most goes by at the old pace
        ranks.poll(0.5)
    before = ranks.polls
    while not ranks.poll(0.5)[0]:
        pass
    assert ranks.polls - before <= 2
    gaps, last = [], ranks.polls
    while len(gaps) < 5:
        if ranks.poll(0.0001)[0]:
            gaps.append(ranks.polls - last)
            last = ranks.polls
    assert all(after <= 2 * before + 1 for before, after in itertools.pairwise(gaps))


def test_irregular_polls_exchange_each_and_change_nothing_for_the_others():
    ranks = Ranks([1.0, 1.0])
    for _ in range(2000):
        ranks.poll(0.01)
    before = ranks.schedules[0]._interval
    for each in ranks.schedules:
        each.every_poll = True
    assert all(ranks.poll(seconds)[0] for seconds in (0.001, 5.0, 0.001, 0.3))
    for each in ranks.schedules:
        each.every_poll = False
    ranks.poll(0.01)
    assert ranks.schedules[0]._interval == before > 10

"""The line that tells how far a run is."""

import pytest

from flows.heartbeat import INTERVAL_S, Heartbeat, duration


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_line_tells_pairs_rate_time_left_and_queues():
    clock = Clock()
    heartbeat = Heartbeat(1000, clock)
    heartbeat.done, heartbeat.queues = 50, (2, 1)
    clock.now += 25
    assert heartbeat.line() == ("50 of 1000 pairs, 2.00 pairs/s, 8 min left, chunks read ahead 2, to publish 1")


def test_before_the_first_pair_no_time_is_promised():
    assert Heartbeat(5, Clock()).line() == "0 of 5 pairs, 0.00 pairs/s, unknown time left"


def test_it_is_due_every_half_minute():
    clock = Clock()
    heartbeat = Heartbeat(5, clock)
    assert not heartbeat.is_due()
    clock.now += INTERVAL_S
    assert heartbeat.is_due()
    assert not heartbeat.is_due()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99, "99 s"), (125, "2 min"), (5_000, "83 min"), (11_100, "3 h 05 min"), (187_200, "2 days 4 h")],
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text

"""Shards that work and commit nothing, and shards that nobody takes: by a clock of the test, and on a real server."""

import asyncio
import logging
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from flows import pool_view, shard_watch
from flows.dispatch import TRIES, DispatchError
from flows.fuse_archive import finish
from flows.pool_view import PoolView
from flows.shard_watch import CommitWatch, TurnWatch
from tests.archives import make_archive
from tests.pool_by_hand import completed, dispatched, fuse, planned_run, quick_pool, work_after

pytestmark = pytest.mark.timeout(120)

POOL = PoolView("gpu", window=3, workers=0, is_paused=False, begin_s=300, ending_s=120, commit_s=7200)


class Clock:
    def __init__(self):
        self.hours = 100.0

    def __call__(self):
        return self.hours * 3600


# ---- a shard that commits nothing ------------------------------------------------------------------------------------


def watched(clock, watch, hours, left):
    """Whether the watch calls the work off, looking every minute as often as it wants to, and after how many hours."""
    begun = clock.hours
    while clock.hours < begun + hours:
        clock.hours += 1 / 60
        if watch.is_due(7200) and watch.idle(left(clock.hours - begun), 7200) is not None:
            return pytest.approx(clock.hours - begun, abs=0.6)
    return None


def test_work_that_commits_nothing_for_the_time_limit_hangs():
    clock = Clock()
    watch = CommitWatch(clock)
    watch.begin(9)
    assert watched(clock, watch, 24, lambda _: 9) == 2
    # The next flow run has twice the time: a chunk may be that slow.
    watch.begin(9)
    assert watched(clock, watch, 24, lambda _: 9) == 4


def test_work_that_commits_now_and_then_does_not_hang():
    clock = Clock()
    watch = CommitWatch(clock)
    watch.begin(9)
    assert watched(clock, watch, 9, lambda hours: 9 - int(hours)) is None
    # Until it hangs.
    assert watched(clock, watch, 9, lambda _: 1) is not None


def test_chunks_are_not_counted_all_the_time():
    clock = Clock()
    watch = CommitWatch(clock)
    watch.begin(9)
    looks = []
    assert watched(clock, watch, 2, lambda hours: looks.append(hours) or 9) is None
    assert len(looks) <= 4


@pytest.fixture
def pool(prefect_api, monkeypatch):
    monkeypatch.setitem(pool_view.ENDING_S, "process", 0.1)
    return quick_pool(monkeypatch)


@pytest.mark.server
def test_a_flow_run_that_lives_and_commits_nothing_is_a_lost_try(pool, tmp_path, monkeypatch):
    from prefect.states import Running

    monkeypatch.setattr(pool_view, "SHARD_TIME_LIMIT", timedelta(seconds=0.5))
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        dispatched(pool, planned, work_after(planned, Running()))
        assert finish(planned).sentence() == "2 pairs: 2 ok"
    runs = asyncio.run(pool.runs())
    assert [run.state.type.value for run in runs] == ["CANCELLED", "COMPLETED"]
    # Nobody saw its process end.
    assert [run.parameters["predecessor_may_live"] for run in runs] == [False, True]


@pytest.mark.server
def test_a_shard_that_always_hangs_is_given_up(pool, tmp_path, monkeypatch):
    from prefect.states import Running

    monkeypatch.setattr(pool_view, "SHARD_TIME_LIMIT", timedelta(seconds=0.1))
    with (
        planned_run(pool, make_archive(tmp_path, 2)) as planned,
        pytest.raises(DispatchError, match=r"0000 \(at work, but nothing committed in \d s\)"),
    ):
        dispatched(pool, planned, lambda *_: Running())
    assert len(asyncio.run(pool.runs())) == TRIES


# ---- a pool that takes nothing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (POOL, "none is online: start one, with prefect worker start --pool gpu"),
        (replace(POOL, is_paused=True), "the pool is paused: prefect work-pool resume gpu"),
        (
            replace(POOL, workers=2),
            "2 online: they are busy with other runs, or their log or the pool's queues say why",
        ),
    ],
)
def test_shards_that_nobody_takes_are_told_every_ten_minutes(caplog, pool, reason):
    clock = Clock()
    watch = TurnWatch(clock)
    for _ in range(2 * 60 * 60 // 30):
        watch.look(3, 0, pool)
        clock.hours += 1 / 120
    lines = [record.getMessage() for record in caplog.records]
    assert 10 <= len(lines) <= 12
    assert lines[0] == f"3 shards wait: no worker of pool gpu has taken one for 10 min; {reason}"
    assert "taken one for 2 h" not in lines[0]
    assert lines[-1].startswith("3 shards wait: no worker of pool gpu has taken one for 1")


def test_shards_that_wait_for_their_turn_are_not_told(caplog):
    clock = Clock()
    watch = TurnWatch(clock)
    for minute in range(120):
        watch.look(3, 0 if minute % 9 else 1, POOL)
        watch.look(0, 0, POOL)
        watch.look(3, 2, POOL)
        clock.hours += 1 / 60
    assert not caplog.records


@pytest.mark.server
def test_a_dispatch_says_that_its_pool_has_no_worker(pool, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shard_watch, "SAY_S", 0.3)
    caplog.set_level(logging.WARNING)
    told = f"1 shards wait: no worker of pool {pool.name} has taken one for "

    def said():
        return [record.getMessage() for record in caplog.records if record.getMessage().startswith(told)]

    with planned_run(pool, make_archive(tmp_path, 2)) as planned:

        def end(run, _):
            deadline = time.monotonic() + 60
            while not said():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            fuse(planned, run)
            return completed()

        dispatched(pool, planned, end)
    assert said()[0].endswith(f"none is online: start one, with prefect worker start --pool {pool.name}")

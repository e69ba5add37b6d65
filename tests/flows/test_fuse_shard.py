"""One shard and several processes that believe that it is theirs."""

import threading
import time

import pytest

from flows import fuse_shard
from flows.fuse_archive import check_inputs, plan_runs
from flows.fuse_shard import PLAIN, divide, outlast, run_chunks, shard_chunks
from flows.open_prior import open_prior
from tasks.attempts import Marks, marked_chunks, read_deaths
from tasks.borrowed_lock import BorrowedLock
from tasks.job_file import make_job
from tasks.lock import LockLostError, hold
from tasks.shard_fence import Sending, ShardFence
from tests.archives import job_settings, make_archive, pictures
from tests.runs import SilentProgress, SilentWatcher


@pytest.fixture
def settings(tmp_path):
    """Of a planned run with one chunk, whose lock is held."""
    job = make_job(job_settings(make_archive(tmp_path, 4), mode="max", chunk_pairs=4))
    with hold(job.out) as lock:
        yield next(plan_runs(check_inputs(job), None, lock.token, SilentWatcher())).settings


def process(settings, number):
    """The fence of a process that was sent as this one and its lock, both looked at as often as one asks."""
    fence = ShardFence(settings.run, "0000", Sending(settings.token, number))
    fence.enter()
    return fence, BorrowedLock(settings.run.dest, settings.token, settings.run.run_id, every_s=3600, also=fence.check)


def work(settings, lock, progress=None):
    prior = open_prior(settings.job, settings.prior_sha256)
    chunks = shard_chunks(settings, "0000")
    run_chunks(chunks, settings, prior, progress or SilentProgress(), PLAIN, lock.check, lock.confirm)


class TakenAfter(SilentProgress):
    """Sends the shard to another process at the first pairs that leave the network."""

    def __init__(self, settings):
        self.settings = settings

    def fused(self, *_):
        process(self.settings, 2)


def test_a_process_whose_shard_went_to_a_later_one_commits_nothing_and_blames_no_pair(settings, tmp_path):
    _, lock = process(settings, 1)
    # Its last look at the lock is of before the other one began, so that it writes its pictures.
    lock.check()
    with pytest.raises(LockLostError, match="a later one took it"):
        work(settings, lock, TakenAfter(settings))
    (left,) = shard_chunks(settings, "0000")
    assert len(left.rows) == len(pictures(tmp_path / "out/fused")) == 4
    # The pictures have no rows, which their mark tells, and nobody died.
    assert marked_chunks(settings.run) == {("0000", left.chunk_id)}
    calm, (suspect,) = divide(settings, [left])
    assert calm == []
    assert not any(suspect.deaths.is_suspect(position, 2) for position in range(4))


def test_a_process_that_lives_takes_its_marks_away_before_they_count_as_deaths(settings, monkeypatch):
    monkeypatch.setattr(fuse_shard, "_LOOK_S", 0.02)
    marks = Marks(settings.run)
    marks.set("0000", "0000", [0, 1])
    threading.Timer(0.3, marks.clear_all).start()
    began = time.monotonic()
    outlast(settings, "0000", lambda: None, wait_s=60)
    assert 0.2 < time.monotonic() - began < 30
    assert read_deaths(settings.run, "0000") == {}


def test_marks_that_stay_are_deaths(settings, monkeypatch):
    monkeypatch.setattr(fuse_shard, "_LOOK_S", 0.02)
    Marks(settings.run).set("0000", "0000", [0, 1])
    outlast(settings, "0000", lambda: None, wait_s=0.2)
    assert read_deaths(settings.run, "0000")["0000"].most == 1


def test_where_there_are_no_marks_nobody_is_waited_for(settings):
    began = time.monotonic()
    outlast(settings, "0000", lambda: None)
    assert time.monotonic() - began < 5

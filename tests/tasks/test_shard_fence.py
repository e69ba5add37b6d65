"""Of several processes that were sent for one shard, the one that was sent last has it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.borrowed_lock import BorrowedLock
from tasks.lock import LockLostError, hold
from tasks.run_folder import RunFolder
from tasks.shard_fence import Sending, ShardFence, clear_fences
from tasks.storage import StorageError, list_names, write_atomic


@pytest.fixture
def run(dest):
    return RunFolder(dest, "20260101T000000-000000-abcdef")


def fence(run, number, token=1, shard_id="0000"):
    return ShardFence(run, shard_id, Sending(token, number))


def fences_left(run):
    """A guard that local writes leave is no fence."""
    return [name for name in list_names(run.at_work_uri) if not name.startswith(".")]


def test_the_later_one_takes_the_shard_and_the_older_one_notices(run):
    first, second, other = fence(run, 1), fence(run, 2), fence(run, 1, shard_id="0001")
    first.enter()
    other.enter()
    first.check()
    second.enter()
    with pytest.raises(LockLostError, match=r"shard 0000 is no longer this flow run's \(number 1\): a later one took"):
        first.check()
    second.check()
    other.check()


def test_one_that_was_sent_before_does_not_enter_any_more(run):
    second = fence(run, 2)
    second.enter()
    with pytest.raises(LockLostError):
        fence(run, 1).enter()
    second.check()


def test_the_same_flow_run_in_another_process_has_the_shard(run):
    """One that was put off, as by a node that is drained, starts again under its number."""
    before, now = fence(run, 1), fence(run, 1)
    before.enter()
    now.enter()
    now.check()
    with pytest.raises(LockLostError):
        before.check()


def test_a_later_parent_counts_from_one_again(run):
    fence(run, 3, token=1).enter()
    of_other_deployment = fence(run, 1, token=2)
    of_other_deployment.enter()
    of_other_deployment.check()
    with pytest.raises(LockLostError):
        fence(run, 4, token=1).enter()


def test_a_shard_that_is_complete_is_nobodys(run):
    first, second = fence(run, 1), fence(run, 2)
    first.enter()
    second.enter()
    first.leave()
    second.check()
    second.leave()
    assert fences_left(run) == []
    for one in (first, second):
        with pytest.raises(LockLostError):
            one.check()


def test_what_processes_left_goes_with_the_run(run):
    fence(run, 1).enter()
    fence(run, 1, shard_id="0001").enter()
    clear_fences(run)
    assert list_names(run.at_work_uri) == []


def test_of_many_that_race_the_last_one_has_it(run):
    sent = [fence(run, number) for number in range(1, 9)]

    def enter(one):
        try:
            one.enter()
        except LockLostError:
            return False
        return True

    with ThreadPoolExecutor(len(sent)) as pool:
        assert list(pool.map(enter, sent))[-1]
    sent[-1].check()
    for one in sent[:-1]:
        with pytest.raises(LockLostError):
            one.check()


def test_a_file_that_is_no_fence_is_told(run):
    one = fence(run, 1)
    one.enter()
    for content in (b"", b"{}", b"[1]"):
        write_atomic(f"{run.at_work_uri}/0000.json", content)
        with pytest.raises(StorageError, match="does not say who works on the shard"):
            one.check()


def test_a_look_at_the_lock_is_one_at_the_fence_and_a_commit_does_not_trust_an_old_one(run):
    with hold(run.dest) as held:
        first = fence(run, 1, held.token)
        first.enter()
        lock = BorrowedLock(run.dest, held.token, run.run_id, every_s=3600, also=first.check)
        lock.check()
        fence(run, 2, held.token).enter()
        lock.check()
        for look in (lock.confirm, lock.check):
            with pytest.raises(LockLostError, match="no longer this flow run's"):
                look()

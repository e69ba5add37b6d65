"""A store out of reach is waited for, and not for ever."""

import asyncio

import pytest

from flows import storage_pause
from flows.storage_pause import PATIENCE_S, Outage, sit_out
from tasks.lock import LockLostError
from tasks.storage import StorageError


def failing(cause):
    error = StorageError("s3://a/x", "does not answer", "check the network")
    error.__cause__ = cause
    return error


def test_only_what_may_pass_is_waited_for():
    assert Outage().may_pass(failing(ConnectionResetError()))
    assert not Outage().may_pass(failing(PermissionError()))
    assert not Outage().may_pass(failing(None))
    lost = LockLostError("s3://a", "the lock's heartbeat could not be written", "check the network")
    assert not Outage().may_pass(lost)
    lost.__cause__ = failing(TimeoutError())
    assert Outage().may_pass(lost)


def test_an_outage_has_an_end():
    now = [0.0]
    outage = Outage(lambda: now[0])
    passing = failing(TimeoutError())
    for _ in range(int(PATIENCE_S / 60)):
        assert outage.may_pass(passing)
        now[0] += 60
    assert not outage.may_pass(passing)
    # Hours later it is another one.
    now[0] += 3600
    assert outage.may_pass(failing(TimeoutError()))


def test_a_call_is_made_again(monkeypatch):
    monkeypatch.setattr(storage_pause, "PAUSE_S", 0.01)
    asked = []

    def read(name):
        asked.append(name)
        if len(asked) < 3:
            raise failing(ConnectionError())
        return f"content of {name}"

    assert asyncio.run(sit_out(Outage(), read, "x")) == "content of x"
    assert len(asked) == 3


def test_a_store_that_is_silent_for_long_at_each_try_is_one_outage():
    now = [0.0]
    outage = Outage(lambda: now[0])
    for _ in range(3):
        assert outage.may_pass(failing(TimeoutError()))
        now[0] += 300
    assert not outage.may_pass(failing(TimeoutError()))


def test_what_was_waited_for_once_is_not_waited_for_by_the_next_who_handles_it(monkeypatch):
    monkeypatch.setattr(storage_pause, "PAUSE_S", 0.01)
    now = [0.0]
    outage = Outage(lambda: now[0])

    def read():
        now[0] += PATIENCE_S / 2
        raise failing(TimeoutError())

    with pytest.raises(StorageError) as silence:
        asyncio.run(sit_out(outage, read))
    # Clearing away took so long that another error would begin another outage.
    now[0] += 3600
    assert not outage.may_pass(silence.value)
    assert outage.may_pass(failing(TimeoutError()))


def test_an_answer_ends_an_outage():
    now = [0.0]
    outage = Outage(lambda: now[0])
    for _ in range(2 * int(PATIENCE_S / 60)):
        assert outage.may_pass(failing(TimeoutError()))
        now[0] += 60
        assert asyncio.run(sit_out(outage, lambda: 7)) == 7

"""The lock of a destination: one run at a time writes there, and one that lost its lock notices before it commits.

The lock is the file ``<dest>/_ddfm/lock.json``, changed only by conditional writes. Its holder proves that it lives by
a heartbeat, a counter in the file. A holder that died on this machine is taken over at once; any other one when its
heartbeat has stood still for ``stale_s`` as the next one watches it. Clocks of machines are never compared.

Each take-over raises the token by one, also after a release, which is why the file is never deleted: a writer with a
lower token than the file's is one that was given up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Final

from tasks.lock_owner import LockOwner, is_dead, this_process
from tasks.storage import (
    OWN_FOLDER,
    StorageError,
    create_exclusive,
    join,
    read_versioned,
    replace_if_unchanged,
)

HEARTBEAT_S: Final = 10.0
STALE_S: Final = 60.0
POLL_S: Final = 3.0
"""Seconds between two looks at a lock that is waited for."""

_WRITES: Final = 3

_log = logging.getLogger(__name__)


class DestinationBusyError(StorageError):
    """Another run holds the destination."""


class LockLostError(StorageError):
    """The destination is no longer ours to write."""


@dataclass(frozen=True)
class LockRecord:
    """What the lock's file says.

    Attributes:
        owner: who holds the lock, or held it last.
        token: of this holding; the next one has one more.
        since: when it was taken, ISO 8601 in UTC by the owner's clock.
        heartbeat: counts the owner's signs of life.
        heartbeat_at: when the last one was, by the owner's clock; for people only.
        stale_s: seconds without a sign of life after which the owner itself gives up.
        released: whether it was given back.
    """

    owner: LockOwner
    token: int
    since: str
    heartbeat: int
    heartbeat_at: str
    stale_s: float
    released: bool


class DestinationLock:
    """A lock that is held; made by :func:`hold`.

    Attributes:
        dest: the destination.
        token: the fencing token of this holding.
    """

    def __init__(self, dest: str, record: LockRecord, heartbeat_s: float, taken_at: float) -> None:
        self.dest = dest
        self.token = record.token
        self._record = record
        self._heartbeat_s = heartbeat_s
        self._alive_at = taken_at
        self._lost = False
        self._beating = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="destination-lock", daemon=True)

    def check(self) -> None:
        """Call before each commit; costs nothing while heartbeats arrive.

        Raises:
            LockLostError: another run took the destination over, or our heartbeats have not arrived for ``stale_s``,
                so that one may have.
        """
        if not self._lost and _seconds() - self._alive_at > self._record.stale_s:
            # A machine that slept has silent heartbeats too; one that arrives now proves that nobody took over.
            unwritten: StorageError | None = None
            try:
                self._beat()
            except StorageError as error:
                unwritten = error
            if not self._lost and _seconds() - self._alive_at > self._record.stale_s:
                raise LockLostError(
                    self.dest,
                    f"the lock's heartbeat could not be written for {self._record.stale_s:g} s",
                    "check the network and the server, then run again",
                ) from unwritten
        if self._lost:
            raise _taken_over(self.dest, self.token)

    def start(self) -> None:
        """Begin to write heartbeats."""
        self._thread.start()

    def release(self) -> None:
        """Give the lock back, if it is still ours.

        Raises:
            StorageError: the store does not answer; the lock is then taken over like that of a dead process.
        """
        self._stop.set()
        self._thread.join()
        self._write(replace(self._record, released=True))

    def _keep_beating(self) -> None:
        while not self._lost and not self._stop.wait(self._heartbeat_s):
            try:
                self._beat()
            except StorageError as error:
                _log.warning("a heartbeat of the lock was not written: %s", error)

    def _beat(self) -> None:
        self._write(replace(self._record, heartbeat=self._record.heartbeat + 1, heartbeat_at=_now()))

    def _write(self, record: LockRecord) -> None:
        with self._beating:
            # Again, because a heartbeat that was given up may still arrive after the next one was begun.
            for _ in range(_WRITES):
                started = _seconds()
                found = None if self._lost else _read(self.dest)
                if found is None or not _is_same_holding(found[0], self._record):
                    self._lost = True
                    return
                if replace_if_unchanged(_lock_uri(self.dest), _to_json(record), found[1]):
                    self._record = record
                    # From before the request: whoever watches the file cannot have seen it earlier.
                    self._alive_at = started
                    return


class BorrowedLock:
    """The lock of another process, under which this one works, perhaps on another machine.

    Args:
        dest: the destination.
        token: of the holding.
        every_s: the lock's file is read at most so often.
    """

    def __init__(self, dest: str, token: int, every_s: float = HEARTBEAT_S) -> None:
        self._dest = dest
        self._token = token
        self._every_s = every_s
        self._guard = threading.Lock()
        self._looked_at = -every_s

    def check(self) -> None:
        """Call before each commit.

        Raises:
            LockLostError: the lock was given back or taken over.
            StorageError: its file cannot be read.
        """
        with self._guard:
            now = _seconds()
            if now - self._looked_at >= self._every_s:
                check_token(self._dest, self._token)
                self._looked_at = now


@contextlib.contextmanager
def hold(
    dest: str,
    wait: bool = False,
    heartbeat_s: float = HEARTBEAT_S,
    stale_s: float = STALE_S,
    poll_s: float = POLL_S,
    check: Callable[[], None] = lambda: None,
) -> Iterator[DestinationLock]:
    """Hold the lock of a destination.

    Args:
        dest: the destination.
        wait: wait for another run to end, instead of refusing.
        heartbeat_s: seconds between two signs of life.
        stale_s: seconds without one after which the lock counts as lost, here and for those who wait; at least three
            heartbeats.
        poll_s: seconds between two looks while waiting.
        check: called before each look; what it raises ends the waiting.

    Raises:
        DestinationBusyError: another run holds it, and ``wait`` is false.
        StorageError: the destination cannot be read or written, or its lock file is not one.
        ValueError: ``stale_s`` is too short.
    """
    if stale_s < 3 * heartbeat_s:
        raise ValueError(f"stale_s must be at least three heartbeats of {heartbeat_s} s, got {stale_s}")
    record, taken_at = _take(dest, wait, stale_s, poll_s, check)
    lock = DestinationLock(dest, record, heartbeat_s, taken_at)
    lock.start()
    try:
        yield lock
    finally:
        try:
            lock.release()
        except StorageError as error:
            # What the run did stands, and the next one takes over a lock that was not given back.
            _log.warning("the lock was not given back: %s", error)


def read_lock(dest: str) -> LockRecord | None:
    """Who holds the destination, or held it last; None where no run ever did.

    Raises:
        StorageError: it cannot be read.
    """
    found = _read(dest)
    return None if found is None else found[0]


def check_token(dest: str, token: int) -> None:
    """For a process that works under the lock of another, on any machine: whether that lock is still held.

    Raises:
        LockLostError: it was given back or taken over.
        StorageError: it cannot be read.
    """
    record = read_lock(dest)
    if record is None or record.token != token:
        raise _taken_over(dest, token)
    if record.released:
        raise LockLostError(dest, f"the run with token {token} gave its lock back", "start this work from a new run")


def _taken_over(dest: str, token: int) -> LockLostError:
    return LockLostError(
        dest,
        f"another run took it over from the one with token {token}",
        "let that run finish, then run again; what was committed stays",
    )


# Taking it


def _take(dest: str, wait: bool, stale_s: float, poll_s: float, check: Callable[[], None]) -> tuple[LockRecord, float]:
    uri = _lock_uri(dest)
    seen: LockRecord | None = None
    seen_at = 0.0
    while True:
        check()
        started = _seconds()
        found = _read(dest)
        record = _new_record(1 if found is None else found[0].token + 1, stale_s)
        if found is None:
            if create_exclusive(uri, _to_json(record)):
                return record, started
            continue
        other, version = found
        if other != seen:
            if seen is None or other.owner != seen.owner:
                _announce(dest, other, wait)
            seen, seen_at = other, _seconds()
        silent_s = max(stale_s, other.stale_s)
        if other.released or is_dead(other.owner) or _seconds() - seen_at > silent_s:
            if replace_if_unchanged(uri, _to_json(record), version):
                return record, started
            continue
        if not wait:
            raise DestinationBusyError(
                dest,
                f"process {other.owner.pid} on {other.owner.host} has been writing there since {other.since}",
                f"wait for it to finish, or use --wait, which also takes over when it is silent for {silent_s:g} s",
            )
        time.sleep(poll_s)


def _announce(dest: str, other: LockRecord, wait: bool) -> None:
    if other.released:
        return
    owner = other.owner
    if is_dead(owner):
        _log.warning("%s: process %d on %s died; its lock is taken over", dest, owner.pid, owner.host)
    elif wait:
        _log.info("%s: waiting for process %d on %s, since %s", dest, owner.pid, owner.host, other.since)


def _new_record(token: int, stale_s: float) -> LockRecord:
    now = _now()
    return LockRecord(this_process(), token, now, 0, now, stale_s, released=False)


def _is_same_holding(record: LockRecord, ours: LockRecord) -> bool:
    return record.owner.id == ours.owner.id and record.token == ours.token


def _seconds() -> float:
    # Unlike time.monotonic, it goes on while a machine sleeps: others go on too.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# Its file


def _lock_uri(dest: str) -> str:
    return join(dest, OWN_FOLDER, "lock.json")


def _read(dest: str) -> tuple[LockRecord, str] | None:
    found = read_versioned(_lock_uri(dest))
    if found is None:
        return None
    try:
        fields = json.loads(found[0])
        return LockRecord(**{**fields, "owner": LockOwner(**fields["owner"])}), found[1]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            _lock_uri(dest), f"is not a lock ({error})", "remove it if no run writes to this destination"
        ) from error


def _to_json(record: LockRecord) -> bytes:
    return (json.dumps(asdict(record), indent=2) + "\n").encode()

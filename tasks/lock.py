"""The lock of a destination: one run at a time writes there, and one that lost its lock notices before it commits.

The lock is the file ``<dest>/_ddfm/lock.json``, changed only by conditional writes. Its holder proves that it lives by
a heartbeat, a counter in the file. A holder that died on this machine is taken over at once; any other one when its
heartbeat has stood still for ``stale_s`` as the next one watches it. Clocks of machines are never compared.

Each take-over raises the token by one, also after a release, which is why the file is never deleted: a writer with a
lower token than the file's is one that was given up. Processes that work for the holder, perhaps on other machines, are
the exception: the file says which run it works on, and those that a dead holder had sent out for that very run go on
under the next one. ``tasks.borrowed_lock`` is their side.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
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
        run_id: the run that is worked on; "" where none is, or the owner sends nobody out for it.
        sent_to: where the owner sends the shards of that run, such as the id of a deployment.
        run_token: of the first of the holdings, one after the other, that worked on this run and sent it there.
    """

    owner: LockOwner
    token: int
    since: str
    heartbeat: int
    heartbeat_at: str
    stale_s: float
    released: bool
    run_id: str = ""
    sent_to: str = ""
    run_token: int = 0

    def accepts(self, token: int, run_id: str) -> bool:
        """Whether a process that was sent out under ``token`` for a run may go on."""
        is_of_this_run = bool(run_id) and run_id == self.run_id
        return token == self.token or (is_of_this_run and self.run_token <= token <= self.token)


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
        if not self._lost and wakeful_seconds() - self._alive_at > self._record.stale_s:
            # A machine that slept has silent heartbeats too; one that arrives now proves that nobody took over.
            unwritten: StorageError | None = None
            try:
                self._beat()
            except StorageError as error:
                unwritten = error
            if not self._lost and wakeful_seconds() - self._alive_at > self._record.stale_s:
                raise LockLostError(
                    self.dest,
                    f"the lock's heartbeat could not be written for {self._record.stale_s:g} s",
                    "check the network and the server, then run again",
                ) from unwritten
        if self._lost:
            raise taken_over(self.dest, self.token)

    def start(self) -> None:
        """Begin to write heartbeats."""
        self._thread.start()

    def serve(self, run_id: str, sent_to: str) -> None:
        """Say which run is worked on, before anything of it is planned or sent.

        Processes that earlier holders sent out stay welcome when they work on this very run, from the same place. All
        others are not, from their next look at the lock on.

        Args:
            run_id: the run.
            sent_to: where its shards are sent; those that another place works on are sent to the new one as well, and
                must not be done by both.

        Raises:
            LockLostError: another run took the destination over.
            StorageError: the lock's file cannot be written.
        """
        if (self._record.run_id, self._record.sent_to) == (run_id, sent_to):
            return
        if not self._write(lambda record: replace(record, run_id=run_id, sent_to=sent_to, run_token=record.token)):
            if self._lost:
                raise taken_over(self.dest, self.token)
            raise StorageError(self.dest, "its lock changes while it is written", "run again")

    def release(self) -> None:
        """Give the lock back, if it is still ours.

        Raises:
            StorageError: the store does not answer; the lock is then taken over like that of a dead process.
        """
        self._stop.set()
        self._thread.join()
        self._write(lambda record: replace(record, released=True))

    def _keep_beating(self) -> None:
        while not self._lost and not self._stop.wait(self._heartbeat_s):
            try:
                self._beat()
            except StorageError as error:
                _log.warning("a heartbeat of the lock was not written: %s", error)
        if self._lost:
            _log.warning("%s The work ends before its next commit.", taken_over(self.dest, self.token))

    def _beat(self) -> None:
        self._write(lambda record: replace(record, heartbeat=record.heartbeat + 1, heartbeat_at=_now()))

    def _write(self, change: Callable[[LockRecord], LockRecord]) -> bool:
        """Whether the file has the change; not where the lock is lost, or others kept writing."""
        with self._beating:
            # Again, because a heartbeat that was given up may still arrive after the next one was begun.
            for _ in range(_WRITES):
                started = wakeful_seconds()
                found = None if self._lost else _read(self.dest)
                if found is None or not _is_same_holding(found[0], self._record):
                    self._lost = True
                    return False
                record = change(self._record)
                if replace_if_unchanged(_lock_uri(self.dest), _to_json(record), found[1]):
                    self._record = record
                    # From before the request: whoever watches the file cannot have seen it earlier.
                    self._alive_at = started
                    return True
            return False


@contextlib.contextmanager
def hold(
    dest: str,
    wait: bool = False,
    heartbeat_s: float = HEARTBEAT_S,
    stale_s: float = STALE_S,
    poll_s: float = POLL_S,
    check: Callable[[], None] = lambda: None,
    takes_over_work: bool = False,
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
        takes_over_work: what a dead holder had sent out may go on until :meth:`DestinationLock.serve` is called, which
            the caller promises to do first of all; otherwise it ends with its next look at the lock.

    Raises:
        DestinationBusyError: another run holds it, and ``wait`` is false.
        StorageError: the destination cannot be read or written, or its lock file is not one.
        ValueError: ``stale_s`` is too short.
    """
    if stale_s < 3 * heartbeat_s:
        raise ValueError(f"stale_s must be at least three heartbeats of {heartbeat_s} s, got {stale_s}")
    record, taken_at = _take(dest, wait, stale_s, poll_s, check, takes_over_work)
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


def taken_over(dest: str, token: int) -> LockLostError:
    """What a process learns whose lock another run has now."""
    return LockLostError(
        dest,
        f"another run took it over from the one with token {token}",
        "let that run finish, then run again; what was committed stays",
    )


# Taking it


def _take(
    dest: str, wait: bool, stale_s: float, poll_s: float, check: Callable[[], None], takes_over_work: bool
) -> tuple[LockRecord, float]:
    uri = _lock_uri(dest)
    seen: LockRecord | None = None
    seen_at = 0.0
    while True:
        check()
        started = wakeful_seconds()
        found = _read(dest)
        record = _new_record(None if found is None else found[0], stale_s, takes_over_work)
        if found is None:
            if create_exclusive(uri, _to_json(record)):
                return record, started
            continue
        other, version = found
        if other != seen:
            if seen is None or other.owner != seen.owner:
                _announce(dest, other, wait)
            seen, seen_at = other, wakeful_seconds()
        silent_s = max(stale_s, other.stale_s)
        if other.released or is_dead(other.owner) or wakeful_seconds() - seen_at > silent_s:
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


def _new_record(before: LockRecord | None, stale_s: float, takes_over_work: bool) -> LockRecord:
    now = _now()
    token = 1 if before is None else before.token + 1
    record = LockRecord(this_process(), token, now, 0, now, stale_s, released=False)
    # Who gives a lock back calls back what it sent out.
    if before is None or before.released or not takes_over_work:
        return record
    return replace(record, run_id=before.run_id, sent_to=before.sent_to, run_token=before.run_token)


def _is_same_holding(record: LockRecord, ours: LockRecord) -> bool:
    return record.owner.id == ours.owner.id and record.token == ours.token


def wakeful_seconds() -> float:
    """Seconds that go on while a machine sleeps, unlike those of ``time.monotonic``: others go on too."""
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
        content = json.loads(found[0])
        # Those of a later version are none of this one's business.
        known = {field.name: content[field.name] for field in fields(LockRecord) if field.name in content}
        return LockRecord(**{**known, "owner": LockOwner(**content["owner"])}), found[1]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            _lock_uri(dest), f"is not a lock ({error})", "remove it if no run writes to this destination"
        ) from error


def _to_json(record: LockRecord) -> bytes:
    return (json.dumps(asdict(record), indent=2) + "\n").encode()

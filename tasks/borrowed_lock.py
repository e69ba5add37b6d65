"""The lock of a destination as a process sees it that works for its holder, perhaps on another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tasks.lock import HEARTBEAT_S, LockLostError, read_lock, taken_over, wakeful_seconds


class BorrowedLock:
    """The lock of another process, under which this one works on a run.

    The holder may die meanwhile: the next one that goes on with the same run leaves this process at work.

    Args:
        dest: the destination.
        token: of the holding under which this process was sent out.
        run_id: the run that it works on.
        every_s: :meth:`check` reads the lock's file at most so often.
        also: called whenever the lock's file is read; what it raises ends the work as well.
    """

    def __init__(
        self,
        dest: str,
        token: int,
        run_id: str,
        every_s: float = HEARTBEAT_S,
        also: Callable[[], None] = lambda: None,
    ) -> None:
        self._dest = dest
        self._token = token
        self._run_id = run_id
        self._every_s = every_s
        self._also = also
        self._guard = threading.Lock()
        self._looked_at = -every_s

    def check(self) -> None:
        """Call during the work, as often as you like.

        Raises:
            LockLostError: the lock was given back, or taken over for another run.
            StorageError: its file cannot be read.
        """
        with self._guard:
            if wakeful_seconds() - self._looked_at >= self._every_s:
                self._look()

    def confirm(self) -> None:
        """Call right before each commit: what :meth:`check` saw may be out of date.

        Raises:
            LockLostError: as :meth:`check`.
            StorageError: likewise.
        """
        with self._guard:
            self._look()

    def _look(self) -> None:
        now = wakeful_seconds()
        # A look that fails makes the one before out of date.
        self._looked_at = now - self._every_s
        check_token(self._dest, self._token, self._run_id)
        self._also()
        self._looked_at = now


def check_token(dest: str, token: int, run_id: str) -> None:
    """Whether a process that was sent out under ``token`` for a run may go on.

    Raises:
        LockLostError: the lock was given back, or taken over for another run.
        StorageError: it cannot be read.
    """
    record = read_lock(dest)
    if record is None or not record.accepts(token, run_id):
        raise taken_over(dest, token)
    if record.released:
        raise LockLostError(dest, f"the run with token {token} gave its lock back", "start this work from a new run")

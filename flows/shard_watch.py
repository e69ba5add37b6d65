"""What would go unnoticed on a work pool: a shard at work that commits nothing, and a pool that takes no shard."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from flows.heartbeat import duration
from flows.pool_view import PoolView

logger = logging.getLogger(__name__)

SAY_S: Final = 600.0
"""Seconds between two lines in the log about shards that wait."""

_LOOKS: Final = 4
"""Times that a shard's chunks are counted in the time that a commit may take: each is a listing of the store."""


class CommitWatch:
    """Whether a shard at work commits chunks, by how many are left.

    Work that hangs is not seen otherwise: heartbeats come from a thread of their own. A chunk may just be slow, so the
    next flow run of a shard that seemed to hang has twice the time.

    Args:
        clock: seconds, such as ``time.monotonic``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = 0
        self._commit_at = self._looked_at = 0.0
        self._patience = 1

    def begin(self, left: int) -> None:
        """A flow run of the shard begins; ``left`` chunks had no rows when it was sent."""
        self._left, self._commit_at, self._looked_at = left, self._clock(), self._clock()

    def is_due(self, commit_s: float) -> bool:
        """Whether it is time to count the chunks that are left."""
        return self._clock() - self._looked_at > commit_s * self._patience / _LOOKS

    def idle(self, left: int, commit_s: float) -> float | None:
        """For how many seconds nothing was committed, if that is too long; ``left`` chunks have no rows now."""
        self._looked_at = now = self._clock()
        if left < self._left:
            self._left, self._commit_at = left, now
        idle = now - self._commit_at
        if idle <= commit_s * self._patience:
            return None
        self._patience *= 2
        return idle


class TurnWatch:
    """Says why nothing happens while all shards that were sent wait for a worker.

    That may be right, since somebody may start a worker later; but nobody should have to guess.

    Args:
        clock: seconds, such as ``time.monotonic``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None
        self._said_at = 0.0

    def look(self, waiting: int, at_work: int, pool: PoolView) -> None:
        """So many shards wait for a worker of ``pool``, and so many are with one; to be called every few seconds."""
        now = self._clock()
        if at_work or not waiting:
            self._since = None
            return
        if self._since is None:
            self._since = self._said_at = now
        if now - self._said_at <= SAY_S:
            return
        self._said_at = now
        logger.warning(
            "%d shards wait: no worker of pool %s has taken one for %s; %s",
            waiting, pool.name, duration(now - self._since), _reason(pool),
        )  # fmt: skip


def _reason(pool: PoolView) -> str:
    if pool.is_paused:
        return f"the pool is paused: prefect work-pool resume {pool.name}"
    if not pool.workers:
        return f"none is online: start one, with prefect worker start --pool {pool.name}"
    return f"{pool.workers} online: they are busy with other runs, or their log or the pool's queues say why"

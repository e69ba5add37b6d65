"""Send the shards of a run to a work pool, a few at a time, and see each of them through."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from prefect.client.schemas.objects import FlowRun

from flows.fuse_archive import PlannedRun
from flows.fuse_shard import shard_chunks
from flows.heartbeat import duration
from flows.pool_view import PoolView, look_at_pool
from flows.shard_runs import (
    ShardOrder,
    call_off,
    died_of_memory,
    has_begun,
    is_over,
    is_stranded,
    is_unexplained,
    look,
    may_live,
    recall,
    send,
    write_off,
)
from flows.shard_watch import CommitWatch, TurnWatch
from flows.storage_pause import Outage, sit_out
from tasks.chunk import Progress
from tasks.lock import LockLostError

logger = logging.getLogger(__name__)

TRIES: Final = 4
"""Flow runs of one shard that commit nothing: enough to find a pair that kills its process and go on without it."""

POLL_S: Final = 2.0

LOOK_AT_POOL_S: Final = 30.0
"""Seconds after which the size of the pool is looked up again: workers come and go."""

NOT_BEGUN_PAUSE_S: Final = 60.0
"""Seconds before a shard whose flow run never began is sent again: a worker may refuse each at once."""

NOTHING_BEGUN_S: Final = 4 * 3600.0
"""A pool that takes flow runs and begins none for so long ends the dispatch. A want of machines may last hours."""

RECALL_S: Final = 20.0
"""Seconds for children to end before the lock is given back; a cancelled parent is killed after thirty."""


class DispatchError(RuntimeError):
    """Shards did not complete on the work pool; what they committed stays."""


@dataclass(frozen=True)
class Dispatched:
    """What the flow runs of shards came to.

    Attributes:
        pairs: to fuse of the shards that one flow run did from start to end.
        seconds: that those flow runs took together.
    """

    pairs: int
    seconds: float

    @property
    def pairs_per_second(self) -> float | None:
        """Of one flow run; None where nothing was measured."""
        return self.pairs / self.seconds if self.pairs and self.seconds else None


@dataclass
class _Shard:
    """A shard on its way.

    Attributes:
        pairs: that had no rows when it was first sent; ``to_fuse`` of them are more than a row with a code.
        left: chunks without rows when it was last looked at.
        number: flow runs so far, those of earlier parents included.
        tries: of these, how many of this parent began and ended in a row without a commit.
        shrink: how many of them ended for want of memory, as far as one knows.
        unexplained: whether the last one ended in a way that leaves open whether it was that.
        state_id: of the state that its flow run was last seen in, since ``state_at``.
        commits: watched while its flow run is at work.
        lost: why its flow run was called off, "" where it was not.
        hung: whether it was called off although it had begun.
        not_before: ``time.monotonic()`` from which on it may be sent again.
        predecessor_may_live: whether nobody saw the process of its last flow run end.
    """

    shard_id: str
    pairs: int = 0
    to_fuse: int = 0
    left: int = 0
    number: int = 0
    tries: int = 0
    shrink: int = 0
    unexplained: bool = False
    state_id: UUID | None = None
    state_at: float = 0.0
    commits: CommitWatch = field(default_factory=CommitWatch)
    lost: str = ""
    hung: bool = False
    not_before: float = -math.inf
    predecessor_may_live: bool = False


async def dispatch_shards(
    planned: PlannedRun, progress: Progress, check: Callable[[], None], outage: Outage
) -> Dispatched:
    """Run every shard of ``planned`` as flow runs of the job's deployment, a window of them at a time.

    A shard is done when its rows are there, whatever the state of its flow run says. One that ended without them is
    sent again and goes on after the chunks that it committed, until ``TRIES`` flow runs in a row committed nothing;
    after an end for want of memory with less in memory at a time. One that a worker took and that does not begin is
    called off and sent again, too, which is no try: a pool may have no machine for it for hours. One that is at work
    and commits nothing for long is called off as well, which is a try. A pool that takes nothing, and a store or a
    server that is out of reach, are waited for. When the dispatch itself ends before its time, by an error or because
    the run is cancelled, it cancels the flow runs that are still at work and sees them end.

    Args:
        planned: the run.
        progress: told of each shard that is complete.
        check: called every few seconds, and before each flow run that is sent; what it raises ends the dispatch.
        outage: of the store; one that it calls too long is not waited for by those who know the same one.

    Raises:
        DispatchError: names the shards that did not complete; or no flow run began for ``NOTHING_BEGUN_S``.
        ConfigurationError: the deployment, or its work pool, is gone.
    """
    dispatch = _Dispatch(planned, progress, check, outage)
    try:
        return await dispatch.run()
    except LockLostError:
        # The flow runs belong to the parent that took over, which finds them by their keys.
        raise
    except BaseException:
        await _see_to_its_end(dispatch.recall())
        raise


class _Dispatch:
    """The shards that wait, those at work, and what became of the others."""

    def __init__(self, planned: PlannedRun, progress: Progress, check: Callable[[], None], outage: Outage) -> None:
        self._planned = planned
        self._settings = planned.settings
        self._progress = progress
        self._check = check
        self._outage = outage
        self._waiting = deque(_Shard(shard_id) for shard_id in planned.shard_ids)
        self._at_work: dict[UUID, _Shard] = {}
        self._lost: list[str] = []
        self._pool: PoolView | None = None
        self._pool_at = -math.inf
        self._turns = TurnWatch()
        self._stuck_since = math.inf
        self._pairs = 0
        self._seconds = 0.0

    async def run(self) -> Dispatched:
        """All of it."""
        while self._waiting or self._at_work:
            await self._fill_window()
            await asyncio.sleep(POLL_S)
            await sit_out(self._outage, self._check)
            await self._look_after()
        if self._lost:
            raise DispatchError(
                f"{len(self._lost)} of {len(self._planned.shard_ids)} shards did not complete, although each was tried "
                f"until {TRIES} flow runs in a row committed nothing: {', '.join(self._lost[:5])}; "
                "look at their flow runs, then run the job again"
            )
        return Dispatched(self._pairs, self._seconds)

    async def recall(self) -> None:
        """Cancel what is at work."""
        if self._at_work:
            logger.warning("cancelling %d flow runs of shards", len(self._at_work))
            await recall(list(self._at_work), RECALL_S, POLL_S)

    async def _look_at_pool(self) -> PoolView:
        if self._pool is None or time.monotonic() - self._pool_at > LOOK_AT_POOL_S:
            self._pool, self._pool_at = await look_at_pool(self._settings.job), time.monotonic()
        return self._pool

    async def _fill_window(self) -> None:
        pool = await self._look_at_pool()
        while len(self._at_work) < pool.window and (shard := self._next_shard()) is not None:
            await self._send(shard)

    def _next_shard(self) -> _Shard | None:
        now = time.monotonic()
        shard = next((shard for shard in self._waiting if shard.not_before <= now), None)
        if shard is not None:
            self._waiting.remove(shard)
        return shard

    async def _send(self, shard: _Shard) -> None:
        if not shard.number:
            chunks = await sit_out(self._outage, shard_chunks, self._settings, shard.shard_id)
            rows = [row for chunk in chunks for row in chunk.rows]
            shard.pairs, shard.to_fuse, shard.left = len(rows), sum(row.code is None for row in rows), len(chunks)
        await sit_out(self._outage, self._check)
        shard.number += 1
        order = ShardOrder(shard.shard_id, shard.number, shard.shrink, shard.predecessor_may_live)
        child = await send(self._settings, order)
        self._at_work[child.id] = shard
        if is_over(child):
            # An earlier parent's.
            await self._settle(child)

    async def _look_after(self) -> None:
        found = {child.id: child for child in await look(list(self._at_work))}
        pool = await self._look_at_pool()
        waiting = sum(child.state is not None and child.state.is_scheduled() for child in found.values())
        self._turns.look(waiting, len(found) - waiting, pool)
        for run_id in list(self._at_work):
            child = found.get(run_id)
            if child is None:
                shard = self._at_work.pop(run_id)
                shard.predecessor_may_live = True
                self._send_again(shard, "its flow run was deleted", counts=True)
                continue
            if child.state is not None and child.state.is_running():
                # Those that stand beside it wait for their turn.
                self._stuck_since = math.inf
            if is_over(child):
                await self._settle(child)
            else:
                await self._see_on(child, pool)

    async def _see_on(self, child: FlowRun, pool: PoolView) -> None:
        """See that a flow run does not stand for ever in a state that nobody takes it out of.

        Before a flow run begins it has no heartbeat that anybody could miss, and one that is to end must not be called
        crashed: a worker or a machine that goes away then leaves it where it is. One whose work hangs has a heartbeat.
        """
        shard, state, now = self._at_work[child.id], child.state, time.monotonic()
        if state is None:
            return
        if state.id != shard.state_id:
            shard.state_id, shard.state_at = state.id, now
            shard.commits.begin(shard.left)
        stood = now - shard.state_at
        if is_stranded(child):
            shard.lost = "its work queue was deleted"
            await call_off(child.id, "Its work queue was deleted.")
        elif state.is_pending() and stood > pool.begin_s:
            shard.lost = f"taken by a worker, but not begun in {duration(stood)}"
            await call_off(child.id, f"Not begun in {duration(stood)}; its shard is sent again.")
        elif state.is_cancelling() and stood > pool.ending_s:
            await write_off(child.id)
        elif state.is_running() and shard.commits.is_due(pool.commit_s):
            left = len(await sit_out(self._outage, shard_chunks, self._settings, shard.shard_id))
            if (idle := shard.commits.idle(left, pool.commit_s)) is not None:
                shard.lost, shard.hung = f"at work, but nothing committed in {duration(idle)}", True
                await call_off(child.id, f"Nothing committed in {duration(idle)}; its shard is sent again.")

    async def _settle(self, child: FlowRun) -> None:
        """What became of a shard by its rows: the state of a flow run may look better or worse than its work was."""
        shard = self._at_work.pop(child.id)
        left = len(await sit_out(self._outage, shard_chunks, self._settings, shard.shard_id))
        state = child.state
        assert state is not None  # noqa: S101 - it is over
        # By the token, not by the time: the clock of the server is another one.
        is_ours = child.parameters.get("token") == self._settings.token
        if not left:
            self._progress.fused(shard.pairs)
            # Rows with a code take no time, and would make the shards of later runs too large.
            if is_ours and shard.number == 1 and state.is_completed() and shard.to_fuse:
                self._pairs += shard.to_fuse
                self._seconds += child.total_run_time.total_seconds()
            return
        progressed = left < shard.left
        if progressed:
            shard.left, shard.tries = left, 0
        # Once may be a lost machine. Twice without a commit in between is the shard itself.
        unexplained = is_unexplained(state)
        shard.shrink += died_of_memory(state) or (unexplained and shard.unexplained and not progressed)
        shard.unexplained = unexplained
        shard.predecessor_may_live = may_live(state)
        ended = "Completed without all rows" if state.is_completed() else shard.lost or state.name or "ended"
        # One that was put off and found no machine for its next start has begun before.
        begun = shard.hung or (has_begun(child) and not shard.lost)
        if begun:
            self._stuck_since = math.inf
        elif is_ours:
            self._wait_for_machines(shard, ended)
        # Flow runs of an earlier parent that ended badly are not held against this one.
        self._send_again(shard, ended, counts=is_ours and begun and not progressed)

    def _wait_for_machines(self, shard: _Shard, ended: str) -> None:
        """A flow run never began: that says nothing against its shard, and the pool may have room later."""
        now = time.monotonic()
        self._stuck_since = min(self._stuck_since, now)
        if now - self._stuck_since > NOTHING_BEGUN_S:
            raise DispatchError(
                f"no flow run of a shard has begun for {duration(now - self._stuck_since)} (the last one, of shard "
                f"{shard.shard_id}: {ended}); look at the log of the pool's workers and whether the pool gets "
                "machines, then run the job again"
            )
        if not shard.lost:
            shard.not_before = now + NOT_BEGUN_PAUSE_S

    def _send_again(self, shard: _Shard, ended: str, counts: bool) -> None:
        shard.tries += counts
        shard.lost, shard.hung = "", False
        less = f", with less in memory ({shard.shrink})" if shard.shrink else ""
        if shard.tries < TRIES:
            logger.warning("shard %s: %s; sent again%s", shard.shard_id, ended, less)
            self._waiting.appendleft(shard)
        else:
            logger.error("shard %s: %s; given up", shard.shard_id, ended)
            self._lost.append(f"{shard.shard_id} ({ended})")


async def _see_to_its_end(recalling: Coroutine[None, None, None]) -> None:
    """Wait for it although this task is being cancelled."""
    task = asyncio.ensure_future(asyncio.wait_for(recalling, 2 * RECALL_S))
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if (error := task.exception()) is not None:
        # What ended the dispatch is what matters; children notice by themselves that the lock was given back.
        logger.warning("flow runs of shards may still be at work: %s: %s", type(error).__name__, error)

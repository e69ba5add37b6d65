"""Send the shards of a run to a work pool, a few at a time, and see each of them through."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from datetime import UTC, datetime

from prefect.deployments import arun_deployment

from flows.fuse_archive import PlannedRun
from flows.fuse_shard import shard_chunks
from tasks.chunk import Progress

logger = logging.getLogger(__name__)

TRIES = 4
"""Flow runs of one shard: enough to find a pair that kills its process and to go on without it."""

POLL_SECONDS = 2.0


class DispatchError(RuntimeError):
    """Shards did not complete on the work pool; what they committed stays."""


async def dispatch_shards(planned: PlannedRun, progress: Progress, check: Callable[[], None]) -> None:
    """Run every shard of ``planned`` as a flow run of the job's deployment, ``window`` at a time.

    A shard whose run ends in any state but Completed is sent again, ``TRIES`` times in all: it goes on after
    the chunks that it committed. The state of each child is looked at, because a failed child does not fail its
    parent by itself, and the answer is read from the committed rows, not from the child's result.

    Args:
        planned: the run.
        progress: told of each shard that is complete.
        check: called before each flow run that is sent; what it raises ends the dispatch.

    Raises:
        DispatchError: names the shards that did not complete.
    """
    gate = asyncio.Semaphore(planned.settings.job.window)
    sent: list[asyncio.Task[str]] = []
    try:
        # A group ends the others with the first that fails: nothing may be sent when the lock is given back.
        async with asyncio.TaskGroup() as group:
            sent += [
                group.create_task(_see_through(planned, shard_id, gate, progress, check))
                for shard_id in planned.shard_ids
            ]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    outcomes = [task.result() for task in sent]
    lost = [f"{shard_id} ({state})" for shard_id, state in zip(planned.shard_ids, outcomes, strict=True) if state]
    if lost:
        raise DispatchError(
            f"{len(lost)} of {len(outcomes)} shards did not complete after {TRIES} tries: {', '.join(lost[:5])}; "
            "look at their flow runs, then run the job again"
        )


async def _see_through(
    planned: PlannedRun, shard_id: str, gate: asyncio.Semaphore, progress: Progress, check: Callable[[], None]
) -> str:
    """The name of the last state when the shard did not complete, else an empty text."""
    settings = planned.settings
    began = datetime.now(UTC)
    last = ""
    tries = 0
    async with gate:
        chunks = await asyncio.to_thread(shard_chunks, settings, shard_id)
        for number in itertools.count(1):
            check()
            child = await arun_deployment(
                settings.job.deployment or "",
                parameters={
                    "dest": settings.run.dest,
                    "run_id": settings.run.run_id,
                    "shard_id": shard_id,
                    "token": settings.token,
                    "places": {prefix: place.model_dump() for prefix, place in settings.job.places.items()},
                },
                flow_run_name=f"{settings.run.run_id} {shard_id}",
                # A parent that was killed and begun again finds the child that still works on the shard.
                idempotency_key=f"{settings.run.run_id}-{shard_id}-{number}",
                poll_interval=POLL_SECONDS,
                timeout=None,
            )
            last = (child.state and child.state.name) or "no state"
            if child.state is not None and child.state.is_completed():
                # An earlier parent's child may be complete, and a chunk of it have been moved away since.
                if not await asyncio.to_thread(shard_chunks, settings, shard_id):
                    progress.fused(sum(len(chunk.rows) for chunk in chunks))
                    return ""
                last = "Completed without all rows"
            # Children of an earlier parent that ended badly are not held against this one.
            tries += child.created is None or child.created >= began
            logger.warning("shard %s: %s, try %d of %d", shard_id, last, tries, TRIES)
            if tries == TRIES:
                break
    return last

"""What a dispatch goes by of its work pool."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import WorkerStatus, WorkPool

from flows.shard_runs import deployment_of, patiently
from tasks.job import Job

ELASTIC_SHARDS: Final = 4
"""Shards at a time on a pool that starts machines by itself and has no limit."""

ON_WORKERS_MACHINE: Final = ("process", "docker")
"""Types of pools whose flow runs live where their worker does; its ``--limit`` says how many at a time."""

BEGIN_S: Final = {"process": 300.0}
"""Seconds from a worker's taking a flow run to its beginning; an interpreter and the libraries take some five."""

BEGIN_ELSEWHERE_S: Final = 1200.0
"""The same on other pools, where an image is fetched and a machine may be started first."""

ENDING_S: Final = {"process": 120.0}
"""Seconds in which a flow run that is to end does; a worker kills one after thirty."""

ENDING_ELSEWHERE_S: Final = 420.0
"""The same on other pools. After 300 the server itself ends the run and has its container or pod deleted; where
somebody else ended the run before, it does not."""

SHARD_TIME_LIMIT: Final = timedelta(hours=2)
"""A shard that works for so long without a commit hangs. Where the platform can, it ends any shard after it."""

_TIME_LIMIT_VARIABLE: Final = "time_limit_seconds"


@dataclass(frozen=True)
class PoolView:
    """A work pool as it is now.

    Attributes:
        name: of the pool.
        window: shards to keep on it at a time.
        workers: how many are online.
        is_paused: whether somebody paused it.
        begin_s: seconds in which a flow run that a worker has taken should have begun.
        ending_s: seconds in which one that was called off should have ended.
        commit_s: seconds in which a shard at work should have committed a chunk.
    """

    name: str
    window: int
    workers: int
    is_paused: bool
    begin_s: float
    ending_s: float
    commit_s: float


async def look_at_pool(job: Job) -> PoolView:
    """The job's work pool as it is now.

    The window is what the job says; else one shard for each that the pool can run, by its limit or by its online
    workers, and one more, which waits so that no worker does.

    Raises:
        ConfigurationError: the deployment, or its work pool, is gone.
        httpx.HTTPError: the server refuses, or has not answered for long.
    """

    async def ask() -> PoolView:
        async with get_client() as client:
            pool = await client.read_work_pool((await deployment_of(client, job)).work_pool_name or "")
            found = await client.read_workers_for_work_pool(pool.name)
        workers = sum(worker.status == WorkerStatus.ONLINE for worker in found)
        if job.window is not None:
            window = job.window
        elif pool.concurrency_limit is not None:
            window = max(1, pool.concurrency_limit) + 1
        elif pool.type in ON_WORKERS_MACHINE:
            window = max(1, workers) + 1
        else:
            window = ELASTIC_SHARDS + 1
        return PoolView(
            name=pool.name,
            window=window,
            workers=workers,
            is_paused=pool.is_paused,
            begin_s=BEGIN_S.get(pool.type, BEGIN_ELSEWHERE_S),
            ending_s=ENDING_S.get(pool.type, ENDING_ELSEWHERE_S),
            commit_s=_time_limit(pool),
        )

    return await patiently(ask)


def _time_limit(pool: WorkPool) -> float:
    """Seconds that a site lets a shard work, where it says so; else ours."""
    variables = pool.base_job_template.get("variables", {}).get("properties", {})
    return float(variables.get(_TIME_LIMIT_VARIABLE, {}).get("default") or SHARD_TIME_LIMIT.total_seconds())

"""The flow runs of shards on the Prefect server: send them, look at them, call them back.

A server that does not answer for a while, such as one that is being restarted, is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling

from tasks.codes import ConfigurationError
from tasks.job import Job
from tasks.settings import RunSettings

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 900.0
"""A server that has been silent for so long ends the dispatch; the next run goes on."""

ELASTIC_SHARDS: Final = 4
"""Shards at a time on a pool that starts machines by itself and has no limit."""

_PAUSE_S: Final = 5.0
_RUNS_PER_REQUEST: Final = 200
_SERVER_FAULT: Final = 500

_MEMORY: Final = re.compile(
    # What a process worker, a container and Python say. A process killed by hand looks alike; shrinking is harmless.
    r"status code:? (-9|137)\b|OOMKilled|out of memory|OutOfMemory|MemoryError|allocate memory",
    re.IGNORECASE,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class ShardOrder:
    """What is asked of one flow run of a shard.

    Attributes:
        number: counts the flow runs of the shard in this run of the archive, from 1, over all parents.
        shrink: see :func:`flows.fuse_shard.shrunk`.
    """

    shard_id: str
    number: int
    shrink: int


async def send(settings: RunSettings, order: ShardOrder) -> FlowRun:
    """The flow run of an order: a new one, or the one that an earlier parent sent under the same number.

    Raises:
        httpx.HTTPError: the server refuses, or has not answered for ``PATIENCE_S``.
    """

    async def ask() -> FlowRun:
        return await arun_deployment(
            settings.job.deployment or "",
            parameters={
                "dest": settings.run.dest,
                "run_id": settings.run.run_id,
                "shard_id": order.shard_id,
                "token": settings.token,
                "places": {prefix: place.model_dump() for prefix, place in settings.job.places.items()},
                "shrink": order.shrink,
            },
            flow_run_name=f"{settings.run.run_id} {order.shard_id}",
            # A parent that was killed and begun again finds the child that still works on the shard.
            idempotency_key=f"{settings.run.run_id}-{order.shard_id}-{order.number}",
            timeout=0,
        )

    return await _answer(ask)


async def look(ids: Sequence[UUID]) -> list[FlowRun]:
    """These flow runs as they are now; without those that somebody deleted.

    Raises:
        httpx.HTTPError: as :func:`send`.
    """
    found: list[FlowRun] = []
    for start in range(0, len(ids), _RUNS_PER_REQUEST):

        async def ask(wanted: Sequence[UUID] = ids[start : start + _RUNS_PER_REQUEST]) -> list[FlowRun]:
            async with get_client() as client:
                return await client.read_flow_runs(
                    flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=list(wanted))), limit=_RUNS_PER_REQUEST
                )

        found += await _answer(ask)
    return found


async def recall(ids: Sequence[UUID], wait_s: float, poll_s: float) -> None:
    """Cancel these flow runs and see them end, for ``wait_s`` seconds at most."""
    deadline = time.monotonic() + wait_s
    for run_id in ids:

        async def ask(wanted: UUID = run_id) -> None:
            # One that somebody deleted must not keep the others from being cancelled.
            with suppress(ObjectNotFound):
                async with get_client() as client:
                    await client.set_flow_run_state(wanted, Cancelling(message="The run of the archive was ended."))

        await _answer(ask)
    while any(not is_over(child) for child in await look(ids)) and time.monotonic() < deadline:
        await asyncio.sleep(poll_s)


async def check_deployment(job: Job) -> None:
    """Stop a job whose shards would have nowhere to go, before any work.

    Raises:
        ConfigurationError: the server has no such deployment, or one without a work pool.
    """
    name = job.deployment or ""
    async with get_client() as client:
        try:
            deployment = await client.read_deployment_by_name(name)
        except ObjectNotFound as error:
            raise ConfigurationError(
                f"deployment: the Prefect server has no {name}; create it with `prefect deploy --all`"
            ) from error
    if deployment.work_pool_name is None:
        raise ConfigurationError(f"deployment: {name} has no work pool, so that no worker would run its shards")


async def window_of(job: Job) -> int:
    """Shards to keep on the pool at a time.

    What the job says; else one for each that the pool can run, by its limit or by its online workers, and one more,
    which waits so that no worker does.

    Raises:
        httpx.HTTPError: as :func:`send`.
    """
    if job.window is not None:
        return job.window

    async def ask() -> int:
        async with get_client() as client:
            deployment = await client.read_deployment_by_name(job.deployment or "")
            pool = await client.read_work_pool(deployment.work_pool_name or "")
            if pool.concurrency_limit is not None:
                return max(1, pool.concurrency_limit)
            if pool.type != "process":
                return ELASTIC_SHARDS
            workers = await client.read_workers_for_work_pool(pool.name)
            return max(1, sum(worker.status == WorkerStatus.ONLINE for worker in workers))

    return await _answer(ask) + 1


def is_over(child: FlowRun) -> bool:
    """Whether it is in a state that it does not leave by itself."""
    return child.state is not None and child.state.is_final()


def died_of_memory(state: State) -> bool:
    """Whether a flow run may have ended for want of memory, by what its state says of the end."""
    return not state.is_completed() and bool(_MEMORY.search(f"{state.name} {state.message or ''}"))


async def _answer(ask: Callable[[], Awaitable[_T]]) -> _T:
    """What the server answers, asked again while it is out of reach or says that the fault is its own."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await ask()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            passes = not isinstance(error, PrefectHTTPStatusError) or error.response.status_code >= _SERVER_FAULT
            if not passes or time.monotonic() > deadline:
                raise
            logger.warning("the Prefect server does not answer (%s); asked again", type(error).__name__)
        await asyncio.sleep(_PAUSE_S)

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
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.context import FlowRunContext
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling

from tasks.codes import ConfigurationError
from tasks.job import Job
from tasks.settings import RunSettings

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 900.0
"""A server that has been silent for so long ends the run; the next one goes on."""

SILENT: Final = "No heartbeat for three periods."
"""What the automation says of a flow run that it calls crashed, whose process it cannot see."""

_NOT_ENDED: Final = "No worker ended it."

_TIMED_OUT: Final = "Flow run cancellation timed out; marked this flow run as Cancelled."
"""What the server says of a flow run that was called off and that no worker ended."""

_LEFT_ALONE: Final = "infrastructure may still be running"
"""What a worker says, among other words, of one that it cancels without a way to end it."""

DEFAULT_QUEUE: Final = "default"
"""The queue that Prefect gives to each pool, and to who asks for none."""

_PAUSE_S: Final = 5.0
_RUNS_PER_REQUEST: Final = 200
_SERVER_FAULT: Final = 500

_MEMORY: Final = re.compile(
    # What a process worker, a container and Python say. A process killed by hand looks alike; shrinking is harmless.
    r"status code:? (-9|137)\b|out of memory|OutOfMemory|MemoryError|allocate memory",
    re.IGNORECASE,
)

_UNEXPLAINED: Final = re.compile(
    # All that the workers of Kubernetes and ECS say of a container that ended badly: of want of memory, or because its
    # node went away or its time was over.
    r"No active or succeeded pods|stopped with a non-zero exit code",
    re.IGNORECASE,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class ShardOrder:
    """What is asked of one flow run of a shard.

    Attributes:
        number: counts the flow runs of the shard in this run of the archive, from 1, over all parents.
        shrink: see :func:`flows.fuse_shard.shrunk`.
        predecessor_may_live: see :func:`may_live`.
    """

    shard_id: str
    number: int
    shrink: int
    predecessor_may_live: bool


async def send(settings: RunSettings, order: ShardOrder) -> FlowRun:
    """The flow run of an order: a new one, or the one that an earlier parent sent there under the same number.

    It comes into the queue that has the name of this flow run's own queue, where the pool has such a one.

    Raises:
        ConfigurationError: the deployment, or its work pool, is gone.
        httpx.HTTPError: the server refuses, or has not answered for ``PATIENCE_S``.
    """

    async def ask() -> FlowRun:
        async with get_client() as client:
            deployment = await deployment_of(client, settings.job)
            queue = await _queue_in(client, deployment.work_pool_name or "")
        return await arun_deployment(
            deployment.id,
            parameters={
                "dest": settings.run.dest,
                "run_id": settings.run.run_id,
                "shard_id": order.shard_id,
                "token": settings.token,
                "number": order.number,
                "places": {prefix: place.model_dump() for prefix, place in settings.job.places.items()},
                "shrink": order.shrink,
                "predecessor_may_live": order.predecessor_may_live,
            },
            flow_run_name=f"{settings.run.run_id} {order.shard_id}",
            # A parent that was killed and begun again finds the child that still works on the shard. The key counts for
            # all deployments of a flow: without the id, one of another pool would be found as well.
            idempotency_key=f"{settings.run.run_id}-{deployment.id}-{order.shard_id}-{order.number}",
            work_queue_name=queue,
            timeout=0,
        )

    return await patiently(ask)


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

        found += await patiently(ask)
    return found


async def recall(ids: Sequence[UUID], wait_s: float, poll_s: float) -> None:
    """Cancel these flow runs and see them end, for ``wait_s`` seconds at most."""
    deadline = time.monotonic() + wait_s
    for run_id in ids:
        await call_off(run_id, "The run of the archive was ended.")
    while any(not is_over(child) for child in await look(ids)) and time.monotonic() < deadline:
        await asyncio.sleep(poll_s)


async def call_off(run_id: UUID, why: str) -> None:
    """Ask for the end of a flow run: it cannot begin any more, and its worker, if that lives, ends what has begun.

    Cancelled would not do: from there the server lets a flow run begin after all, from Cancelling it does not.
    """
    await _set_state(run_id, Cancelling(message=why))


async def write_off(run_id: UUID) -> None:
    """End a flow run that was called off and that nobody ends; a worker that takes it now leaves it alone."""
    await _set_state(run_id, Cancelled(message=_NOT_ENDED))


async def _set_state(run_id: UUID, state: State) -> None:
    async def ask() -> None:
        # One that somebody deleted must not keep the others from being cancelled.
        with suppress(ObjectNotFound):
            async with get_client() as client:
                await client.set_flow_run_state(run_id, state)

    await patiently(ask)


async def check_deployment(job: Job) -> UUID:
    """Stop a job whose shards would have nowhere to go, before any work; the id of its deployment.

    Raises:
        ConfigurationError: the server has no such deployment, or one without a work pool.
        httpx.HTTPError: as :func:`send`.
    """

    async def ask() -> UUID:
        async with get_client() as client:
            return (await deployment_of(client, job)).id

    return await patiently(ask)


async def deployment_of(client: PrefectClient, job: Job) -> DeploymentResponse:
    """The deployment that a job names.

    Raises:
        ConfigurationError: the server has none, or one without a work pool.
    """
    name = job.deployment or ""
    try:
        deployment = await client.read_deployment_by_name(name)
    except ObjectNotFound as error:
        raise ConfigurationError(
            f"deployment: the Prefect server has no {name}; create it with `prefect deploy --all`"
        ) from error
    if deployment.work_pool_name is None:
        raise ConfigurationError(f"deployment: {name} has no work pool, so that no worker would run its shards")
    return deployment


async def _queue_in(client: PrefectClient, pool: str) -> str | None:
    """The queue of a pool that shards of this flow run belong into; None for the deployment's own."""
    context = FlowRunContext.get()
    name = context.flow_run.work_queue_name if context is not None and context.flow_run is not None else None
    if name in (None, DEFAULT_QUEUE):
        return None
    try:
        # The server would create one that is missing, which no worker may look at.
        return (await client.read_work_queue_by_name(name, work_pool_name=pool)).name
    except ObjectNotFound:
        return None


def is_over(child: FlowRun) -> bool:
    """Whether it is in a state that it does not leave by itself."""
    return child.state is not None and child.state.is_final()


def may_live(state: State) -> bool:
    """Whether the process of a flow run that is over may still be at work: nobody saw it end.

    So it is when the server called it crashed for its silence, which may have been the server's own, or a person did;
    and when it was called off and nobody ended it. What a worker or the process itself says of an end has words of its
    own.
    """
    message = state.message or ""
    unseen = message in ("", SILENT, _NOT_ENDED, _TIMED_OUT) or _LEFT_ALONE in message
    return (state.is_crashed() or state.is_cancelled()) and unseen


def has_begun(child: FlowRun) -> bool:
    """Whether a process ever worked on it: not where it found no machine, or its worker could not start it."""
    # Its time of start says less: the server gives one to each run that ends.
    return child.run_count > 0


def is_stranded(child: FlowRun) -> bool:
    """Whether it waits in a queue that was deleted, where no worker looks."""
    return child.state is not None and child.state.is_scheduled() and child.work_queue_id is None


def died_of_memory(state: State) -> bool:
    """Whether a flow run ended for want of memory, by what its state says of the end."""
    return not state.is_completed() and bool(_MEMORY.search(f"{state.name} {state.message or ''}"))


def is_unexplained(state: State) -> bool:
    """Whether want of memory is one of the reasons that a flow run may have ended for, and nobody says which it was."""
    return not state.is_completed() and bool(_UNEXPLAINED.search(state.message or ""))


async def patiently(ask: Callable[[], Awaitable[_T]]) -> _T:
    """What the server answers, asked again while it is out of reach or says that the fault is its own.

    Raises:
        httpx.HTTPError: it refuses, or has not answered for ``PATIENCE_S``.
    """
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

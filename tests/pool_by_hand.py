"""A work pool of a real server, whose flow runs a test takes as a worker would, and whose ends it chooses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import pytest

from flows import dispatch, storage_pause
from flows.dispatch import Dispatched, dispatch_shards
from flows.fuse_archive import PlannedRun, check_inputs, plan_runs
from flows.fuse_shard import PLAIN, run_chunks, shard_chunks
from flows.open_prior import open_prior
from flows.storage_pause import Outage
from tasks.job_file import make_job
from tasks.lock import hold
from tasks.settings import RunSettings
from tests.archives import job_settings
from tests.runs import SilentProgress, SilentWatcher

End = Callable[[Any, int], Any]
UNBEGUN = "Never begun"


class Pool:
    """A work pool with one deployment of fuse-shard, and what a worker of it sees.

    Attributes:
        deployment: its name, for a job.
        taken: ids of the flow runs that were begun.
        at_a_time: how many were there that had not ended, when each was begun.
    """

    def __init__(self) -> None:
        self.name = f"hands-{uuid4().hex[:8]}"
        self.deployment = f"fuse-shard/{self.name}"
        self.taken: list[UUID] = []
        self.at_a_time: list[int] = []

    async def create(self, type_: str = "process") -> None:
        """Both, or what is missing of them."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import WorkPoolCreate

        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=self.name, type=type_))
            flow_id = await client.create_flow_from_name("fuse-shard")
            await client.create_deployment(flow_id=flow_id, name=self.name, work_pool_name=self.name)

    async def runs(self) -> list[Any]:
        """All flow runs of the deployment, oldest first."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

        async with get_client() as client:
            found = await client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[self.name]))
            )
        return sorted(found, key=lambda run: run.created)

    def wait_until_at_work(self, count: int) -> None:
        """Wait until so many flow runs are there that have not ended, in a thread."""
        deadline = time.monotonic() + 60
        while sum(not run.state.is_final() for run in asyncio.run(self.runs())) < count:
            assert time.monotonic() < deadline, f"there were never {count} flow runs at a time"
            time.sleep(0.05)

    async def work(self, end: End) -> None:
        """Take each flow run and set the state that ``end(run, how many were taken)`` names; None leaves it.

        One that ends was at work before, unless ``end`` says by :func:`unbegun` that it was not.
        """
        from prefect.client.orchestration import get_client
        from prefect.states import Running

        while True:
            for run in await self.runs():
                if run.id not in self.taken and run.state.is_scheduled():
                    self.taken.append(run.id)
                    state = await asyncio.to_thread(end, run, len(self.taken))
                    self.at_a_time.append(sum(not one.state.is_final() for one in await self.runs()))
                    if state is not None:
                        async with get_client() as client:
                            if state.is_final() and state.name != UNBEGUN:
                                await client.set_flow_run_state(run.id, Running(), force=True)
                            await client.set_flow_run_state(run.id, state, force=True)
            await asyncio.sleep(0.05)


def quick_pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    """A pool on the server, with a dispatch that does not pause."""
    monkeypatch.setattr(dispatch, "POLL_S", 0.1)
    monkeypatch.setattr(dispatch, "NOT_BEGUN_PAUSE_S", 0.1)
    monkeypatch.setattr(storage_pause, "PAUSE_S", 0.05)
    made = Pool()
    asyncio.run(made.create())
    return made


async def at_work(pool: Pool, end: End, task: Awaitable[Any]) -> Any:
    """The result of ``task``, with somebody at work on the pool meanwhile."""
    working = asyncio.ensure_future(pool.work(end))
    try:
        return await task
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working


@contextmanager
def planned_run(pool: Pool, root: Any, **changes: Any) -> Iterator[PlannedRun]:
    """A run over an archive that is to be dispatched, with the lock held."""
    job = make_job(job_settings(root, mode="max", deployment=pool.deployment, **{"window": 2, **changes}))
    with hold(job.out, wait=True) as lock:
        yield next(plan_runs(check_inputs(job), None, lock.token, SilentWatcher()))


def fuse(planned: PlannedRun, run: Any, chunks: int | None = None) -> None:
    """What the flow run of a shard does, or the first of it."""
    fuse_under(planned.settings, run, lambda: None, chunks)


def fuse_under(settings: RunSettings, run: Any, check: Callable[[], None], chunks: int | None = None) -> None:
    """The same, as long as ``check`` does not raise."""
    left = shard_chunks(settings, run.parameters["shard_id"])[:chunks]
    prior = open_prior(settings.job, settings.prior_sha256)
    run_chunks(left, settings, prior, SilentProgress(), PLAIN, check, check)


def work_after(planned: PlannedRun, *states: Any) -> End:
    """The first flow runs end in these states, one after the other; those that follow do their work."""

    def end(run: Any, number: int) -> Any:
        if number <= len(states):
            return states[number - 1]
        fuse(planned, run)
        return completed()

    return end


def dispatched(
    pool: Pool,
    planned: PlannedRun,
    end: End,
    check: Callable[[], None] = lambda: None,
    settle: Callable[[Any], Awaitable[None]] | None = None,
    outage: Outage | None = None,
) -> Dispatched:
    """Dispatch a run, with somebody at work on the pool, and ``settle`` beside it."""

    async def both() -> Dispatched:
        sending = asyncio.ensure_future(dispatch_shards(planned, SilentProgress(), check, outage or Outage()))

        async def settled() -> Dispatched:
            if settle is not None:
                await settle(sending)
            return await sending

        return await at_work(pool, end, settled())

    return asyncio.run(both())


def completed() -> Any:
    """The state."""
    from prefect.states import Completed

    return Completed()


def unbegun() -> Any:
    """The state of a flow run that its worker could not start."""
    from prefect.states import Crashed

    return Crashed(name=UNBEGUN, message="The capacity provider could not place the task.")


def crashed(message: str = "") -> Any:
    """The state."""
    from prefect.states import Crashed

    return Crashed(message=message)

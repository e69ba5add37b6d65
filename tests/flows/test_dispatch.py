"""Shards on a work pool of a real server. The tests take the flow runs as a worker would, and choose their ends."""

import asyncio
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from uuid import uuid4

import pytest

from flows import dispatch, storage_pause
from flows.dispatch import TRIES, DispatchError, dispatch_shards
from flows.fuse_archive import check_inputs, finish, plan_runs
from flows.fuse_shard import PLAIN, run_chunks, shard_chunks
from flows.open_prior import open_prior
from flows.shard_runs import window_of
from tasks.codes import ConfigurationError
from tasks.job_file import make_job
from tasks.lock import LockLostError, hold
from tasks.storage import StorageError
from tests.archives import job_settings, make_archive
from tests.runs import SilentProgress, SilentWatcher

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


class Pool:
    """A work pool with one deployment, and what a worker of it sees."""

    def __init__(self, name):
        self.name = name
        self.deployment = f"fuse-shard/{name}"
        self.taken = []
        self.at_a_time = []

    async def create(self, client, limit=None, type_="process"):
        from prefect.client.schemas.actions import WorkPoolCreate

        await client.create_work_pool(WorkPoolCreate(name=self.name, type=type_, concurrency_limit=limit))
        flow_id = await client.create_flow_from_name("fuse-shard")
        await client.create_deployment(flow_id=flow_id, name=self.name, work_pool_name=self.name)

    async def runs(self):
        """All flow runs of the deployment, oldest first."""
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

        async with get_client() as client:
            found = await client.read_flow_runs(
                deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[self.name]))
            )
        return sorted(found, key=lambda run: run.created)

    def wait_until_at_work(self, count):
        """Wait until so many flow runs are there that have not ended, in a thread."""
        deadline = time.monotonic() + 60
        while sum(not run.state.is_final() for run in asyncio.run(self.runs())) < count:
            assert time.monotonic() < deadline, f"there were never {count} flow runs at a time"
            time.sleep(0.05)

    async def work(self, end):
        """Take each flow run and set the state that ``end(run, how many were taken)`` names; None leaves it."""
        from prefect.client.orchestration import get_client

        while True:
            for run in await self.runs():
                if run.id not in self.taken and run.state.is_scheduled():
                    self.taken.append(run.id)
                    state = await asyncio.to_thread(end, run, len(self.taken))
                    self.at_a_time.append(sum(not one.state.is_final() for one in await self.runs()))
                    if state is not None:
                        async with get_client() as client:
                            await client.set_flow_run_state(run.id, state, force=True)
            await asyncio.sleep(0.05)


@pytest.fixture
def pool(prefect_api, monkeypatch):
    from prefect.client.orchestration import get_client

    monkeypatch.setattr(dispatch, "POLL_S", 0.1)
    monkeypatch.setattr(storage_pause, "PAUSE_S", 0.05)
    made = Pool(f"hands-{uuid4().hex[:8]}")

    async def create():
        async with get_client() as client:
            await made.create(client)

    asyncio.run(create())
    return made


@contextmanager
def planned_run(pool, root, **changes):
    job = make_job(job_settings(root, mode="max", deployment=pool.deployment, **{"window": 2, **changes}))
    with hold(job.out, wait=True) as lock:
        yield next(plan_runs(check_inputs(job), None, lock.token, SilentWatcher()))


def fuse(planned, run, chunks=None):
    """What the flow run of a shard does, or the first of it."""
    settings = planned.settings
    left = shard_chunks(settings, run.parameters["shard_id"])[:chunks]
    prior = open_prior(settings.job, settings.prior_sha256)
    run_chunks(left, settings, prior, SilentProgress(), PLAIN, lambda: None)


def dispatched(pool, planned, end, check=lambda: None, settle=None):
    async def both():
        working = asyncio.ensure_future(pool.work(end))
        sending = asyncio.ensure_future(dispatch_shards(planned, SilentProgress(), check))
        try:
            if settle is not None:
                await settle(sending)
            return await sending
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working

    return asyncio.run(both())


def completed():
    from prefect.states import Completed

    return Completed()


def crashed(message=""):
    from prefect.states import Crashed

    return Crashed(message=message)


def test_a_window_of_shards_slides_over_the_plan(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 10), shard_pairs=2) as planned:

        def end(run, number):
            fuse(planned, run)
            if number < len(planned.shard_ids):
                pool.wait_until_at_work(2)
            return completed()

        done = dispatched(pool, planned, end)
        assert finish(planned, done.pairs_per_second).sentence() == "10 pairs: 10 ok"
    runs = asyncio.run(pool.runs())
    assert [run.parameters["shard_id"] for run in runs] == ["0000", "0001", "0002", "0003", "0004"]
    assert [run.idempotency_key for run in runs] == [
        f"{planned.settings.run.run_id}-{shard}-1" for shard in planned.shard_ids
    ]
    assert max(pool.at_a_time) == 2
    assert done.pairs == 10


def test_rows_decide_not_states(pool, tmp_path):
    """A flow run that crashed after its last commit did its work; one that completes without rows did not."""
    with planned_run(pool, make_archive(tmp_path, 4), shard_pairs=2) as planned:

        def end(run, number):
            if number == 1:
                fuse(planned, run)
                return crashed()
            if number > 2:
                fuse(planned, run)
            return completed()

        dispatched(pool, planned, end)
        assert finish(planned).sentence() == "4 pairs: 4 ok"
    assert [run.parameters["shard_id"] for run in asyncio.run(pool.runs())] == ["0000", "0001", "0001"]


def test_a_shard_that_died_of_memory_is_sent_again_smaller(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:

        def end(run, number):
            if number < 3:
                return crashed("No heartbeat." if number == 1 else "Process exited with status code: -9. SIGKILL.")
            fuse(planned, run)
            return completed()

        dispatched(pool, planned, end)
    assert [run.parameters["shrink"] for run in asyncio.run(pool.runs())] == [0, 0, 1]


def test_a_shard_is_given_up_when_it_commits_nothing_any_more(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 6), shard_pairs=4) as planned:

        def end(run, number):
            if run.parameters["shard_id"] == "0001":
                fuse(planned, run)
                return completed()
            if number == 2:
                fuse(planned, run, chunks=1)
            return crashed()

        with pytest.raises(DispatchError, match=r"1 of 2 shards did not complete.*0000 \(Crashed\).*look at their"):
            dispatched(pool, planned, end)
    runs = [run for run in asyncio.run(pool.runs()) if run.parameters["shard_id"] == "0000"]
    # The chunk that one of them committed gave it all its tries again.
    assert len(runs) in (TRIES, TRIES + 1)
    assert not shard_chunks(planned.settings, "0001")


def test_a_cancelled_dispatch_cancels_its_flow_runs(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 6), shard_pairs=2) as planned:

        async def cancel(sending):
            while len(pool.taken) < 2:
                await asyncio.sleep(0.05)
            sending.cancel()

        with pytest.raises(asyncio.CancelledError):
            dispatched(pool, planned, lambda *_: None, settle=cancel)
        runs = asyncio.run(pool.runs())
        assert [run.state.type.value for run in runs] == ["CANCELLED"] * 2

        def end(run, _):
            fuse(planned, run)
            return completed()

        # A later run goes on, past the flow runs that were cancelled.
        dispatched(pool, planned, end)
        assert finish(planned).sentence() == "6 pairs: 6 ok"


def test_a_parent_that_lost_its_lock_leaves_the_flow_runs_to_the_next(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        sent = []

        def lost():
            if sent:
                raise LockLostError(planned.settings.run.dest, "another run took it over", "let it finish")

        async def then_lose(_):
            while not pool.taken:
                await asyncio.sleep(0.05)
            sent.append(True)
            runs = await pool.runs()
            from prefect.client.orchestration import get_client

            async with get_client() as client:
                await client.set_flow_run_state(runs[0].id, crashed(), force=True)

        with pytest.raises(LockLostError):
            dispatched(pool, planned, lambda *_: None, check=lost, settle=then_lose)

        def end(run, _):
            fuse(planned, run)
            return completed()

        # The next parent finds the flow run under its key, sees that it is over, and sends the second.
        dispatched(pool, replace(planned), end)
    runs = asyncio.run(pool.runs())
    assert [run.idempotency_key[-2:] for run in runs] == ["-1", "-2"]


def test_the_next_parent_waits_for_a_flow_run_that_still_works(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:

        async def killed():
            first = dispatch._Dispatch(planned, SilentProgress(), lambda: None)
            await first._fill_window()

        asyncio.run(killed())

        def end(run, _):
            fuse(planned, run)
            return completed()

        dispatched(pool, planned, end)
        assert finish(planned).sentence() == "2 pairs: 2 ok"
    assert len(asyncio.run(pool.runs())) == 1


def test_a_store_out_of_reach_is_waited_for(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        asked = []

        def check():
            asked.append(True)
            if len(asked) < 3:
                try:
                    raise ConnectionResetError
                except ConnectionResetError as error:
                    raise StorageError("s3://a", "does not answer", "check the network") from error

        def end(run, _):
            fuse(planned, run)
            return completed()

        dispatched(pool, planned, end, check=check)
        assert len(asked) == 3

        def refused():
            raise StorageError("s3://a", "access was refused", "check the keys")

        with pytest.raises(StorageError, match="access was refused"):
            dispatched(pool, planned, end, check=refused)


def test_a_job_without_a_usable_deployment_stops_before_any_work(pool):
    from flows.shard_runs import check_deployment

    def job(name):
        return make_job({"first": "a", "second": "b", "out": "c", "deployment": name})

    asyncio.run(check_deployment(job(pool.deployment)))
    with pytest.raises(ConfigurationError, match="the Prefect server has no fuse-shard/absent; create it"):
        asyncio.run(check_deployment(job("fuse-shard/absent")))


def test_the_window_follows_the_pool(pool):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate

    job = make_job({"first": "a", "second": "b", "out": "c", "deployment": pool.deployment})

    async def windows():
        found = [await window_of(job.model_copy(update={"window": 7})), await window_of(job)]
        async with get_client() as client:
            for name in ("one", "two", "three"):
                await client.send_worker_heartbeat(pool.name, name, heartbeat_interval_seconds=30)
            found.append(await window_of(job))
            await client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=5))
        return [*found, await window_of(job)]

    assert asyncio.run(windows()) == [7, 2, 4, 6]

"""Shards on a work pool of a real server. The tests take the flow runs as a worker would, and choose their ends."""

import asyncio
from dataclasses import replace

import pytest

from flows import pool_view, storage_pause
from flows.dispatch import TRIES, DispatchError
from flows.fuse_archive import finish
from flows.fuse_shard import shard_chunks
from flows.pool_view import look_at_pool
from flows.shard_runs import SILENT
from flows.storage_pause import Outage
from tasks.codes import ConfigurationError
from tasks.job_file import make_job
from tasks.lock import LockLostError
from tasks.storage import StorageError
from tests.archives import make_archive
from tests.pool_by_hand import Pool, completed, crashed, dispatched, fuse, planned_run, quick_pool, work_after

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]


@pytest.fixture
def pool(prefect_api, monkeypatch):
    return quick_pool(monkeypatch)


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
        f"{planned.settings.run.run_id}-{run.deployment_id}-{shard}-1"
        for run, shard in zip(runs, planned.shard_ids, strict=True)
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
        ends = [crashed(SILENT), crashed("Process exited with status code: -9. SIGKILL.")]
        dispatched(pool, planned, work_after(planned, *ends))
    asked = [run.parameters for run in asyncio.run(pool.runs())]
    assert [one["number"] for one in asked] == [1, 2, 3]
    assert [one["shrink"] for one in asked] == [0, 0, 1]
    # Nobody saw the first one end, while a worker tells of the second.
    assert [one["predecessor_may_live"] for one in asked] == [False, True, False]


def test_a_shard_that_ended_twice_without_a_reason_is_sent_again_smaller(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        ends = [crashed("No active or succeeded pods found for any job") for _ in range(3)]
        dispatched(pool, planned, work_after(planned, *ends))
    # The first may have lost its machine.
    assert [run.parameters["shrink"] for run in asyncio.run(pool.runs())] == [0, 0, 1, 2]


def test_a_shard_is_given_up_when_it_commits_nothing_any_more(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 6), shard_pairs=4) as planned:

        def end(run, _):
            if run.parameters["shard_id"] == "0001":
                fuse(planned, run)
                return completed()
            if run.idempotency_key.endswith("-0000-2"):
                fuse(planned, run, chunks=1)
            return crashed()

        with pytest.raises(DispatchError, match=r"1 of 2 shards did not complete.*0000 \(Crashed\).*look at their"):
            dispatched(pool, planned, end)
    runs = [run for run in asyncio.run(pool.runs()) if run.parameters["shard_id"] == "0000"]
    # The chunk that the second of them committed gave it all its tries again.
    assert len(runs) == 2 + TRIES
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
        # A later run goes on, past the flow runs that were cancelled.
        dispatched(pool, planned, work_after(planned))
        assert finish(planned).sentence() == "6 pairs: 6 ok"


def test_a_parent_that_lost_its_lock_leaves_the_flow_runs_to_the_next(pool, tmp_path):
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        sent = []

        asked = []

        def lost():
            asked.append(True)
            if sent:
                raise LockLostError(planned.settings.run.dest, "another run took it over", "let it finish")

        async def then_lose(_):
            # It looks at its lock although it has nothing more to send.
            while not pool.taken or len(asked) < 5:
                await asyncio.sleep(0.05)
            sent.append(True)
            runs = await pool.runs()
            from prefect.client.orchestration import get_client

            async with get_client() as client:
                await client.set_flow_run_state(runs[0].id, crashed(), force=True)

        with pytest.raises(LockLostError):
            dispatched(pool, planned, lambda *_: None, check=lost, settle=then_lose)
        # The next parent finds the flow run under its key, sees that it is over, and sends the second.
        dispatched(pool, replace(planned), work_after(planned))
    runs = asyncio.run(pool.runs())
    assert [run.idempotency_key[-2:] for run in runs] == ["-1", "-2"]


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

        dispatched(pool, planned, work_after(planned), check=check)
        assert len(asked) > 3

        def refused():
            raise StorageError("s3://a", "access was refused", "check the keys")

        with pytest.raises(StorageError, match="access was refused"):
            dispatched(pool, planned, work_after(planned), check=refused)


def test_a_store_out_of_reach_for_too_long_is_not_waited_for_again_by_the_caller(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(storage_pause, "PATIENCE_S", 0.3)
    now, outage = [0.0], None

    def silent():
        now[0] += 0.1
        try:
            raise TimeoutError
        except TimeoutError as error:
            raise StorageError("s3://a", "does not answer", "check the network") from error

    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        outage = Outage(lambda: now[0])
        with pytest.raises(StorageError, match="does not answer") as silence:
            dispatched(pool, planned, lambda *_: None, check=silent, outage=outage)
    # Clearing away takes its time.
    now[0] += 1000
    assert not outage.may_pass(silence.value)


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

    async def window(**changes):
        return (await look_at_pool(job.model_copy(update=changes))).window

    async def windows():
        found = [await window(window=7), await window()]
        async with get_client() as client:
            for name in ("one", "two", "three"):
                await client.send_worker_heartbeat(pool.name, name, heartbeat_interval_seconds=30)
            found.append(await window())
            await client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=5))
        return [*found, await window()]

    assert asyncio.run(windows()) == [7, 2, 4, 6]


@pytest.mark.parametrize(
    ("type_", "window", "begin_s", "ending_s"),
    [("process", 3, 300, 120), ("docker", 3, 1200, 420), ("kubernetes", 5, 1200, 420)],
)
def test_only_pools_that_start_machines_have_a_window_of_their_own(prefect_api, type_, window, begin_s, ending_s):
    from prefect.client.orchestration import get_client

    pool = Pool()

    async def look():
        await pool.create(type_)
        async with get_client() as client:
            for name in ("one", "two"):
                await client.send_worker_heartbeat(pool.name, name, heartbeat_interval_seconds=30)
        return await look_at_pool(make_job({"first": "a", "second": "b", "out": "c", "deployment": pool.deployment}))

    seen = asyncio.run(look())
    assert (seen.window, seen.begin_s, seen.ending_s, seen.commit_s) == (window, begin_s, ending_s, 7200)
    assert (seen.name, seen.workers, seen.is_paused) == (pool.name, 2, False)


def test_a_site_says_how_long_a_shard_may_work(prefect_api):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate

    from deployments.job_templates import Profile, choose, job_template
    from deployments.work_pools import POOLS

    pool = Pool()

    async def look():
        template = await job_template(Profile.KUBERNETES, POOLS[1].resources)
        choose(template, "time_limit_seconds", 900)
        await pool.create("kubernetes")
        async with get_client() as client:
            await client.update_work_pool(pool.name, WorkPoolUpdate(base_job_template=template, is_paused=True))
        return await look_at_pool(make_job({"first": "a", "second": "b", "out": "c", "deployment": pool.deployment}))

    seen = asyncio.run(look())
    assert (seen.commit_s, seen.is_paused) == (900, True)


def test_the_server_has_the_time_to_take_the_machine_of_a_flow_run_away():
    from prefect.settings import get_current_settings

    service = get_current_settings().server.services.cancellation_cleanup
    assert service.cancelling_timeout_seconds + 3 * service.loop_seconds < pool_view.ENDING_ELSEWHERE_S

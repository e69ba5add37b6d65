"""Flow runs of shards that get lost on their way, and parents that die, on a real server."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from flows import dispatch, pool_view
from flows.dispatch import TRIES, DispatchError
from flows.fuse_archive import finish
from flows.storage_pause import Outage
from tasks.borrowed_lock import BorrowedLock
from tasks.current import current_rows
from tasks.job_file import make_job
from tasks.lock import LockLostError, read_lock
from tasks.run_folder import RunFolder
from tasks.settings import read_settings
from tests.archives import job_settings, make_archive
from tests.pool_by_hand import (
    Pool,
    at_work,
    completed,
    dispatched,
    fuse,
    fuse_under,
    planned_run,
    quick_pool,
    unbegun,
    work_after,
)
from tests.runs import SilentProgress

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

PARENT = """
import asyncio, json, sys
from flows.prefect_flows import fuse_archive
from tasks.job_file import make_job
asyncio.run(fuse_archive(make_job(json.loads(sys.argv[1]))))
"""


@pytest.fixture
def pool(prefect_api, monkeypatch):
    monkeypatch.setitem(pool_view.ENDING_S, "process", 1.0)
    return quick_pool(monkeypatch)


def pending():
    from prefect.states import Pending

    return Pending()


def running():
    from prefect.states import Running

    return Running()


def send_the_first(planned):
    """What a parent does that dies then."""

    async def send():
        await dispatch._Dispatch(planned, SilentProgress(), lambda: None, Outage())._fill_window()

    asyncio.run(send())


async def begin(run_id):
    """What an engine asks for; the state that it gets."""
    from prefect.client.orchestration import get_client
    from prefect.states import Running
    from prefect.utilities.engine import propose_state

    async with get_client() as client:
        return (await propose_state(client, Running(), flow_run_id=run_id)).type.value


def test_a_flow_run_that_is_taken_and_never_begins_is_sent_again(pool, tmp_path, monkeypatch):
    monkeypatch.setitem(pool_view.BEGIN_S, "process", 0.5)
    begun = []
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:

        async def begin_late(_):
            while not (runs := await pool.runs()) or not runs[0].state.is_cancelling():
                await asyncio.sleep(0.05)
            begun.append(await begin(runs[0].id))

        dispatched(pool, planned, work_after(planned, pending()), settle=begin_late)
        assert finish(planned).sentence() == "2 pairs: 2 ok"
    lost, again = asyncio.run(pool.runs())
    assert begun == ["CANCELLING"]
    assert lost.state.type.value == "CANCELLED"
    assert lost.parameters["shard_id"] == again.parameters["shard_id"]
    assert again.state.is_completed()


@pytest.mark.parametrize("lost", [pending, unbegun])
def test_a_want_of_machines_is_not_held_against_a_shard(pool, tmp_path, monkeypatch, lost):
    monkeypatch.setitem(pool_view.BEGIN_S, "process", 0.5)
    monkeypatch.setitem(pool_view.ENDING_S, "process", 0.1)
    monkeypatch.setattr(dispatch, "NOT_BEGUN_PAUSE_S", 0.1)
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        dispatched(pool, planned, work_after(planned, *(lost() for _ in range(TRIES + 2))))
        assert finish(planned).sentence() == "2 pairs: 2 ok"
    assert len(asyncio.run(pool.runs())) == TRIES + 3


def test_a_pool_that_begins_nothing_for_hours_ends_the_run(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "NOT_BEGUN_PAUSE_S", 0.1)
    monkeypatch.setattr(dispatch, "NOTHING_BEGUN_S", 1.0)
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        told = (
            r"no flow run of a shard has begun for \d s \(the last one, of shard 0000: .*whether the pool gets machines"
        )
        with pytest.raises(DispatchError, match=told):
            dispatched(pool, planned, lambda *_: unbegun())
    assert len(asyncio.run(pool.runs())) > 1


def test_a_shard_at_work_shows_that_the_pool_begins_what_it_takes(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "NOT_BEGUN_PAUSE_S", 0.1)
    monkeypatch.setattr(dispatch, "NOTHING_BEGUN_S", 0.5)
    with planned_run(pool, make_archive(tmp_path, 4), shard_pairs=2) as planned:
        sent = []

        def end(run, number):
            if number == 1:
                sent.append(run)
                return running()
            if number < 12:
                return unbegun()
            fuse(planned, run)
            return completed()

        async def then_complete(_):
            while len(pool.taken) < 12:
                await asyncio.sleep(0.05)
            from prefect.client.orchestration import get_client

            await asyncio.to_thread(fuse, planned, sent[0])
            async with get_client() as client:
                await client.set_flow_run_state(sent[0].id, completed(), force=True)

        dispatched(pool, planned, end, settle=then_complete)
        assert finish(planned).sentence() == "4 pairs: 4 ok"


def test_a_flow_run_that_nobody_ends_is_written_off(pool, tmp_path):
    from prefect.states import Cancelling

    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        dispatched(pool, planned, work_after(planned, Cancelling()))
    assert [run.state.type.value for run in asyncio.run(pool.runs())] == ["CANCELLED", "COMPLETED"]


def test_a_flow_run_whose_queue_was_deleted_is_sent_again(pool, tmp_path):
    from prefect.client.orchestration import get_client

    async def recreate():
        async with get_client() as client:
            await client.delete_work_pool(pool.name)
        await pool.create()

    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        send_the_first(planned)
        asyncio.run(recreate())

        def end(run, _):
            if run.work_queue_id is None:
                return None
            fuse(planned, run)
            return completed()

        dispatched(pool, planned, end)
    runs = asyncio.run(pool.runs())
    assert [run.state.type.value for run in runs] == ["CANCELLED", "COMPLETED"]
    assert [run.idempotency_key[-2:] for run in runs] == ["-1", "-2"]


def test_a_run_that_goes_on_with_another_deployment_has_flow_runs_there(pool, tmp_path):
    other = Pool()
    asyncio.run(other.create())
    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        send_the_first(planned)
        job = planned.settings.job.model_copy(update={"deployment": other.deployment})
        planned = replace(planned, settings=replace(planned.settings, job=job))

        dispatched(other, planned, work_after(planned))
    assert [run.state.type.value for run in asyncio.run(pool.runs())] == ["SCHEDULED"]
    assert [run.state.type.value for run in asyncio.run(other.runs())] == ["COMPLETED"]


@pytest.mark.parametrize("has_queue", [True, False])
def test_shards_come_into_the_queue_of_their_parent(pool, tmp_path, has_queue):
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.deployments import arun_deployment
    from prefect.flow_engine import run_flow_async

    parents = Pool()

    @flow(name="fuse-shard", persist_result=False)
    async def parent():
        await dispatch._Dispatch(planned, SilentProgress(), lambda: None, Outage())._fill_window()

    async def run_parent():
        await parents.create()
        async with get_client() as client:
            if has_queue:
                await client.create_work_queue(name="nightly", work_pool_name=pool.name)
            run = await arun_deployment(parents.deployment, work_queue_name="nightly", timeout=0)
            await run_flow_async(parent, flow_run=await client.read_flow_run(run.id))
            return [queue.name for queue in await client.read_work_queues(work_pool_name=pool.name)]

    with planned_run(pool, make_archive(tmp_path, 2)) as planned:
        queues = asyncio.run(run_parent())
    (child,) = asyncio.run(pool.runs())
    assert child.work_queue_name == ("nightly" if has_queue else "default")
    assert ("nightly" in queues) is has_queue


def test_a_flow_run_that_still_works_goes_on_under_the_next_parent(pool, tmp_path):
    """The first parent is killed, the second takes its lock over, and the shard is done by the first one's flow run."""
    from flows.prefect_flows import fuse_archive

    settings = job_settings(make_archive(tmp_path, 4), mode="max", deployment=pool.deployment, window=1)
    dest = settings["out"]
    first = subprocess.Popen([sys.executable, "-c", PARENT, json.dumps(settings)])
    try:
        pool.wait_until_at_work(1)
    finally:
        first.kill()
        first.wait()
    (child,) = asyncio.run(pool.runs())
    token, run_id = child.parameters["token"], child.parameters["run_id"]
    lock = BorrowedLock(dest, token, run_id, every_s=0)
    lock.check()
    stranger = BorrowedLock(dest, token, "another-run", every_s=0)

    def end(run, _):
        deadline = time.monotonic() + 60
        while (record := read_lock(dest)).token == token:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert record.token == token + 1
        mine = replace(read_settings(RunFolder(dest, run_id)), token=token)
        fuse_under(mine, run, lock.check, chunks=1)
        # By now the second parent has said what it works on, and looks after this flow run.
        time.sleep(2)
        with pytest.raises(LockLostError):
            stranger.check()
        fuse_under(mine, run, lock.check)
        return completed()

    second = asyncio.run(at_work(pool, end, fuse_archive(make_job(settings), return_state=True)))
    assert second.is_completed()
    assert second.message == "4 pairs: 4 ok"
    assert [run.id for run in asyncio.run(pool.runs())] == [child.id]
    assert set(current_rows(dest, columns=None)["lock_token"].to_pylist()) == {token}
    with pytest.raises(LockLostError):
        lock.check()

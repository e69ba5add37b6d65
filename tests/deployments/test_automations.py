"""What the automations do on a real server: of runs that die or are put off, and of lost parents."""

import asyncio
import contextlib
import subprocess
import sys
import time
import uuid
from datetime import timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event

from deployments import automations
from deployments.set_up import main
from tests import servers
from tests.runs_by_hand import a_parent, a_report, a_shard, deployed_run, set_state, wait_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.fixture
def periods(prefect_api):
    """Shorter periods for the automations; afterwards the server gets its own back, by which other tests' runs live."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch
    assert main(["--profile", "process"]) == 0


async def is_crashed(client, run_id):
    return (await client.read_flow_run(run_id)).state.is_crashed()


def heartbeats(api_url, run_id):
    """How many of a flow run the server has."""
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run_id}"]}}
    return servers.http_json(f"{api_url}/events/filter", {"filter": wanted})["total"]


# ---- runs that send no heartbeat any more ----------------------------------------------------------------------------

SLEEPER = """
import sys, time
from prefect import flow

@flow(name=sys.argv[1], flow_run_name=sys.argv[2])
def sleeper():
    time.sleep(600)

sleeper()
"""


@contextlib.contextmanager
def a_run_that_is_killed(api_url, folder, flow_name):
    """The id of a flow run whose process sends its heartbeat, and is killed on leaving."""
    script, name = folder / f"{flow_name}.py", f"{flow_name}-{uuid.uuid4().hex[:8]}"
    script.write_text(SLEEPER)
    with subprocess.Popen([sys.executable, script, flow_name, name], stderr=subprocess.DEVNULL) as process:
        try:
            wanted = {"flow_runs": {"name": {"any_": [name]}}}

            def alive():
                found = servers.http_json(f"{api_url}/flow_runs/filter", wanted)
                return [run["id"] for run in found if heartbeats(api_url, run["id"])]

            deadline = time.monotonic() + 120
            while not (ids := alive()):
                assert time.monotonic() < deadline, "no heartbeat"
                time.sleep(0.5)
            yield ids[0]
        finally:
            process.kill()


def test_the_command_line_sends_heartbeats_as_often_as_the_server_expects_them():
    script = (
        "from flows.cli import prepare_prefect; prepare_prefect(); "
        "from prefect.settings import get_current_settings; print(get_current_settings().flows.heartbeat_frequency)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert timedelta(seconds=int(done.stdout)) == automations.HEARTBEAT


def test_a_run_that_is_gone_becomes_crashed_and_that_of_others_is_left_alone(prefect_api, periods, tmp_path):
    periods.setattr(automations, "HEARTBEAT", timedelta(seconds=5))
    assert main(["--profile", "process"]) == 0
    with (
        a_run_that_is_killed(prefect_api, tmp_path, "of-another-team") as theirs,
        a_run_that_is_killed(prefect_api, tmp_path, "fuse-shard") as ours,
    ):
        pass

    async def fates():
        async with get_client() as client:
            assert await wait_for(lambda: is_crashed(client, ours))
            # Its heartbeat came before that of ours, so that its time is over too.
            assert not await wait_for(lambda: is_crashed(client, theirs), seconds=3)

    asyncio.run(fates())


def test_a_run_that_is_put_off_may_wait_for_its_machine(prefect_api, periods):
    periods.setattr(automations, "HEARTBEAT", timedelta(seconds=5))
    assert main(["--profile", "process"]) == 0

    async def beat(client, run_id):
        """As the engine of a flow run sends it."""
        before = heartbeats(prefect_api, run_id)
        flow_id = (await client.read_flow_run(run_id)).flow_id
        emit_event(
            "prefect.flow-run.heartbeat",
            resource={"prefect.resource.id": f"prefect.flow-run.{run_id}", "prefect.resource.name": "a shard"},
            related=[
                {
                    "prefect.resource.id": f"prefect.flow.{flow_id}",
                    "prefect.resource.role": "flow",
                    "prefect.resource.name": "fuse-shard",
                }
            ],
        )

        async def arrived():
            return heartbeats(prefect_api, run_id) > before

        assert await wait_for(arrived)

    async def lives():
        async with get_client() as client:
            waiting, pending, gone = [await deployed_run(client, a_shard) for _ in range(3)]
            for run_id in (waiting, pending):
                await set_state(client, run_id, "Running")
                await beat(client, run_id)
                await set_state(client, run_id, "AwaitingRetry", StateType.SCHEDULED)
            # The process that goes is heard of once more, but a worker has taken the run for its next start.
            await beat(client, pending)
            await set_state(client, pending, "Pending")
            await set_state(client, gone, "Running")
            await beat(client, gone)
            assert await wait_for(lambda: is_crashed(client, gone))
            assert not await is_crashed(client, waiting)
            assert not await is_crashed(client, pending)
            # From its next start on it is watched again.
            await set_state(client, pending, "Running")
            await beat(client, pending)
            assert await wait_for(lambda: is_crashed(client, pending))

    asyncio.run(lives())


def test_a_run_that_was_taken_and_never_begins_becomes_crashed(prefect_api, periods):
    periods.setattr(automations, "BEGIN", timedelta(seconds=10))
    assert main(["--profile", "process"]) == 0

    async def lives():
        async with get_client() as client:
            stuck, begun = [await deployed_run(client, a_parent) for _ in range(2)]
            for run_id in (begun, stuck):
                await set_state(client, run_id, "Pending")
            await set_state(client, begun, "Running")
            assert await wait_for(lambda: is_crashed(client, stuck))
            assert not await is_crashed(client, begun)

    asyncio.run(lives())


# ---- parents that are started again ----------------------------------------------------------------------------------


def test_a_lost_parent_is_started_again_but_not_for_ever(prefect_api, periods):
    periods.setattr(automations, "RESTARTS", 1)
    periods.setattr(automations, "RESTART_AFTER", timedelta(seconds=10))
    assert main(["--profile", "process"]) == 0

    async def lives():
        async with get_client() as client:
            parent, shard, report = [await deployed_run(client, one) for one in (a_parent, a_shard, a_report)]

            async def awaits_retry(run_id=parent):
                state = (await client.read_flow_run(run_id)).state
                return state.name == "AwaitingRetry"

            await set_state(client, report, "Running")
            await set_state(client, report, "Crashed")
            await set_state(client, shard, "Running")
            await set_state(client, shard, "Crashed")
            await set_state(client, parent, "Running")
            await set_state(client, parent, "Crashed")
            # Only when its worker has said all that it says of a crash.
            assert not await wait_for(awaits_retry, seconds=5)
            assert await wait_for(awaits_retry)
            assert await wait_for(lambda: awaits_retry(report))
            await set_state(client, parent, "Running")
            await set_state(client, parent, "Crashed")
            assert not await wait_for(awaits_retry, seconds=20)
            # The parent itself sends a shard again.
            assert (await client.read_flow_run(shard)).state.name == "Crashed"

    asyncio.run(lives())

"""Setting up a real server: what is made, that a second call changes nothing, and what the automations do."""

import asyncio
import http.server
import json
import threading
import time
import uuid
from datetime import timedelta

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore
from prefect.states import State

from deployments.set_up import main

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


def changed(capsys):
    """Name of each thing that the last call changed, and what it said of it."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split(":")[0]: line for line in lines if ": created" in line or ": updated" in line}


def test_the_second_call_changes_nothing(prefect_api, capsys):
    assert main(["--profile", "process"]) == 0
    capsys.readouterr()
    assert main(["--profile", "process"]) == 0
    assert capsys.readouterr().out.endswith("changed: 0\n")
    pools, queues, automations = asyncio.run(what_is_there())
    assert {pool.name: pool.type for pool in pools}.items() >= {
        "orchestration": "process", "gpu": "process", "cpu": "process",
    }.items()  # fmt: skip
    environment = {pool.name: pool.base_job_template["variables"]["properties"]["env"]["default"] for pool in pools}
    assert environment["gpu"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    priorities = {queue.name: queue.priority for queue in queues}
    assert priorities["on-demand"] < priorities["nightly"]
    names = [automation.name for automation in automations]
    assert names.count("crash-silent-flow-runs") == names.count("restart-lost-parents") == 1


async def what_is_there():
    async with get_client() as client:
        queues = await client.read_work_queues(work_pool_name="orchestration")
        return await client.read_work_pools(), queues, await client.read_automations()


def test_what_was_changed_by_hand_is_said_and_mended(prefect_api, capsys):
    assert main(["--profile", "process"]) == 0

    async def tamper():
        async with get_client() as client:
            (crash,) = await client.read_automations_by_name("crash-silent-flow-runs")
            (restart,) = await client.read_automations_by_name("restart-lost-parents")
            tampered = {**crash.model_dump(exclude={"id", "owner_resource"}), "description": "?", "enabled": False}
            await client.update_automation(crash.id, AutomationCore.model_validate(tampered))
            await client.delete_automation(restart.id)

    asyncio.run(tamper())
    capsys.readouterr()
    assert main(["--profile", "process", "--dry-run"]) == 0
    planned = changed(capsys)
    assert main(["--profile", "process"]) == 0
    assert changed(capsys) == planned
    assert planned == {
        "automation crash-silent-flow-runs": "automation crash-silent-flow-runs: updated",
        "automation restart-lost-parents": "automation restart-lost-parents: created",
    }
    _, _, automations = asyncio.run(what_is_there())
    (crash,) = [automation for automation in automations if automation.name == "crash-silent-flow-runs"]
    assert not crash.enabled  # switched off by hand
    asyncio.run(switch_on(crash.id))


async def switch_on(automation_id):
    async with get_client() as client:
        await client.resume_automation(automation_id)


def test_what_a_site_chose_stays(prefect_api, capsys):
    assert main(["--profile", "process", "--limit", "cpu=7", "--set", 'cpu.labels={"site": "north"}']) == 0
    capsys.readouterr()
    assert main(["--profile", "process"]) == 0
    said = capsys.readouterr().out
    assert "work pool cpu: was there (type process, at most 7 runs at a time)" in said
    pools, _, _ = asyncio.run(what_is_there())
    (cpu,) = [pool for pool in pools if pool.name == "cpu"]
    assert cpu.base_job_template["variables"]["properties"]["labels"]["default"] == {"site": "north"}


WRONG = (
    (["--profile", "docker"], "is of type process, not docker"),
    (["--profile", "process", "--set", "cpu.gpu_count=1"], "pool cpu has no variable gpu_count; it has command, env"),
    (["--profile", "process", "--set", "cpu.env=[1]"], "set: cpu.env: "),
    (["--profile", "process", "--set", "tpu.env={}"], "there is no pool tpu; the pools are orchestration, gpu, cpu"),
    (["--profile", "process", "--set", "image=x"], "is not POOL.VARIABLE=VALUE"),
    (["--profile", "process", "--limit", "gpu=many"], "is not POOL=NUMBER"),
    (["--profile", "process", "--notify", "slack-webhook/nobody"], "the server has no block slack-webhook/nobody"),
)


def test_a_wrong_configuration_changes_nothing(prefect_api, capsys):
    assert main(["--profile", "process"]) == 0
    before = asyncio.run(what_is_there())[0]
    capsys.readouterr()
    for options, told in WRONG:
        assert main(options) == 2, options
        assert told in capsys.readouterr().err
    assert asyncio.run(what_is_there())[0] == before


def test_without_a_server(monkeypatch, capsys):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: None}):
        assert main(["--profile", "process"]) == 2
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert main(["--profile", "process"]) == 3
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("set_up: PREFECT_API_URL: is not set")
    assert "does not answer" in said[1]


# ---- what the automations do -----------------------------------------------------------------------------------------


@flow(name="fuse-archive")
def a_parent():
    """Never run: only its states are set."""


@flow(name="fuse-shard")
def a_shard():
    """Likewise."""


async def wait_for(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := await condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.3)
    return found


async def deployed_run(client, flow_):
    deployment_id = await (await flow_.ato_deployment(f"of-{uuid.uuid4().hex[:8]}")).apply()
    return (await client.create_flow_run_from_deployment(deployment_id)).id


async def set_state(client, run_id, name):
    await client.set_flow_run_state(run_id, State(type=StateType(name.upper()), name=name), force=True)


def test_a_lost_parent_is_started_again_but_not_for_ever(prefect_api, monkeypatch):
    monkeypatch.setattr("deployments.automations.RESTARTS", 1)
    monkeypatch.setattr("deployments.automations.RESTART_AFTER", timedelta(seconds=10))
    assert main(["--profile", "process"]) == 0

    async def lives():
        async with get_client() as client:
            parent, shard = await deployed_run(client, a_parent), await deployed_run(client, a_shard)

            async def awaits_retry():
                state = (await client.read_flow_run(parent)).state
                return state.name == "AwaitingRetry"

            await set_state(client, shard, "Running")
            await set_state(client, shard, "Crashed")
            await set_state(client, parent, "Running")
            await set_state(client, parent, "Crashed")
            # Only when its worker has said all that it says of a crash.
            assert not await wait_for(awaits_retry, seconds=5)
            assert await wait_for(awaits_retry)
            await set_state(client, parent, "Running")
            await set_state(client, parent, "Crashed")
            assert not await wait_for(awaits_retry, seconds=20)
            # The parent itself sends a shard again.
            assert (await client.read_flow_run(shard)).state.name == "Crashed"

    asyncio.run(lives())


def test_people_are_told_of_failures_and_drift(prefect_api, capsys):
    told = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    block = f"operators-{uuid.uuid4().hex[:8]}"

    async def make_block():
        from prefect.blocks.notifications import CustomWebhookNotificationBlock

        notification = CustomWebhookNotificationBlock(
            name="operators",
            url=f"http://127.0.0.1:{receiver.server_port}/",
            json_data={"text": "{{subject}}: {{body}}"},
        )
        await notification.asave(block) if hasattr(notification, "asave") else await notification.save(block)

    async def fail():
        async with get_client() as client:
            run = await deployed_run(client, a_parent)
            await client.set_flow_run_state(
                run, State(type=StateType.FAILED, name="Failed", message="9 of 10 pairs failed"), force=True
            )

            async def heard():
                return told

            assert await wait_for(heard)

    async def drift():
        resource = {"prefect.resource.id": "ddfm.destination.0123456789abcdef", "ddfm.method": "paper"}
        emit_event("ddfm.run.drifted", resource=resource, payload={"shifts": {"SSIM": -3.5}})

        async def heard():
            return len(told) > 1

        assert await wait_for(heard)

    try:
        asyncio.run(make_block())
        assert main(["--profile", "process", "--notify", f"custom-webhook/{block}"]) == 0
        said = capsys.readouterr().out
        for name in ("notify-failures", "notify-late-runs", "notify-drift"):
            assert f"automation {name}: created" in said
        asyncio.run(fail())
        asyncio.run(drift())
    finally:
        receiver.shutdown()
    assert "fuse-archive" in told[0]["text"]
    assert "Failed" in told[0]["text"]
    assert "9 of 10 pairs failed" in told[0]["text"]
    assert "ddfm.run.drifted" in told[1]["text"]
    assert "-3.5" in told[1]["text"]

"""What people hear of a real server: of runs that fail, that find no place or that nobody takes, of pools, of drift."""

import asyncio
import http.server
import json
import threading
import uuid
from datetime import timedelta

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event

from deployments import automations
from deployments.set_up import main
from tests.runs_by_hand import a_parent, a_shard, deployed_run, set_state, wait_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]


@pytest.fixture
def told(prefect_api, monkeypatch, capsys):
    """What a webhook is told, by automations that wait for seconds where they would for minutes."""
    heard = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
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

    async def forget():
        async with get_client() as client:
            for wanted in automations.notifications(uuid.uuid4(), ()):
                for found in await client.read_automations_by_name(wanted.name):
                    await client.delete_automation(found.id)

    monkeypatch.setattr(automations, "LATE", timedelta(seconds=10))
    monkeypatch.setattr(automations, "WITHOUT_WORKERS", timedelta(seconds=10))
    try:
        asyncio.run(make_block())
        assert main(["--profile", "process", "--notify", f"custom-webhook/{block}"]) == 0
        said = capsys.readouterr().out
        for wanted in automations.notifications(uuid.uuid4(), ()):
            assert f"automation {wanted.name}: created" in said
        yield heard
    finally:
        asyncio.run(forget())
        receiver.shutdown()


async def hears(told, *words):
    """The first message with all of these words."""

    async def heard():
        return next((text for text in told if all(word in text for word in words)), None)

    found = await wait_for(heard)
    assert found is not None, told
    return found


def link(api_url, run_id):
    return f"{api_url.removesuffix('/api')}/runs/flow-run/{run_id}"


def test_people_are_told_of_failures_and_drift(prefect_api, told):
    async def hear():
        async with get_client() as client:
            run = await deployed_run(client, a_parent)
            await set_state(client, run, "Failed", message="9 of 10 pairs failed")
        await hears(told, "fuse-archive", "Failed", "9 of 10 pairs failed", link(prefect_api, run))
        resource = {"prefect.resource.id": "ddfm.destination.0123456789abcdef", "ddfm.method": "paper"}
        emit_event("ddfm.run.drifted", resource=resource, payload={"shifts": {"SSIM": -3.5}})
        await hears(told, "ddfm.run.drifted", "-3.5")

    asyncio.run(hear())


def test_people_are_told_of_a_run_that_found_the_one_before_at_work(prefect_api, told):
    """The server itself cancels it, as it does the next night of ``nightly``."""

    async def hear():
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.states import Pending

        alone = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        name = f"of-{uuid.uuid4().hex[:8]}"
        deployment_id = await (await a_parent.ato_deployment(name, concurrency_limit=alone)).apply()
        async with get_client() as client:
            by_hand = await deployed_run(client, a_parent)
            await set_state(client, by_hand, "Cancelled", message="By a person.")
            first, second = [(await client.create_flow_run_from_deployment(deployment_id)).id for _ in range(2)]
            for run in (first, second):
                await client.set_flow_run_state(run, Pending())
            state = (await client.read_flow_run(second)).state
            assert (state.name, state.message) == ("Cancelled", automations.NO_PLACE)
        await hears(told, "fuse-archive", "the one before is not over", link(prefect_api, second))
        assert not any(str(by_hand) in text for text in told)

    asyncio.run(hear())


def test_people_are_told_of_a_run_that_nobody_takes_but_not_of_shards_that_wait_for_their_turn(prefect_api, told):
    async def hear():
        async with get_client() as client:
            shard, parent = await deployed_run(client, a_shard), await deployed_run(client, a_parent)
            for run in (shard, parent):
                await set_state(client, run, "Late", StateType.SCHEDULED)
        await hears(told, "fuse-archive", "not started", link(prefect_api, parent))
        assert not any(str(shard) in text for text in told)

    asyncio.run(hear())


def test_people_are_told_of_a_pool_whose_workers_went_away(prefect_api, told):
    async def hear():
        async with get_client() as client:
            # Heard of once, and then no more.
            await client.send_worker_heartbeat("gpu", "one", heartbeat_interval_seconds=1)
        page = f"{prefect_api.removesuffix('/api')}/work-pools/work-pool/gpu"
        await hears(told, "work pool gpu", "no worker", page)

    asyncio.run(hear())

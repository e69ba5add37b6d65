"""Setting up a real server: what is made, that a second call changes nothing, and that a site's choices stay."""

import asyncio

import pytest
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore

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
    environment = {pool.name: pool.base_job_template["job_configuration"]["env"] for pool in pools}
    assert environment["gpu"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert queues == {pool: ["on-demand", "nightly", "default"] for pool in ("orchestration", "gpu", "cpu")}
    names = [automation.name for automation in automations]
    assert names.count("crash-silent-flow-runs") == names.count("restart-lost-parents") == 1


async def what_is_there():
    async with get_client() as client:
        pools = await client.read_work_pools()
        queues = {}
        for pool in ("orchestration", "gpu", "cpu"):
            found = await client.read_work_queues(work_pool_name=pool)
            queues[pool] = [queue.name for queue in sorted(found, key=lambda queue: queue.priority)]
        return pools, queues, await client.read_automations()


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
    reference = 'cpu.env={"AWS_SECRET_ACCESS_KEY": "{{ $OF_THE_WORKER }}"}'
    chosen = ["--limit", "cpu=7", "--set", 'cpu.labels={"site": "north"}', "--set", reference]
    assert main(["--profile", "process", *chosen]) == 0
    capsys.readouterr()
    assert main(["--profile", "process"]) == 0
    said = capsys.readouterr().out
    assert "work pool cpu: was there (type process, at most 7 runs at a time)" in said
    pools, _, _ = asyncio.run(what_is_there())
    (cpu,) = [pool for pool in pools if pool.name == "cpu"]
    variables = cpu.base_job_template["variables"]["properties"]
    assert variables["labels"]["default"] == {"site": "north"}
    assert variables["env"]["default"] == {"AWS_SECRET_ACCESS_KEY": "{{ $OF_THE_WORKER }}"}


WRONG = (
    (["--profile", "docker"], "is of type process, not docker"),
    (["--profile", "process", "--set", "cpu.gpu_count=1"], "pool cpu has no variable gpu_count; it has command, env"),
    (["--profile", "process", "--set", "cpu.env=[1]"], "set: cpu.env: "),
    (["--profile", "process", "--set", 'cpu.env={"DDFM_PSEUDONYM_SECRET": "x"}'], "belong into the environment of the"),
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

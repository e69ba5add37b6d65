"""Archives on work pools of a real server: shards that die of memory, logs, and secrets that stay where they are."""

import asyncio
import base64
import os
from pathlib import Path
from urllib.parse import quote

import pytest

from tasks.current import current_rows
from tests import servers
from tests.archives import job_settings, make_archive

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]
PSEUDONYM_SECRET = "pseudonyms-must-not-travel"


@pytest.fixture(scope="module")
def workers(prefect_api_url, s3_server):
    settings = s3_server.environment() | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]),
        "DDFM_PSEUDONYM_SECRET": PSEUDONYM_SECRET,
        "OMP_NUM_THREADS": "1",
    }
    with servers.prefect_worker(prefect_api_url, "runs", limit=3, environment=settings) as worker:
        yield worker


def deploy(name, entrypoint):
    async def create():
        from prefect.client.orchestration import get_client

        async with get_client() as client:
            flow_id = await client.create_flow_from_name(name.partition("/")[0])
            await client.create_deployment(
                flow_id=flow_id, name=name.partition("/")[2], work_pool_name="runs", entrypoint=entrypoint,
                pull_steps=[],
            )  # fmt: skip

    asyncio.run(create())


def run_job(job):
    from prefect.deployments import run_deployment

    return run_deployment("fuse-archive/runs", parameters={"job": job}, timeout=300, poll_interval=1)


@pytest.fixture
def deployed(prefect_api, workers):
    deploy("fuse-archive/runs", "flows.prefect_flows.fuse_archive")
    deploy("fuse-shard/runs", "flows.prefect_flows.fuse_shard")
    deploy("fuse-shard/dying", "tests.flows.dying_shard.fuse_shard")
    return prefect_api


def logs_of(api, name):
    runs = servers.http_json(f"{api}/flow_runs/filter", {"flows": {"name": {"any_": ["fuse-shard"]}}})
    ids = [run["id"] for run in runs if run["name"].startswith(name)]
    return [
        line["message"]
        for line in servers.http_json(f"{api}/logs/filter", {"logs": {"flow_run_id": {"any_": ids}}})
    ]  # fmt: skip


def test_a_shard_that_dies_of_memory_goes_on_with_smaller_batches(deployed, workers, tmp_path):
    root = make_archive(tmp_path, 4)
    job = job_settings(root, steps=1, deployment="fuse-shard/dying", batch=2, chunk_pairs=4, window=1)
    run = run_job(job)
    assert run.state.is_completed(), f"{run.state}\n{workers.tail()}"
    assert run.state.message == "4 pairs: 4 ok"
    shards = servers.http_json(f"{deployed}/flow_runs/filter", {"deployments": {"name": {"any_": ["dying"]}}})
    by_shrink = {shard["parameters"]["shrink"]: shard["state_type"] for shard in shards}
    assert by_shrink == {0: "CRASHED", 1: "COMPLETED"}
    run_id = current_rows(job["out"])["run_id"][0].as_py()
    told = "\n".join(logs_of(deployed, run_id))
    assert "prior bundled, sha256 " in told
    assert "warmed up in" in told
    assert "4 pairs in " in told
    assert "GiB (peak " in told


def test_no_secret_reaches_the_server(deployed, workers, postgres_url, s3_server, s3_bucket, tmp_path, monkeypatch):
    from prefect.blocks.system import Secret

    client = s3_server.client()
    bucket = s3_bucket.removeprefix("s3://")
    for path in sorted(make_archive(tmp_path, 2).rglob("*.png")):
        client.upload_file(str(path), bucket, str(path.relative_to(tmp_path)))
    wrong = "a-secret-that-is-not-the-right-one"
    for name, secret in (("pool-keys", s3_server.secret_key), ("pool-wrong-keys", wrong)):
        Secret(value={"access_key_id": s3_server.access_key, "secret_access_key": secret}).save(name, overwrite=True)
    place = {"endpoint_url": s3_server.endpoint_url, "region": s3_server.region}
    job = {
        "first": f"{s3_bucket}/ir", "second": f"{s3_bucket}/vi", "out": f"{s3_bucket}/out", "mode": "max",
        "privacy": "strict", "deployment": "fuse-shard/runs",
    }  # fmt: skip
    run = run_job(job | {"places": {f"{s3_bucket}/ir": place | {"credentials_block": "pool-keys"}}})
    assert run.state.is_completed(), f"{run.state}\n{workers.tail()}"
    assert run.state.message == "2 pairs: 2 ok"
    refused = run_job(job | {"places": {f"{s3_bucket}/ir": place | {"credentials_block": "pool-wrong-keys"}}})
    assert refused.state.is_failed()
    assert "check the keys configured" in refused.state.message
    content = servers.dump_database(postgres_url)
    # The search would find them: parameters, logs, states and artifacts are in it.
    for present in ("credentials_block", "prior bundled, sha256", "check the keys configured", "| 2 | 2 | 0 | 0 | 0 |"):
        assert present in content
    for secret in (s3_server.secret_key, wrong, PSEUDONYM_SECRET):
        for form in (secret, quote(secret), base64.b64encode(secret.encode()).decode(), secret.encode().hex()):
            assert form not in content
            assert form not in workers.tail(1_000_000)
    # Strict privacy: names of files stay below the destination, too.
    assert "000.png" not in content

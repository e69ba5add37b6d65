"""The deployments of prefect.yaml on a real server and real workers: an archive of 12 pairs in 3 shards."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests import servers
from tests.archives import ddfm, job_settings, make_archive, pictures

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).parents[2]


def test_an_archive_in_shards_on_a_work_pool(prefect_api, tmp_path):
    from prefect.deployments import run_deployment

    calm = make_archive(tmp_path / "calm", 12)
    answer = ddfm("fuse", f"{calm}/ir", f"{calm}/vi", "--out", f"{calm}/out", "--steps", "2", "--no-prefect")
    assert answer.returncode == 0, answer.stderr
    root = make_archive(tmp_path / "pool", 12)
    job = job_settings(root, deployment="fuse-shard/gpu", shard_pairs=4, chunk_pairs=16, window=3)
    with (
        servers.prefect_worker(prefect_api, "orchestration") as parents,
        servers.prefect_worker(prefect_api, "gpu", limit=3) as children,
    ):
        subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
            cwd=REPOSITORY, env=os.environ | {"PREFECT_API_URL": prefect_api}, check=True, capture_output=True,
        )  # fmt: skip
        run = run_deployment("fuse-archive/nightly", parameters={"job": job}, timeout=400, poll_interval=1)
        assert run.state.is_completed(), f"{run.state}\n{parents.tail()}\n{children.tail()}"
        assert run.state.message == "12 pairs: 12 ok"
        children_runs = servers.http_json(
            f"{prefect_api}/flow_runs/filter", {"flows": {"name": {"any_": ["fuse-shard"]}}}
        )
        assert [entry["state_type"] for entry in children_runs] == ["COMPLETED"] * 3
        rows = pq.read_table(root / "out/_ddfm/metrics/current")
        assert sorted(rows["pair_key"].to_pylist()) == [f"{number:03}" for number in range(12)]
        assert set(rows["shard_id"].to_pylist()) == {"0000", "0001", "0002"}
        assert set(pictures(root / "out/fused")) == set(pictures(calm / "out/fused"))
        again = run_deployment("fuse-archive/nightly", parameters={"job": job}, timeout=200, poll_interval=1)
        assert again.state.is_completed(), parents.tail()
        assert "Nothing to do" in again.state.message


def test_the_automation_is_created_once(prefect_api):
    from deployments.automations import ensure_automation

    assert asyncio.run(ensure_automation())
    assert not asyncio.run(ensure_automation())

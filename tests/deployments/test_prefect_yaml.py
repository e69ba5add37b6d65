"""The deployments of prefect.yaml on a real server and real workers: an archive of 12 pairs in 3 shards."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from tests import servers
from tests.archives import ddfm, job_settings, make_archive, pictures, write_picture

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[2]


def prefect(api_url, *arguments):
    """What the command says that is given in the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=REPOSITORY, env=os.environ | {"PREFECT_API_URL": api_url}, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def deploy_all(api_url):
    from deployments.set_up import main

    assert main(["--profile", "process"]) == 0
    prefect(api_url, "deploy", "--all")
    found = servers.http_json(f"{api_url}/deployments/filter", {"deployments": {"tags": {"all_": ["ddfm"]}}})
    flows = {flow["id"]: flow["name"] for flow in servers.http_json(f"{api_url}/flows/filter", {})}
    return {f"{flows[deployment['flow_id']]}/{deployment['name']}": deployment for deployment in found}


def runs_of(api_url, flow):
    """Runs of a flow with parameters: other tests leave some without on this server."""
    found = servers.http_json(f"{api_url}/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
    return [run for run in found if run["parameters"]]


def test_an_archive_in_shards_on_a_work_pool(prefect_api, tmp_path):
    from prefect.deployments import run_deployment

    calm = make_archive(tmp_path / "calm", 12)
    answer = ddfm("fuse", f"{calm}/ir", f"{calm}/vi", "--out", f"{calm}/out", "--steps", "2", "--no-prefect")
    assert answer.returncode == 0, answer.stderr
    root = make_archive(tmp_path / "pool", 12)
    job = job_settings(root, deployment="fuse-shard/cpu", shard_pairs=4, chunk_pairs=16, window=3)
    deployments = deploy_all(prefect_api)
    assert_deployed(deployments)
    with (
        servers.prefect_worker(prefect_api, "orchestration") as parents,
        servers.prefect_worker(prefect_api, "cpu", limit=3) as children,
    ):
        run = run_deployment("fuse-archive/nightly", parameters={"job": job}, timeout=400, poll_interval=1)
        assert run.state.is_completed(), f"{run.state}\n{parents.tail()}\n{children.tail()}"
        assert run.state.message == "12 pairs: 12 ok"
        shards = [entry for entry in runs_of(prefect_api, "fuse-shard") if str(root) in entry["parameters"]["dest"]]
        assert [entry["state_type"] for entry in shards] == ["COMPLETED"] * 3
        rows = pq.read_table(root / "out/_ddfm/metrics/current")
        assert sorted(rows["pair_key"].to_pylist()) == [f"{number:03}" for number in range(12)]
        assert set(rows["shard_id"].to_pylist()) == {"0000", "0001", "0002"}
        assert set(pictures(root / "out/fused")) == set(pictures(calm / "out/fused"))
        assert_report_follows(prefect_api, root / "out", parents)
        again = run_deployment("fuse-archive/nightly", parameters={"job": job}, timeout=200, poll_interval=1)
        assert again.state.is_completed(), parents.tail()
        assert "Nothing to do" in again.state.message
        for side in ("ir", "vi"):
            write_picture(root / side / "012.png", 99, colour=side == "vi")
        grown = run_deployment("fuse-archive/nightly", parameters={"job": job}, timeout=400, poll_interval=1)
        assert grown.state.message == "1 pairs: 1 ok", f"{grown.state}\n{parents.tail()}\n{children.tail()}"
        # A report of the run that had nothing to do would have begun before the one of this run.
        assert_report_follows(prefect_api, root / "out", parents, reports=2)


def test_a_file_of_the_sites_own_is_deployed_from_the_checkout(prefect_api, tmp_path):
    """So that an upgrade of the checkout changes neither its archive nor its schedule."""
    from deployments.set_up import main

    assert main(["--profile", "process"]) == 0
    document = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    nightly = document["deployments"][0]
    assert nightly["name"] == "nightly"
    nightly["name"] = "nightly-north"
    nightly["parameters"] = {"job": job_settings(tmp_path)}
    nightly["schedules"][0]["active"] = True
    document["deployments"] = [nightly]
    own = tmp_path / "site.yaml"
    own.write_text(yaml.safe_dump(document))
    try:
        prefect(prefect_api, "deploy", "--all", "--prefect-file", str(own))
        found = json.loads(prefect(prefect_api, "deployment", "inspect", "fuse-archive/nightly-north", "-o", "json"))
        assert [schedule["active"] for schedule in found["schedules"]] == [True]
        assert found["parameters"]["job"]["out"] == f"{tmp_path}/out"
        assert found["entrypoint"] == "flows.prefect_flows.fuse_archive"
        assert found["version"] == described()
    finally:
        prefect(prefect_api, "deployment", "delete", "fuse-archive/nightly-north")


def described():
    describe = ["git", "describe", "--always", "--dirty", "--tags"]
    return subprocess.run(describe, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def assert_deployed(deployments):
    assert set(deployments) == {
        "fuse-archive/nightly", "fuse-archive/on-demand", "fuse-shard/cpu", "fuse-shard/gpu", "evaluate/on-demand",
        "report/on-demand",
    }  # fmt: skip
    nightly = deployments["fuse-archive/nightly"]
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert (nightly["work_pool_name"], nightly["work_queue_name"]) == ("orchestration", "nightly")
    assert [schedule["schedule"]["timezone"] for schedule in nightly["schedules"]] == ["Etc/UTC"]
    commit = described()
    for name, deployment in deployments.items():
        assert deployment["version"] == commit, name
        assert deployment["entrypoint"].startswith("flows.prefect_flows."), name
        for model in deployment["parameter_openapi_schema"].get("definitions", {}).values():
            undescribed = [field for field, schema in model["properties"].items() if not schema.get("description")]
            assert undescribed == [], name
    fields = deployments["fuse-archive/on-demand"]["parameter_openapi_schema"]["definitions"]["Job"]["properties"]
    # The server loses the order of the keys; forms show fields by position.
    assert sorted(fields, key=lambda name: fields[name]["position"])[:2] == ["first", "second"]


def reports_of(api_url, dest):
    return [run for run in runs_of(api_url, "report") if run["parameters"]["request"]["out"] == str(dest)]


def assert_report_follows(api_url, dest, worker, reports=1):
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        states = [run["state_type"] for run in reports_of(api_url, dest)]
        if len(states) >= reports and set(states) == {"COMPLETED"}:
            break
        time.sleep(1)
    assert states == ["COMPLETED"] * reports, worker.tail()
    assert len(list(dest.glob("_ddfm/runs/*/report/index.html"))) == reports

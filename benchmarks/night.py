"""A night on a team's server: a schedule fires, a parent plans, two workers fuse the archive on S3.

    python -m benchmarks.night                      400 pairs of 256 x 256 in 8 shards
    python -m benchmarks.night --pages night        and pictures of the pages that people look at, by headless Chromium
    python -m benchmarks.night --ahead 6            the schedule is older than five minutes when it fires, as at night

A site as docs/operations.md sets it up. The deployment `fuse-archive/nightly` gets a schedule for the minute after the
next one; nothing else starts the run. Prints what each shard took beside its work and when the report began, and
checks that every pair has one row and one picture and that `ddfm verify --deep` finds nothing.

The server makes the runs of a schedule without an event, and for a quarter of an hour holds back the events of a run
that begins within five minutes of that, because they follow none that it knows. So does the report's trigger.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.shard_overhead import between, moments, row
from tests import servers
from tests.archives import put_archive
from tests.pool_site import FINAL, PoolSite, pool_site

BUCKET = "night"


def schedule(site: PoolSite, job: Mapping[str, object], ahead: int) -> datetime:
    """Have the nightly run begin in ``ahead`` minutes and the rest of this one; when."""
    begins = (datetime.now(UTC) + timedelta(minutes=ahead + 1)).replace(second=0, microsecond=0)
    deployment_id = site.api("/deployments/name/fuse-archive/nightly")["id"]
    cron = {"cron": f"{begins.minute} {begins.hour} * * *", "timezone": "Etc/UTC"}
    site.api(
        f"/deployments/{deployment_id}/schedules", [{"schedule": cron, "active": True, "parameters": {"job": job}}]
    )
    return begins


def fired(site: PoolSite, begins: datetime) -> Mapping[str, Any]:
    """The flow run that the schedule made, when it has ended."""
    deadline = time.monotonic() + 3600
    while time.monotonic() < deadline:
        for run in site.runs("fuse-archive"):
            if datetime.fromisoformat(run["expected_start_time"]) == begins and run["state_type"] in FINAL:
                return run
        time.sleep(2)
    raise TimeoutError(f"nothing ended that began at {begins}:\n{site.workers['parents'].tail()}")


def reported(site: PoolSite) -> Mapping[str, Any]:
    """The flow run of the report, when it has ended."""
    deadline = time.monotonic() + 1200
    while time.monotonic() < deadline:
        for run in site.runs("report"):
            if run["state_type"] in FINAL:
                return run
        time.sleep(2)
    raise TimeoutError("no report was written")


def take_pages(site: PoolSite, run: Mapping[str, Any], folder: Path) -> None:
    """Pictures of the run, the artifacts, the deployments, and the form of one."""
    folder.mkdir(parents=True, exist_ok=True)
    address = site.prefect.url.removesuffix("/api")
    deployment = site.api("/deployments/name/fuse-archive/on-demand")["id"]
    shard = site.runs("fuse-shard")[0]["id"]
    artifacts = site.api("/artifacts/filter", {})
    pages = {
        "runs": "runs",
        "run": f"runs/flow-run/{run['id']}",
        "run-artifacts": f"runs/flow-run/{run['id']}?tab=Artifacts",
        "shard": f"runs/flow-run/{shard}",
        "deployments": "deployments",
        "deployment": f"deployments/deployment/{deployment}",
        "form": f"deployments/deployment/{deployment}/run",
        "automations": "automations",
        "work-pools": "work-pools",
    } | {f"artifact-{artifact['key']}": f"artifacts/artifact/{artifact['id']}" for artifact in artifacts}
    for name, page in pages.items():
        command = [
            "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            # Pages that fade in would be taken half way.
            "--force-prefers-reduced-motion",
            "--window-size=1400,2600" if name == "form" else "--window-size=1400,1300", "--virtual-time-budget=20000",
            f"--screenshot={folder / name}.png", f"{address}/{page}",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=180)


def main() -> None:
    """Run the night and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--ahead", type=int, default=1, metavar="MINUTES", help="between schedule and run")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--pages", type=Path, metavar="FOLDER", help="take pictures of the UI's pages")
    arguments = parser.parse_args()
    with pool_site(ui=arguments.pages is not None) as site:
        servers.create_bucket(site.store, BUCKET)
        put_archive(site.store.client(), BUCKET, arguments.pairs, tuple(arguments.size))
        dest = f"s3://{BUCKET}/fused"
        job = {
            "first": f"s3://{BUCKET}/ir", "second": f"s3://{BUCKET}/vi", "out": dest,
            "deployment": "fuse-shard/gpu", "shard_pairs": -(-arguments.pairs // arguments.shards),
        }  # fmt: skip
        begins = schedule(site, job, arguments.ahead)
        print(f"scheduled for {begins:%H:%M} UTC", flush=True)
        run = fired(site, begins)
        shards = [moments(site, shard["id"]) for shard in site.shards(dest)]
        began = datetime.fromisoformat(run["start_time"])
        ended = datetime.fromisoformat(run["end_time"])
        print(f"{run['state_name']}: {run['state']['message']}")
        first = min(shard["RUNNING"] for shard in shards)
        last = max(shard["COMPLETED"] for shard in shards)
        print(f"begun {(began - begins).total_seconds():.0f} s after its minute; "
              f"{(ended - began).total_seconds():.0f} s in all, of which "
              f"{(first - began).total_seconds():.0f} s until a shard was at work and "
              f"{(ended - last).total_seconds():.0f} s after the last")  # fmt: skip
        print(f"\n{len(shards)} shards\n\n| seconds of a shard | median | 95 % | most |\n|---|---|---|---|")
        print(row("waiting for a worker", between(shards, "SCHEDULED", "PENDING")))
        print(row("its process starts", between(shards, "PENDING", "RUNNING")))
        print(row("at work", between(shards, "RUNNING", "COMPLETED")))
        pictures = site.store.objects(BUCKET, "fused/fused/")
        command = [sys.executable, "-m", "flows.cli", "verify", dest, "--deep"]
        verified = subprocess.run(
            command, env=os.environ | site.environment, check=False, capture_output=True, text=True
        )
        print(f"\n{len(pictures)} pictures; ddfm verify --deep: {verified.stdout.strip()} {verified.stderr.strip()}")
        report = reported(site)
        waited = datetime.fromisoformat(report["created"]) - ended
        print(f"report {waited.total_seconds():.0f} s after the run: {report['state']['message']}")
        if arguments.pages is not None:
            take_pages(site, run, arguments.pages)


if __name__ == "__main__":
    main()

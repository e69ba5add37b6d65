"""Kill what runs an archive on work pools, one thing after the other, and see every run end whole without a hand.

    python -m benchmarks.deaths                      all drills, about half an hour
    python -m benchmarks.deaths --drills cancel s3_frozen

A site as docs/operations.md sets it up, with PostgreSQL, an S3 store (the Ceph gateway of the tests), a worker for
parents and two for shards. Each drill fuses the same archive to a destination of its own and strikes when rows are
being committed. Afterwards every pair must have one row and one picture, that of a calm run (within one level, where
batches had to shrink), `ddfm verify --deep` must find nothing, and no flow run may be left unfinished. What is lost is
the time beyond the calm run.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests import servers
from tests.archives import put_archive
from tests.pool_site import FINAL, POLL_S, PoolSite, pool_site

BUCKET = "deaths"


@dataclass(frozen=True)
class Work:
    """What each drill fuses."""

    pairs: int
    steps: int
    shards: int

    def job(self, dest: str) -> dict[str, object]:
        """The job of a run."""
        return {
            "first": f"s3://{BUCKET}/ir",
            "second": f"s3://{BUCKET}/vi",
            "out": f"s3://{BUCKET}/{dest}",
            "deployment": "fuse-shard/gpu",
            "steps": self.steps,
            "chunk_pairs": 4,
            "batch": 2,
            "shard_pairs": -(-self.pairs // self.shards),
        }


def chunks(site: PoolSite, dest: str) -> int:
    """Committed so far."""
    return sum("/results/" in key for key in site.store.objects(BUCKET, f"{dest}/_ddfm/runs/"))


def shards(site: PoolSite, dest: str) -> list[Mapping[str, Any]]:
    """The flow runs of shards of a drill."""
    return site.shards(f"s3://{BUCKET}/{dest}")


@dataclass(frozen=True)
class Running:
    """A run of the archive that is in the middle of its shards."""

    run_id: str
    dest: str


def lose_shard_machine(site: PoolSite, _: Running) -> None:
    """SIGKILL to a worker for shards and to the shard's process, as a lost machine; it is not replaced at once."""
    site.workers["gpu-1"].kill()


def kill_worker(site: PoolSite, _: Running) -> None:
    """SIGKILL to a worker for shards only; a service manager starts it again."""
    os.kill(site.workers["gpu-1"].pid, signal.SIGKILL)
    site.start_worker("gpu-1", "gpu", 1)


def kill_shard(site: PoolSite, _: Running) -> None:
    """SIGKILL to the process of a shard."""
    for pid in site.workers["gpu-1"].children():
        os.kill(pid, signal.SIGKILL)


def kill_parent(site: PoolSite, _: Running) -> None:
    """SIGKILL to the process of the parent."""
    for pid in site.workers["parents"].children():
        os.kill(pid, signal.SIGKILL)


def lose_parent_machine(site: PoolSite, _: Running) -> None:
    """SIGKILL to the parent's process and its worker; a service manager starts the worker again."""
    site.workers["parents"].kill()
    site.start_worker("parents", "orchestration")


def restart_server(site: PoolSite, _: Running) -> None:
    """SIGKILL to the Prefect server; back after ten seconds."""
    site.prefect.server.kill()
    time.sleep(10)
    site.prefect.server.start_again()


def restart_database(site: PoolSite, _: Running) -> None:
    """PostgreSQL is stopped, as for an upgrade, and back after ten seconds."""
    site.database.server.process.send_signal(signal.SIGINT)
    site.database.server.process.wait(60)
    time.sleep(10)
    site.database.server.start_again()


def stop_store(site: PoolSite, _: Running) -> None:
    """The gateway of the store is gone for a minute: connections are refused."""
    gateway = site.store.servers[-1]
    gateway.kill()
    time.sleep(60)
    gateway.start_again()


def freeze_store(site: PoolSite, _: Running) -> None:
    """The gateway of the store hangs for a minute: connections are taken, and nothing comes."""
    gateway = site.store.servers[-1]
    os.kill(gateway.pid, signal.SIGSTOP)
    time.sleep(60)
    os.kill(gateway.pid, signal.SIGCONT)


def cancel(site: PoolSite, running: Running) -> None:
    """The run is cancelled as the UI does it; then it is started anew."""
    began, asked = time.monotonic(), time.time()
    body = {"state": {"type": "CANCELLING", "message": "by the drill"}}
    site.api(f"/flow_runs/{running.run_id}/set_state", body)
    processes = [site.workers[name] for name in ("gpu-1", "gpu-2")]
    while (open_runs := [run for run in shards(site, running.dest) if run["state_type"] not in FINAL]) or any(
        process.children() for process in processes
    ):
        if time.monotonic() - began > 120:
            raise TimeoutError(f"children still at work: {[run['state_name'] for run in open_runs]}")
        time.sleep(POLL_S)
    seconds = time.monotonic() - began
    site.wait_for(running.run_id, 60)
    ends = sorted(run["state_name"] for run in shards(site, running.dest))
    # Workers call a flow run cancelled when its hooks have run, in a process of their own.
    print(f"cancel: last work of a child after {site.last_work(shards(site, running.dest)) - asked:.0f} s, children "
          f"{', '.join(ends)} after {seconds:.0f} s, parent {site.run(running.run_id)['state_name']} "
          f"after {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip


DRILLS: dict[str, Callable[[PoolSite, Running], None]] = {
    "shard_killed": kill_shard,
    "worker_killed": kill_worker,
    "machine_lost": lose_shard_machine,
    "parent_killed": kill_parent,
    "parent_machine_lost": lose_parent_machine,
    "server_restarted": restart_server,
    "database_restarted": restart_database,
    "s3_stopped": stop_store,
    "s3_frozen": freeze_store,
    "cancel": cancel,
}


def levels_apart(site: PoolSite, one: str, other: str) -> int:
    """The largest difference of two pictures in the bucket."""
    bodies = (site.store.client().get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in (one, other))
    first, second = (np.asarray(Image.open(io.BytesIO(body)), dtype=int) for body in bodies)
    return int(np.abs(first - second).max())


def check(site: PoolSite, work: Work, dest: str, calm: Mapping[str, str]) -> list[str]:
    """What is wrong with a destination; nothing when it is whole."""
    client, wrong = site.store.client(), []
    rows = []
    for key in site.store.objects(BUCKET, f"{dest}/_ddfm/metrics/current/"):
        body = client.get_object(Bucket=BUCKET, Key=f"{dest}/_ddfm/metrics/current/{key}")["Body"].read()
        rows += pq.read_table(io.BytesIO(body), columns=["pair_key", "status"]).to_pylist()
    keys = {row["pair_key"] for row in rows if row["status"] == "ok"}
    if (len(rows), len(keys)) != (work.pairs, work.pairs):
        wrong.append(f"{len(rows)} rows, {len(keys)} pairs ok instead of {work.pairs}")
    pictures = site.store.objects(BUCKET, f"{dest}/fused/")
    if pictures.keys() != calm.keys():
        wrong.append(f"{len(pictures)} pictures instead of {len(calm)}")
    # A shard that may have died of memory goes on with smaller batches, which change the last bits.
    differ = {key: levels_apart(site, f"calm/fused/{key}", f"{dest}/fused/{key}")
              for key, tag in calm.items() if pictures.get(key, tag) != tag}  # fmt: skip
    if differ and max(differ.values()) > 1:
        wrong.append(f"{len(differ)} pictures differ from the calm run, by up to {max(differ.values())} levels")
    command = [sys.executable, "-m", "flows.cli", "verify", f"s3://{BUCKET}/{dest}", "--deep"]
    verified = subprocess.run(command, env=os.environ | site.environment, check=False, capture_output=True, text=True)
    if verified.returncode:
        wrong.append(f"ddfm verify: {verified.stdout[-300:]}{verified.stderr[-300:]}")
    deadline = time.monotonic() + 120
    while (unfinished := [run["name"] for run in shards(site, dest) if run["state_type"] not in FINAL]) and (
        time.monotonic() < deadline
    ):
        time.sleep(1)
    if unfinished:
        wrong.append(f"unfinished flow runs: {unfinished}")
    return wrong


def begin(site: PoolSite, work: Work, dest: str) -> Running:
    """A run in the middle of its shards: two at work, and a few chunks committed."""
    run_id = site.start_run(work.job(dest))
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        at_work = [run for run in shards(site, dest) if run["state_type"] == "RUNNING"]
        # A first heartbeat is needed to miss the next ones.
        if len(at_work) >= 2 and chunks(site, dest) >= 2:
            return Running(run_id, dest)
        time.sleep(POLL_S)
    raise TimeoutError(f"{dest}: no two shards at work:\n{site.workers['gpu-1'].tail()}")


def run_drill(site: PoolSite, work: Work, name: str, calm_s: float, calm: Mapping[str, str]) -> str:
    """One drill; its line of the table."""
    dest = name.replace("_", "-")
    for worker in ("gpu-1", "gpu-2"):
        if not site.workers[worker].alive:
            site.start_worker(worker, "gpu", 1)
    began = time.monotonic()
    running = begin(site, work, dest)
    struck = chunks(site, dest)
    DRILLS[name](site, running)
    if name == "cancel":
        running = Running(site.start_run(work.job(dest)), dest)
    ended = site.wait_for(running.run_id)
    seconds = time.monotonic() - began
    wrong = check(site, work, dest, calm)
    if ended["state_type"] != "COMPLETED":
        wrong.insert(0, f"{ended['state_name']}: {ended['state']['message']}")
    starts = len(shards(site, dest))
    return (
        f"| {name} | {struck} | {seconds:.0f} | {(seconds - calm_s) / 60:.1f} | {starts} | {ended['run_count']} | "
        f"{'; '.join(wrong) or 'whole'} |"
    )


def main() -> None:
    """Run the drills and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drills", nargs="+", choices=list(DRILLS), default=list(DRILLS))
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(96, 80), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--log", type=Path, help="folder that gets the workers' logs")
    arguments = parser.parse_args()
    work = Work(arguments.pairs, arguments.steps, arguments.shards)
    with pool_site() as site:
        servers.create_bucket(site.store, BUCKET)
        put_archive(site.store.client(), BUCKET, work.pairs, tuple(arguments.size))
        try:
            began = time.monotonic()
            ended = site.wait_for(site.start_run(work.job("calm")))
            calm_s = time.monotonic() - began
            calm = site.store.objects(BUCKET, "calm/fused/")
            print(f"calm: {ended['state']['message']}, {calm_s:.0f} s, {len(calm)} pictures", flush=True)
            print("| drill | chunks at the strike | seconds | minutes lost | flow runs of shards | starts | result |")
            print("|---|---|---|---|---|---|---|", flush=True)
            for name in arguments.drills:
                print(run_drill(site, work, name, calm_s, calm), flush=True)
        finally:
            if arguments.log is not None:
                arguments.log.mkdir(parents=True, exist_ok=True)
                for name, server in {**site.workers, "server": site.prefect.server}.items():
                    (arguments.log / f"{name}.log").write_text(server.tail(2_000_000))


if __name__ == "__main__":
    main()

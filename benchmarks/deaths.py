"""Kill what runs an archive on work pools, one thing after the other, and see every run end whole without a hand.

    python -m benchmarks.deaths                      all drills, about half an hour
    python -m benchmarks.deaths --drills cancel s3_frozen

A Prefect server on PostgreSQL, an S3 store (the Ceph gateway of the tests), a worker for parents and two for shards,
set up and deployed as docs/operations.md says. Each drill fuses the same archive to a destination of its own and
strikes when rows are being committed. Afterwards every pair must have one row and one picture, with the bytes of a calm
run, `ddfm verify --deep` must find nothing, and no flow run may be left unfinished. What is lost is the time beyond the
calm run.
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
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.kills import objects, put_archive
from tests import servers

REPOSITORY = Path(__file__).parents[1]
BUCKET = "deaths"
POLL_S = 0.5
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Site:
    """Everything that runs."""

    stack: ExitStack
    database: servers.Service
    prefect: servers.Service
    store: servers.S3Server
    pairs: int
    steps: int
    shards: int
    environment: dict[str, str] = field(default_factory=dict)
    workers: dict[str, servers.Server] = field(default_factory=dict)

    def start_worker(self, name: str, pool: str, limit: int | None = None) -> None:
        """A worker, as a service manager would start it."""
        context = servers.prefect_worker(
            self.prefect.url, pool, name=f"{name}-{time.monotonic_ns()}", limit=limit, environment=self.environment
        )
        self.workers[name] = self.stack.enter_context(context)

    def api(self, path: str, body: Any = None) -> Any:
        """An answer of the Prefect server, waited for."""
        for _ in range(300):
            try:
                return servers.http_json(f"{self.prefect.url}{path}", body)
            except OSError:
                time.sleep(1)
        raise TimeoutError(path)

    def start_run(self, dest: str) -> str:
        """The id of a flow run that fuses the archive."""
        deployment = self.api("/deployments/name/fuse-archive/on-demand")["id"]
        job = {
            "first": f"s3://{BUCKET}/ir",
            "second": f"s3://{BUCKET}/vi",
            "out": f"s3://{BUCKET}/{dest}",
            "deployment": "fuse-shard/gpu",
            "steps": self.steps,
            "chunk_pairs": 4,
            "batch": 2,
            "shard_pairs": -(-self.pairs // self.shards),
        }
        run = self.api(f"/deployments/{deployment}/create_flow_run", {"parameters": {"job": job}})
        return str(run["id"])

    def state(self, run_id: str) -> Mapping[str, Any]:
        """Of a flow run."""
        found: Mapping[str, Any] = self.api(f"/flow_runs/{run_id}")
        return found

    def children(self, dest: str) -> list[Mapping[str, Any]]:
        """The flow runs of shards for a destination."""
        found = self.api("/flow_runs/filter", {"flows": {"name": {"any_": ["fuse-shard"]}}, "limit": 200})
        return [run for run in found if run["parameters"]["dest"].endswith(f"/{dest}")]

    def last_work(self, dest: str) -> float:
        """When a task run of a shard ended last; seconds since the epoch."""
        runs = {"id": {"any_": [run["id"] for run in self.children(dest)]}}
        found = self.api("/task_runs/filter", {"flow_runs": runs, "sort": "END_TIME_DESC", "limit": 1})
        return datetime.fromisoformat(found[0]["end_time"]).timestamp()

    def chunks(self, dest: str) -> int:
        """Committed so far."""
        keys = objects(self.store.client(), BUCKET, f"{dest}/_ddfm/runs/")
        return sum("/results/" in key for key in keys)

    def wait_for(self, run_id: str, seconds: float = 900) -> Mapping[str, Any]:
        """Until a flow run is over for good: a parent that crashed is started again."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            run = self.state(run_id)
            if run["state_type"] in FINAL - {"CRASHED"}:
                return run
            time.sleep(POLL_S)
        return self.state(run_id)


@dataclass(frozen=True)
class Running:
    """A run of the archive that is in the middle of its shards."""

    run_id: str
    dest: str


def lose_shard_machine(site: Site, _: Running) -> None:
    """SIGKILL to a worker for shards and to the shard's process, as a lost machine; it is not replaced at once."""
    site.workers["gpu-1"].kill()


def kill_worker(site: Site, _: Running) -> None:
    """SIGKILL to a worker for shards only; a service manager starts it again."""
    os.kill(site.workers["gpu-1"].pid, signal.SIGKILL)
    site.start_worker("gpu-1", "gpu", 1)


def kill_shard(site: Site, _: Running) -> None:
    """SIGKILL to the process of a shard."""
    for pid in site.workers["gpu-1"].children():
        os.kill(pid, signal.SIGKILL)


def kill_parent(site: Site, _: Running) -> None:
    """SIGKILL to the process of the parent."""
    for pid in site.workers["parents"].children():
        os.kill(pid, signal.SIGKILL)


def lose_parent_machine(site: Site, _: Running) -> None:
    """SIGKILL to the parent's process and its worker; a service manager starts the worker again."""
    site.workers["parents"].kill()
    site.start_worker("parents", "orchestration")


def restart_server(site: Site, _: Running) -> None:
    """SIGKILL to the Prefect server; back after ten seconds."""
    site.prefect.server.kill()
    time.sleep(10)
    site.prefect.server.start_again()


def restart_database(site: Site, _: Running) -> None:
    """PostgreSQL is stopped, as for an upgrade, and back after ten seconds."""
    site.database.server.process.send_signal(signal.SIGINT)
    site.database.server.process.wait(60)
    time.sleep(10)
    site.database.server.start_again()


def stop_store(site: Site, _: Running) -> None:
    """The gateway of the store is gone for a minute: connections are refused."""
    gateway = site.store.servers[-1]
    gateway.kill()
    time.sleep(60)
    gateway.start_again()


def freeze_store(site: Site, _: Running) -> None:
    """The gateway of the store hangs for a minute: connections are taken, and nothing comes."""
    gateway = site.store.servers[-1]
    os.kill(gateway.pid, signal.SIGSTOP)
    time.sleep(60)
    os.kill(gateway.pid, signal.SIGCONT)


def cancel(site: Site, running: Running) -> None:
    """The run is cancelled as the UI does it; then it is started anew."""
    began, asked = time.monotonic(), time.time()
    body = {"state": {"type": "CANCELLING", "message": "by the drill"}}
    site.api(f"/flow_runs/{running.run_id}/set_state", body)
    processes = [site.workers[name] for name in ("gpu-1", "gpu-2")]
    while (open_runs := [run for run in site.children(running.dest) if run["state_type"] not in FINAL]) or any(
        process.children() for process in processes
    ):
        if time.monotonic() - began > 120:
            raise TimeoutError(f"children still at work: {[run['state_name'] for run in open_runs]}")
        time.sleep(POLL_S)
    seconds = time.monotonic() - began
    site.wait_for(running.run_id, 60)
    ends = sorted(run["state_name"] for run in site.children(running.dest))
    # Workers call a flow run cancelled when its hooks have run, in a process of their own.
    print(f"cancel: last work of a child after {site.last_work(running.dest) - asked:.0f} s, children "
          f"{', '.join(ends)} after {seconds:.0f} s, parent {site.state(running.run_id)['state_name']} "
          f"after {time.monotonic() - began:.0f} s", flush=True)  # fmt: skip


DRILLS: dict[str, Callable[[Site, Running], None]] = {
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


def check(site: Site, dest: str, calm: Mapping[str, str]) -> list[str]:
    """What is wrong with a destination; nothing when it is whole."""
    client, wrong = site.store.client(), []
    rows = []
    for key in objects(client, BUCKET, f"{dest}/_ddfm/metrics/current/"):
        body = client.get_object(Bucket=BUCKET, Key=f"{dest}/_ddfm/metrics/current/{key}")["Body"].read()
        rows += pq.read_table(io.BytesIO(body), columns=["pair_key", "status"]).to_pylist()
    keys = {row["pair_key"] for row in rows if row["status"] == "ok"}
    if (len(rows), len(keys)) != (site.pairs, site.pairs):
        wrong.append(f"{len(rows)} rows, {len(keys)} pairs ok instead of {site.pairs}")
    pictures = objects(client, BUCKET, f"{dest}/fused/")
    if pictures.keys() != calm.keys():
        wrong.append(f"{len(pictures)} pictures instead of {len(calm)}")
    if differ := sum(pictures.get(key) != tag for key, tag in calm.items()):
        wrong.append(f"{differ} pictures differ from the calm run")
    command = [sys.executable, "-m", "flows.cli", "verify", f"s3://{BUCKET}/{dest}", "--deep"]
    verified = subprocess.run(command, env=os.environ | site.environment, check=False, capture_output=True, text=True)
    if verified.returncode:
        wrong.append(f"ddfm verify: {verified.stdout[-300:]}{verified.stderr[-300:]}")
    deadline = time.monotonic() + 120
    while (unfinished := [run["name"] for run in site.children(dest) if run["state_type"] not in FINAL]) and (
        time.monotonic() < deadline
    ):
        time.sleep(1)
    if unfinished:
        wrong.append(f"unfinished flow runs: {unfinished}")
    return wrong


def begin(site: Site, dest: str) -> Running:
    """A run in the middle of its shards: two at work, and a few chunks committed."""
    run_id = site.start_run(dest)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        at_work = [run for run in site.children(dest) if run["state_type"] == "RUNNING"]
        # A first heartbeat is needed to miss the next ones.
        if len(at_work) >= 2 and site.chunks(dest) >= 2:
            return Running(run_id, dest)
        time.sleep(POLL_S)
    raise TimeoutError(f"{dest}: no two shards at work:\n{site.workers['gpu-1'].tail()}")


def deploy(api_url: str) -> None:
    """Work pools, automations and deployments, as docs/operations.md says."""
    environment = {**os.environ, "PREFECT_API_URL": api_url}
    for command in (["deployments.set_up", "--profile", "process"], ["prefect", "--no-prompt", "deploy", "--all"]):
        words = [sys.executable, "-m", *command]
        done = subprocess.run(words, cwd=REPOSITORY, env=environment, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def run_drill(site: Site, name: str, calm_s: float, calm: Mapping[str, str]) -> str:
    """One drill; its line of the table."""
    dest = name.replace("_", "-")
    for worker in ("gpu-1", "gpu-2"):
        if not site.workers[worker].alive:
            site.start_worker(worker, "gpu", 1)
    began = time.monotonic()
    running = begin(site, dest)
    struck = site.chunks(dest)
    DRILLS[name](site, running)
    if name == "cancel":
        running = Running(site.start_run(dest), dest)
    ended = site.wait_for(running.run_id)
    seconds = time.monotonic() - began
    wrong = check(site, dest, calm)
    if ended["state_type"] != "COMPLETED":
        wrong.insert(0, f"{ended['state_name']}: {ended['state']['message']}")
    starts = len(site.children(dest))
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
    with ExitStack() as stack:
        database = stack.enter_context(servers.postgres_service())
        prefect = stack.enter_context(servers.prefect_service(database.url))
        store = stack.enter_context(servers.s3_server())
        site = Site(
            stack, database, prefect, store, arguments.pairs, arguments.steps, arguments.shards,
            environment={**store.environment(), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        servers.create_bucket(store, BUCKET)
        put_archive(store.client(), BUCKET, arguments.pairs, tuple(arguments.size))
        deploy(prefect.url)
        site.start_worker("parents", "orchestration")
        for name in ("gpu-1", "gpu-2"):
            site.start_worker(name, "gpu", 1)
        try:
            began = time.monotonic()
            ended = site.wait_for(site.start_run("calm"))
            calm_s = time.monotonic() - began
            calm = objects(store.client(), BUCKET, "calm/fused/")
            print(f"calm: {ended['state']['message']}, {calm_s:.0f} s, {len(calm)} pictures", flush=True)
            print("| drill | chunks at the strike | seconds | minutes lost | flow runs of shards | starts | result |")
            print("|---|---|---|---|---|---|---|", flush=True)
            for name in arguments.drills:
                print(run_drill(site, name, calm_s, calm), flush=True)
        finally:
            if arguments.log is not None:
                arguments.log.mkdir(parents=True, exist_ok=True)
                for name, server in {**site.workers, "server": prefect.server}.items():
                    (arguments.log / f"{name}.log").write_text(server.tail(2_000_000))


if __name__ == "__main__":
    main()

"""A day in half an hour: runs a minute apart over an archive that grows, changes and breaks, on a site with faults.

By hand, with `make test-slow`. Every run must leave the rows that the archive asks for, and what the site holds in
memory, on disk, in connections and in flow runs must not drift from run to run.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import pytest
from PIL import Image

from tasks.current import current_rows
from tests import servers
from tests.fault_proxy import fault_proxy
from tests.pool_site import FINAL, POLL_S, PoolSite, pool_site

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(3600)]

RUNS = 24
MINUTE_S = 60.0
NEW_PAIRS = 6
BUCKET = "day"
DEST = f"s3://{BUCKET}/out"
EARLY = slice(6, 12)
LATE = slice(RUNS - 6, RUNS)


def picture(seed: int, colour: bool) -> bytes:
    """A smooth random PNG."""
    shape = (4, 4, 3) if colour else (4, 4)
    coarse = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(content, "PNG")
    return content.getvalue()


@dataclass
class Archive:
    """Sources in a bucket, and what a run over them must leave: the status of each pair."""

    client: Any
    expected: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    seed: int = 0

    def put(self, side: str, key: str, content: bytes | None = None) -> None:
        self.seed += 1
        body = picture(self.seed, colour=side == "vi") if content is None else content
        self.client.put_object(Bucket=BUCKET, Key=f"{side}/{key}.png", Body=body)

    def grow(self, number: int) -> None:
        """New pairs, one of them broken; an older broken one is mended; another gets a new picture."""
        keys = [f"{number:02}-{index}" for index in range(NEW_PAIRS)]
        for key in keys:
            for side in ("ir", "vi"):
                self.put(side, key)
            self.expected[key] = "ok"
        damage: Callable[[], None] | None = {
            1: lambda: self.put("vi", keys[0], picture(number, colour=True)[:900]),
            2: lambda: self.client.delete_object(Bucket=BUCKET, Key=f"vi/{keys[0]}.png"),
            3: lambda: self.put("ir", keys[0], b"not a picture"),
        }.get(number % 4)
        if damage is not None:
            damage()
            self.expected[keys[0]] = "rejected"
            self.broken.append(keys[0])
        if len(self.broken) > 2:
            mended = self.broken.pop(0)
            for side in ("ir", "vi"):
                self.put(side, mended)
            self.expected[mended] = "ok"
        if number:
            self.put("vi", f"{number - 1:02}-5")


@dataclass(frozen=True)
class Held:
    """What the site holds after a run."""

    seconds: float
    server_mib: float
    workers_mib: float
    open_files: int
    database_connections: int
    database_mib: float
    scratch_files: int
    home_kib: float
    objects: int
    unfinished: int


def database_figures(url: str) -> tuple[int, float]:
    """Connections beside our own, and MiB."""

    async def ask() -> tuple[int, float]:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            # Its background processes belong to no database.
            clients = await connection.fetchval("select count(*) from pg_stat_activity where datname is not null")
            size = await connection.fetchval("select pg_database_size(current_database())")
            return clients - 1, size / 2**20
        finally:
            await connection.close()

    return asyncio.run(ask())


def unfinished(site: PoolSite) -> list[str]:
    """Flow runs that have not ended; those that a schedule has made for later apart."""
    runs = [run for flow in ("fuse-archive", "fuse-shard", "report") for run in site.runs(flow)]
    return [f"{run['name']} {run['state_name']}" for run in runs if run["state_type"] not in FINAL]


def held(site: PoolSite, seconds: float, scratch: Path) -> Held:
    """Measured when nothing is at work."""
    workers = list(site.workers.values())
    services = [site.prefect.server, *workers]
    connections, database_mib = database_figures(site.database.url)
    files = [Path(f"/proc/{pid}/fd") for server in services for pid in server.pids()]
    homes = [path for server in services for path in (server.log.parent / "home").rglob("*") if path.is_file()]
    return Held(
        seconds=seconds,
        server_mib=site.prefect.server.rss() / 2**20,
        workers_mib=sum(worker.rss() for worker in workers) / 2**20,
        open_files=sum(len(list(folder.iterdir())) for folder in files),
        database_connections=connections,
        database_mib=database_mib,
        scratch_files=sum(path.is_file() for path in scratch.rglob("*")),
        home_kib=sum(path.stat().st_size for path in homes) / 1024,
        objects=len(site.store.objects(BUCKET, "out/_ddfm/")),
        unfinished=len(unfinished(site)),
    )


def wait_until(reached: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(POLL_S)


def kill_shards(site: PoolSite) -> None:
    """SIGKILL to the processes of the shards."""
    for name in ("gpu-1", "gpu-2"):
        for pid in site.workers[name].children():
            os.kill(pid, signal.SIGKILL)


def stop_store(site: PoolSite) -> None:
    """The store refuses connections for ten seconds."""
    gateway = site.store.servers[-1]
    gateway.kill()
    time.sleep(10)
    gateway.start_again()


def restart_server(site: PoolSite) -> None:
    """The Prefect server is killed, and back after five seconds."""
    site.prefect.server.kill()
    time.sleep(5)
    site.prefect.server.start_again()


STRIKES: dict[int, Callable[[PoolSite], None]] = {
    5: kill_shards, 9: stop_store, 12: restart_server, 15: kill_shards, 19: stop_store,
}  # fmt: skip


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def site(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PoolSite]:
    with pool_site() as running:
        servers.create_bucket(running.store, BUCKET)
        for name, value in running.store.environment().items():
            monkeypatch.setenv(name, value)
        with fault_proxy(
            running.store.endpoint_url, error_share=0.03, cut_share=0.01, stall_share=0.002, stall_s=5
        ) as proxy:
            running.environment |= {"AWS_ENDPOINT_URL": proxy.endpoint_url, "TMPDIR": str(scratch)}
            for name, pool, limit in (("parents", "orchestration", None), ("gpu-1", "gpu", 1), ("gpu-2", "gpu", 1)):
                running.workers[name].stop()
                running.start_worker(name, pool, limit)
            yield running


def reports_after(site: PoolSite, ended: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Flow runs of the report that were made since a flow run ended."""
    end = datetime.fromisoformat(ended["end_time"])
    return [run for run in site.runs("report") if datetime.fromisoformat(run["created"]) >= end]


def one_run(site: PoolSite, archive: Archive, number: int) -> float:
    """A run of the nightly deployment and its report; its seconds."""
    archive.grow(number)
    job = {
        "first": f"s3://{BUCKET}/ir", "second": f"s3://{BUCKET}/vi", "out": DEST, "steps": 2,
        "deployment": "fuse-shard/gpu", "chunk_pairs": 2, "shard_pairs": 4, "wait": True,
    }  # fmt: skip
    began = time.monotonic()
    run_id = site.start_run(job, "fuse-archive/nightly")
    if number in STRIKES:
        shards_before = {run["id"] for run in site.shards(DEST) if run["state_type"] in FINAL}
        wait_until(
            lambda: any(
                run["state_type"] == "RUNNING" and run["id"] not in shards_before for run in site.shards(DEST)
            ),
            120, "no shard was at work",
        )  # fmt: skip
        STRIKES[number](site)
    ended = site.wait_for(run_id, 600)
    assert ended["state_name"] == "Completed", f"run {number}: {ended['state']}\n{site.workers['parents'].tail()}"
    rows = current_rows(DEST)
    found = dict(zip(rows["pair_key"].to_pylist(), rows["status"].to_pylist(), strict=True))
    assert found == archive.expected, f"run {number}"
    if STRIKES.get(number) is not restart_server:
        wait_until(lambda: len(reports_after(site, ended)) > 0, 120, f"run {number}: no report begun")
    wait_until(lambda: not unfinished(site), 120, f"run {number}: unfinished")
    return time.monotonic() - began


def test_a_day_of_runs_leaves_nothing_behind(site, scratch, capsys):
    archive = Archive(site.store.client())
    day: list[Held] = []
    for number in range(RUNS):
        began = time.monotonic()
        seconds = one_run(site, archive, number)
        time.sleep(5)  # the server writes events in batches, and workers tidy up
        day.append(held(site, seconds, scratch))
        with capsys.disabled():
            if not number:
                print("\n| run | " + " | ".join(asdict(day[0])) + " |\n|" + "---|" * (1 + len(asdict(day[0]))))
            figures = " | ".join(f"{figure:.4g}" for figure in asdict(day[-1]).values())
            print(f"| {number} | {figures} |", flush=True)
        time.sleep(max(0.0, MINUTE_S - (time.monotonic() - began)))

    # A server that was restarted holds back what it cannot put in order, for up to 15 minutes.
    wait_until(lambda: len(site.runs("report")) == RUNS, 900, "a report was never begun")

    def grew(name: str) -> float:
        values = [asdict(one)[name] for one in day]
        return statistics.median(values[LATE]) - statistics.median(values[EARLY])

    assert all(one.scratch_files == 0 for one in day)
    assert all(one.unfinished == 0 for one in day)
    assert grew("database_connections") <= 2
    assert grew("open_files") <= 8
    # Six runs and a third of the history more: what is held for longer than a run would show.
    assert grew("workers_mib") <= 0.05 * day[EARLY.start].workers_mib
    assert grew("server_mib") <= 0.1 * day[EARLY.start].server_mib
    pictures = site.store.objects(BUCKET, "out/fused/")
    assert len(pictures) == sum(status == "ok" for status in archive.expected.values())

"""What a shard costs beside its work: many shards of one trivial pair each, through two process workers.

    python -m benchmarks.shard_overhead                      200 shards, half an hour of a small machine
    python -m benchmarks.shard_overhead --shards 20

A site as docs/operations.md sets it up, with two workers for shards; sources and destination in a local folder. Each
shard takes the maximum of two pictures of 32 x 32, a few milliseconds. Prints the time of a shard by its parts, its CPU
time, which other work on the machine changes less, what the server holds in memory, and how its database grew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import asyncpg

from tests import servers
from tests.archives import make_archive
from tests.pool_site import POLL_S, PoolSite, pool_site

MIB = 1 << 20


def database_bytes(url: str) -> dict[str, int]:
    """Bytes of the database as a whole and of its largest tables, indexes included."""

    async def ask() -> dict[str, int]:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        try:
            sizes = {"all": await connection.fetchval("select pg_database_size(current_database())")}
            tables = await connection.fetch(
                "select relname, pg_total_relation_size(oid) as bytes from pg_class "
                "where relkind = 'r' and relnamespace = 'public'::regnamespace"
            )
            return sizes | {row["relname"]: row["bytes"] for row in tables}
        finally:
            await connection.close()

    return asyncio.run(ask())


def moments(site: PoolSite, run_id: str) -> dict[str, datetime]:
    """When a flow run first entered each state, by type."""
    states = site.api(f"/flow_run_states/?flow_run_id={run_id}")
    first: dict[str, datetime] = {}
    for state in sorted(states, key=lambda state: state["timestamp"]):
        first.setdefault(state["type"], datetime.fromisoformat(state["timestamp"]))
    return first


def between(runs: Sequence[Mapping[str, datetime]], start: str, end: str) -> list[float]:
    """Seconds from one state to another, per flow run."""
    return [(run[end] - run[start]).total_seconds() for run in runs]


def row(name: str, seconds: Sequence[float]) -> str:
    """Of the table: median, 95th percentile, most."""
    ordered = sorted(seconds)
    figures = (statistics.median(ordered), ordered[int(0.95 * len(ordered))], ordered[-1])
    return f"| {name} | {' | '.join(f'{figure:.1f}' for figure in figures)} |"


def cpu_seconds(server: servers.Server) -> float:
    """Of a process and of its children that ended."""
    fields = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the shards and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, pool_site() as site:
        root = make_archive(Path(folder), arguments.shards)
        prefect = site.prefect.server
        workers = [site.workers[name] for name in ("gpu-1", "gpu-2")]
        job = {
            "first": f"{root}/ir", "second": f"{root}/vi", "out": f"{root}/out", "mode": "max",
            "deployment": "fuse-shard/gpu", "shard_pairs": 1, "chunk_pairs": 1,
        }  # fmt: skip
        before, memory_before, peak = database_bytes(site.database.url), prefect.rss(), 0
        cpu_before = [cpu_seconds(server) for server in (prefect, *workers)]
        run_id = site.start_run(job)
        while (parent := site.run(run_id))["end_time"] is None:
            peak = max(peak, prefect.rss())
            time.sleep(10 * POLL_S)
        time.sleep(30)  # the server writes events and task runs in batches
        after, memory_after = database_bytes(site.database.url), prefect.rss()
        cpu = [cpu_seconds(server) for server in (prefect, *workers)]
        runs = [moments(site, run["id"]) for run in site.runs("fuse-shard")]

    first, last = min(run["SCHEDULED"] for run in runs), max(run["COMPLETED"] for run in runs)
    wall_s = (last - first).total_seconds()
    print(f"{parent['state']['message']}; {len(runs)} flow runs of shards, {len(workers)} workers")
    print(f"parent {parent['total_run_time']:.0f} s, shards {wall_s:.0f} s: "
          f"{wall_s * len(workers) / len(runs):.1f} s of a worker per shard\n")  # fmt: skip
    print("| seconds of a shard | median | 95 % | most |\n|---|---|---|---|")
    print(row("waiting for a worker", between(runs, "SCHEDULED", "PENDING")))
    print(row("its process starts", between(runs, "PENDING", "RUNNING")))
    print(row("at work", between(runs, "RUNNING", "COMPLETED")))
    server_s, *worker_s = [(end - start) / len(runs) for start, end in zip(cpu_before, cpu, strict=True)]
    print(f"\nCPU seconds per shard: {sum(worker_s):.1f} of the worker and its processes, {server_s:.2f} of the server")
    memory = [f"{size / MIB:.0f} MiB" for size in (memory_before, peak, memory_after)]
    print(f"server memory: {memory[0]} before, {memory[1]} at most, {memory[2]} after")
    grown = {name: size - before.get(name, 0) for name, size in after.items()}
    whole = grown.pop("all")
    largest = sorted(grown.items(), key=lambda item: -item[1])[:5]
    print(f"database: {whole / MIB:.1f} MiB more, {whole / len(runs) / 1024:.0f} KiB per shard; most of it in "
          + ", ".join(f"{name} {size / MIB:.1f}" for name, size in largest))  # fmt: skip


if __name__ == "__main__":
    main()

"""How long an archive of many pairs is indexed, planned, reconciled and compacted, and in how much memory.

    python benchmarks/archive_scale.py [--pairs 10000 100000 1000000] [--work DIR]

A generator stands in for the listing of the two folders, and rows of a fusion that did nothing for the fusion, in
committed chunks of 256 pairs with the real columns; all else is what `ddfm fuse` calls. Each phase is a process of its
own; its memory is the peak of its resident set, interpreter and libraries included. Night 2 changes 1 % of the pairs.
The last rows say what the tables of the first night take on the storage.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tasks import pair_folders
from tasks.current import compact, current_batches
from tasks.index import Index
from tasks.manifest import manifest_batches, pending_work, write_manifest
from tasks.plan import plan, write_plan
from tasks.results import committed_chunks, reconcile
from tasks.run_folder import RunFolder, list_runs, new_run
from tasks.schemas import RESULT_SCHEMA
from tasks.storage import StoredFile, write_atomic

CHUNK_PAIRS, SHARD_PAIRS = 256, 2048
CHANGED_EVERY = 100
PHASES = ("index", "plan", "rows", "pending", "reconcile", "compact", "index 2", "plan 2", "rows 2", "compact 2")
UNREPORTED = ("rows", "rows 2")
TABLES = (
    "runs/*/manifest.parquet",
    "runs/*/results/*.parquet",
    "metrics/history/*.parquet",
    "metrics/current/*.parquet",
)


def listing(pairs: int, night: int) -> Callable[[str], Iterator[StoredFile]]:
    """The files of either folder, by path, with digests such as object stores have."""

    def files(root: str) -> Iterator[StoredFile]:
        for number in range(pairs):
            version = night if number % CHANGED_EVERY == 0 else 1
            relative = f"patient-{number // 1000:05d}/series-{number // 100 % 10}/slice-{number:07d}.png"
            fingerprint = f"131072-{number * 2654435761 % 2**64:016x}{version:016x}"
            yield StoredFile(f"{root}/{relative}", relative, 131072, fingerprint, 1.7e9 + number)

    return files


def index(work: Path, pairs: int, night: int) -> None:
    """Pair the two listings."""
    pair_folders.list_files = listing(pairs, night)
    scratch = work / f"scratch-{night}"
    scratch.mkdir()
    found = pair_folders.index_folders("s3://archive/infrared", "s3://archive/visible", scratch)
    assert found.rows == pairs


def plan_night(work: Path, pairs: int, night: int) -> None:
    """Plan what is new or changed, and write the plan to its place."""
    scratch = work / f"scratch-{night}"
    dest = str(work / "out")
    planned = plan(
        Index(scratch / "index.parquet", pairs),
        current_batches(dest, "paper", scratch),
        "0123456789abcdef",
        chunk_pairs=CHUNK_PAIRS,
        shard_pairs=SHARD_PAIRS,
        scratch=scratch,
    )
    assert planned.manifest.to_fuse == (pairs if night == 1 else -(-pairs // CHANGED_EVERY))
    run = new_run(dest)
    write_atomic(run.config_uri, json.dumps({"job": {"method": None, "mode": "paper"}}).encode())
    write_plan(run, planned)
    write_manifest(run, planned.manifest.path)


def fuse_nothing(work: Path) -> None:
    """Commit a row for each pair of the plan; without the syncing of each file, which is no part of any figure."""
    run = list_runs(str(work / "out"))[-1]
    Path(run.results_uri).mkdir(parents=True)
    for table in manifest_batches(run):
        for start in range(0, len(table), CHUNK_PAIRS):
            rows = table.slice(start, CHUNK_PAIRS)
            path = run.chunk_uri(rows["shard_id"][0].as_py(), rows["chunk_id"][0].as_py())
            pq.write_table(result_rows(run, rows), path, use_dictionary=False, write_page_checksum=True)


def result_rows(run: RunFolder, rows: pa.Table) -> pa.Table:
    """Rows as a fusion leaves them."""
    count = len(rows)
    same = {
        "run_id": run.run_id, "method": "paper", "dataset": "scale", "modality_first": "infrared",
        "modality_second": "visible", "n_slices": 1, "height": 256, "width": 256, "status": "ok", "message": "",
        "normalisation_first_rule": "full", "normalisation_second_rule": "full", "registration_method": "none",
        "registration_decision": "same_size", "seed": 0, "steps": 100, "samples": 1, "mode": "paper",
        "prior_sha256": "0" * 64, "config_hash": "0123456789abcdef", "algorithm_version": "1",
        "package_version": "0.1.0", "device": "cpu", "lock_token": 1,
        "finished_at": datetime.now(UTC),
    }  # fmt: skip
    keys = rows["pair_key"]
    digests = pc.binary_join_element_wise(rows["first_fingerprint"], rows["second_fingerprint"], "")
    made = {
        "output_uri": pc.binary_join_element_wise(f"{run.dest}/fused/paper/", keys, ".png", ""),
        "output_sha256": pc.utf8_slice_codeunits(digests, 7, 71),
    }
    figures = pa.array([(hash(key) % 10**9) / 10**8 for key in keys.to_pylist()], pa.float64())
    columns = []
    for item in RESULT_SCHEMA:
        if item.name in made:
            columns.append(made[item.name])
        elif item.name in same:
            columns.append(pa.repeat(pa.scalar(same[item.name], item.type), count))
        elif item.name in rows.column_names:
            columns.append(rows[item.name])
        else:
            columns.append(figures if item.type == pa.float64() else pa.nulls(count, item.type))
    return pa.table(columns, schema=RESULT_SCHEMA)


def run_phase(phase: str, work: Path, pairs: int) -> None:
    """One phase in this process; prints its seconds and megabytes."""
    name, _, number = phase.partition(" ")
    night = int(number or 1)
    began = time.monotonic()
    if name == "index":
        index(work, pairs, night)
    elif name == "plan":
        plan_night(work, pairs, night)
    elif name == "rows":
        fuse_nothing(work)
    else:
        run = list_runs(str(work / "out"))[-1]
        if name == "pending":
            assert pending_work(run, committed_chunks(run)).pending == 0
        elif name == "reconcile":
            assert reconcile(run).pairs == pairs
        else:
            compact(run, "paper")
    seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def table_sizes(out: Path, pairs: int) -> dict[str, float]:
    """Bytes per pair of each kind of table."""
    return {kind: sum(path.stat().st_size for path in out.glob(f"_ddfm/{kind}")) / pairs for kind in TABLES}


def measure(pairs: int, parent: Path) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """All phases of two nights over an archive of so many pairs, and the sizes of the first night's tables."""
    work = Path(tempfile.mkdtemp(prefix=f"scale-{pairs}-", dir=parent))
    figures = {}
    sizes: dict[str, float] = {}
    try:
        for phase in PHASES:
            command = [sys.executable, __file__, "--phase", phase, "--work", str(work), "--pairs", str(pairs)]
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures[phase] = json.loads(answer.stdout)
            if phase == "compact":
                sizes = table_sizes(work / "out", pairs)
    finally:
        shutil.rmtree(work)
    return figures, sizes


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="folder with some gigabytes")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        run_phase(arguments.phase, arguments.work, arguments.pairs[0])
        return
    figures = {pairs: measure(pairs, arguments.work) for pairs in arguments.pairs}
    print("| phase | " + " | ".join(f"{pairs:,} pairs" for pairs in figures) + " |")
    print("| --- |" + " ---: |" * len(figures))
    for phase in PHASES:
        if phase not in UNREPORTED:
            cells = (f"{one[phase]['seconds']:.1f} s, {one[phase]['megabytes']:.0f} MB" for one, _ in figures.values())
            print(f"| {phase} | " + " | ".join(cells) + " |")
    for kind in TABLES:
        cells = (f"{sizes[kind]:.0f} bytes a pair" for _, sizes in figures.values())
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()

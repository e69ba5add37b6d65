"""The commands beside the fusion: look at a plan, check a destination, remove pictures that lost their sources."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.markup import escape
from rich.table import Table

from flows.fuse_archive import check_inputs, new_settings, plan_new, run_to_resume
from flows.heartbeat import duration
from flows.places import use_places, use_secret
from flows.terminal import make_console
from tasks.archive import index_archive
from tasks.job import Job
from tasks.lock import hold, read_lock
from tasks.prune import prune, vanished_outputs
from tasks.repair import write_repair_run
from tasks.scratch import scratch_folder
from tasks.storage import absolute
from tasks.throughput import estimate_seconds
from tasks.verify import Fault, verify_rows

SHOWN = 10
"""Rows of a list that a command prints."""

_MEANING = {
    "new": "pairs without a row",
    "changed": "pairs of which a source changed",
    "outdated": "pairs fused with other settings, prior or version",
    "retried": "pairs that failed before, or that --retry looks at again",
    "settled": "rows that need no work",
    "given_up": "of these, pairs that failed too often; --retry failed",
    "unpaired": "files that are no pair, each with a code",
    "left_out": "left out by --only, --limit or --since",
    "vanished": "pairs whose sources are gone; `ddfm prune` removes their pictures",
}


def show_plan(job: Job) -> int:
    """``ddfm index``: what ``ddfm fuse`` would do now; nothing is written.

    Raises:
        ConfigurationError: the job cannot be run.
        StorageError: a place cannot be read.
    """
    console = make_console()
    use_places(job.places)
    dest = absolute(job.out)
    with scratch_folder() as scratch:
        checked = check_inputs(job)
        settings = new_settings(checked)
        planned = plan_new(settings, index_archive(checked.job, scratch, use_secret(checked.job)), scratch)
        counts = planned.counts
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(justify="right")
        table.add_row(str(counts.found), "found", "pairs and files of the archive")
        for name, meaning in _MEANING.items():
            if count := counts.as_dict()[name]:
                table.add_row(str(count), name.replace("_", " "), meaning)
        console.print(table)
        to_fuse = planned.manifest.to_fuse
        seconds = estimate_seconds(dest, to_fuse)
        time = f", about {duration(seconds)} at the rate of the last runs" if seconds is not None and to_fuse else ""
        console.print(f"\n{to_fuse} pairs to fuse{time}; {planned.manifest.rows - to_fuse} rows to write with a code")
        print_first(console.print, planned.manifest.path, ("pair_key", "code"), "planned")
    left = run_to_resume(settings)
    if left is not None:
        console.print(f"run {left.run.run_id} is not finished; `ddfm fuse` goes on with it first")
    return 0


def verify(dest: str, deep: bool, repair: bool) -> int:
    """``ddfm verify``: 0 when the pictures and tables of a destination agree, 1 when not.

    Raises:
        ConfigurationError: a repair cannot be planned.
        StorageError: the destination cannot be read.
    """
    console = make_console()
    dest = absolute(dest)
    owner = read_lock(dest)
    if owner is not None and not owner.released:
        console.print("a run is at work on this destination, or died there: what it writes now may look broken")
    with scratch_folder() as scratch:
        found = verify_rows(dest, scratch, deep)
        hashed = f", {found.hashed} of them compared with their hash" if deep else ""
        console.print(f"{found.runs} runs, {found.outputs} pictures{hashed}")
        for fault in Fault:
            if found.faults[fault]:
                console.print(f"{found.faults[fault]:8} {fault}")
        if found.sound:
            console.print("all is as the tables say")
            return 0
        print_first(console.print, found.broken, ("fault", "method", "pair_key", "detail"), "broken")
        if repair:
            with hold(dest):
                _repair(dest, found.broken, scratch, console.print)
        else:
            console.print("`ddfm verify --repair` plans what is broken for the next `ddfm fuse`")
    return 1


def _repair(dest: str, broken: Path, scratch: Path, tell: Callable[[str], None]) -> None:
    methods = pq.read_table(broken, columns=["method"])["method"].unique().to_pylist()
    found = False
    for method in sorted(methods):
        repaired = write_repair_run(dest, method, broken, scratch)
        if repaired is None:
            continue
        found = True
        if repaired.lost:
            tell(f"{repaired.lost} pairs of {method} are left: the private tables of the runs that made them are gone, "
                 "so that their files are not known; restore these tables, then repair again")  # fmt: skip
        if repaired.run is None:
            continue
        more = f", {repaired.left} of other settings come with its plan" if repaired.left else ""
        tell(f"run {repaired.run.run_id} is planned for {repaired.pairs} pairs of {method}{more}; "
             "`ddfm fuse` with the same job resumes it")  # fmt: skip
        if len(methods) > 1:
            tell("one method at a time: then verify and repair again")
        return
    if not found:
        tell("no picture is missing or different: there is nothing that a fusion would repair")


def prune_archive(job: Job, really: bool, most_share: float) -> int:
    """``ddfm prune``: list the pictures whose sources are gone, and remove them when ``really``.

    Raises:
        ConfigurationError: the job cannot be run, or more than ``most_share`` of the pairs would go.
        StorageError: a place cannot be read or written.
    """
    console = make_console()
    use_places(job.places)
    dest = absolute(job.out)
    checked = check_inputs(job)
    job, pseudonyms = checked.job, use_secret(checked.job)
    with scratch_folder() as scratch:
        if not really:
            found = vanished_outputs(dest, job, index_archive(job, scratch, pseudonyms).index, scratch)
            console.print(f"{found.pairs} of {found.rows} pairs of {job.method_name} have no sources any more")
            print_first(console.print, found.path, ("pair_key", "output_uri"), "vanished")
            if found.pairs:
                console.print("`ddfm prune --yes` removes their pictures")
            return 0
        with hold(dest, job.wait) as lock:
            # Under the lock: what another run fuses meanwhile must not look vanished.
            index = index_archive(job, scratch, pseudonyms).index
            found = prune(new_settings(checked, lock.token), index, scratch, most_share, lock.check)
        console.print(f"{found.pairs} pairs without sources were pruned; their rows are skipped / vanished")
    return 0


def print_first(tell: Callable[[str], None], path: Path, columns: Iterable[str], what: str) -> None:
    """The first rows of a local Parquet file, and how many more there are."""
    names = list(columns)
    with pq.ParquetFile(path) as file:
        total = file.metadata.num_rows
        batch = next(file.iter_batches(SHOWN, columns=names), None)
    rows = [] if batch is None else pa.Table.from_batches([batch]).to_pylist()
    for row in rows:
        tell("  " + escape("  ".join(str(row[name]) for name in names if row[name] is not None)))
    if total > len(rows):
        tell(f"  ... {total - len(rows)} more {what}")

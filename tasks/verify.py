"""Compare what a destination holds with what its tables say, and plan anew what is broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import ConfigurationError
from tasks.current import current_batches, history_batches, methods
from tasks.index import is_text
from tasks.manifest import ManifestDraft, draft_rows, write_manifest
from tasks.ordered import aligned
from tasks.outputs import has_sha256, output_folder, output_relative
from tasks.plan import PlanCounts, write_counts
from tasks.results import row_faults
from tasks.run_folder import RunFolder, list_runs, next_run, run_method, unfinished_run
from tasks.schemas import BROKEN_SCHEMA
from tasks.scratch import insert_rows, open_database
from tasks.settings import read_settings, write_settings
from tasks.storage import exists, join, list_files
from tasks.tables import ROWS, TableWriter, table_batches

_READERS: Final = 16
_OUTPUT_COLUMNS: Final = ("pair_key", "output_uri", "output_sha256")


class Fault(StrEnum):
    """What is wrong with a pair."""

    MISSING_OUTPUT = "missing_output"
    """Its row names a picture that is not there."""
    DIFFERENT_OUTPUT = "different_output"
    """The picture's bytes are not those that its row has the hash of, or cannot be read."""
    STRANGE_OUTPUT = "strange_output"
    """A picture that no current row names; its path stands for the key."""
    MISSING_ROW = "missing_row"
    """A finished run planned it and has no row of it."""
    DOUBLE_ROW = "double_row"
    """A run has several rows of it."""
    STRANGE_ROW = "strange_row"
    """A run has a row of it and never planned it."""


_ROW_FAULTS: Final = {
    "have no row": Fault.MISSING_ROW,
    "have several rows": Fault.DOUBLE_ROW,
    "were never planned": Fault.STRANGE_ROW,
}


@dataclass(frozen=True)
class Verification:
    """What came of a comparison.

    Attributes:
        runs: runs whose rows were compared with their plans.
        outputs: pictures that current rows name.
        hashed: of these, how many were read and compared with the hash of their row.
        faults: how often each fault was found; every fault is there.
        broken: a local file of ``BROKEN_SCHEMA``, a row per fault.
    """

    runs: int
    outputs: int
    hashed: int
    faults: Mapping[Fault, int]
    broken: Path

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not any(self.faults.values())


def verify_rows(dest: str, scratch: Path, deep: bool = False) -> Verification:
    """Compare each run's rows with its plan, and the current rows with the pictures that lie there.

    Args:
        dest: the destination; no run may be at work on it.
        scratch: a local folder for the list of what is broken.
        deep: read every picture and compare its hash, several at a time.

    Raises:
        StorageError: a table or a folder cannot be read.
    """
    path = scratch / "broken.parquet"
    runs = outputs = hashed = 0
    faults = dict.fromkeys(Fault, 0)
    with TableWriter(path, BROKEN_SCHEMA) as broken:

        def note(fault: Fault, method: str, keys: Sequence[str], detail: str) -> None:
            faults[fault] += len(keys)
            rows = {"pair_key": keys, "method": [method] * len(keys), "fault": [fault] * len(keys)}
            broken.write(pa.table(rows | {"detail": [detail] * len(keys)}, schema=BROKEN_SCHEMA))

        for run in list_runs(dest):
            if not exists(run.manifest_uri):
                continue
            runs += 1
            found, _ = row_faults(run, partial(history_batches, run, scratch, ["pair_key"]), None)
            for one in found:
                fault = _ROW_FAULTS[one.fault]
                # A run that goes on, or was given up, has rows of a part of its plan.
                if fault != Fault.MISSING_ROW or exists(run.summary_uri):
                    note(fault, run_method(run) or "", one.examples, run.run_id)
        for method in methods(dest):
            with open_database(scratch) as database:
                outputs += _load_outputs(database, dest, method, scratch)
                for fault, query in _OUTPUT_FAULTS.items():
                    for batch in database.sql(query).to_arrow_reader(ROWS):
                        keys = _still_missing(batch, dest, method) if fault == Fault.MISSING_OUTPUT else batch[0]
                        note(fault, method, keys.to_pylist(), "")
                if deep:
                    for different, count in _hash_outputs(database, dest, method):
                        hashed += count
                        note(Fault.DIFFERENT_OUTPUT, method, different, "")
    return Verification(runs, outputs, hashed, faults, path)


_OUTPUT_FAULTS: Final = {
    Fault.MISSING_OUTPUT: "SELECT pair_key, path FROM named ANTI JOIN listed USING (path)",
    Fault.STRANGE_OUTPUT: "SELECT path FROM listed ANTI JOIN named USING (path)",
}


def _load_outputs(database: duckdb.DuckDBPyConnection, dest: str, method: str, scratch: Path) -> int:
    """Fill the tables ``named`` (by rows) and ``listed`` (by the folder); returns how many pictures rows name."""
    database.execute("CREATE TABLE named (pair_key VARCHAR, path VARCHAR, sha256 VARCHAR)")
    database.execute("CREATE TABLE listed (path VARCHAR)")
    count = 0
    for table in current_batches(dest, method, scratch, _OUTPUT_COLUMNS):
        rows = table.filter(pc.is_valid(table["output_uri"]))
        paths = [output_relative(dest, method, uri) for uri in rows["output_uri"].to_pylist()]
        insert_rows(
            database, "named", pa.table([rows["pair_key"], paths, rows["output_sha256"]], names=["a", "b", "c"])
        )
        count += len(rows)
    folder = output_folder(dest, method)
    files = list_files(folder) if exists(folder) else iter(())
    # A name that no table can hold is none of ours, and is left out of the comparison.
    relative = (file.relative for file in files if is_text(file.relative))
    while batch := list(islice(relative, ROWS)):
        insert_rows(database, "listed", pa.table({"path": batch}))
    return count


def _still_missing(batch: pa.RecordBatch, dest: str, method: str) -> pa.Array:
    """Of pictures that a listing lacks, those that are not there: it leaves out hidden names."""
    folder = output_folder(dest, method)
    with ThreadPoolExecutor(_READERS) as pool:
        there = list(pool.map(lambda path: exists(join(folder, path)), batch["path"].to_pylist()))
    return batch["pair_key"].filter(pc.invert(pa.array(there, pa.bool_())))


def _hash_outputs(database: duckdb.DuckDBPyConnection, dest: str, method: str) -> Iterator[tuple[list[str], int]]:
    """Keys of pictures whose bytes differ, with the number of pictures looked at, in steps."""
    folder = output_folder(dest, method)

    query = "SELECT pair_key, path, sha256 FROM named SEMI JOIN listed USING (path)"
    with ThreadPoolExecutor(_READERS) as pool:
        for batch in database.sql(query).to_arrow_reader(1024):
            uris = [join(folder, path) for path in batch["path"].to_pylist()]
            right = pool.map(has_sha256, uris, batch["sha256"].to_pylist())
            keys = batch["pair_key"].to_pylist()
            yield [key for key, is_it in zip(keys, right, strict=True) if not is_it], len(batch)


# Repair


@dataclass(frozen=True)
class Repair:
    """A run that is there to be resumed.

    Attributes:
        run: the run, planned and not begun.
        pairs: those that it will fuse.
        left: broken pairs that were fused with older settings than the newest; a plan finds them by itself.
    """

    run: RunFolder
    pairs: int
    left: int


def write_repair_run(dest: str, method: str, broken: Path, scratch: Path) -> Repair | None:
    """Plan the pairs whose pictures are missing or different, under the settings that they were fused with.

    The next ``ddfm fuse`` with the same job resumes this run. Missing rows need none: a plan finds their pairs.

    Args:
        dest: the destination.
        method: whose pairs.
        broken: the list that :func:`verify_rows` wrote.
        scratch: a local folder.

    Returns:
        None when no picture of the method is missing or different.

    Raises:
        ConfigurationError: another run waits to be resumed, or the settings of the pairs cannot be read.
        StorageError: a table cannot be read, or the run not be written.
    """
    waiting = unfinished_run(dest, method)
    if waiting is not None:
        raise ConfigurationError(f"run {waiting.run_id} is not finished; run `ddfm fuse` to finish it, then repair")
    newest_run = _newest_run_of(dest, method, broken, scratch)
    if newest_run is None:
        return None
    settings = read_settings(RunFolder(dest, newest_run))
    left = 0
    with ManifestDraft(scratch) as draft:
        for rows in _broken_rows(dest, method, broken, scratch):
            same = rows.filter(pc.equal(rows["config_hash"], settings.config_hash))
            left += len(rows) - len(same)
            draft.add(draft_rows(same))
    manifest = draft.deal(settings.job.chunk_pairs, settings.job.shard_pairs)
    repair = replace(settings, run=next_run(dest))
    write_settings(repair)
    write_counts(repair.run, PlanCounts(found=manifest.rows + left, retried=manifest.rows, left_out=left))
    write_manifest(repair.run, manifest.path)
    return Repair(repair.run, manifest.rows, left)


def _newest_run_of(dest: str, method: str, broken: Path, scratch: Path) -> str | None:
    ids = (pc.max(rows["run_id"]).as_py() for rows in _broken_rows(dest, method, broken, scratch))
    return max(ids, default=None)


def _broken_rows(dest: str, method: str, broken: Path, scratch: Path) -> Iterator[pa.Table]:
    """The current rows of pairs whose picture is to be made again."""
    columns = [
        "pair_key",
        "run_id",
        "config_hash",
        "first_uri",
        "second_uri",
        "first_fingerprint",
        "second_fingerprint",
    ]
    wanted = pa.array([Fault.MISSING_OUTPUT, Fault.DIFFERENT_OUTPUT], pa.string())
    with open_database(scratch) as database:
        database.execute("CREATE TABLE keys (pair_key VARCHAR)")
        for table in table_batches(broken, BROKEN_SCHEMA):
            is_wanted = pc.and_(pc.equal(table["method"], method), pc.is_in(table["fault"], value_set=wanted))
            insert_rows(database, "keys", table.filter(is_wanted).select(["pair_key"]))
        keys = database.sql("SELECT DISTINCT pair_key FROM keys ORDER BY pair_key").to_arrow_reader(ROWS)
        in_order = (pa.Table.from_batches([batch]) for batch in keys)
        for some, rows in aligned([in_order, current_batches(dest, method, scratch, columns)]):
            if some is not None and rows is not None:
                hit = rows.filter(pc.is_in(rows["pair_key"], value_set=some["pair_key"]))
                if len(hit):
                    yield hit

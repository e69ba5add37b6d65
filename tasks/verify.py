"""Compare what a destination holds with what its tables say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks.current import current_batches, history_batches, methods
from tasks.index import is_text
from tasks.outputs import FOLDER_SUFFIXES, OUTPUT_COLUMNS, has_sha256, named_outputs, output_folder
from tasks.results import row_faults
from tasks.run_folder import list_runs, run_method
from tasks.schemas import BROKEN_SCHEMA
from tasks.scratch import insert_rows, open_database
from tasks.storage import exists, join, list_files
from tasks.tables import ROWS, TableWriter

_READERS: Final = 16


class Fault(StrEnum):
    """What is wrong with a pair."""

    MISSING_OUTPUT = "missing_output"
    """Its row names a picture that is not there."""
    DIFFERENT_OUTPUT = "different_output"
    """The picture's bytes are not those that its row has the hash of, or cannot be read; or a folder beside a volume
    has not a file for each slice."""
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
                    # A hash of a folder tells as well that it lacks a file.
                    if deep and fault == Fault.DIFFERENT_OUTPUT:
                        continue
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
    Fault.DIFFERENT_OUTPUT: "SELECT pair_key FROM named JOIN (SELECT folder, count(*) AS present FROM files GROUP BY "
    "folder) ON folder = path WHERE present <> expected",
}


_NAMED_SCHEMA: Final = pa.schema(
    [("pair_key", pa.string()), ("path", pa.string()), ("sha256", pa.string()), ("files", pa.int32())]
)


def _load_outputs(database: duckdb.DuckDBPyConnection, dest: str, method: str, scratch: Path) -> int:
    """Fill the tables ``named`` (by rows) and ``listed`` (by the folder); returns how many pictures rows name."""
    database.execute("CREATE TABLE named (pair_key VARCHAR, path VARCHAR, sha256 VARCHAR, expected INTEGER)")
    database.execute("CREATE TABLE files (path VARCHAR, folder VARCHAR)")
    count = 0
    for table in current_batches(dest, method, scratch, OUTPUT_COLUMNS):
        outputs = list(named_outputs(table, dest, method))
        columns = {name: [getattr(one, name) for one in outputs] for name in _NAMED_SCHEMA.names}
        insert_rows(database, "named", pa.table(columns, schema=_NAMED_SCHEMA))
        count += len(outputs)
    folder = output_folder(dest, method)
    files = list_files(folder) if exists(folder) else iter(())
    # A name that no table can hold is none of ours, and is left out of the comparison.
    relative = (file.relative for file in files if is_text(file.relative))
    while batch := list(islice(relative, ROWS)):
        insert_rows(database, "files", pa.table({"path": batch, "folder": [path.rpartition("/")[0] for path in batch]}))
    # A folder that a row names stands for its files.
    database.execute(
        "CREATE TABLE listed AS SELECT DISTINCT "
        "CASE WHEN folder IN (SELECT path FROM named) THEN folder ELSE path END AS path FROM files"
    )
    return count


def _still_missing(batch: pa.RecordBatch, dest: str, method: str) -> pa.Array:
    """Of pictures that a listing lacks, those that are not there: it leaves out hidden names."""
    folder = output_folder(dest, method)
    with ThreadPoolExecutor(_READERS) as pool:
        there = list(pool.map(lambda path: _is_there(join(folder, path)), batch["path"].to_pylist()))
    return batch["pair_key"].filter(pc.invert(pa.array(there, pa.bool_())))


def _is_there(uri: str) -> bool:
    # In a local place a folder outlives its files.
    return exists(uri) and (not uri.endswith(FOLDER_SUFFIXES) or next(list_files(uri), None) is not None)


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

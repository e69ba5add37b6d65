"""The rows of a run: committed chunk by chunk, and proven to be those of its plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import Code, Status
from tasks.manifest import first_code_shard, manifest_batches, read_manifest
from tasks.ordered import ascending, newest
from tasks.rows import ResultRow, SliceRow
from tasks.run_folder import RunFolder
from tasks.schemas import RESULT_SCHEMA, result_table, slices_table
from tasks.scratch import insert_rows, open_database, scratch_folder
from tasks.storage import exists, list_names, local_path
from tasks.tables import read_table, write_table

_READERS: Final = 16
"""Files of an object store read at a time; what counts is their latency. Local ones are as fast one by one."""
_FILES: Final = 64
"""Chunks in memory at a time: a table costs kilobytes per column, however few its rows."""
_NAMED_AT_MOST: Final = 5
"""Pairs that an error message names."""


def commit_chunk(run: RunFolder, shard_id: str, chunk_id: str, rows: Sequence[ResultRow]) -> None:
    """Write the rows of a chunk, in the order of the plan; from then on its pairs are done.

    The pictures that the rows name must lie in their place before.

    Raises:
        ValueError: the rows are not those of the chunk, one for each of its pairs.
        StorageError: they cannot be written; nothing is committed then.
    """
    places = {(row.run_id, row.shard_id, row.chunk_id) for row in rows}
    if places - {(run.run_id, shard_id, chunk_id)}:
        raise ValueError(f"rows of {sorted(places)} cannot be committed as {run.run_id} {shard_id} {chunk_id}")
    members = _members(run, shard_id).get(chunk_id, [])
    by_key = {row.pair_key: row for row in rows}
    if len(by_key) != len(rows) or by_key.keys() != set(members):
        wrong = (by_key.keys() ^ set(members)) or {key for key, n in Counter(r.pair_key for r in rows).items() if n > 1}
        raise ValueError(
            f"chunk {shard_id}-{chunk_id} has {len(members)} pairs, got {len(rows)} rows; "
            f"missing, strange or double: {_few(sorted(wrong), len(wrong))}"
        )
    write_table(run.chunk_uri(shard_id, chunk_id), result_table([by_key[key] for key in members]))


def write_slices(run: RunFolder, shard_id: str, chunk_id: str, rows: Sequence[SliceRow]) -> None:
    """Write the rows of the slices of a chunk's volumes; to be called before the chunk is committed.

    Raises:
        StorageError: they cannot be written.
    """
    if rows:
        write_table(run.slices_uri(shard_id, chunk_id), slices_table(rows))


@lru_cache(maxsize=8)
def _members(run: RunFolder, shard_id: str) -> dict[str, list[str]]:
    """The keys of each chunk of a shard. Kept, because a plan never changes and every commit asks."""
    table = read_manifest(run, shard_id)
    members: dict[str, list[str]] = {}
    for chunk_id, key in zip(table["chunk_id"].to_pylist(), table["pair_key"].to_pylist(), strict=True):
        members.setdefault(chunk_id, []).append(key)
    return members


def committed_chunks(run: RunFolder) -> set[tuple[str, str]]:
    """(shard_id, chunk_id) of the chunks that are done.

    Raises:
        StorageError: the run cannot be read.
    """
    names = (name.removesuffix(".parquet") for name in list_names(run.results_uri) if name.endswith(".parquet"))
    parts = (name.partition("-") for name in names)
    return {(shard, chunk) for shard, dash, chunk in parts if dash}


def committed_of_shard(run: RunFolder, shard_id: str, chunk_ids: Set[str]) -> set[str]:
    """Those of a shard's chunks that are done; unlike a listing of the run it takes the time of the shard only.

    Raises:
        StorageError: the run cannot be read.
    """
    ids = sorted(chunk_ids)
    with ThreadPoolExecutor(_READERS) as pool:
        done = pool.map(lambda chunk_id: exists(run.chunk_uri(shard_id, chunk_id)), ids)
        return {chunk_id for chunk_id, is_done in zip(ids, done, strict=True) if is_done}


def result_batches(
    run: RunFolder, columns: Sequence[str] | None = None, chunks: Iterable[tuple[str, str]] | None = None
) -> Iterator[pa.Table]:
    """The rows that were committed so far, by shard and chunk, many chunks to a table.

    Args:
        run: whose rows.
        columns: those to read, None for all.
        chunks: (shard_id, chunk_id) of the chunks to read, in this order; None for all that are committed.

    Raises:
        StorageError: a file cannot be read, is damaged or of another schema.
    """
    places = iter(sorted(committed_chunks(run)) if chunks is None else chunks)

    def read(place: tuple[str, str]) -> pa.Table:
        return read_table(run.chunk_uri(*place), RESULT_SCHEMA, columns)

    is_local = local_path(run.results_uri) is not None
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(islice(places, _FILES)):
            tables = [read(place) for place in batch] if is_local else list(pool.map(read, batch))
            yield pa.concat_tables(tables).combine_chunks()


def read_results(run: RunFolder, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows that were committed so far, by shard and chunk, in memory; for small runs.

    Raises:
        StorageError: as :func:`result_batches`.
    """
    empty = RESULT_SCHEMA.empty_table() if columns is None else RESULT_SCHEMA.empty_table().select(list(columns))
    return pa.concat_tables([empty, *result_batches(run, columns)]).combine_chunks()


def results_by_key(run: RunFolder, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows that were committed so far, by key, in bounded memory.

    Raises:
        StorageError: as :func:`result_batches`, or the rows of a chunk are not in the order of the plan.
    """
    first_coded = first_code_shard(run)
    places = sorted(committed_chunks(run))
    # The plan is by key twice: first the pairs to fuse, then the rows with a code.
    halves = [
        [place for place in places if first_coded is None or place[0] < first_coded],
        [place for place in places if first_coded is not None and place[0] >= first_coded],
    ]
    return newest([ascending(result_batches(run, columns, half), run.results_uri) for half in halves])


# The proof


class ReconcileError(Exception):
    """The rows of the results are not those of the plan."""


@dataclass(frozen=True)
class Reconciliation:
    """Figures of a run whose rows are all there.

    Attributes:
        pairs: rows of the plan and of the results.
        statuses: rows by status; every status is there.
        codes: rows by code, most frequent first; those that occur.
    """

    pairs: int
    statuses: Mapping[Status, int]
    codes: Mapping[Code, int]


@dataclass(frozen=True)
class RowFault:
    """Pairs of a run that have no row, several, or a row although they were never planned.

    Attributes:
        count: how many pairs.
        examples: the first of them.
    """

    fault: str
    count: int
    examples: tuple[str, ...]


_FAULTS: Final = {
    "have no row": "SELECT pair_key, number FROM planned ANTI JOIN found USING (pair_key)",
    "have several rows": "SELECT pair_key, min(number) AS number FROM found GROUP BY pair_key HAVING count(*) > 1",
    "were never planned": "SELECT pair_key, number FROM found ANTI JOIN planned USING (pair_key)",
}


def reconcile(run: RunFolder) -> Reconciliation:
    """Prove that each pair of the plan has one row, and no other pair has any.

    Raises:
        ReconcileError: names what is missing, double or strange.
        StorageError: a file of the run cannot be read or is damaged.
    """
    statuses: Counter[str] = Counter()
    codes: Counter[str] = Counter()

    def counted() -> Iterator[pa.Table]:
        statuses.clear()
        codes.clear()
        for table in result_batches(run, ["pair_key", "status", "code"]):
            statuses.update(_counts(table["status"]))
            codes.update(_counts(table["code"].drop_null()))
            yield table

    faults, pairs = row_faults(run, counted, _NAMED_AT_MOST)
    sentences = [f"{fault.count} {fault.fault}: {_few(fault.examples, fault.count)}" for fault in faults]
    if sentences:
        raise ReconcileError(f"run {run.run_id}, {pairs} pairs planned: {'; '.join(sentences)}")
    return Reconciliation(
        pairs=pairs,
        statuses={status: statuses[status] for status in Status},
        codes={Code(code): count for code, count in sorted(codes.items(), key=lambda item: (-item[1], item[0]))},
    )


def row_faults(
    run: RunFolder, found: Callable[[], Iterable[pa.Table]], examples: int | None
) -> tuple[list[RowFault], int]:
    """How rows differ from the plan of their run, in bounded memory.

    Args:
        run: whose plan.
        found: gives the rows, with ``pair_key``; called a second time when their order is not the plan's.
        examples: pairs to name per fault, None for all.

    Returns:
        The faults there are, and the pairs of the plan.

    Raises:
        StorageError: the plan or the rows cannot be read.
    """
    if (rows := _rows_when_equal(manifest_batches(run, ["pair_key"]), found())) is not None:
        return [], rows
    with scratch_folder() as scratch, open_database(scratch) as database:
        planned_rows = _load_keys(database, "planned", manifest_batches(run, ["pair_key"]))
        _load_keys(database, "found", found())
        faults = []
        for fault, query in _FAULTS.items():
            database.execute(f"CREATE OR REPLACE TABLE fault AS {query}")
            (count,) = database.execute("SELECT count(*) FROM fault").fetchall()[0]
            if count:
                limit = "" if examples is None else f"LIMIT {examples}"
                named = database.execute(f"SELECT pair_key FROM fault ORDER BY number {limit}").fetchall()  # noqa: S608
                faults.append(RowFault(fault, count, tuple(key for (key,) in named)))
        return faults, planned_rows


def _rows_when_equal(planned: Iterable[pa.Table], found: Iterable[pa.Table]) -> int | None:
    """How many keys two streams have, None when these are not the same in the same order."""
    streams = [(table["pair_key"] for table in tables if len(table)) for tables in (planned, found)]
    waiting: list[pa.ChunkedArray | None] = [None, None]
    rows = 0
    while True:
        for place, stream in enumerate(streams):
            if not waiting[place]:
                waiting[place] = next(stream, None)
        one, other = waiting
        if one is None or other is None:
            return rows if one is other else None
        count = min(len(one), len(other))
        if not one.slice(0, count).equals(other.slice(0, count)):
            return None
        waiting = [one.slice(count), other.slice(count)]
        rows += count


def _load_keys(database: duckdb.DuckDBPyConnection, name: str, tables: Iterable[pa.Table]) -> int:
    database.execute(f"CREATE TABLE {name} (number BIGINT, pair_key VARCHAR)")
    rows = 0
    for table in tables:
        keys = pa.table({"number": range(rows, rows + len(table)), "pair_key": table["pair_key"]})
        # Piece by piece: what a stream raised inside the database would come out as the database's error.
        insert_rows(database, name, keys)
        rows += len(table)
    return rows


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}


def _few(keys: Sequence[str], count: int) -> str:
    return ", ".join(keys[:_NAMED_AT_MOST]) + (" …" if count > _NAMED_AT_MOST else "")

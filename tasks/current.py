"""The table that people query: the newest row of each pair, kept up to date run by run.

``_ddfm/metrics/history/<run_id>.parquet`` has the rows of one run, ``_ddfm/metrics/current/<method>.parquet`` the
current row of each pair of a method. The latter names the runs that are folded into it, so that a crash between the
two, or a run that was killed and never finished, is made good by the next run. What a night reads does not grow with
the nights before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.ordered import ascending, newest
from tasks.results import results_by_key
from tasks.run_folder import RunFolder, current_folder, current_uri, history_folder, list_runs, run_method
from tasks.schemas import PLAN_COLUMNS, RESULT_SCHEMA
from tasks.scratch import scratch_folder
from tasks.storage import exists, list_names, write_file
from tasks.tables import TableWriter, fetch_needed, table_batches, table_metadata

_FOLDED: Final = b"ddfm_folded_runs"
_LATELY: Final = 20
"""Runs, of which one may have been cut while it was compacted."""


def compact(run: RunFolder, method: str) -> str:
    """Write all rows of the run as one file, and fold them into the current rows of its method.

    Runs before it that were never finished are folded, too; nothing may be committed to them any more.

    Returns:
        The URI of the current rows.

    Raises:
        StorageError: a file cannot be read or written.
    """
    with scratch_folder() as scratch:
        current = _fetch_current(run.dest, method, scratch)
        left = [one for one in _unfolded(run.dest, method, current) if one.run_id <= run.run_id]
        streams = [] if current.path is None else [_current_rows_of(current, None)]
        for one in left:
            path = scratch / f"history-{one.run_id}.parquet"
            if one == run or not exists(one.metrics_uri):
                with TableWriter(path, RESULT_SCHEMA) as history:
                    for table in results_by_key(one):
                        history.write(table)
                write_file(one.metrics_uri, path)
            else:
                path = fetch_needed(one.metrics_uri, scratch)
            streams.append(ascending(_file_rows(path, one.metrics_uri, None, method), one.metrics_uri))
        folded = sorted(current.folded | {one.run_id for one in list_runs(run.dest) if one.run_id <= run.run_id})
        path = scratch / "current-new.parquet"
        with TableWriter(path, RESULT_SCHEMA, {_FOLDED.decode(): json.dumps(folded)}) as writer:
            for table in newest(streams):
                writer.write(table)
        write_file(current.uri, path)
        return current.uri


def current_batches(
    dest: str, method: str, scratch: Path, columns: Sequence[str] | None = PLAN_COLUMNS
) -> Iterator[pa.Table]:
    """The newest row of each pair of a method by key, over all runs, finished or not, in bounded memory.

    A run is newer than another when its id is greater.

    Args:
        dest: the destination; it may have no runs yet.
        method: of the rows.
        scratch: a local folder for files that lie elsewhere; needed as long as the rows are read.
        columns: those to return, None for all.

    Raises:
        StorageError: a file cannot be read, is damaged or of another schema.
    """
    names = list(RESULT_SCHEMA.names if columns is None else columns)
    needed = list(dict.fromkeys([*names, "pair_key", "method"]))
    current = _fetch_current(dest, method, scratch)
    streams = [] if current.path is None else [_current_rows_of(current, needed)]
    streams += [_rows_of(run, needed, method, scratch) for run in _unfolded(dest, method, current)]
    return (table.select(names) for table in newest(streams))


def current_rows(dest: str, method: str | None = None, columns: Sequence[str] | None = PLAN_COLUMNS) -> pa.Table:
    """The newest row of each pair by key, in memory; for small archives and few columns.

    Methods are kept apart: a pair fused by two methods under one destination has a row for each.

    Args:
        dest: the destination; it may have no runs yet.
        method: only rows of this method.
        columns: those to return, None for all.

    Raises:
        StorageError: as :func:`current_batches`.
    """
    names = list(RESULT_SCHEMA.names if columns is None else columns)
    needed = list(dict.fromkeys([*names, "pair_key", "method"]))
    tables = [RESULT_SCHEMA.empty_table().select(needed)]
    with scratch_folder() as scratch:
        for one in methods(dest) if method is None else [method]:
            tables += current_batches(dest, one, scratch, needed)
    table = pa.concat_tables(tables).combine_chunks()
    return table.sort_by([("pair_key", "ascending"), ("method", "ascending")]).select(names)


def methods(dest: str) -> list[str]:
    """The methods that a destination has rows of, sorted.

    Raises:
        StorageError: the destination cannot be read.
    """
    names = {name.removesuffix(".parquet") for name in list_names(current_folder(dest)) if name.endswith(".parquet")}
    compacted = set(list_names(history_folder(dest))) if names else set()
    runs = list_runs(dest)
    open_runs = [run for run in runs if f"{run.run_id}.parquet" not in compacted]
    # A compaction that was cut between its two files has left a history file alone.
    open_runs += [run for run in runs[-_LATELY:] if run not in open_runs and not exists(run.summary_uri)]
    return sorted(names | {method for run in open_runs if (method := run_method(run)) is not None})


def history_batches(run: RunFolder, scratch: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a run by key: of its file where it is finished, else of its chunks.

    Raises:
        StorageError: as :func:`current_batches`.
    """
    if not exists(run.metrics_uri):
        return results_by_key(run, columns)
    path = fetch_needed(run.metrics_uri, scratch)
    return ascending(table_batches(path, RESULT_SCHEMA, columns, run.metrics_uri), run.metrics_uri)


@dataclass(frozen=True)
class _Current:
    """A file of current rows; without a path there is none yet."""

    uri: str
    path: Path | None
    folded: frozenset[str]


def _fetch_current(dest: str, method: str, scratch: Path) -> _Current:
    uri = current_uri(dest, method)
    if f"{method}.parquet" not in list_names(current_folder(dest)):
        return _Current(uri, None, frozenset())
    path = fetch_needed(uri, scratch)
    folded = table_metadata(path, RESULT_SCHEMA, uri).get(_FOLDED, b"[]")
    return _Current(uri, path, frozenset(json.loads(folded)))


def _current_rows_of(current: _Current, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    assert current.path is not None  # noqa: S101
    return ascending(table_batches(current.path, RESULT_SCHEMA, columns, current.uri), current.uri)


def _unfolded(dest: str, method: str, current: _Current) -> list[RunFolder]:
    """Runs that may have rows of the method which its current rows lack, oldest first."""
    runs = {run.run_id: run for run in list_runs(dest)}
    for name in list_names(history_folder(dest)):
        run_id = name.removesuffix(".parquet")
        runs.setdefault(run_id, RunFolder(dest, run_id))
    left = [runs[run_id] for run_id in sorted(runs.keys() - current.folded)]
    return [run for run in left if run_method(run) in (None, method) and _has_rows(run)]


def _has_rows(run: RunFolder) -> bool:
    return exists(run.manifest_uri) or exists(run.metrics_uri)


def _rows_of(run: RunFolder, columns: Sequence[str], method: str, scratch: Path) -> Iterator[pa.Table]:
    for table in history_batches(run, scratch, columns):
        yield _of_method(table, method)


def _file_rows(path: Path, uri: str, columns: Sequence[str] | None, method: str) -> Iterator[pa.Table]:
    for table in table_batches(path, RESULT_SCHEMA, columns, uri):
        yield _of_method(table, method)


def _of_method(table: pa.Table, method: str) -> pa.Table:
    return table.filter(pc.equal(table["method"], method))

"""The pairs of volumes that a table names: NIfTI files, DICOM files, and folders of one DICOM series."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import groupby, islice
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import duckdb
import pyarrow as pa

from tasks.codes import Code, PairError
from tasks.index import Fingerprint, split_suffix
from tasks.pair_table import TableRow, row_sources, rows_by_key
from tasks.scratch import open_database, view_tables
from tasks.storage import StorageError, StoredFile, absolute, list_files, stat_file
from tasks.storage.errors import is_missing, is_refusal
from tasks.tables import ROWS, TableWriter, table_batches
from tasks.volume import VolumeLimits
from tasks.volume_index.headers import READERS, read_headers, write_listing
from tasks.volume_index.names import NIFTI_SUFFIXES, stem_of
from tasks.volume_index.rows import RowWriter
from tasks.volume_index.series import VOLUME_SCHEMA, FoundSeries, OtherFile, find_series, volume_of_row, volume_table
from tasks.volume_index.sources import Kind, VolumeIndex
from tasks.volume_index.volumes import FoundVolume, source_of

_LOOK_UPS: Final = 32
"""Cells looked up at a time; what counts is the latency of object stores."""

_ROW_SCHEMA: Final = pa.schema(
    [
        pa.field("unique_key", pa.string(), nullable=False),
        pa.field("number", pa.int64(), nullable=False),
        *(pa.field(name, pa.string()) for name in ("first", "second", "key")),
    ],
    metadata={"ddfm_schema": "table rows", "ddfm_schema_version": "1"},
)
"""The columns of :class:`~tasks.pair_table.TableRow`."""
_NAMED_SCHEMA: Final = pa.schema([pa.field("uri", pa.string(), nullable=False)])
_CELL_SCHEMA: Final = pa.schema(
    [pa.field("root", pa.int32(), nullable=False), *_NAMED_SCHEMA],
    metadata={"ddfm_schema": "table cells", "ddfm_schema_version": "1"},
)
"""A place that a table names; its number stands for the root of its files."""


def index_volume_table(
    table_uri: str,
    scratch: Path,
    *,
    known: Path | None = None,
    readers: int = READERS,
    limits: VolumeLimits = VolumeLimits(),  # noqa: B008 - frozen
    fingerprint: Fingerprint = "stat",
) -> VolumeIndex:
    """The pairs of a CSV or Parquet table with columns ``first``, ``second`` and, optionally, ``key``.

    A cell is a NIfTI file, a DICOM file, or a folder that holds one DICOM series; NIfTI files and whatever else lies
    in such a folder is not looked at. Paths and keys are those of :func:`~tasks.pair_table.index_table`. Codes:
    AMBIGUOUS_PAIR (rows of one key, which become one; several series in a folder), PATIENT_MISMATCH, MISSING_SOURCE
    (also an empty cell, or a folder without series), NAME_UNUSABLE, PERMISSION_DENIED, READ_FAILED, and those of the
    DICOM files.

    Args:
        known: the headers of an earlier run, see :func:`~tasks.volume_index.headers.index_headers`.
        readers: files that are read at a time.
        limits: of sizes of files and volumes.

    Raises:
        EmptyArchive: the table has no rows.
        ConfigurationError: it is neither CSV nor Parquet, or lacks a column.
        StorageError: it cannot be read, or a store cannot be read at all.
    """
    base = absolute(table_uri)
    given, named, cells, listing, faults, verdicts = (scratch / f"table-{name}.parquet" for name in _TABLES)
    _read_table(table_uri, base, scratch, given, named, cells)
    with TableWriter(faults, VOLUME_SCHEMA) as faulty:
        write_listing(listing, _look_up(cells, limits, faulty))
    headers = read_headers([listing], scratch, known=known, readers=readers, limits=limits, fingerprint=fingerprint)
    found = find_series(headers, scratch, limits)
    with open_database(scratch, 2 * found.bytes) as database, TableWriter(verdicts, VOLUME_SCHEMA) as judged:
        for piece in _pieces(_verdicts(database, found, cells, faults), ROWS):
            judged.write(volume_table(piece))
    with RowWriter(scratch) as index_rows:
        with open_database(scratch, judged.bytes) as database:
            view_tables(database, "cells", cells)
            view_tables(database, "verdicts", verdicts)
            for groups in _pieces(_kept_rows(given), ROWS):
                _add_rows(database, groups, base, index_rows)
        index = index_rows.finish(found.members, found.bytes, headers.path, headers.read)
    found.remove()
    for path in (given, named, cells, faults, verdicts):
        path.unlink()
    return index


_TABLES: Final = ("rows", "named", "cells", "listed", "faults", "verdicts")


def _read_table(table_uri: str, base: str, scratch: Path, given: Path, named: Path, cells: Path) -> None:
    """Write the table's rows, kept so that it is read once, and the places that it names, numbered, each once."""
    with TableWriter(given, _ROW_SCHEMA) as rows, TableWriter(named, _NAMED_SCHEMA) as places:
        for groups in _pieces(rows_by_key(table_uri, scratch, stem_of), ROWS):
            rows.write(pa.Table.from_pylist([asdict(row) for group in groups for row in group], _ROW_SCHEMA))
            uris = [uri for group in groups for uri in _uris_to_look_up(group, base)]
            places.write(pa.table([uris], schema=_NAMED_SCHEMA))
    with open_database(scratch, 2 * places.bytes) as database, TableWriter(cells, _CELL_SCHEMA) as writer:
        view_tables(database, "named", named)
        numbered = "SELECT row_number() OVER (ORDER BY uri) - 1 AS root, uri FROM (SELECT DISTINCT uri FROM named)"
        for batch in database.sql(f"SELECT * FROM ({numbered}) ORDER BY root").to_arrow_reader(ROWS):  # noqa: S608
            writer.write(pa.Table.from_batches([batch]).cast(_CELL_SCHEMA))


def _kept_rows(path: Path) -> Iterator[list[TableRow]]:
    rows = (TableRow(**row) for table in table_batches(path, _ROW_SCHEMA) for row in table.to_pylist())
    for _, members in groupby(rows, key=lambda row: row.unique_key):
        yield list(members)


def _uris_to_look_up(rows: Sequence[TableRow], base: str) -> list[str]:
    sources, fault = row_sources(rows, base)
    return [] if fault else [source.uri for source in sources if source.uri is not None]


# Cells


class _Cell(NamedTuple):
    root: int
    uri: str


def _cells(path: Path) -> Iterator[_Cell]:
    for table in table_batches(path, _CELL_SCHEMA):
        yield from map(_Cell, table["root"].to_pylist(), table["uri"].to_pylist())


def _look_up(cells: Path, limits: VolumeLimits, faulty: TableWriter) -> Iterator[tuple[int, StoredFile]]:
    """The files of all cells with the cells' numbers; what cannot be looked up is written to ``faulty``."""
    with ThreadPoolExecutor(_LOOK_UPS) as pool:
        for batch in _pieces(_cells(cells), _LOOK_UPS):
            faults: list[FoundVolume] = []
            outcomes = pool.map(lambda cell: _files_of_cell(cell.uri, limits), batch)
            for cell, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, PairError):
                    faults.append(_fault(cell, outcome.code, outcome.detail))
                else:
                    yield from ((cell.root, file) for file in outcome)
            faulty.write(volume_table(faults))


def _files_of_cell(uri: str, limits: VolumeLimits) -> list[StoredFile] | PairError:
    try:
        return [stat_file(uri)]
    except PairError as error:
        if error.code != Code.MISSING_SOURCE or _is_nifti(uri) or "\0" in uri:
            return error
    try:
        files = list(islice((file for file in list_files(uri) if not _is_nifti(file.relative)), limits.files + 1))
    except StorageError as error:
        if error.__cause__ is not None and is_missing(error.__cause__):
            return PairError(Code.MISSING_SOURCE)
        if error.__cause__ is not None and is_refusal(error.__cause__):
            return PairError(Code.PERMISSION_DENIED, "a folder")
        raise
    if len(files) > limits.files:
        return PairError(Code.TOO_LARGE, f"a folder of more than {limits.files} files")
    return files or PairError(Code.MISSING_SOURCE, "the folder is empty")


def _is_nifti(path: str) -> bool:
    return split_suffix(path)[1].lower() in NIFTI_SUFFIXES


def _fault(cell: _Cell, code: Code, detail: str) -> FoundVolume:
    return FoundVolume(cell.root, Kind.NONE, "", cell.uri, "", 0, code=code, detail=detail)


def _verdicts(
    database: duckdb.DuckDBPyConnection, found: FoundSeries, cells: Path, faults: Path
) -> Iterator[FoundVolume]:
    """The one volume of each cell, by the number of the cell; a code says that there is none."""
    with database.cursor() as beside:
        lost = (volume_of_row(row) for table in table_batches(faults, VOLUME_SCHEMA) for row in table.to_pylist())
        volumes, others = found.in_order(database, "root"), found.other_files(beside, "root")
        merged: Iterator[_Found] = heapq.merge(_cells(cells), lost, volumes, others, key=lambda entry: entry.root)
        for _, members in groupby(merged, key=lambda entry: entry.root):
            yield _verdict(list(members))


_Found = _Cell | FoundVolume | OtherFile


def _verdict(members: Sequence[_Found]) -> FoundVolume:
    (cell,) = [member for member in members if isinstance(member, _Cell)]
    volumes = [member for member in members if isinstance(member, FoundVolume)]
    if len(volumes) == 1:
        return volumes[0]
    if volumes:
        together = source_of(volumes)
        return replace(
            _fault(cell, Code.AMBIGUOUS_PAIR, f"{len(volumes)} DICOM series in one folder"),
            kind=Kind.DICOM, fingerprint=together.fingerprint or "", size=together.size or 0,
        )  # fmt: skip
    for other in members:
        if isinstance(other, OtherFile) and other.source.uri == cell.uri:
            # Left alone among others by its name, but this one was named on purpose.
            is_other = other.code == Code.NOT_IMAGE
            code, detail = (
                (Code.NOT_DICOM, "nor does its name end as that of a NIfTI file")
                if is_other
                else (other.code, other.detail)
            )
            fault = _fault(cell, code, detail)
            return replace(fault, fingerprint=other.source.fingerprint or "", size=other.source.size or 0)
    return _fault(cell, Code.MISSING_SOURCE, "the folder holds no DICOM series")


# Rows


def _add_rows(
    database: duckdb.DuckDBPyConnection, groups: Sequence[Sequence[TableRow]], base: str, index_rows: RowWriter
) -> None:
    uris = sorted({uri for rows in groups for uri in _uris_to_look_up(rows, base)})
    database.register("wanted", pa.table([uris], schema=_NAMED_SCHEMA))
    query = "SELECT cells.uri AS cell, verdicts.* FROM wanted JOIN cells USING (uri) JOIN verdicts USING (root)"
    volumes = {row.pop("cell"): volume_of_row(row) for row in database.sql(query).to_arrow_table().to_pylist()}
    database.unregister("wanted")
    for rows in groups:
        sources, fault = row_sources(rows, base)
        if fault is not None:
            index_rows.add_other(rows[0].unique_key, sources, *fault)
        else:
            first, second = (volumes[source.uri or ""] for source in sources)
            index_rows.add_pair(rows[0].unique_key, first, second)


_T = TypeVar("_T")


def _pieces(entries: Iterable[_T], count: int) -> Iterator[list[_T]]:
    waiting = iter(entries)
    while piece := list(islice(waiting, count)):
        yield piece

"""The pairs that a table names, with their files looked up."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tasks.codes import Code, ConfigurationError, PairError
from tasks.index import (
    SIDES,
    UNUSABLE_PREFIX,
    EmptyArchive,
    Fingerprint,
    Index,
    IndexedPair,
    Source,
    content_fingerprint,
    index_table_of,
    is_usable,
    made_usable,
    make_row,
    split_suffix,
    together,
)
from tasks.schemas import INDEX_SCHEMA
from tasks.scratch import open_database, view_tables
from tasks.storage import absolute, stat_file
from tasks.tables import ROWS, TableWriter, fetch_needed

_COLUMNS: Final = ("first", "second", "key")
_STATS: Final = 32
"""Files of a table looked up at a time; what counts is the latency of object stores."""
_PART: Final = 64
"""Rows that a thread looks up in one go; a call per row would cost local tables more than the looking up."""

_ROW_SCHEMA: Final = pa.schema([
    pa.field("unique_key", pa.string()),
    pa.field("number", pa.int64()),
    *(pa.field(name, pa.string()) for name in _COLUMNS),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table of pairs: its key, or one made up, its number, counted from 1, and its cells."""

    unique_key: str
    number: int
    first: str | None
    second: str | None
    key: str | None


def index_table(table_uri: str, scratch: Path, fingerprint: Fingerprint = "stat") -> Index:
    """The pairs of a CSV (commas, UTF-8) or Parquet table with columns ``first``, ``second`` and, optionally, ``key``.

    Cells are absolute paths, URLs, or paths relative to the table's folder. Without a key it is the path of the
    first source as the table has it, less its suffix and what leads up to it ("/", "../", "s3://"). Other columns
    are ignored. Codes: AMBIGUOUS_PAIR (rows of one key become one), MISSING_SOURCE (also an empty cell),
    NAME_UNUSABLE (a key such as ../x), PERMISSION_DENIED, READ_FAILED.

    Raises:
        EmptyArchive: the table has no rows.
        ConfigurationError: it is neither CSV nor Parquet, or lacks a column.
        StorageError: it cannot be read.
    """
    path = scratch / "index.parquet"
    with TableWriter(path, INDEX_SCHEMA) as index:
        for pairs in _look_up(rows_by_key(table_uri, scratch), absolute(table_uri), fingerprint):
            index.write(index_table_of(pairs))
    return Index(path, index.rows)


def rows_by_key(
    table_uri: str, scratch: Path, stem: Callable[[str], str] = lambda path: split_suffix(path)[0]
) -> Iterator[list[TableRow]]:
    """The rows of a table, those of one key together, in the order of the keys and then of the table.

    Args:
        stem: what becomes a key of a path, where the table has none.

    Raises:
        EmptyArchive: while iterating, like the others: the table has no rows.
        ConfigurationError: it is neither CSV nor Parquet, or lacks a column.
        StorageError: it cannot be read.
    """
    rows = scratch / "table.parquet"
    with TableWriter(rows, _ROW_SCHEMA) as writer:
        for table in _numbered(table_uri, fetch_needed(table_uri, scratch), stem):
            writer.write(table)
    if not writer.rows:
        raise _no_pairs(table_uri)
    with open_database(scratch, writer.bytes) as database:
        view_tables(database, "given", rows)
        in_order = database.sql("SELECT * FROM given ORDER BY unique_key, number")
        found = (TableRow(**row) for batch in in_order.to_arrow_reader(ROWS) for row in batch.to_pylist())
        for _, members in groupby(found, key=lambda row: row.unique_key):
            yield list(members)


def first_uris(table_uri: str, scratch: Path, rows: int) -> list[str]:
    """What the first rows of a table name, not looked up; no more of the table is read.

    Raises:
        EmptyArchive: the table has no rows.
        ConfigurationError: it is neither CSV nor Parquet, or lacks a column.
        StorageError: it cannot be read.
    """
    tables = (table for table in _read_cells(table_uri, fetch_needed(table_uri, scratch)) if len(table))
    table = next(tables, None)
    if table is None:
        raise _no_pairs(table_uri)
    cells = (cell for side in SIDES for cell in table[side].slice(0, rows).to_pylist() if cell)
    return [_resolve(cell, absolute(table_uri)) for cell in cells]


def _no_pairs(table_uri: str) -> EmptyArchive:
    return EmptyArchive(f"no pairs in {table_uri}")


def _numbered(uri: str, path: Path, stem: Callable[[str], str]) -> Iterator[pa.Table]:
    number = 0
    for table in _read_cells(uri, path):
        cells = [table[name].to_pylist() for name in _COLUMNS]
        numbers = range(number + 1, number + 1 + len(table))
        number += len(table)
        keys = [_unique_key(stem, *row) for row in zip(numbers, *cells, strict=True)]
        yield pa.table([keys, list(numbers), *cells], schema=_ROW_SCHEMA)


def _read_cells(uri: str, path: Path) -> Iterator[pa.Table]:
    """The columns ``_COLUMNS``, some thousands of rows at a time."""
    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        batches = _parquet_batches(uri, path) if is_parquet else _csv_batches(uri, path)
        for batch in batches:
            names = batch.schema.names
            yield pa.table({
                name: batch[name].cast(pa.string()) if name in names else pa.nulls(len(batch), pa.string())
                for name in _COLUMNS
            })  # fmt: skip
    except (pa.ArrowException, OSError) as error:
        # Without what the error quotes: cells name files, and files name persons.
        raise ConfigurationError(f"{uri} is neither a CSV nor a Parquet table of texts ({_figures(error)})") from None


def _figures(error: Exception) -> str:
    """Where a table is wrong, by numbers."""
    found = re.findall(r"Row #\d+|Expected \d+ columns, got \d+", str(error))
    return ", ".join((type(error).__name__, *found))


def _parquet_batches(uri: str, path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(ROWS, columns=_wanted(uri, file.schema_arrow.names), use_threads=False)


def _csv_batches(uri: str, path: Path) -> Iterator[pa.RecordBatch]:
    with pyarrow.csv.open_csv(path) as reader:
        wanted = _wanted(uri, reader.schema.names)
    # Text as it is written: keys such as 0001 are no numbers, and a file may be called NA.
    options = pyarrow.csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    with pyarrow.csv.open_csv(path, convert_options=options) as reader:
        yield from reader


def _wanted(uri: str, names: Sequence[str]) -> list[str]:
    wrong = [name for name in _COLUMNS if names.count(name) != 1 and (name != "key" or names.count(name) > 1)]
    if wrong:
        # Not repeated: the first line of a table without a header names files.
        raise ConfigurationError(
            f"{uri} needs one column {' and one '.join(wrong)}; check its first line, which names {len(names)} columns"
        )
    return [name for name in _COLUMNS if name in names]


def _unique_key(stem: Callable[[str], str], number: int, first: str | None, _: str | None, key: str | None) -> str:
    """The key of the pair, or one made up."""
    if key:
        return key if is_usable(key) else made_usable(key)
    if not first:
        return f"row-{number}"
    path = posixpath.normpath(first.partition("://")[2] or first)
    while path.startswith(("/", "../")):
        path = path.partition("/")[2]
    made = stem(path)
    return made if is_usable(made) else made_usable(first)


def _look_up(groups: Iterable[list[TableRow]], table_uri: str, fingerprint: Fingerprint) -> Iterator[list[IndexedPair]]:
    def look_up(part: Sequence[Sequence[TableRow]]) -> list[IndexedPair]:
        return [_table_pair(rows, table_uri, fingerprint) for rows in part]

    waiting = iter(groups)
    with ThreadPoolExecutor(_STATS) as pool:
        while batch := list(islice(waiting, ROWS)):
            parts = [batch[start : start + _PART] for start in range(0, len(batch), _PART)]
            yield from pool.map(look_up, parts)


def _table_pair(rows: Sequence[TableRow], table_uri: str, fingerprint: Fingerprint) -> IndexedPair:
    sources, fault = row_sources(rows, table_uri)
    if fault is not None:
        return make_row(rows[0].unique_key, sources, *fault)
    for place, source in enumerate(sources):
        try:
            sources[place] = _stat(source.uri or "", fingerprint)
        except PairError as error:
            where = f"row {rows[0].number} of the table, {SIDES[place]}"
            fault = fault or (error.code, f"{where}: {error.detail}")
    return make_row(rows[0].unique_key, sources, *(fault or ()))


def row_sources(rows: Sequence[TableRow], table_uri: str) -> tuple[list[Source], tuple[Code, str] | None]:
    """The places that rows of one key name, not looked up, and why they are no pair: code and detail.

    Codes: AMBIGUOUS_PAIR (several rows), MISSING_SOURCE (an empty cell), NAME_UNUSABLE.
    """
    row = rows[0]
    cells = (row.first, row.second)
    sources = [Source(_resolve(cell, table_uri) if cell else None) for cell in cells]
    if len(rows) > 1:
        content = "\0".join(f"{row.first}\0{row.second}" for row in rows)
        sources[0] = Source(sources[0].uri, together(len(rows), content))
        numbers = ", ".join(str(row.number) for row in rows)
        return sources, (Code.AMBIGUOUS_PAIR, f"rows {numbers} of the table have this key")
    where = f"row {row.number} of the table"
    for side, cell in zip(SIDES, cells, strict=True):
        if not cell:
            return sources, (Code.MISSING_SOURCE, f"{where} has no {side}")
    if row.unique_key != row.key and row.unique_key.startswith(UNUSABLE_PREFIX):
        return sources, (Code.NAME_UNUSABLE, where)
    return sources, None


def _stat(uri: str, fingerprint: Fingerprint) -> Source:
    file = stat_file(uri)
    version = content_fingerprint(file) if fingerprint == "content" else file.fingerprint
    return Source(file.uri, version, file.size, file.modified)


def _resolve(cell: str, table_uri: str) -> str:
    if "://" in cell or cell.startswith(("/", "~/")):
        return cell
    scheme, separator, path = table_uri.rpartition("://")
    return scheme + separator + posixpath.normpath(posixpath.join(posixpath.dirname(path), cell))

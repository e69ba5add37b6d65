"""The columns of what a run writes down, with their version: one Parquet schema per kind of row."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

import pyarrow as pa

from ddfm_core.metrics import METRIC_NAMES
from tasks.rows import ManifestRow, ResultRow, SliceRow, SourceRow

SCHEMA_VERSION: Final = 4

_ARROW_TYPES: Final[Mapping[Any, pa.DataType]] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    datetime: pa.timestamp("us", "UTC"),
}


def _schema(kind: str, columns: Sequence[tuple[str, pa.DataType, bool]]) -> pa.Schema:
    metadata = {"ddfm_schema": kind, "ddfm_schema_version": str(SCHEMA_VERSION)}
    return pa.schema([pa.field(name, dtype, nullable) for name, dtype, nullable in columns], metadata=metadata)


def _columns_of(row: type) -> list[tuple[str, pa.DataType, bool]]:
    """The columns of a row's class: one per field, and one per metric where it has them."""
    hints = get_type_hints(row, include_extras=True)
    columns = [(item.name, *_column_type(hints[item.name])) for item in fields(row) if item.name != "metrics"]
    if "metrics" in hints:
        columns += [(name, pa.float64(), True) for name in METRIC_NAMES]
    return columns


def _column_type(hint: Any) -> tuple[pa.DataType, bool]:
    """The type of a column, and whether it may be null."""
    if isinstance(hint, types.UnionType) or (get_origin(hint) is not None and type(None) in get_args(hint)):
        (inner,) = (one for one in get_args(hint) if one is not type(None))
        return _column_type(inner)[0], True
    if get_origin(hint) is Annotated:
        return get_args(hint)[1], False
    if get_origin(hint) is tuple:
        return pa.list_(_column_type(get_args(hint)[0])[0]), False
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return pa.string(), False
    return _ARROW_TYPES[hint], False


MANIFEST_SCHEMA: Final = _schema("manifest", _columns_of(ManifestRow))
"""The plan: the pairs of a run, by shard, chunk and key. A ``code`` says why a pair is not to be fused at all."""

RESULT_SCHEMA: Final = _schema("result", _columns_of(ResultRow))
"""What became of each pair."""

SLICES_SCHEMA: Final = _schema("slices", _columns_of(SliceRow))
"""The slices of fused volumes, by key and place."""

PRIVATE_SCHEMA: Final = _schema("private_sources", _columns_of(SourceRow))
"""The private table of a run: from keys to files, by key."""

INDEX_SCHEMA: Final = _schema(
    "index",
    [
        ("pair_key", pa.string(), False),
        ("first_uri", pa.string(), True),
        ("second_uri", pa.string(), True),
        ("first_fingerprint", pa.string(), True),
        ("second_fingerprint", pa.string(), True),
        ("first_size", pa.int64(), True),
        ("second_size", pa.int64(), True),
        ("code", pa.string(), True),
        ("detail", pa.string(), False),
        ("modified", pa.float64(), False),
    ],
)
"""What an archive holds, by key; the columns are those of :class:`~tasks.index.IndexedPair`."""

VANISHED_SCHEMA: Final = _schema(
    "vanished", [("pair_key", pa.string(), False), ("run_id", pa.string(), False), ("output_uri", pa.string(), True)]
)
"""Current rows whose sources are gone, by key: the run that made the row, and its picture."""

BROKEN_SCHEMA: Final = _schema(
    "broken",
    [
        ("pair_key", pa.string(), False),
        ("method", pa.string(), False),
        ("fault", pa.string(), False),
        ("detail", pa.string(), False),
    ],
)
"""What a verification found, a row per fault; ``detail`` has the run of a fault in its rows."""

PLAN_COLUMNS: Final = (
    "pair_key", "run_id", "status", "code", "first_fingerprint", "second_fingerprint", "config_hash", "attempt",
    "output_uri",
)  # fmt: skip
"""What a plan needs to know of earlier rows."""


def result_table(rows: Sequence[ResultRow]) -> pa.Table:
    """Rows as a table of ``RESULT_SCHEMA``.

    Raises:
        ValueError: a value does not fit its column (pyarrow's errors are of this kind, too, or TypeErrors).
    """
    return _table_of_rows(rows, ResultRow, RESULT_SCHEMA)


def slices_table(rows: Sequence[SliceRow]) -> pa.Table:
    """Rows as a table of ``SLICES_SCHEMA``; errors as for :func:`result_table`."""
    return _table_of_rows(rows, SliceRow, SLICES_SCHEMA)


def private_table(rows: Sequence[SourceRow]) -> pa.Table:
    """Rows as a table of ``PRIVATE_SCHEMA``; errors as for :func:`result_table`."""
    return _table_of_rows(rows, SourceRow, PRIVATE_SCHEMA)


def _table_of_rows(rows: Sequence[Any], kind: type, schema: pa.Schema) -> pa.Table:
    columns: dict[str, list[Any]] = {
        item.name: [getattr(row, item.name) for row in rows] for item in fields(kind) if item.name != "metrics"
    }
    if METRIC_NAMES[0] in schema.names:
        columns |= {name: [row.metrics.get(name) for row in rows] for name in METRIC_NAMES}
    return table_of(columns, schema)


def table_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """A table of exactly the schema's columns; ``pa.table`` would drop unknown ones and let nulls pass.

    Raises:
        ValueError: columns are missing, unknown, or null where they must not be.
    """
    if columns.keys() != set(schema.names):
        raise ValueError(f"missing or unknown columns: {', '.join(sorted(columns.keys() ^ set(schema.names)))}")
    arrays = [pa.array(columns[item.name], item.type) if isinstance(columns[item.name], list) else columns[item.name]
              for item in schema]  # fmt: skip
    table = pa.table(arrays, schema=schema)
    for item in schema:
        if not item.nullable and table[item.name].null_count:
            raise ValueError(f"column {item.name}: {table[item.name].null_count} rows have no value")
    return table


def check_schema(found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a table that another version of the program, or another program, wrote.

    Raises:
        ValueError: names what differs.
    """
    metadata = found.metadata or {}
    for key, value in expected.metadata.items():
        if metadata.get(key) != value:
            got = metadata.get(key, b"none").decode(errors="replace")
            raise ValueError(f"{key.decode()} is {got}, expected {value.decode()}")
    if not found.equals(expected):
        described = [
            {f"{item.name}: {item.type}{'' if item.nullable else ' not null'}" for item in schema}
            for schema in (found, expected)
        ]
        raise ValueError(f"columns differ: {', '.join(sorted(described[0] ^ described[1])) or 'their order'}")

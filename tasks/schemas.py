"""The columns of what a run writes down, with their version, and the rows that they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code, Status

SCHEMA_VERSION: Final = 2


def _schema(kind: str, columns: Sequence[tuple[str, pa.DataType, bool]]) -> pa.Schema:
    metadata = {"ddfm_schema": kind, "ddfm_schema_version": str(SCHEMA_VERSION)}
    return pa.schema([pa.field(name, dtype, nullable) for name, dtype, nullable in columns], metadata=metadata)


_MANIFEST_COLUMNS: Final = (
    ("shard_id", pa.string(), False),
    ("chunk_id", pa.string(), False),
    ("pair_key", pa.string(), False),
    ("first_uri", pa.string(), True),
    ("second_uri", pa.string(), True),
    ("first_fingerprint", pa.string(), True),
    ("second_fingerprint", pa.string(), True),
    ("first_size", pa.int64(), True),
    ("second_size", pa.int64(), True),
    ("code", pa.string(), True),
    ("message", pa.string(), False),
    ("attempt", pa.int32(), False),
)
MANIFEST_SCHEMA: Final = _schema("manifest", _MANIFEST_COLUMNS)
"""The plan: the pairs of a run, by shard, chunk and key. A ``code`` says why a pair is not to be fused at all."""

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

_RESULT_COLUMNS: Final = (
    ("run_id", pa.string(), False),
    ("shard_id", pa.string(), False),
    ("chunk_id", pa.string(), False),
    ("pair_key", pa.string(), False),
    ("method", pa.string(), False),
    ("dataset", pa.string(), False),
    ("modality_first", pa.string(), False),
    ("modality_second", pa.string(), False),
    ("first_uri", pa.string(), True),
    ("second_uri", pa.string(), True),
    ("first_fingerprint", pa.string(), True),
    ("second_fingerprint", pa.string(), True),
    ("n_slices", pa.int32(), True),
    ("height", pa.int32(), True),
    ("width", pa.int32(), True),
    ("status", pa.string(), False),
    ("code", pa.string(), True),
    ("message", pa.string(), False),
    ("attempt", pa.int32(), False),
    ("lock_token", pa.int64(), False),
    ("output_uri", pa.string(), True),
    ("output_sha256", pa.string(), True),
    ("normalisation_first_rule", pa.string(), True),
    ("normalisation_first_lo", pa.float64(), True),
    ("normalisation_first_hi", pa.float64(), True),
    ("normalisation_second_rule", pa.string(), True),
    ("normalisation_second_lo", pa.float64(), True),
    ("normalisation_second_hi", pa.float64(), True),
    ("registration_method", pa.string(), True),
    ("registration_decision", pa.string(), True),
    ("seed", pa.int64(), False),
    ("steps", pa.int32(), False),
    ("mode", pa.string(), False),
    ("prior_sha256", pa.string(), False),
    ("config_hash", pa.string(), False),
    ("algorithm_version", pa.string(), False),
    ("package_version", pa.string(), False),
    ("device", pa.string(), False),
    ("seconds_read", pa.float64(), True),
    ("seconds_normalise", pa.float64(), True),
    ("seconds_fuse", pa.float64(), True),
    ("seconds_measure", pa.float64(), True),
    ("seconds_publish", pa.float64(), True),
    ("finished_at", pa.timestamp("us", "UTC"), False),
)
RESULT_SCHEMA: Final = _schema("result", [*_RESULT_COLUMNS, *((name, pa.float64(), True) for name in METRIC_NAMES)])
"""What became of each pair; the columns are those of :class:`ResultRow`, then one per metric."""

PLAN_COLUMNS: Final = (
    "pair_key", "run_id", "status", "code", "first_fingerprint", "second_fingerprint", "config_hash", "attempt",
    "output_uri",
)  # fmt: skip
"""What a plan needs to know of earlier rows."""


@dataclass(frozen=True)
class ManifestRow:
    """A pair of the plan; the columns of ``MANIFEST_SCHEMA``.

    Attributes:
        pair_key: unique in the archive, with "/" between its parts; names the result.
        first_uri: None where that side has no file, like its fingerprint and its size in bytes.
        code: why the pair is not to be fused, None for one that is; ``message`` is its sentence.
        attempt: 1, or one more than the row of a failure that is tried again.
    """

    shard_id: str
    chunk_id: str
    pair_key: str
    first_uri: str | None
    second_uri: str | None
    first_fingerprint: str | None
    second_fingerprint: str | None
    first_size: int | None
    second_size: int | None
    code: Code | None
    message: str
    attempt: int


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """What became of a pair; the columns of ``RESULT_SCHEMA``.

    Attributes:
        method: the job's name of its configuration; with ``pair_key`` it names the picture.
        lock_token: of the lock of the destination under which the row was made; a greater one is a later run.
        normalisation_first_lo: stored value that became -1, as ``_hi`` became 1.
        finished_at: with its time zone.
        metrics: all of ``METRIC_NAMES`` for a row that is ok, else none.

    Raises:
        ValueError: status, code, metrics or time do not fit together.
    """

    run_id: str
    shard_id: str
    chunk_id: str
    pair_key: str
    method: str
    dataset: str
    modality_first: str
    modality_second: str
    first_uri: str | None
    second_uri: str | None
    first_fingerprint: str | None
    second_fingerprint: str | None
    n_slices: int | None = None
    height: int | None = None
    width: int | None = None
    status: Status
    code: Code | None = None
    message: str = ""
    attempt: int
    lock_token: int
    output_uri: str | None = None
    output_sha256: str | None = None
    normalisation_first_rule: str | None = None
    normalisation_first_lo: float | None = None
    normalisation_first_hi: float | None = None
    normalisation_second_rule: str | None = None
    normalisation_second_lo: float | None = None
    normalisation_second_hi: float | None = None
    registration_method: str | None = None
    registration_decision: str | None = None
    seed: int
    steps: int
    mode: str
    prior_sha256: str
    config_hash: str
    algorithm_version: str
    package_version: str
    device: str
    seconds_read: float | None = None
    seconds_normalise: float | None = None
    seconds_fuse: float | None = None
    seconds_measure: float | None = None
    seconds_publish: float | None = None
    finished_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        status = Status.OK if self.code is None else self.code.status
        if self.status != status:
            raise ValueError(f"{self.pair_key}: the status of code {self.code} is {status}, not {self.status}")
        expected = set(METRIC_NAMES) if self.status == Status.OK else set()
        if self.metrics.keys() != expected:
            wrong = ", ".join(sorted(self.metrics.keys() ^ expected))
            raise ValueError(f"{self.pair_key}: metrics missing or unknown for a row that is {self.status}: {wrong}")
        if self.finished_at.tzinfo is None:
            raise ValueError(f"{self.pair_key}: finished_at has no time zone")


def result_table(rows: Sequence[ResultRow]) -> pa.Table:
    """Rows as a table of ``RESULT_SCHEMA``.

    Raises:
        ValueError: a value does not fit its column (pyarrow's errors are of this kind, too, or TypeErrors).
    """
    columns: dict[str, list[Any]] = {
        item.name: [getattr(row, item.name) for row in rows] for item in fields(ResultRow) if item.name != "metrics"
    }
    columns |= {name: [row.metrics.get(name) for row in rows] for name in METRIC_NAMES}
    return table_of(columns, RESULT_SCHEMA)


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

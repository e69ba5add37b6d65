"""What a run writes down: its plan, one row per pair, and the protocol by which a chunk counts as done.

``<dest>/_ddfm/runs/<run_id>/`` holds config.json, then manifest.parquet (with it the run exists, and it never
changes), then one results/<shard>-<chunk>.parquet per finished chunk, then summary.json (with it the run is finished).
Each is written whole or not at all, so that these names alone say how far a run is, after any kill.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code, Status
from tasks.storage import OWN_FOLDER, StorageError, exists, join, list_names, read_needed, write_atomic

SCHEMA_VERSION: Final = 1

_READERS: Final = 16
"""Files read at a time; what counts is the latency of object stores."""
_FILES_IN_MEMORY: Final = 1024
_NAMED_AT_MOST: Final = 5
"""Pairs that an error message names."""


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
    "pair_key", "status", "code", "first_fingerprint", "second_fingerprint", "config_hash", "attempt"
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


# The run's folder


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it writes down.

    Attributes:
        dest: the destination's path or URL.
        run_id: names sort by the time at which the runs began.
    """

    dest: str
    run_id: str

    @property
    def uri(self) -> str:
        """The run's folder."""
        return join(self.dest, OWN_FOLDER, "runs", self.run_id)

    @property
    def config_uri(self) -> str:
        """The effective configuration, written first."""
        return join(self.uri, "config.json")

    @property
    def manifest_uri(self) -> str:
        """The plan; immutable, and with it the run exists."""
        return join(self.uri, "manifest.parquet")

    @property
    def results_uri(self) -> str:
        """The folder of the committed chunks."""
        return join(self.uri, "results")

    def chunk_uri(self, shard_id: str, chunk_id: str) -> str:
        """The rows of one chunk, its commit mark."""
        return join(self.results_uri, f"{shard_id}-{chunk_id}.parquet")

    @property
    def summary_uri(self) -> str:
        """The outcome, written last: with it the run is finished."""
        return join(self.uri, "summary.json")

    @property
    def report_uri(self) -> str:
        """The folder of pages and plots."""
        return join(self.uri, "report")

    @property
    def metrics_uri(self) -> str:
        """All rows of the finished run in one file, beside those of the other runs."""
        return join(self.dest, OWN_FOLDER, "metrics", f"{self.run_id}.parquet")


def new_run(dest: str, now: datetime | None = None) -> RunFolder:
    """A folder for a new run; nothing is written yet. Its id is the UTC time in microseconds and a random part."""
    now = (now or datetime.now(UTC)).astimezone(UTC)
    return RunFolder(dest, f"{now:%Y%m%dT%H%M%S-%f}-{secrets.token_hex(3)}")


def list_runs(dest: str) -> list[RunFolder]:
    """All runs of a destination, oldest first, whatever became of them.

    Raises:
        StorageError: the destination cannot be read.
    """
    return [RunFolder(dest, name) for name in list_names(join(dest, OWN_FOLDER, "runs"))]


def unfinished_run(dest: str) -> RunFolder | None:
    """The newest run when it has a plan but no summary.

    Older ones are passed over: a newer plan took account of what they committed, and rows that they gained
    now would look older than they are. A run killed before it had a plan is no run.

    Raises:
        StorageError: the destination cannot be read.
    """
    for run in reversed(list_runs(dest)):
        if exists(run.manifest_uri):
            return None if exists(run.summary_uri) else run
    return None


def finish_run(run: RunFolder, summary: Mapping[str, Any]) -> None:
    """Write summary.json; nothing of the run may be written after it.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(run.summary_uri, (json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())


# The plan


def write_manifest(run: RunFolder, manifest: pa.Table) -> None:
    """Write the plan.

    Raises:
        StorageError: it cannot be written, or the run has one already, which never changes.
        ValueError: the table is not of ``MANIFEST_SCHEMA``.
    """
    _check_schema(manifest.schema, MANIFEST_SCHEMA)
    if exists(run.manifest_uri):
        raise StorageError(run.manifest_uri, "the run has its plan already", "resume the run, or begin a new one")
    _write_table(run.manifest_uri, MANIFEST_SCHEMA, [manifest], large=True)


def read_manifest(run: RunFolder, shard_id: str | None = None) -> pa.Table:
    """The plan, or the rows of one shard, by shard, chunk and key.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    filters = None if shard_id is None else pc.field("shard_id") == shard_id
    return _read_table(run.manifest_uri, MANIFEST_SCHEMA, filters=filters)


def manifest_rows(manifest: pa.Table) -> Iterator[ManifestRow]:
    """The rows of a plan, a few thousand in memory at a time."""
    for batch in manifest.select(MANIFEST_SCHEMA.names).to_batches(max_chunksize=4096):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row = dict(zip(MANIFEST_SCHEMA.names, values, strict=True))
            yield ManifestRow(**row | {"code": row["code"] and Code(row["code"])})


# Chunks


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
            f"missing, strange or double: {_few(sorted(wrong))}"
        )
    table = result_table([by_key[key] for key in members])
    _write_table(run.chunk_uri(shard_id, chunk_id), RESULT_SCHEMA, [table], large=False)


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


def read_results(run: RunFolder, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows that were committed so far, by shard and chunk.

    Raises:
        StorageError: a file cannot be read, is damaged or of another schema.
    """
    return pa.concat_tables([_empty(RESULT_SCHEMA, columns), *_result_parts(run, columns)]).combine_chunks()


def _result_parts(run: RunFolder, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """The rows of many chunks at a time: a table costs kilobytes per column, however few its rows."""
    uris = [run.chunk_uri(*place) for place in sorted(committed_chunks(run))]
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(uris), _FILES_IN_MEMORY):
            files = uris[start : start + _FILES_IN_MEMORY]
            tables = list(pool.map(lambda uri: _read_table(uri, RESULT_SCHEMA, columns), files))
            yield pa.concat_tables(tables).combine_chunks()


# All of a run, all runs


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


def reconcile(run: RunFolder) -> Reconciliation:
    """Prove that each pair of the plan has one row, and no other pair has any.

    Raises:
        ReconcileError: names what is missing, double or strange.
        StorageError: a file of the run cannot be read or is damaged.
    """
    planned = _read_table(run.manifest_uri, MANIFEST_SCHEMA, ["pair_key"])["pair_key"].combine_chunks()
    results = read_results(run, ["pair_key", "status", "code"])
    found = results["pair_key"].combine_chunks()
    faults = {
        "have no row": planned.filter(pc.invert(pc.is_in(planned, value_set=found))),
        "have several rows": _repeated(found),
        "were never planned": found.filter(pc.invert(pc.is_in(found, value_set=planned))),
    }
    sentences = [f"{len(keys)} {fault}: {_few(keys)}" for fault, keys in faults.items() if len(keys)]
    if sentences:
        raise ReconcileError(f"run {run.run_id}, {len(planned)} pairs planned: {'; '.join(sentences)}")
    statuses = _counts(results["status"])
    codes = sorted(_counts(results["code"].drop_null()).items(), key=lambda item: (-item[1], item[0]))
    return Reconciliation(
        pairs=len(planned),
        statuses={status: statuses.get(status, 0) for status in Status},
        codes={Code(code): count for code, count in codes},
    )


def _repeated(keys: pa.Array) -> pa.Array:
    counts = pc.value_counts(keys)
    return counts.field("values").filter(pc.greater(counts.field("counts"), 1))


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}


def _few(keys: Sequence[Any]) -> str:
    named = ", ".join(str(key) for key in keys[:_NAMED_AT_MOST])
    return named + (" …" if len(keys) > _NAMED_AT_MOST else "")


def compact(run: RunFolder) -> str:
    """Write all rows of the run as one file beside those of the other runs, the table that people query.

    Returns:
        The file's URI.

    Raises:
        StorageError: a file cannot be read or written.
    """
    _write_table(run.metrics_uri, RESULT_SCHEMA, _result_parts(run, None), large=True)
    return run.metrics_uri


def current_rows(dest: str, method: str | None = None, columns: Sequence[str] | None = PLAN_COLUMNS) -> pa.Table:
    """The newest row of each pair, over all runs, finished or not, by key.

    A run is newer than another when its id is greater. Methods are kept apart: a pair fused by two methods under
    one destination has a row for each.

    Args:
        dest: the destination; it may have no runs yet.
        method: only rows of this method.
        columns: those to return, None for all.

    Raises:
        StorageError: a file cannot be read, is damaged or of another schema.
    """
    wanted = list(RESULT_SCHEMA.names if columns is None else columns)
    needed = list(dict.fromkeys([*wanted, "pair_key", "method"]))
    names = list_names(join(dest, OWN_FOLDER, "metrics"))
    compacted = {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}
    runs = {run.run_id: run for run in list_runs(dest)} | {name: RunFolder(dest, name) for name in compacted}

    def rows_of(run: RunFolder) -> pa.Table:
        if run.run_id in compacted:
            table = _read_table(run.metrics_uri, RESULT_SCHEMA, needed)
        else:
            table = read_results(run, needed)
        return table if method is None else table.filter(pc.equal(table["method"], method))

    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(rows_of, [runs[run_id] for run_id in sorted(runs)]))
    rows = pa.concat_tables([_empty(RESULT_SCHEMA, needed), *tables]).combine_chunks()
    places = pa.table({
        "pair_key": rows["pair_key"], "method": rows["method"], "place": np.arange(len(rows))
    })  # fmt: skip
    newest = places.group_by(["pair_key", "method"]).aggregate([("place", "max")])
    newest = newest.sort_by([("pair_key", "ascending"), ("method", "ascending")])
    return rows.select(wanted).take(newest["place_max"])


# Files


def _empty(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    table = schema.empty_table()
    return table if columns is None else table.select(list(columns))


def _write_table(uri: str, schema: pa.Schema, parts: Iterable[pa.Table], large: bool) -> None:
    sink = pa.BufferOutputStream()
    # Dictionaries and zstd pay for themselves in large tables; in one of a chunk's few rows they double the time.
    options = {"compression": "zstd", "compression_level": 3} if large else {"compression": "snappy"}
    # The checksums find damage that still decodes.
    with pq.ParquetWriter(sink, schema, use_dictionary=large, write_page_checksum=True, **options) as writer:
        for part in parts:
            # Small row groups, so that a shard's reader decodes little beside its own rows.
            writer.write_table(part, row_group_size=16384)
    write_atomic(uri, sink.getvalue().to_pybytes())


def _read_table(
    uri: str, schema: pa.Schema, columns: Sequence[str] | None = None, filters: pc.Expression | None = None
) -> pa.Table:
    content = pa.py_buffer(read_needed(uri))
    names = None if columns is None else list(columns)
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            _check_schema(file.schema_arrow, schema)
            if filters is None:
                return file.read(columns=names, use_threads=False)
        return pq.read_table(pa.BufferReader(content), columns=names, filters=filters, page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = f"is damaged or not a table of this program ({error})"
        raise StorageError(uri, problem, "restore the file, or move it away and run again") from error


def _check_schema(found: pa.Schema, expected: pa.Schema) -> None:
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

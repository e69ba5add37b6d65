"""What lies below a folder, with what the start of each DICOM file says: read once, kept for the next run.

A file's name only tells what is not looked into; what it is, its content says. A DICOMDIR is never followed. Of a
file its first 64 KiB are read, more only where its header is longer.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import Code, PairError
from tasks.index import Fingerprint, content_fingerprint
from tasks.read.dicom_header import HeaderCut, HeaderRefused, InstanceHeader, parse_header
from tasks.storage import ReadBudget, StorageError, StoredFile, list_files, read_start
from tasks.tables import ROWS, TableWriter, open_table, table_batches, table_metadata
from tasks.volume import VolumeLimits
from tasks.volume_index.buckets import bucket, buckets_for, deal
from tasks.volume_index.names import named_file
from tasks.volume_index.sources import Kind

READERS: Final = 16
"""Files read at a time; what counts is the latency of object stores."""

START_BYTES: Final = 64 * 2**10
"""Of a DICOM file; nearly every header ends before. Each further try reads sixteen times as much."""

HEADERS_VERSION: Final = 1
"""Of what is read of a header and how it is judged; what another version wrote is read anew."""

_LIMITS: Final = b"ddfm_limits"
"""In the table's metadata: the limits by which files were judged too large."""
_BYTES_IN_FLIGHT: Final = 256 * 2**20
_GROWTH: Final = 16
_ROW_BYTES: Final = 700
"""Of a row in memory, about."""
_PASSING: Final = frozenset({Code.READ_FAILED, Code.PERMISSION_DENIED, Code.OUT_OF_MEMORY, Code.MISSING_SOURCE})
"""What may be otherwise the next time although the file is the same."""

_FLOATS: Final = pa.list_(pa.float64())
LISTED_SCHEMA: Final = pa.schema(
    [
        pa.field("root", pa.int32(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.float64(), nullable=False),
        pa.field("code", pa.string()),
        pa.field("detail", pa.string(), nullable=False),
    ],
    metadata={"ddfm_schema": "listed", "ddfm_schema_version": str(HEADERS_VERSION)},
)
"""A file as it is listed: ``root`` is the number of its folder, ``key`` its path below that. A name that no table can
keep has a printable one in its place, and no ``uri``."""

_HEADER_FIELDS: Final = {
    "study_uid": pa.string(),
    "series_uid": pa.string(),
    "sop_class_uid": pa.string(),
    "sop_instance_uid": pa.string(),
    "transfer_syntax": pa.string(),
    "patient_id": pa.string(),
    "issuer_of_patient_id": pa.string(),
    "frame_of_reference": pa.string(),
    "modality": pa.string(),
    "rows": pa.int64(),
    "columns": pa.int64(),
    "number_of_frames": pa.int64(),
    "orientation": _FLOATS,
    "position": _FLOATS,
    "pixel_spacing": _FLOATS,
    "image_type": pa.string(),
    "echo_time": pa.float64(),
    "temporal_position": pa.int64(),
    "acquisition_number": pa.int64(),
    "b_value": pa.float64(),
    "instance_number": pa.int64(),
}
HEADERS_SCHEMA: Final = pa.schema(
    [*LISTED_SCHEMA, *(pa.field(name, dtype) for name, dtype in _HEADER_FIELDS.items())],
    metadata={"ddfm_schema": "headers", "ddfm_schema_version": str(HEADERS_VERSION)},
)
"""A listed file with the fields of its :class:`~tasks.read.dicom_header.InstanceHeader`. One with a code has none of
them, except for study and series where they are known."""

HEADER_FIELDS: Final = tuple(item.name for item in dataclasses.fields(InstanceHeader))


@dataclass(frozen=True, slots=True)
class HeaderIndex:
    """The files below some folders, with their headers.

    Attributes:
        path: a local file of ``HEADERS_SCHEMA``, in no order. It has identifiers of patients in clear.
        rows: how many files were found.
        read: how many of them were looked into.
        reused: for how many of them ``known`` had the header.
        bytes: of the table in memory.
    """

    path: Path
    rows: int
    read: int
    reused: int
    bytes: int


def index_headers(
    root: str | Sequence[str],
    scratch: Path,
    *,
    known: Path | None = None,
    readers: int = READERS,
    limits: VolumeLimits = VolumeLimits(),  # noqa: B008 - frozen
    fingerprint: Fingerprint = "stat",
) -> HeaderIndex:
    """List all files below one or several folders, and read the headers of those that may be DICOM.

    Codes of files: NOT_IMAGE (by suffix), DICOMDIR, NOT_DICOM, NAME_UNUSABLE, MISSING_SOURCE (a link to nothing),
    PERMISSION_DENIED, READ_FAILED, and those of :func:`~tasks.read.dicom_header.parse_header`.

    Args:
        root: a folder, or several, which are numbered in this order.
        scratch: a local folder for the table.
        known: the table of an earlier run, whose files are not read again where URI and fingerprint are the same.
            One that is missing, damaged or of another version of the program is not used.
        readers: files that are read at a time.
        limits: of sizes of files and volumes.
        fingerprint: "content" reads every file whole, and nothing is taken from ``known``.

    Raises:
        StorageError: a folder cannot be listed, or the store cannot be read at all.
    """
    roots = [root] if isinstance(root, str) else list(root)
    listings = [scratch / f"listed-{number}.parquet" for number in range(len(roots))]

    def list_root(number: int) -> None:
        write_listing(listings[number], ((number, file) for file in list_files(roots[number])))

    with ThreadPoolExecutor(max(1, len(roots))) as pool:
        list(pool.map(list_root, range(len(roots))))
    return read_headers(listings, scratch, known=known, readers=readers, limits=limits, fingerprint=fingerprint)


def write_listing(path: Path, files: Iterable[tuple[int, StoredFile]]) -> int:
    """Write files with the numbers of their folders as a table of ``LISTED_SCHEMA``; returns how many."""
    with TableWriter(path, LISTED_SCHEMA) as writer:
        waiting = iter(files)
        while batch := list(islice(waiting, ROWS)):
            writer.write(pa.Table.from_pylist([_listed(root, file) for root, file in batch], LISTED_SCHEMA))
    return writer.rows


def read_headers(
    listings: Sequence[Path],
    scratch: Path,
    *,
    known: Path | None = None,
    readers: int = READERS,
    limits: VolumeLimits = VolumeLimits(),  # noqa: B008 - frozen
    fingerprint: Fingerprint = "stat",
) -> HeaderIndex:
    """The same for files that are listed already, in tables of ``LISTED_SCHEMA``, which are removed.

    Raises:
        StorageError: as :func:`index_headers`.
    """
    path = scratch / "headers.parquet"
    metadata = {_LIMITS.decode(): json.dumps(dataclasses.asdict(limits))}
    read = reused = 0
    reader = _Reader(limits, fingerprint)
    if fingerprint == "content":
        known = None
    with TableWriter(path, HEADERS_SCHEMA, metadata) as writer, ThreadPoolExecutor(readers) as pool:
        for settled, files in _with_known(listings, known, limits, scratch):
            reused += len(settled)
            writer.write(settled)
            rows = files.to_pylist()
            read += sum(row["kind"] == Kind.DICOM and row["code"] is None for row in rows)
            writer.write(pa.Table.from_pylist(list(pool.map(reader.look_at, rows)), HEADERS_SCHEMA))
    for listing in listings:
        listing.unlink()
    return HeaderIndex(path, writer.rows, read, reused, writer.bytes)


def header_of_values(values: Sequence[Any]) -> InstanceHeader:
    """The header of the columns ``HEADER_FIELDS`` of a row that has no code."""
    arguments: list[Any] = [tuple(value) if isinstance(value, list) else value for value in values]
    return InstanceHeader(*arguments)


def _listed(root: int, file: StoredFile) -> dict[str, object]:
    key, kind, code, detail = named_file(file)
    return {
        "root": root, "key": key, "kind": kind, "uri": None if code == Code.NAME_UNUSABLE else file.uri,
        "fingerprint": file.fingerprint, "size": file.size, "modified": file.modified, "code": code, "detail": detail,
    }  # fmt: skip


def _with_known(
    listings: Sequence[Path], known: Path | None, limits: VolumeLimits, scratch: Path
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The listed files in pairs of tables: those whose header is known, with all columns, and the others as listed."""
    listed = (table for listing in listings for table in table_batches(listing, LISTED_SCHEMA))
    parts = [] if known is None else _deal_known(known, limits, scratch)
    if not parts:
        for table in listed:
            yield _NO_HEADERS, table
        return
    listed_parts = [scratch / f"listed-part-{number}.arrow" for number in range(len(parts))]
    deal(listed, LISTED_SCHEMA, ("uri",), listed_parts)
    for listing, part in zip(listed_parts, parts, strict=True):
        headers = bucket(part)
        for batch in bucket(listing).combine_chunks().to_batches(ROWS):
            yield _matched(pa.Table.from_batches([batch]), headers)
        listing.unlink()
        part.unlink()


def _deal_known(known: Path, limits: VolumeLimits, scratch: Path) -> list[Path]:
    """The usable headers of an earlier run in buckets by URI; none of a table that cannot be read as one.

    That only costs the time to read the files again.
    """
    parts: list[Path] = []
    try:
        before = table_metadata(known, HEADERS_SCHEMA, str(known)).get(_LIMITS, b"{}")
        with open_table(known, HEADERS_SCHEMA) as file:
            count = buckets_for(file.metadata.num_rows * _ROW_BYTES)
        same_limits = json.loads(before) == dataclasses.asdict(limits)
        codes = pa.array(sorted(_PASSING if same_limits else _PASSING | {Code.TOO_LARGE}), pa.string())
        usable = (pc.field("kind") == Kind.DICOM.value) & ~pc.is_in(pc.field("code"), value_set=codes)
        parts = [scratch / f"known-part-{number}.arrow" for number in range(count)]
        tables = (table.filter(usable) for table in table_batches(known, HEADERS_SCHEMA))
        deal(tables, HEADERS_SCHEMA, ("uri",), parts)
    except StorageError:
        for part in parts:
            part.unlink(missing_ok=True)
        return []
    return parts


_NO_HEADERS: Final = HEADERS_SCHEMA.empty_table()


def _matched(listed: pa.Table, headers: pa.Table) -> tuple[pa.Table, pa.Table]:
    places = pc.index_in(_version(listed), value_set=_version(headers))
    to_read = pc.and_(pc.equal(listed["kind"], Kind.DICOM.value), pc.is_null(listed["code"]))
    known = pc.and_(to_read, pc.is_valid(places))
    here, there = listed.filter(known), headers.take(places.filter(known))
    of_content = ("code", "detail", *_HEADER_FIELDS)
    columns = [(there if name in of_content else here)[name] for name in HEADERS_SCHEMA.names]
    return pa.table(columns, schema=HEADERS_SCHEMA), listed.filter(pc.invert(known))


def _version(files: pa.Table) -> pa.ChunkedArray:
    """URI and fingerprint as one value."""
    return pc.binary_join_element_wise(files["uri"], files["fingerprint"], "\0")


class _Reader:
    """Looks into files; threads share it."""

    def __init__(self, limits: VolumeLimits, fingerprint: Fingerprint) -> None:
        self._limits = limits
        self._whole = fingerprint == "content"
        self._budget = ReadBudget(_BYTES_IN_FLIGHT)

    def look_at(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of a listed file with what its content says."""
        if row["code"] is not None or (row["kind"] != Kind.DICOM and not self._whole):
            return row
        file = StoredFile(row["uri"], row["key"], row["size"], row["fingerprint"], row["modified"])
        try:
            if self._whole:
                with self._budget.reserve(min(file.size, _BYTES_IN_FLIGHT)):
                    row["fingerprint"] = content_fingerprint(file)
            if row["kind"] != Kind.DICOM:
                return row
            header = self._header(file)
        except HeaderRefused as error:
            series = {"study_uid": error.study_uid, "series_uid": error.series_uid}
            return row | series | {"code": error.code, "detail": error.detail}
        except PairError as error:
            return row | {"code": error.code, "detail": error.detail}
        return row | {name: getattr(header, name) for name in HEADER_FIELDS}

    def _header(self, file: StoredFile) -> InstanceHeader:
        count = START_BYTES
        while True:
            wanted = min(count, self._limits.object_bytes + 1)
            with self._budget.reserve(wanted):
                content = read_start(file.uri, wanted)
                whole = len(content) < wanted or len(content) >= file.size
                try:
                    header = parse_header(content, whole=whole, limits=self._limits)
                except HeaderCut:
                    pass
                else:
                    break
            if wanted > self._limits.object_bytes:
                raise PairError(Code.TOO_LARGE, f"a header of more than {self._limits.object_bytes} bytes")
            count *= _GROWTH
        if file.size > self._limits.object_bytes:
            detail = f"a file of {file.size} bytes, {self._limits.object_bytes} are allowed"
            raise HeaderRefused(Code.TOO_LARGE, detail, header.study_uid, header.series_uid)
        return header

"""From files with headers to volumes: DICOM files are gathered into series, everything else stands for itself."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import Code, Status
from tasks.index import Source, together
from tasks.read.dicom_header import InstanceHeader
from tasks.read.dicom_series import group_series
from tasks.schemas import table_of
from tasks.scratch import open_database, view_tables
from tasks.tables import ROWS, TableWriter, table_batches
from tasks.volume import VolumeLimits
from tasks.volume_index.buckets import bucket, buckets_for, deal
from tasks.volume_index.headers import HEADER_FIELDS, HEADERS_SCHEMA, LISTED_SCHEMA, HeaderIndex, header_of_values
from tasks.volume_index.names import stem_of
from tasks.volume_index.rows import MEMBER_SCHEMA
from tasks.volume_index.sources import Kind
from tasks.volume_index.volumes import FoundVolume

_TEXTS: Final = ("modality", "issuer", "patient_id", "study", "series", "frame_of_reference")
VOLUME_SCHEMA: Final = pa.schema(
    [
        pa.field("root", pa.int32(), nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("kind", "stem", "uri", "fingerprint")),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.float64(), nullable=False),
        pa.field("number", pa.int64()),
        *(pa.field(name, pa.string(), nullable=False) for name in _TEXTS),
        pa.field("code", pa.string()),
        pa.field("detail", pa.string(), nullable=False),
    ],
    metadata={"ddfm_schema": "volumes", "ddfm_schema_version": "1"},
)
"""The columns of :class:`~tasks.volume_index.volumes.FoundVolume`."""

_MAY_BE_A_SLICE: Final = frozenset({
    Code.READ_FAILED, Code.PERMISSION_DENIED, Code.OUT_OF_MEMORY, Code.MISSING_SOURCE, Code.TRUNCATED,
    Code.DECODE_FAILED, Code.HEADER_INCOMPLETE, Code.TOO_LARGE,
})  # fmt: skip
"""Of a file whose series is not known: it may be one of those beside it, which then lack a slice."""

_OF_A_SERIES: Final = f"kind = '{Kind.DICOM}' AND coalesce(study_uid, '') <> '' AND coalesce(series_uid, '') <> ''"
_FOLDER: Final = "regexp_replace(key, '/?[^/]*$', '')"


@dataclass(frozen=True, slots=True)
class OtherFile:
    """A file that is no volume, or several of one series that are none.

    Attributes:
        root: the number of the folder below which it was found.
        key: the path of the file, or of the first one, below its root.
        source: its URI, None where its name cannot be kept, fingerprint and size.
    """

    root: int
    key: str
    source: Source
    code: Code
    detail: str


@dataclass(frozen=True, slots=True)
class FoundSeries:
    """What the files of a header index are.

    Attributes:
        volumes: a local table, read by :meth:`in_order`.
        members: the files of volumes that have a number, a local file of ``MEMBER_SCHEMA``.
        others: a local table, read by :meth:`other_files`.
        counts: of volumes, by root.
        bytes: of the largest of these tables in memory.
    """

    volumes: Path
    members: Path
    others: Path
    counts: Counter[int]
    bytes: int

    def in_order(self, database: duckdb.DuckDBPyConnection, *columns: str) -> Iterator[FoundVolume]:
        """All volumes sorted by columns, names of the program's own, and as they come by URI among equals."""
        view_tables(database, "volumes", self.volumes)
        order = ", ".join([*columns, "root", "uri", "study", "series"])
        for row in _rows(database, f"SELECT * FROM volumes ORDER BY {order}"):  # noqa: S608
            yield volume_of_row(row)

    def other_files(self, database: duckdb.DuckDBPyConnection, *columns: str) -> Iterator[OtherFile]:
        """All other files, likewise, and by path, code and root among equals."""
        view_tables(database, "others", self.others)
        order = ", ".join([*columns, "key", "code", "root"])
        for row in _rows(database, f"SELECT * FROM others ORDER BY {order}"):  # noqa: S608
            source = Source(row["uri"], row["fingerprint"], row["size"], row["modified"])
            yield OtherFile(row["root"], row["key"], source, Code(row["code"]), row["detail"])

    def remove(self) -> None:
        """Remove the tables."""
        for path in (self.volumes, self.members, self.others):
            path.unlink(missing_ok=True)


def volume_table(volumes: Sequence[FoundVolume]) -> pa.Table:
    """Volumes as a table of ``VOLUME_SCHEMA``."""
    columns = {item.name: [getattr(volume, item.name) for volume in volumes] for item in fields(FoundVolume)}
    return table_of(columns, VOLUME_SCHEMA)


def volume_of_row(row: dict[str, Any]) -> FoundVolume:
    """The volume of a row of ``VOLUME_SCHEMA``."""
    return FoundVolume(**row | {"kind": Kind(row["kind"]), "code": row["code"] and Code(row["code"])})


def find_series(headers: HeaderIndex, scratch: Path, limits: VolumeLimits) -> FoundSeries:
    """Gather the files of a header index into volumes.

    A series one of whose files is bad is a volume with that file's code. So is one beside whose files lies a file that
    could not be read or is broken, and may be a slice of it. Files that are left alone (localizers, reports) are no
    part of a series; they are counted by series and reason.

    Raises:
        StorageError: the header index is damaged.
    """
    parts = [scratch / f"headers-part-{number}.arrow" for number in range(buckets_for(headers.bytes))]
    with open_database(scratch) as database:
        view_tables(database, "headers", headers.path)
        lost = _LostFiles(database)
    with _FoundWriter(scratch) as writer:
        of_series = _without_series(table_batches(headers.path, HEADERS_SCHEMA), writer)
        deal(of_series, HEADERS_SCHEMA, ("study_uid", "series_uid"), parts)
        for part in parts:
            for (root, study, series), files in groupby(_in_order(part), key=_SERIES_OF):
                _gather(_Series(root, study, series), files, limits, lost, writer)
            part.unlink()
    return writer.found()


def _without_series(tables: Iterable[pa.Table], writer: _FoundWriter) -> Iterator[pa.Table]:
    """The files that belong to series; the others are written on the way."""
    for table in tables:
        is_dicom = pc.equal(table["kind"], Kind.DICOM.value)
        named = [pc.not_equal(pc.fill_null(table[name], ""), "") for name in ("study_uid", "series_uid")]
        of_series = pc.and_(is_dicom, pc.and_(*named))
        yield table.filter(of_series)
        rest = table.select(LISTED_SCHEMA.names).filter(pc.invert(of_series))
        is_nifti = pc.equal(rest["kind"], Kind.NIFTI.value)
        writer.others.write(rest.filter(pc.invert(is_nifti)))
        for row in rest.filter(is_nifti).to_pylist():
            writer.add_volume(
                FoundVolume(
                    row["root"], Kind.NIFTI, stem_of(row["key"]), row["uri"], row["fingerprint"], row["size"],
                    row["modified"], code=row["code"] and Code(row["code"]), detail=row["detail"],
                )
            )  # fmt: skip


def _in_order(part: Path) -> Iterator[tuple[Any, ...]]:
    """The rows of a bucket, with ``_COLUMNS``, by series and path."""
    table = bucket(part).sort_by([(name, "ascending") for name in ("root", "study_uid", "series_uid", "key")])
    for batch in table.select(list(_COLUMNS)).to_batches(ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


class _FoundWriter:
    """The tables of :class:`FoundSeries`; a context manager."""

    def __init__(self, scratch: Path) -> None:
        paths = [scratch / f"found-{name}.parquet" for name in ("volumes", "members", "others")]
        self._volumes = TableWriter(paths[0], VOLUME_SCHEMA)
        self._members = TableWriter(paths[1], MEMBER_SCHEMA)
        self.others = TableWriter(paths[2], LISTED_SCHEMA)
        self._counts: Counter[int] = Counter()
        self._waiting: list[FoundVolume] = []
        self._numbered = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._volumes, self._members, self.others:
            self._flush()

    def add_volume(self, volume: FoundVolume, uris: Sequence[str] = ()) -> None:
        """A volume with its files; of one that has one file only, its own URI is that."""
        if uris:
            volume = replace(volume, number=self._numbered)
            columns = [pa.repeat(self._numbered, len(uris)), pa.array(range(len(uris)), pa.int32()), list(uris)]
            self._members.write(pa.table(columns, schema=MEMBER_SCHEMA))
            self._numbered += 1
        self._counts[volume.root] += 1
        self._waiting.append(volume)
        if len(self._waiting) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        self._volumes.write(volume_table(self._waiting))
        self._waiting = []

    def found(self) -> FoundSeries:
        """What was written."""
        volumes, members, others = self._volumes, self._members, self.others
        largest = max(volumes.bytes, members.bytes, others.bytes)
        return FoundSeries(volumes.path, members.path, others.path, self._counts, largest)


# Series


@dataclass(slots=True)
class _Series:
    """What is known of the files of one series while they come; headers only of as many as a series may have."""

    root: int
    study: str
    uid: str
    good: list[tuple[str, InstanceHeader]] = field(default_factory=list)
    bad: Counter[tuple[Code, str]] = field(default_factory=Counter)
    left_alone: dict[Code, list[_File]] = field(default_factory=dict)
    files: list[_File] = field(default_factory=list)


class _File(NamedTuple):
    root: int
    key: str
    uri: str
    fingerprint: str
    size: int
    modified: float
    code: str | None
    detail: str


_FILE_COLUMNS: Final = (*_File._fields, "study_uid", "series_uid")
_COLUMNS: Final = (*_FILE_COLUMNS, *HEADER_FIELDS)
_SERIES_OF: Final = itemgetter(*map(_FILE_COLUMNS.index, ("root", "study_uid", "series_uid")))


def _gather(
    series: _Series, rows: Iterable[tuple[Any, ...]], limits: VolumeLimits, lost: _LostFiles, writer: _FoundWriter
) -> None:
    for row in rows:
        file = _File(*row[: len(_File._fields)])
        if file.code is None:
            if len(series.good) <= limits.files:
                series.good.append((file.uri, header_of_values(row[len(_FILE_COLUMNS) :])))
        elif Code(file.code).status == Status.SKIPPED:
            series.left_alone.setdefault(Code(file.code), []).append(file)
            continue
        else:
            series.bad[Code(file.code), file.detail] += 1
        series.files.append(file)
    for code, files in series.left_alone.items():
        writer.others.write(pa.Table.from_pylist([_left_alone(code, files)], LISTED_SCHEMA))
    if series.files:
        writer.add_volume(*_volume(series, limits, lost))


def _left_alone(code: Code, files: Sequence[_File]) -> dict[str, Any]:
    """One row for the files of a series that are left alone for one reason."""
    details = {file.detail for file in files}
    detail = details.pop() if len(details) == 1 else ""
    if len(files) > 1:
        detail = f"{len(files)} files" + (f": {detail}" if detail else "")
    return {
        "root": files[0].root, "key": files[0].key, "kind": Kind.NONE, "uri": files[0].uri,
        "fingerprint": _fingerprint(files), "size": sum(file.size for file in files),
        "modified": max(file.modified for file in files), "code": code, "detail": detail,
    }  # fmt: skip


def _volume(series: _Series, limits: VolumeLimits, lost: _LostFiles) -> tuple[FoundVolume, tuple[str, ...]]:
    files = series.files
    folders = {file.key.rpartition("/")[0] for file in files}
    folder = posixpath.commonpath(folders)
    place = files[0].uri.removesuffix(files[0].key) + folder
    volume = FoundVolume(
        series.root, Kind.DICOM, folder, files[0].uri if len(files) == 1 else place.rstrip("/"),
        _fingerprint(files), sum(file.size for file in files), max(file.modified for file in files),
        study=series.study, series=series.uid,
    )  # fmt: skip
    uris = tuple(file.uri for file in files)
    if len(files) > limits.files:
        detail = f"{len(files)} files, {limits.files} are allowed"
        return replace(volume, code=Code.TOO_LARGE, detail=detail), ()
    if series.good:
        (group,) = group_series(series.good)
        uris = group.uris
        # Of several patients in one series none is its own.
        patient = group.code != Code.PATIENT_MISMATCH
        volume = replace(
            volume,
            stem=stem_of(files[0].key) if len(files) == 1 and group.n_slices > 1 else folder,
            modality=group.modality,
            issuer=group.issuer_of_patient_id if patient else "",
            patient_id=group.patient_id if patient else "",
            frame_of_reference=group.frame_of_reference or "",
            code=group.code,
            detail=group.detail,
        )
    if series.bad:
        code, detail = min(series.bad, key=lambda fault: (-series.bad[fault], fault))
        counted = f"{series.bad.total()} of {len(files)} files" + (f": {detail}" if detail else "")
        volume = replace(volume, code=code, detail=counted)
    elif volume.code is None:
        code_beside = lost.beside(series.root, folders)
        if code_beside is not None:
            volume = replace(volume, code=code_beside, detail="of a file beside its files, which may be one of them")
    return volume, uris if len(files) > 1 else ()


def _fingerprint(files: Sequence[_File]) -> str:
    """Of all files, whatever their names and order."""
    if len(files) == 1:
        return files[0].fingerprint
    return together(len(files), "\0".join(sorted(file.fingerprint for file in files)))


class _LostFiles:
    """Files that may be slices of a series and cannot be told to be."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        codes = ", ".join(f"'{code}'" for code in sorted(_MAY_BE_A_SLICE))
        found = _tuples(
            database,
            f"""
            WITH lost AS (
                SELECT root, {_FOLDER} AS folder, min(code) AS code FROM headers
                WHERE kind = '{Kind.DICOM}' AND NOT ({_OF_A_SERIES}) AND code IN ({codes}) GROUP BY ALL
            ),
            beside AS (
                SELECT root, {_FOLDER} AS folder, study_uid, series_uid FROM headers WHERE {_OF_A_SERIES}
            )
            SELECT root, folder, code, count(DISTINCT (study_uid, series_uid)) FROM lost JOIN beside
            USING (root, folder) GROUP BY ALL
            """,  # noqa: S608 - names of the program's own
        )
        self._codes: dict[tuple[int, str], Code] = {
            # Broken for good among the files of many series it would take all of them with it.
            (root, folder): Code(code)
            for root, folder, code, count in found
            if count == 1 or Code(code).status == Status.FAILED
        }

    def beside(self, root: int, folders: Iterable[str]) -> Code | None:
        """The code of such a file in one of the folders."""
        found = [self._codes[root, folder] for folder in folders if (root, folder) in self._codes]
        return min(found, default=None)


def _tuples(database: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[Any, ...]]:
    for batch in database.sql(query).to_arrow_reader(ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _rows(database: duckdb.DuckDBPyConnection, query: str) -> Iterator[dict[str, Any]]:
    for batch in database.sql(query).to_arrow_reader(ROWS):
        yield from batch.to_pylist()

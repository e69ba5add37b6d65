"""From rows as the strategies find them to an index with its sources: keys made unique, in order, files looked up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa

from tasks.codes import Code
from tasks.index import SIDES, Index, IndexedPair, Source, index_table_of, is_usable, made_usable, make_row
from tasks.schemas import INDEX_SCHEMA
from tasks.scratch import open_database, view_tables
from tasks.tables import ROWS, TableWriter
from tasks.volume_index.sources import ROWS as SOURCES_ROWS
from tasks.volume_index.sources import SOURCES_SCHEMA, Kind, PairSources, VolumeIndex, sources_table
from tasks.volume_index.volumes import FoundVolume, fault_of, source_of

_VOLUMES, _OTHER = range(2)

_DRAFT_SCHEMA: Final = pa.schema([
    *INDEX_SCHEMA.remove_metadata(),
    pa.field("rank", pa.int8(), nullable=False),
    pa.field("first_number", pa.int64()),
    pa.field("second_number", pa.int64()),
    *(item for item in SOURCES_SCHEMA if item.name not in ("pair_key", "first_uris", "second_uris")),
])  # fmt: skip
"""A row of the index and what leads to its sources. Of rows that want one key, that of the lower rank gets it."""

MEMBER_SCHEMA: Final = pa.schema([
    pa.field("number", pa.int64(), nullable=False),
    pa.field("place", pa.int32(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
])  # fmt: skip
"""The files of volumes, by the volume's number, in their order."""


class RowWriter:
    """Takes rows in any order; a context manager, within which :meth:`finish` makes the index.

    Args:
        scratch: a local folder for the index; the writer leaves no other file there.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._path = scratch / "index-draft.parquet"
        self._writer = TableWriter(self._path, _DRAFT_SCHEMA)
        self._waiting: list[dict[str, Any]] = []
        self._paired = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._writer.__exit__(kind, error, traceback)
        self._path.unlink(missing_ok=True)

    def add_pair(self, key: str, first: FoundVolume, second: FoundVolume) -> None:
        """Two volumes that belong together; the row has a code when one of them does, or their patients differ."""
        self.add(key, [first], [second], *fault_of(first, second))

    def add(
        self,
        key: str,
        first: Sequence[FoundVolume],
        second: Sequence[FoundVolume],
        code: Code | None,
        detail: str = "",
    ) -> None:
        """A row of any number of volumes on each side, of which none is chosen where there are several."""
        sides = (first, second)
        lone = [volumes[0] if len(volumes) == 1 else None for volumes in sides]
        self._add(
            make_row(_usable(key), [source_of(volumes) for volumes in sides], code, detail),
            _VOLUMES,
            [None if volume is None else volume.number for volume in lone],
            [_common(volume.kind for volume in volumes) for volumes in sides],
            [_common(volume.modality for volume in volumes) for volumes in sides],
            _common_patient([*first, *second]),
        )

    def add_other(self, key: str, sources: Sequence[Source], code: Code, detail: str = "") -> None:
        """A file on one side or, of the same name, on both, that is no volume. Keys of volumes go before its own."""
        self._add(make_row(_usable(key), sources, code, detail), _OTHER, [None] * 2, [Kind.NONE] * 2, [""] * 2, "")

    def _add(
        self,
        row: IndexedPair,
        rank: int,
        numbers: Sequence[int | None],
        kinds: Sequence[str],
        modalities: Sequence[str],
        patient: str,
    ) -> None:
        self._waiting.append({
            **{item.name: getattr(row, item.name) for item in fields(IndexedPair)},
            "rank": rank,
            "first_number": numbers[0], "second_number": numbers[1],
            "first_kind": kinds[0], "second_kind": kinds[1],
            "first_modality": modalities[0], "second_modality": modalities[1],
            "patient": patient,
        })  # fmt: skip
        if len(self._waiting) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        self._writer.write(pa.Table.from_pylist(self._waiting, _DRAFT_SCHEMA))
        self._waiting = []

    def finish(
        self, members: Path | None = None, member_bytes: int = 0, headers: Path | None = None, read: int = 0
    ) -> VolumeIndex:
        """Write the index and its sources.

        Args:
            members: a local file of ``MEMBER_SCHEMA``, for volumes that have a number.
            member_bytes: of that in memory.
            headers: for the index to tell of.
            read: likewise.
        """
        self._flush()
        self._writer.__exit__(None, None, None)
        keyed = self._scratch / "index-keyed.parquet"
        index, sources = self._scratch / "index.parquet", self._scratch / "sources.parquet"
        # Keys make up much of the files' sort, and both results are read side by side.
        with open_database(self._scratch, self._writer.bytes + 2 * member_bytes) as database:
            _make_keys_unique(database, self._path, keyed)
            rows = _write_in_order(database, keyed, members, index, sources)
        keyed.unlink()
        return VolumeIndex(Index(index, rows), sources, headers, read)


def _usable(key: str) -> str:
    return key if is_usable(key) else made_usable(key)


def _common(values: Iterable[str]) -> str:
    """The one value that there is, "" for none or several."""
    found = set(values)
    return found.pop() if len(found) == 1 else ""


def _common_patient(volumes: Iterable[FoundVolume]) -> str:
    """The one patient of the volumes that name one, "" for none or several; an issuer that some leave out is taken."""
    known = [volume for volume in volumes if volume.patient_id]
    issued = {volume.patient_id for volume in known if volume.issuer}
    return _common(volume.patient for volume in known if volume.issuer or volume.patient_id not in issued)


def _make_keys_unique(database: duckdb.DuckDBPyConnection, draft: Path, path: Path) -> None:
    """Where several rows want one key, those behind the first get it with "~", "~~" and so on behind it.

    Keys that differ in such an ending only are looked at together, so that memory holds few of them.
    """
    view_tables(database, "draft", draft)
    in_order = database.sql(
        "SELECT * FROM draft ORDER BY rtrim(pair_key, '~'), rank, pair_key, first_fingerprint, second_fingerprint, "
        "first_uri, second_uri"
    )
    rows = (row for batch in in_order.to_arrow_reader(ROWS) for row in batch.to_pylist())
    groups = groupby(rows, key=lambda row: str(row["pair_key"]).rstrip("~"))
    with TableWriter(path, _DRAFT_SCHEMA) as writer:
        for piece in _pieces((row for _, members in groups for row in _with_unique_keys(list(members))), ROWS):
            writer.write(pa.Table.from_pylist(piece, _DRAFT_SCHEMA))


def _with_unique_keys(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    taken: set[str] = set()
    later: list[dict[str, Any]] = []
    for row in rows:
        if row["pair_key"] in taken:
            later.append(row)
        taken.add(row["pair_key"])
    for row in later:
        while row["pair_key"] in taken:
            row["pair_key"] += "~"
        taken.add(row["pair_key"])
    return rows


def _write_in_order(
    database: duckdb.DuckDBPyConnection, keyed: Path, members: Path | None, index: Path, sources: Path
) -> int:
    view_tables(database, "keyed", keyed)
    in_order = database.sql("SELECT * FROM keyed ORDER BY pair_key")
    rows = (row for batch in in_order.to_arrow_reader(ROWS) for row in batch.to_pylist())
    # A second cursor: a connection has one result at a time.
    with (
        database.cursor() as beside,
        TableWriter(index, INDEX_SCHEMA) as writer,
        TableWriter(sources, SOURCES_SCHEMA, rows=SOURCES_ROWS) as lists,
    ):
        files = _Files(beside, members)
        for piece in _pieces(rows, SOURCES_ROWS):
            writer.write(index_table_of([_index_row(row) for row in piece]))
            lists.write(sources_table([_sources_row(row, files) for row in piece]))
    return writer.rows


def _sources_row(row: dict[str, Any], files: _Files) -> PairSources:
    first, second = (_uris_of_side(row, side, name, files) for side, name in enumerate(SIDES))
    return PairSources(
        row["pair_key"], first, second, Kind(row["first_kind"]), Kind(row["second_kind"]), row["first_modality"],
        row["second_modality"], row["patient"],
    )  # fmt: skip


def _uris_of_side(row: dict[str, Any], side: int, name: str, files: _Files) -> tuple[str, ...]:
    if row[f"{name}_number"] is not None:
        return files.of(row["pair_key"], side)
    uri = row[f"{name}_uri"]
    # Several volumes have no number either; which of them is to be read is not said.
    return (uri,) if uri is not None and row["code"] != Code.AMBIGUOUS_PAIR else ()


def _index_row(row: dict[str, Any]) -> IndexedPair:
    return IndexedPair(**{item.name: row[item.name] for item in fields(IndexedPair)})


class _Files:
    """The files of sides that have a number, asked for in the order of keys and sides."""

    def __init__(self, database: duckdb.DuckDBPyConnection, members: Path | None) -> None:
        self._groups = groupby(_files_in_order(database, members), key=itemgetter(0, 1))
        self._next = next(self._groups, None)

    def of(self, key: str, side: int) -> tuple[str, ...]:
        """None for a side whose files were not kept."""
        if self._next is None or self._next[0] != (key, side):
            return ()
        uris = tuple(uri for _, _, uri in self._next[1])
        self._next = next(self._groups, None)
        return uris


def _files_in_order(database: duckdb.DuckDBPyConnection, members: Path | None) -> Iterator[tuple[str, int, str]]:
    if members is None:
        return
    view_tables(database, "members", members)
    in_order = database.sql(
        """
        WITH sides AS (
            SELECT pair_key, 0 AS side, first_number AS number FROM keyed WHERE first_number IS NOT NULL
            UNION ALL SELECT pair_key, 1, second_number FROM keyed WHERE second_number IS NOT NULL
        )
        SELECT pair_key, side, uri FROM sides JOIN members USING (number) ORDER BY pair_key, side, place
        """
    )
    for batch in in_order.to_arrow_reader(ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _pieces(rows: Iterator[dict[str, Any]], count: int) -> Iterator[list[dict[str, Any]]]:
    while piece := list(islice(rows, count)):
        yield piece

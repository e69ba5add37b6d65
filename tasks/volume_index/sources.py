"""Where the volumes of an index lie: for each of its rows the files of both sides, in a table of its own.

The table has clear paths and patient identifiers. It is for those who read the files, never for a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tasks.index import Index
from tasks.schemas import SCHEMA_VERSION, table_of
from tasks.tables import table_batches

ROWS: Final = 512
"""Rows of a row group: a row has the names of hundreds of files."""


class Kind(StrEnum):
    """What a volume is stored as."""

    DICOM = "dicom"
    NIFTI = "nifti"
    NONE = ""
    """No volume: that side has none, or the file is something else."""


_URIS: Final = pa.list_(pa.field("uri", pa.string(), nullable=False))

SOURCES_SCHEMA: Final = pa.schema(
    [
        pa.field("pair_key", pa.string(), nullable=False),
        pa.field("first_uris", _URIS, nullable=False),
        pa.field("second_uris", _URIS, nullable=False),
        pa.field("first_kind", pa.string(), nullable=False),
        pa.field("second_kind", pa.string(), nullable=False),
        pa.field("first_modality", pa.string(), nullable=False),
        pa.field("second_modality", pa.string(), nullable=False),
        pa.field("patient", pa.string(), nullable=False),
    ],
    metadata={"ddfm_schema": "sources", "ddfm_schema_version": str(SCHEMA_VERSION)},
)
"""The columns of :class:`PairSources`, by key; as many rows as the index has, with the same keys."""


@dataclass(frozen=True, slots=True)
class PairSources:
    """The files of one row of an index; the columns of ``SOURCES_SCHEMA``.

    Attributes:
        pair_key: the row's.
        first_uris: a NIfTI file, or the files of a DICOM series along the normal of its slices. A row with a code
            may have none, or only some.
        first_kind: what they are.
        first_modality: CT, MR, PT or NM as DICOM names it, "" where nothing says.
        patient: ``issuer|PatientID`` of DICOM, the subject of BIDS names, "" where there is none; in clear.
    """

    pair_key: str
    first_uris: tuple[str, ...]
    second_uris: tuple[str, ...]
    first_kind: Kind
    second_kind: Kind
    first_modality: str
    second_modality: str
    patient: str


@dataclass(frozen=True, slots=True)
class VolumeIndex:
    """The index of an archive of volumes.

    Attributes:
        index: a row for every pair, and for everything found that cannot be one; keys and URIs in clear.
        sources: a local file of ``SOURCES_SCHEMA``.
        headers: what was read of DICOM files, for the next run's ``known``; None where none were looked for.
        read: files whose content was looked at.
    """

    index: Index
    sources: Path
    headers: Path | None = None
    read: int = 0

    def source_tables(self) -> Iterator[pa.Table]:
        """All rows of the sources, some hundreds at a time."""
        return table_batches(self.sources, SOURCES_SCHEMA)

    def pair_sources(self) -> Iterator[PairSources]:
        """All rows of the sources, one by one."""
        for table in self.source_tables():
            yield from sources_of(table)


def sources_of(table: pa.Table) -> Iterator[PairSources]:
    """The rows of a table of ``SOURCES_SCHEMA``."""
    for row in table.to_pylist():
        uris = {name: tuple(row[name]) for name in ("first_uris", "second_uris")}
        kinds = {name: Kind(row[name]) for name in ("first_kind", "second_kind")}
        yield PairSources(**row | uris | kinds)


def sources_table(rows: Sequence[PairSources]) -> pa.Table:
    """Rows as a table of ``SOURCES_SCHEMA``."""
    columns: dict[str, list[Any]] = {
        item.name: [getattr(row, item.name) for row in rows] for item in fields(PairSources)
    }
    return table_of(columns, SOURCES_SCHEMA)

"""Pair the volumes of two folders by their stems: NIfTI files and DICOM series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from tasks.codes import Code
from tasks.index import SIDES, EmptyArchive, Fingerprint, Source
from tasks.scratch import open_database
from tasks.volume import VolumeLimits
from tasks.volume_index.headers import READERS, index_headers
from tasks.volume_index.rows import RowWriter
from tasks.volume_index.series import find_series
from tasks.volume_index.sources import Kind, VolumeIndex
from tasks.volume_index.volumes import FoundVolume

ROOT_KEY: Final = "volume"
"""Of a pair whose stem is empty: two folders that are a DICOM series each."""

_NAMES: Final = {Kind.DICOM: "DICOM series", Kind.NIFTI: "NIfTI files"}


def index_volume_folders(
    first_root: str,
    second_root: str,
    scratch: Path,
    *,
    known: Path | None = None,
    readers: int = READERS,
    limits: VolumeLimits = VolumeLimits(),  # noqa: B008 - frozen
    fingerprint: Fingerprint = "stat",
) -> VolumeIndex:
    """Pair the volumes of two folders by stem: sub/a.nii.gz with sub/a.nii, or with the DICOM series in sub/a.

    The stem of a NIfTI file is its path without suffix; of a DICOM series the path of the folder that holds all its
    files; of a DICOM file of several frames its path without suffix. Codes: NO_PARTNER, AMBIGUOUS_PAIR (several
    volumes of one stem on one side), PATIENT_MISMATCH, those of :func:`~tasks.volume_index.headers.index_headers` for
    what is no volume (one row where both sides have such a file), and those of
    :func:`~tasks.volume_index.series.find_series` for series.

    Args:
        known: the headers of an earlier run, see :func:`~tasks.volume_index.headers.index_headers`.
        readers: files that are read at a time.
        limits: of sizes of files and volumes.

    Raises:
        EmptyArchive: a side has no volume at all.
        StorageError: a folder cannot be read.
    """
    roots = (first_root, second_root)
    headers = index_headers(roots, scratch, known=known, readers=readers, limits=limits, fingerprint=fingerprint)
    found = find_series(headers, scratch, limits)
    for number, root in enumerate(roots):
        if not found.counts[number]:
            raise EmptyArchive(f"no DICOM series and no NIfTI file below {root}")
    with RowWriter(scratch) as rows:
        with open_database(scratch, found.bytes) as database:
            for stem, members in groupby(found.in_order(database, "stem"), key=lambda volume: volume.stem):
                sides: tuple[list[FoundVolume], list[FoundVolume]] = ([], [])
                for volume in members:
                    sides[volume.root].append(volume)
                _pair(stem or ROOT_KEY, sides, rows)
            files = found.other_files(database)
            for (key, code), group in groupby(files, key=lambda file: (file.key, file.code)):
                sources = [Source(), Source()]
                detail = ""
                for file in group:
                    sources[file.root], detail = file.source, file.detail
                rows.add_other(key, sources, code, detail)
        index = rows.finish(found.members, found.bytes, headers.path, headers.read)
    found.remove()
    return index


def _pair(key: str, sides: tuple[Sequence[FoundVolume], Sequence[FoundVolume]], rows: RowWriter) -> None:
    """The row of all volumes of one stem."""
    ties = [f"{side}: {_counted(volumes)}" for side, volumes in zip(SIDES, sides, strict=True) if len(volumes) > 1]
    if ties:
        rows.add(key, *sides, Code.AMBIGUOUS_PAIR, "; ".join(ties))
        return
    for side, volumes in zip(SIDES, sides, strict=True):
        if not volumes:
            rows.add(key, *sides, Code.NO_PARTNER, f"the {side} side has none")
            return
    rows.add_pair(key, sides[0][0], sides[1][0])


def _counted(volumes: Sequence[FoundVolume]) -> str:
    """Such as "2 DICOM series, 1 NIfTI files"."""
    kinds = Counter(volume.kind for volume in volumes)
    return ", ".join(f"{kinds[kind]} {name}" for kind, name in _NAMES.items() if kinds[kind])

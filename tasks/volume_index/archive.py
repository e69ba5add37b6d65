"""Pair the DICOM series of one archive by patient and frame of reference.

Series with one FrameOfReferenceUID lie in one coordinate system (PS3.3 section C.7.4.1); whether the patient moved in
between, only their content tells. Nothing is paired by the order in which it is listed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from tasks.codes import Code, ConfigurationError
from tasks.index import EmptyArchive, Fingerprint, Source, made_usable
from tasks.modality import CT, MR, NM, PT, modality_of
from tasks.scratch import open_database
from tasks.volume import VolumeLimits
from tasks.volume_index.headers import READERS, index_headers
from tasks.volume_index.rows import RowWriter
from tasks.volume_index.series import find_series
from tasks.volume_index.sources import Kind, VolumeIndex
from tasks.volume_index.volumes import FoundVolume

_PLAIN: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]*")


def index_dicom_archive(
    root: str,
    scratch: Path,
    modalities: tuple[str, str],
    *,
    known: Path | None = None,
    readers: int = READERS,
    limits: VolumeLimits = VolumeLimits(),  # noqa: B008 - frozen
    fingerprint: Fingerprint = "stat",
) -> VolumeIndex:
    """Pair the series of two modalities that are of one patient and share their frame of reference.

    Patients are told apart by PatientID and its issuer; without PatientID only series of one study belong together.
    Series that share a frame with none of the other modality pair when their study has exactly one of each. Several
    candidates are one row, AMBIGUOUS_PAIR; those without any are NO_PARTNER; other modalities OTHER_MODALITY; the
    other codes are those of :func:`~tasks.volume_index.folders.index_volume_folders`. A key is made of the UIDs of
    study and series, of files that are no volume it is their path.

    Args:
        modalities: of the first and the second source: two of CT, MR, PT, NM (or PET, SPECT, MRI).
        known: the headers of an earlier run, see :func:`~tasks.volume_index.headers.index_headers`.
        readers: files that are read at a time.
        limits: of sizes of files and volumes.

    Raises:
        ConfigurationError: not two different modalities.
        EmptyArchive: no series of one of the modalities.
        StorageError: the folder cannot be read.
    """
    wanted = _two_modalities(modalities)
    headers = index_headers(root, scratch, known=known, readers=readers, limits=limits, fingerprint=fingerprint)
    found = find_series(headers, scratch, limits)
    series_of_interest = 0
    with RowWriter(scratch) as rows:
        with open_database(scratch, found.bytes) as database:
            # Without PatientID a study stands for its patient.
            patient = "CASE WHEN patient_id = '' THEN study ELSE '' END"
            volumes = found.in_order(database, "kind", "patient_id", "issuer", patient)
            for _, members in groupby(volumes, key=_patient_key):
                candidates: list[FoundVolume] = []
                for volume in members:
                    if volume.modality in wanted:
                        candidates.append(volume)
                    else:
                        _add_unwanted(volume, rows)
                series_of_interest += len(candidates)
                _pair_patient(candidates, wanted, rows)
            for file in found.other_files(database):
                rows.add_other(file.key, (file.source, Source()), file.code, file.detail)
        if not series_of_interest:
            raise EmptyArchive(f"no series of {wanted[0]} or {wanted[1]} below {root} ({headers.rows} files)")
        index = rows.finish(found.members, found.bytes, headers.path, headers.read)
    found.remove()
    return index


def _two_modalities(modalities: Sequence[str]) -> tuple[str, str]:
    found = tuple(modality_of(name) or name.upper() for name in modalities)
    if len(set(found)) != 2 or not set(found) <= {CT, MR, PT, NM}:
        raise ConfigurationError(
            f"two different modalities of CT, MR, PT, NM are needed, got {' and '.join(modalities)}; "
            "pair two series of one modality by a table"
        )
    return found[0], found[1]


def _patient_key(volume: FoundVolume) -> tuple[str, ...]:
    return volume.kind, volume.patient_id, volume.issuer, "" if volume.patient_id else volume.study


def _add_unwanted(volume: FoundVolume, rows: RowWriter) -> None:
    if volume.code is not None:
        rows.add(_key(volume), [volume], [], volume.code, volume.detail)
    elif volume.kind == Kind.NIFTI:
        detail = "a NIfTI file names no patient; pair it by a table"
        rows.add(volume.stem, [volume], [], Code.NO_PARTNER, detail)
    else:
        rows.add(_key(volume), [volume], [], Code.OTHER_MODALITY, volume.modality)


def _key(*volumes: FoundVolume) -> str:
    """Study and series of one volume or two, the study once where it is the same; the path of a NIfTI file."""
    if volumes[0].kind == Kind.NIFTI:
        return volumes[0].stem
    parts: list[str] = []
    study = None
    for volume in volumes:
        parts += [volume.series] if volume.study == study else [volume.study, volume.series]
        study = volume.study
    return "/".join(part if _PLAIN.fullmatch(part) else made_usable(part) for part in parts)


_Sides = tuple[list[FoundVolume], list[FoundVolume]]


def _by_side(volumes: Iterable[FoundVolume], wanted: tuple[str, str]) -> _Sides:
    sides: _Sides = ([], [])
    for volume in volumes:
        sides[wanted.index(volume.modality)].append(volume)
    return sides


def _pair_patient(volumes: Sequence[FoundVolume], wanted: tuple[str, str], rows: RowWriter) -> None:
    """The rows of all series of one patient that are of the two modalities."""
    frames: defaultdict[str, list[FoundVolume]] = defaultdict(list)
    studies: defaultdict[str, list[FoundVolume]] = defaultdict(list)
    for volume in sorted(volumes, key=lambda volume: (volume.study, volume.series)):
        studies[volume.study].append(volume)
        frames[volume.frame_of_reference].append(volume)
    settled: set[tuple[str, str]] = set()
    for frame, members in frames.items():
        sides = _by_side(members, wanted)
        if frame and all(sides):
            settled |= {(volume.study, volume.series) for volume in members}
            _add_candidates(sides, wanted, "share a frame of reference", rows)
    for members in studies.values():
        rest = [volume for volume in members if (volume.study, volume.series) not in settled]
        sides = _by_side(rest, wanted)
        if all(sides) and len(rest) < len(members):
            # What is left over belongs together only by elimination.
            rows.add(_key(sides[0][0]), *sides, Code.AMBIGUOUS_PAIR, _counted(sides, wanted, "are left in a study"))
        elif all(sides):
            _add_candidates(sides, wanted, "of one study, without a common frame of reference", rows)
        else:
            for volume in rest:
                _add_lone(volume, volumes, wanted, rows)


def _add_candidates(sides: _Sides, wanted: tuple[str, str], what: str, rows: RowWriter) -> None:
    first, second = sides
    if len(first) == len(second) == 1:
        rows.add_pair(_key(first[0], second[0]), first[0], second[0])
    else:
        rows.add(_key(first[0]), first, second, Code.AMBIGUOUS_PAIR, _counted(sides, wanted, what))


def _counted(sides: _Sides, wanted: tuple[str, str], what: str) -> str:
    return f"{len(sides[0])} {wanted[0]} and {len(sides[1])} {wanted[1]} {what}"


def _add_lone(volume: FoundVolume, volumes: Sequence[FoundVolume], wanted: tuple[str, str], rows: RowWriter) -> None:
    side = wanted.index(volume.modality)
    other = wanted[1 - side]
    elsewhere = sum(candidate.modality == other for candidate in volumes)
    detail = f"no {other} of this patient"
    if elsewhere:
        detail = f"no {other} of this study and frame of reference; {elsewhere} of the patient's others"
    code = Code.NO_PARTNER
    if volume.code is not None:
        # It may be why there is no partner.
        code, detail = volume.code, volume.detail
    rows.add(_key(volume), [volume] * (side == 0), [volume] * (side == 1), code, detail)

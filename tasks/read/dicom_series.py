"""The instances of a series: which of them make one volume, and whether they make just one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tasks.codes import Code
from tasks.read.dicom_header import MULTI_FRAME_STORAGE, InstanceHeader

ORIENTATION_TOLERANCE: Final = 1e-4
"""Of direction cosines; 0.006 degrees."""
SPACING_TOLERANCE: Final = 1e-4
"""Millimetres from pixel to pixel; 0.05 mm over 512 of them."""
SAME_PLACE: Final = 0.01
"""Millimetres along the normal below which two slices lie at one place."""
_ECHO_TIME_TOLERANCE: Final = 0.01
_DESCRIBED: Final = 8


@dataclass(frozen=True, slots=True)
class SeriesGroup:
    """One series as the index sees it.

    Attributes:
        uris: of its files, in the order of their positions along the normal where that is known.
        code: None if it may be a volume (its reader has the last word).
        detail: counts, and what differs; for a row.
        frame_of_reference: None if no instance has one.
        n_slices: files, or frames of a multi-frame file.
        pixel_spacing: (between rows, between columns), millimetres; None if unknown.
    """

    uris: tuple[str, ...]
    code: Code | None
    detail: str
    modality: str
    patient_id: str
    issuer_of_patient_id: str
    study_uid: str
    series_uid: str
    frame_of_reference: str | None
    rows: int
    columns: int
    n_slices: int
    pixel_spacing: tuple[float, ...] | None


_Instance = tuple[str, InstanceHeader]


@dataclass(frozen=True, slots=True)
class _Trait:
    """An attribute whose values may not differ within a volume."""

    name: str
    value: Callable[[InstanceHeader], Any]
    tolerance: float | None = None

    def same(self, first: InstanceHeader, second: InstanceHeader) -> bool:
        one, other = self.value(first), self.value(second)
        if one == other or self.tolerance is None or one is None or other is None:
            return bool(one == other)
        return bool(np.max(np.abs(np.subtract(one, other))) <= self.tolerance)


_TRAITS: Final = (
    _Trait("SOPClassUID", lambda header: header.sop_class_uid),
    _Trait("FrameOfReferenceUID", lambda header: header.frame_of_reference),
    _Trait("Rows or Columns", lambda header: (header.rows, header.columns)),
    _Trait("PixelSpacing", lambda header: header.pixel_spacing, SPACING_TOLERANCE),
    _Trait("ImageOrientationPatient", lambda header: header.orientation, ORIENTATION_TOLERANCE),
    _Trait("ImageType", lambda header: header.image_type),
    _Trait("EchoTime", lambda header: header.echo_time, _ECHO_TIME_TOLERANCE),
    _Trait("TemporalPositionIdentifier", lambda header: header.temporal_position),
    _Trait("DiffusionBValue", lambda header: header.b_value),
)


def group_series(headers: Iterable[tuple[str, InstanceHeader]]) -> list[SeriesGroup]:
    """Judge the instances of a series by their headers: one volume, or why not.

    The result does not depend on the order or the names of the files. Of several volumes none is chosen. Numbers of
    acquisitions divide a series only where positions repeat: scanners count table steps as acquisitions too.

    Args:
        headers: (uri, header) of all image instances; localizers and projections are not among them
            (:func:`~tasks.read.dicom_header.parse_header` refuses those).

    Returns:
        One group for each (study, series), by their UIDs. Codes: AMBIGUOUS_SERIES, NO_GEOMETRY, PATIENT_MISMATCH.
    """
    series: dict[tuple[str, str], list[_Instance]] = {}
    for uri, header in headers:
        series.setdefault((header.study_uid, header.series_uid), []).append((uri, header))
    return [_judge(series[key]) for key in sorted(series)]


def _judge(instances: list[_Instance]) -> SeriesGroup:
    instances = sorted(instances, key=_order_in_series)
    header = instances[0][1]
    if len({(other.patient_id, other.issuer_of_patient_id) for _, other in instances}) > 1:
        return _group(instances, Code.PATIENT_MISMATCH, "several values of PatientID within one series")
    if header.number_of_frames > 1 or any(other.number_of_frames > 1 for _, other in instances):
        distinct = {other.sop_instance_uid for _, other in instances}
        if len(distinct) > 1:
            return _group(instances, Code.AMBIGUOUS_SERIES, f"{len(distinct)} files of several frames each")
        return _group(instances, None, "")
    volumes, differing = _split(instances)
    if len(volumes) > 1:
        return _group(instances, Code.AMBIGUOUS_SERIES, _describe(volumes, differing))
    lacking = [
        name
        for name, value in (
            ("ImageOrientationPatient", header.orientation),
            ("ImagePositionPatient", None if any(other.position is None for _, other in instances) else ()),
            ("PixelSpacing", header.pixel_spacing),
        )
        if value is None
    ]
    if lacking and header.sop_class_uid not in MULTI_FRAME_STORAGE:
        return _group(instances, Code.NO_GEOMETRY, f"without {' and '.join(lacking)}")
    return _group(instances, None, "")


def _split(instances: Sequence[_Instance]) -> tuple[list[list[_Instance]], list[str]]:
    """Instances by equal traits, and the names of the traits that differ."""
    volumes: list[list[_Instance]] = []
    for instance in instances:
        for volume in volumes:
            if all(trait.same(volume[0][1], instance[1]) for trait in _TRAITS):
                volume.append(instance)
                break
        else:
            volumes.append([instance])
    differing = [
        trait.name for trait in _TRAITS if not all(trait.same(volumes[0][0][1], volume[0][1]) for volume in volumes)
    ]
    if len(volumes) == 1:
        acquisitions = _by_acquisition(volumes[0])
        if len(acquisitions) > 1:
            return acquisitions, ["AcquisitionNumber"]
    return volumes, differing


def _by_acquisition(instances: Sequence[_Instance]) -> list[list[_Instance]]:
    """Instances by acquisition number if two of different numbers lie at one place; else all as one."""
    numbers = {header.acquisition_number for _, header in instances}
    distances = _distances(instances) if len(numbers) > 1 else None
    if distances is None:
        return [list(instances)]
    acquisitions: dict[int | None, list[_Instance]] = {}
    order = np.argsort(distances, kind="stable")
    overlap = False
    for place, index in enumerate(order):
        header = instances[index][1]
        acquisitions.setdefault(header.acquisition_number, []).append(instances[index])
        if place and distances[index] - distances[order[place - 1]] <= SAME_PLACE:
            before = instances[order[place - 1]][1]
            # Copies of one file lie at one place too.
            overlap |= (
                before.acquisition_number != header.acquisition_number
                and before.sop_instance_uid != header.sop_instance_uid
            )
    return list(acquisitions.values()) if overlap else [list(instances)]


def _distances(instances: Sequence[_Instance]) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    """Millimetres of each instance along the normal of the first; None if one of them has no place."""
    orientation = instances[0][1].orientation
    positions = [header.position for _, header in instances]
    if orientation is None or any(position is None for position in positions):
        return None
    return np.array(positions, dtype=np.float64) @ np.cross(orientation[:3], orientation[3:])


def _order_in_series(instance: _Instance) -> tuple[Any, ...]:
    """By everything a header says, the name of the file last: it decides between copies only."""
    uri, header = instance
    number = header.instance_number
    return (
        header.orientation or (),
        header.sop_class_uid,
        header.image_type,
        number is None,
        number or 0,
        header.sop_instance_uid,
        uri,
    )


def _describe(volumes: list[list[_Instance]], differing: list[str]) -> str:
    sizes = sorted((len(volume) for volume in volumes), reverse=True)
    listed = ", ".join(str(size) for size in sizes[:_DESCRIBED]) + (", ..." if len(sizes) > _DESCRIBED else "")
    return f"{len(volumes)} volumes of {listed} slices; {' and '.join(differing)} differs"


def _group(instances: list[_Instance], code: Code | None, detail: str) -> SeriesGroup:
    header = instances[0][1]
    distances = _distances(instances)
    order = range(len(instances)) if distances is None else np.argsort(distances, kind="stable").tolist()
    frames = Counter({other.sop_instance_uid: other.number_of_frames for _, other in instances})
    return SeriesGroup(
        uris=tuple(instances[index][0] for index in order),
        code=code,
        detail=detail,
        modality=header.modality,
        patient_id=header.patient_id,
        issuer_of_patient_id=header.issuer_of_patient_id,
        study_uid=header.study_uid,
        series_uid=header.series_uid,
        frame_of_reference=header.frame_of_reference,
        rows=header.rows,
        columns=header.columns,
        n_slices=frames.total(),
        pixel_spacing=header.pixel_spacing,
    )

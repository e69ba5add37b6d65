"""What the slices of one DICOM series say together: which are copies, their unit, what is worth knowing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from tasks.codes import Code, PairError
from tasks.read.dicom_file import tags_of
from tasks.read.dicom_geometry import SlicePlane, normal_of
from tasks.read.dicom_header import MULTI_FRAME_STORAGE
from tasks.read.dicom_series import SAME_PLACE
from tasks.read.dicom_slices import ORIGIN_KEYWORDS, DecodedSlice, FileFacts
from tasks.read.dicom_values import text
from tasks.read.suv import suv_factor
from tasks.volume import Flag

_LONGEST_TEXT: Final = 1024
_PET_UNITS: Final = frozenset({"BQML", "CNTS", "GML", "CM2ML", "PROPCNTS", "NCPS", "PCNT"})
"""Of the defined terms of Units (PS3.3 section C.8.9.1) those that a PET volume is likely to have."""


@dataclass(frozen=True, eq=False, slots=True)
class SliceFacts:
    """A slice with what its file says of it."""

    file: FileFacts
    slice: DecodedSlice
    plane: SlicePlane


def distinct_slices(slices: Sequence[SliceFacts]) -> list[int]:
    """Indices of the slices without copies, in an order of their own that names of files do not choose.

    Raises:
        PairError: DUPLICATE_CONFLICT: different slices of one identity or at one place.
    """
    if slices[0].file.header.sop_class_uid in MULTI_FRAME_STORAGE:
        return list(range(len(slices)))
    depths = np.array([one.plane.position for one in slices]) @ normal_of(slices[0].plane.orientation)
    order = sorted(range(len(slices)), key=lambda index: (depths[index], slices[index].file.header.sop_instance_uid))
    clusters: list[list[int]] = []
    for index in order:
        if clusters and depths[index] - depths[clusters[-1][-1]] <= SAME_PLACE:
            clusters[-1].append(index)
        else:
            clusters.append([index])
    conflicts = 0
    seen: dict[str, int] = {}
    kept = []
    for number, cluster in enumerate(clusters):
        same = {slices[index].slice.pixel_digest for index in cluster}
        spread = np.ptp(np.array([slices[index].plane.position for index in cluster]), axis=0).max()
        conflicts += len(same) > 1 or bool(spread > SAME_PLACE)
        for index in cluster:
            conflicts += seen.setdefault(slices[index].file.header.sop_instance_uid, number) != number
        kept.append(
            min(cluster, key=lambda index: (slices[index].file.header.sop_instance_uid, slices[index].file.digest))
        )
    if conflicts:
        raise PairError(Code.DUPLICATE_CONFLICT, f"at {conflicts} of {len(clusters)} places")
    return kept


def unit_of(slices: Sequence[SliceFacts]) -> tuple[str, float]:
    """The unit of the values, and the factor that they are to be multiplied by for it.

    Raises:
        PairError: AMBIGUOUS_SERIES: slices of different units.
    """
    units = {one.slice.mapping.unit for one in slices}
    uptakes = {one.file.uptake for one in slices}
    if len(units) > 1 or (len(uptakes) > 1 and len({uptake.units for uptake in uptakes if uptake is not None}) > 1):
        raise PairError(Code.AMBIGUOUS_SERIES, "units of the values differ")
    unit, first = units.pop(), slices[0]
    modality = first.file.header.modality
    if modality == "NM" and not unit and (first.slice.mapping.slope, first.slice.mapping.intercept) == (1.0, 0.0):
        return "CNTS", 1.0
    uptake = first.file.uptake
    if modality != "PT" or uptake is None or unit == "SUVbw":
        return unit, 1.0
    # Facts that differ between slices cannot all be true of the one series.
    factor = suv_factor(uptake, [one.file.acquired for one in slices]) if len(uptakes) == 1 else None
    if factor is not None and unit in ("", uptake.units):
        return "SUVbw", factor
    return unit or (uptake.units if uptake.units in _PET_UNITS else ""), 1.0


def flags_of(slices: Sequence[SliceFacts]) -> set[Flag]:
    """What the headers alone tell."""
    flags = set()
    header = slices[0].file.header
    if header.frame_of_reference is None:
        flags.add(Flag.NO_FRAME_OF_REFERENCE)
    if any(one.file.lossy for one in slices):
        flags.add(Flag.LOSSY_SOURCE)
    if slices[0].file.inverted:
        flags.add(Flag.INVERTED_DISPLAY)
    if len(slices) == 1:
        flags.add(Flag.SINGLE_SLICE)
    # A slice missing at an end leaves no gap; only the scanner's own count can tell, if it speaks of one acquisition.
    declared = {one.file.declared for one in slices}
    acquisitions = {one.file.header.acquisition_number for one in slices}
    if len(declared) == 1 and len(acquisitions) == 1 and header.number_of_frames == 1:
        count = declared.pop()
        if count is not None and count > len(slices):
            flags.add(Flag.ENDS_UNVERIFIED)
    return flags


def origin_header(dataset: Dataset) -> Dataset:
    """The allow-listed attributes as text of their own; one that cannot be read is left out."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    for keyword, tag in zip(ORIGIN_KEYWORDS, tags_of(ORIGIN_KEYWORDS), strict=True):
        try:
            value = text(dataset, keyword)
        except PairError:
            continue
        if not value or len(value) > _LONGEST_TEXT:
            continue
        try:
            header.add_new(tag, dictionary_VR(tag), value)
        except (ValueError, TypeError, OverflowError):
            # A number that is none, such as a weight of "7O kg".
            continue
    return header

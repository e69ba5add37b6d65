"""The frames of a multi-frame DICOM file: where each lies and what its values mean.

Enhanced and legacy converted CT, MR and PET keep this in functional groups, shared or per frame (PS3.3 section
C.7.6.16); nuclear medicine keeps the first frame's place and counts on from it (section C.8.4.15).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydicom import Dataset

from tasks.codes import Code, PairError
from tasks.read.dicom_file import ParsedFile, tags_of
from tasks.read.dicom_geometry import SlicePlane, check_plane, normal_of
from tasks.read.dicom_header import NM_STORAGE, InstanceHeader
from tasks.read.dicom_pixels import ValueMap, value_map
from tasks.read.dicom_series import ORIENTATION_TOLERANCE, SAME_PLACE, SPACING_TOLERANCE
from tasks.read.dicom_values import integer, items, number, numbers, text, values

FRAME_KEYWORDS: Final = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DetectorInformationSequence",
    "NumberOfSlices",
    "SliceVector",
    "SliceThickness",
    "SpacingBetweenSlices",
)
FRAME_TAGS: Final = tags_of(FRAME_KEYWORDS)


Frame = tuple[SlicePlane, ValueMap]


@dataclass(frozen=True, eq=False)
class _Groups:
    """The functional groups of one frame."""

    own: Dataset
    shared: Dataset

    def item(self, keyword: str) -> Dataset:
        """The first item of a group, from the frame's own groups or the shared ones; empty if there is none."""
        found = items(self.own, keyword) or items(self.shared, keyword)
        return found[0] if found else Dataset()

    def holder(self, keyword: str) -> Dataset:
        """Whichever of the two holds a group."""
        return self.own if keyword in self.own else self.shared


_TRAITS: Final[tuple[tuple[str, Callable[[_Groups], Any]], ...]] = (
    ("StackID", lambda groups: text(groups.item("FrameContentSequence"), "StackID")),
    ("EffectiveEchoTime", lambda groups: number(groups.item("MREchoSequence"), "EffectiveEchoTime")),
    ("DiffusionBValue", lambda groups: number(groups.item("MRDiffusionSequence"), "DiffusionBValue")),
    (
        "FrameType",
        lambda groups: [
            text(groups.item(f"{kind}FrameTypeSequence"), "FrameType") for kind in ("CTImage", "MRImage", "PET")
        ],
    ),
)
"""What may not differ between the frames of one volume. Indices of dimensions and of temporal positions are not among
it, vendors count them wrongly: repeated positions tell."""


def frames_of(parsed: ParsedFile, header: InstanceHeader) -> list[Frame]:
    """Place and values of each frame, in the order of the file.

    Args:
        parsed: with the attributes of FRAME_KEYWORDS and those of a header and of pixels.
        header: of it; its SOP class is one of MULTI_FRAME_STORAGE.

    Raises:
        PairError: HEADER_INCOMPLETE, NO_GEOMETRY, FOUR_D, AMBIGUOUS_SERIES (several orientations).
    """
    frames = _nuclear(parsed, header) if header.sop_class_uid == NM_STORAGE else _enhanced(parsed, header)
    first = frames[0][0]
    for plane, _ in frames:
        check_plane(plane)
        if np.abs(np.subtract(plane.orientation, first.orientation)).max() > ORIENTATION_TOLERANCE:
            raise PairError(Code.AMBIGUOUS_SERIES, "frames of several orientations in one file")
        if np.abs(np.subtract(plane.spacing, first.spacing)).max() > SPACING_TOLERANCE:
            raise PairError(Code.AMBIGUOUS_SERIES, "frames of several pixel spacings in one file")
    depths = np.sort(np.array([plane.position for plane, _ in frames]) @ normal_of(first.orientation))
    repeated = int(np.count_nonzero(np.diff(depths) <= SAME_PLACE))
    if repeated:
        raise PairError(Code.FOUR_D, f"{repeated} of {len(frames)} frames lie where another one does")
    return frames


def _enhanced(parsed: ParsedFile, header: InstanceHeader) -> list[Frame]:
    shared = items(parsed.dataset, "SharedFunctionalGroupsSequence")
    own = items(parsed.dataset, "PerFrameFunctionalGroupsSequence")
    if len(own) != header.number_of_frames or len(shared) > 1:
        raise PairError(Code.HEADER_INCOMPLETE, f"{len(own)} functional groups for {header.number_of_frames} frames")
    groups = [_Groups(one, shared[0] if shared else Dataset()) for one in own]
    for name, trait in _TRAITS:
        first = trait(groups[0])
        if any(trait(one) != first for one in groups):
            raise PairError(Code.FOUR_D, f"{name} differs between frames")
    return [_enhanced_frame(one, header) for one in groups]


def _enhanced_frame(groups: _Groups, header: InstanceHeader) -> Frame:
    measures = groups.item("PixelMeasuresSequence")
    position = numbers(groups.item("PlanePositionSequence"), "ImagePositionPatient", 3, Code.NO_GEOMETRY)
    orientation = numbers(groups.item("PlaneOrientationSequence"), "ImageOrientationPatient", 6, Code.NO_GEOMETRY)
    spacing = numbers(measures, "PixelSpacing", 2, Code.NO_GEOMETRY)
    if position is None or orientation is None or spacing is None:
        raise PairError(Code.NO_GEOMETRY, "a frame without position, orientation or spacing")
    thickness = number(measures, "SliceThickness", Code.NO_GEOMETRY)
    mapping = value_map(
        groups.item("PixelValueTransformationSequence"),
        groups.holder("RealWorldValueMappingSequence"),
        header.modality,
    )
    return SlicePlane(position, orientation, spacing, thickness), mapping


def _nuclear(parsed: ParsedFile, header: InstanceHeader) -> list[Frame]:
    dataset, count = parsed.dataset, header.number_of_frames
    detectors = items(dataset, "DetectorInformationSequence")
    detector = detectors[0] if detectors else Dataset()
    position = numbers(detector, "ImagePositionPatient", 3, Code.NO_GEOMETRY)
    orientation = numbers(detector, "ImageOrientationPatient", 6, Code.NO_GEOMETRY)
    spacing = numbers(dataset, "PixelSpacing", 2, Code.NO_GEOMETRY)
    step = number(dataset, "SpacingBetweenSlices", Code.NO_GEOMETRY)
    thickness = number(dataset, "SliceThickness", Code.NO_GEOMETRY)
    if position is None or orientation is None or spacing is None or (step in (None, 0.0) and count > 1):
        raise PairError(Code.NO_GEOMETRY, "position, orientation, PixelSpacing or SpacingBetweenSlices")
    slices = integer(dataset, "NumberOfSlices")
    numbered = [int(place) for place in values(dataset, "SliceVector")] or list(range(1, count + 1))
    if slices not in (None, count) or sorted(numbered) != list(range(1, count + 1)):
        raise PairError(Code.FOUR_D, f"{count} frames of {slices} slices")
    normal = normal_of(orientation)
    mapping = value_map(dataset, dataset, header.modality)
    return [
        (
            SlicePlane(tuple(np.add(position, (place - 1) * (step or 0.0) * normal)), orientation, spacing, thickness),
            mapping,
        )
        for place in numbered
    ]

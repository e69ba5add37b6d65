"""One DICOM file, decoded: its slices in real-world values, and what the header says that a volume must know."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from tasks.codes import Code
from tasks.read.dicom_file import parse_file, tags_of
from tasks.read.dicom_frames import FRAME_TAGS, frames_of
from tasks.read.dicom_geometry import SlicePlane
from tasks.read.dicom_header import HEADER_KEYWORDS, MULTI_FRAME_STORAGE, PET_STORAGE, InstanceHeader, header_of
from tasks.read.dicom_pixels import (
    PIXEL_TAGS,
    ValueMap,
    is_lossy,
    padding_mask,
    real_values,
    stored_frames,
    value_map,
)
from tasks.read.dicom_values import integer, number, text
from tasks.read.suv import SUV_TAGS, UptakeFacts, acquisition_moment, uptake_facts
from tasks.volume import VolumeLimits

ORIGIN_KEYWORDS: Final = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PatientPosition",
    "BodyPartExamined",
    "Laterality",
    "SliceThickness",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""What a derived series takes over from its source; all else of the header is dropped."""
_TAGS: Final = (
    *tags_of((*HEADER_KEYWORDS, *ORIGIN_KEYWORDS, "ImagesInAcquisition")),
    *PIXEL_TAGS,
    *FRAME_TAGS,
    *SUV_TAGS,
)


@dataclass(frozen=True, eq=False, slots=True)
class FileFacts:
    """What one file says of all its slices.

    Attributes:
        digest: SHA-256 of its bytes.
        inverted: MONOCHROME1.
        lossy: compressed with loss at any time.
        declared: how many slices the scanner says there are; None if it does not.
        uptake: of PET.
        acquired: of PET.
    """

    header: InstanceHeader
    digest: bytes
    inverted: bool
    lossy: bool
    declared: int | None
    uptake: UptakeFacts | None
    acquired: datetime | None


@dataclass(frozen=True, eq=False, slots=True)
class DecodedSlice:
    """What one slice's own place in the header says; ``plane`` is None where that is incomplete.

    Attributes:
        pixel_digest: SHA-256 of the stored pixels and of their meaning; equal for slices of equal values.
    """

    plane: SlicePlane | None
    mapping: ValueMap
    pixel_digest: bytes


@dataclass(frozen=True, eq=False, slots=True)
class DecodedFile:
    """A file's slices in its own order.

    Attributes:
        dataset: the named attributes that were read, those of ORIGIN_KEYWORDS among them.
        voxels: float32 [slices, rows, columns], finite.
        valid: bool of the same shape, False for padding; None if there is none.
    """

    facts: FileFacts
    slices: list[DecodedSlice]
    dataset: Dataset
    voxels: NDArray[np.float32]
    valid: NDArray[np.bool_] | None


def decode_file(content: bytes, limits: VolumeLimits) -> DecodedFile:
    """Parse and decode one file. Holds no state; threads may call it at once.

    Raises:
        PairError: whatever is wrong with the file alone, see :func:`tasks.read.dicom.read_dicom_volume`.
    """
    parsed = parse_file(content, _TAGS, limits)
    header = header_of(parsed, limits)
    dataset = parsed.dataset
    frames: list[tuple[SlicePlane | None, ValueMap]] = (
        [*frames_of(parsed, header)] if header.sop_class_uid in MULTI_FRAME_STORAGE else [_lone_frame(dataset, header)]
    )
    voxels = np.empty((len(frames), header.rows, header.columns), np.float32)
    valid: NDArray[np.bool_] | None = None
    slices = []
    decoded = stored_frames(content, parsed, header, limits)
    for index, ((plane, mapping), stored) in enumerate(zip(frames, decoded, strict=True)):
        voxels[index] = real_values(stored, mapping)
        padding = padding_mask(stored, dataset)
        if padding is not None:
            if valid is None:
                valid = np.ones(voxels.shape, np.bool_)
            valid[index] = ~padding
        digest = hashlib.sha256(np.ascontiguousarray(stored).data)
        digest.update(f"{mapping.slope!r} {mapping.intercept!r} {mapping.unit} {stored.dtype.str}".encode())
        slices.append(DecodedSlice(plane, mapping, digest.digest()))
    pet = header.sop_class_uid == PET_STORAGE
    facts = FileFacts(
        header=header,
        digest=hashlib.sha256(content).digest(),
        inverted=text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1",
        lossy=is_lossy(dataset, parsed.transfer_syntax),
        declared=integer(dataset, "NumberOfSlices" if pet else "ImagesInAcquisition"),
        uptake=uptake_facts(dataset) if pet else None,
        acquired=acquisition_moment(dataset) if pet else None,
    )
    return DecodedFile(facts, slices, dataset, voxels, valid)


def _lone_frame(dataset: Dataset, header: InstanceHeader) -> tuple[SlicePlane | None, ValueMap]:
    plane = None
    if header.position is not None and header.orientation is not None and header.pixel_spacing is not None:
        thickness = number(dataset, "SliceThickness", Code.NO_GEOMETRY)
        plane = SlicePlane(header.position, header.orientation, header.pixel_spacing, thickness)
    return plane, value_map(dataset, dataset, header.modality)

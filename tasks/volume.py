"""A medical volume in memory: voxels on a regular grid, where that lies, and what is known of its origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pydicom import Dataset

DISTANCE_TOLERANCE: Final = 1e-4
"""Millimetres by which two grids may differ and still be one."""


class Flag(StrEnum):
    """What is worth knowing of a volume that can be used all the same; a column of the result table."""

    NO_FRAME_OF_REFERENCE = "no_frame_of_reference"
    NO_ORIENTATION = "no_orientation"
    UNITS_UNKNOWN = "units_unknown"
    SUV_UNAVAILABLE = "suv_unavailable"
    LOSSY_SOURCE = "lossy_source"
    SINGLE_SLICE = "single_slice"
    GAP_FILLED = "gap_filled"
    TILT_REMOVED = "tilt_removed"
    DUPLICATES_DROPPED = "duplicates_dropped"
    ENDS_UNVERIFIED = "ends_unverified"
    INVERTED_DISPLAY = "inverted_display"
    PASSTHROUGH_SLICES = "passthrough_slices"


@dataclass(frozen=True)
class VolumeLimits:
    """What is read at most; a source beyond a limit is rejected before memory is spent on it.

    Attributes:
        object_bytes: of one file as it is stored.
        inflated_bytes: of one file after gzip or the deflated transfer syntax is undone.
        volume_bytes: of the voxels of one volume as float32.
        files: of one series.
        slices: of one volume along its acquisition axis.
    """

    object_bytes: int = 2 << 30
    inflated_bytes: int = 4 << 30
    volume_bytes: int = 4 << 30
    files: int = 10_000
    slices: int = 4096


@dataclass(frozen=True, eq=False)
class DicomSlice:
    """What a derived DICOM object says of the source of one slice."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, eq=False)
class DicomOrigin:
    """What a derived DICOM series needs of its source; it never reaches a table or a log.

    Attributes:
        header: only the attributes of an allow-list (patient, study, frame of reference, body part, equipment-free).
        series_instance_uid: of the source.
        slices: in the order of the voxels' slice axis; one entry for each slice, of a multi-frame file all alike.
    """

    header: Dataset
    series_instance_uid: str
    slices: tuple[DicomSlice, ...]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels in real-world values on a regular grid with orthogonal axes.

    Attributes:
        voxels: float32 [a, b, c], finite wherever ``valid`` is true; in the order of the file: slice, row, column of
            a DICOM series, i, j, k of a NIfTI file.
        affine: float64 [4, 4] from indices (a, b, c, 1) to millimetres in RAS+ axes (nibabel's convention; DICOM's
            LPS+ differs in the sign of x and y).
        slice_axis: 0, 1 or 2: the axis across the acquisition planes.
        modality: CT, MR, PT or NM as DICOM names it, "" where the file does not say.
        unit: "HU", "SUVbw", "BQML", ..., "" where it is arbitrary or unknown.
        content_sha256: of the source's bytes, in an order that names of files do not choose.
        valid: bool [a, b, c], False where there is no measurement (padding, outside of the source's grid); None: all.
        in_scanner_space: whether the affine is that of a scanner; if not, nothing can be said of where it lies.
        frame_of_reference: DICOM's UID, None where it is unknown; never written in clear.
        transfer_syntaxes: of DICOM files, each once, sorted.
        rescale_varies: whether the slope or intercept differs between slices.
        inverted_display: whether low values are shown bright (MONOCHROME1).
        flags: see :class:`Flag`.
        dicom: for a derived DICOM series; None for NIfTI.
    """

    voxels: NDArray[np.float32]
    affine: NDArray[np.float64]
    slice_axis: int
    modality: str
    unit: str
    content_sha256: bytes
    valid: NDArray[np.bool_] | None = None
    in_scanner_space: bool = True
    frame_of_reference: str | None = None
    transfer_syntaxes: tuple[str, ...] = ()
    rescale_varies: bool = False
    inverted_display: bool = False
    flags: frozenset[Flag] = field(default_factory=frozenset)
    dicom: DicomOrigin | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres from voxel to voxel along the axes a, b, c."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

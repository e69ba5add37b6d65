"""A volume as slices for the network, turned as a reader expects to see them, and back.

Slices run along the volume's slice axis in its own order. Within a slice the two other axes are ordered and flipped
so that it stands in radiological display order: columns run towards the patient's left (towards posterior in a
sagittal slice), rows towards posterior (towards inferior in a coronal or sagittal slice). A supine axial DICOM series
stays as it is. Nothing is resampled: an oblique volume is shown along its own axes, by the order that fits best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError

Plane = Literal["axial", "coronal", "sagittal"]

FOREGROUND_LEVEL: Final = -0.8
"""Normalised value above which a pixel counts as foreground: a tenth of the range, above air's noise."""

EMPTY_SHARE: Final = 0.01
"""Share of foreground pixels below which a slice shows nothing; of 256 x 256 pixels it is 655, a disc 29 wide."""

_RIGHT, _ANTERIOR, _SUPERIOR = np.eye(3)
# By the component of the normal that is largest: the plane, where rows should run, where columns should run (RAS+).
_DISPLAY: Final[tuple[tuple[Plane, NDArray[np.float64], NDArray[np.float64]], ...]] = (
    ("sagittal", -_SUPERIOR, -_ANTERIOR),
    ("coronal", -_SUPERIOR, -_RIGHT),
    ("axial", -_ANTERIOR, -_RIGHT),
)
_CLEARLY: Final = 1e-6
_Scalar = TypeVar("_Scalar", bound=np.generic)


@dataclass(frozen=True)
class Slicing:
    """How the voxels of one volume become slices [n, H, W], and back.

    Attributes:
        shape: of the volume.
        axes: the volume's axes that are the slices', the rows' and the columns' index.
        flips: whether the rows' and the columns' index runs against the volume's.
        plane: that the slices lie closest to.
        positions: millimetres of each slice along the normal, which points to higher indices; the scanner's origin
            is 0, so for a DICOM series it is ImagePositionPatient times the normal.
        pixel_spacing: millimetres from row to row and from column to column.
    """

    shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool]
    plane: Plane
    positions: tuple[float, ...]
    pixel_spacing: tuple[float, float]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(n, H, W)."""
        first, rows, columns = self.axes
        return self.shape[first], self.shape[rows], self.shape[columns]

    def split(self, voxels: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """The slices [n, H, W] of voxels of any type: a view, writable where the voxels are; its steps may be negative.

        Raises:
            ValueError: the voxels have another shape than the volume.
        """
        if voxels.shape != self.shape:
            raise ValueError(f"expected voxels of shape {self.shape}, got {voxels.shape}")
        slices = voxels.transpose(self.axes)
        rows, columns = (slice(None, None, -1 if flip else None) for flip in self.flips)
        return slices[:, rows, columns]

    def join(self, slices: NDArray[_Scalar] | Sequence[NDArray[_Scalar] | None]) -> NDArray[_Scalar]:
        """The voxels of the slices, what :meth:`split` undoes; always a copy, rows and columns as the volume has them.

        Args:
            slices: [n, H, W], or n times [H, W]; None stands for one that is missing.

        Raises:
            PairError: RESTACK_INCOMPLETE: not exactly n slices, never a shorter volume.
            ValueError: a slice has another size.
        """
        present = [one for one in slices if one is not None]
        if len(slices) != self.sizes[0] or len(present) != len(slices):
            raise PairError(Code.RESTACK_INCOMPLETE, f"{len(present)} slices of {self.sizes[0]}")
        for one in present:
            if one.shape != self.sizes[1:]:
                raise ValueError(f"expected slices of shape {self.sizes[1:]}, got {one.shape}")
        # Slice by slice in memory, which is also the order in which a NIfTI file (axes k, j, i) is written.
        voxels = np.empty(self.sizes, present[0].dtype).transpose(np.argsort(self.axes))
        for place, one in zip(self.split(voxels), present, strict=True):
            place[...] = one
        return voxels


def slicing_of(affine: NDArray[np.float64], shape: tuple[int, ...], slice_axis: int) -> Slicing:
    """How a volume is sliced.

    Args:
        affine: [4, 4] from voxel indices to millimetres in RAS+ axes, of a :class:`tasks.volume.Volume`.
        shape: of its voxels.
        slice_axis: the volume's axis across the acquisition planes.

    Raises:
        ValueError: the shape has not three axes, or ``slice_axis`` is none of them.
    """
    if len(shape) != 3 or slice_axis not in (0, 1, 2):
        raise ValueError(f"expected three axes and one of them, got shape {shape} and axis {slice_axis}")
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing
    one, other = (axis for axis in range(3) if axis != slice_axis)
    normal = np.cross(directions[:, one], directions[:, other])
    normal *= np.sign(normal @ directions[:, slice_axis]) / np.linalg.norm(normal)
    plane, down, across = _DISPLAY[_nearest_axis(normal)]
    kept = abs(directions[:, one] @ down) + abs(directions[:, other] @ across)
    swapped = abs(directions[:, other] @ down) + abs(directions[:, one] @ across)
    # At 45 degrees both fit alike; the order of the file must then not hang on rounding.
    rows, columns = (other, one) if swapped > kept + _CLEARLY else (one, other)
    start = float(affine[:3, 3] @ normal)
    step = float(affine[:3, slice_axis] @ normal)
    count = int(shape[slice_axis])
    return Slicing(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        axes=(slice_axis, rows, columns),
        flips=(bool(directions[:, rows] @ down < -_CLEARLY), bool(directions[:, columns] @ across < -_CLEARLY)),
        plane=plane,
        positions=tuple(start + index * step for index in range(count)),
        pixel_spacing=(float(spacing[rows]), float(spacing[columns])),
    )


def empty_slices(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    *,
    level: float = FOREGROUND_LEVEL,
    share: float = EMPTY_SHARE,
) -> NDArray[np.bool_]:
    """Which slices show nothing in either volume, so that there is nothing to fuse: bool [n].

    Args:
        first: [n, H, W] in [-1, 1]; invalid voxels are -1.
        second: likewise, of the same shape.
        level: a pixel above it is foreground.
        share: a slice is empty when less than this share of its pixels is foreground, on both sides.

    Raises:
        ValueError: the shapes differ.
    """
    if first.shape != second.shape or first.ndim != 3:
        raise ValueError(f"expected two equal shapes [n, H, W], got {first.shape} and {second.shape}")
    return (_shares(first, level) < share) & (_shares(second, level) < share)


def _shares(slices: NDArray[np.float32], level: float) -> NDArray[np.float64]:
    counts = [np.count_nonzero(one > level) for one in slices]
    shares: NDArray[Any] = np.asarray(counts, np.float64) / (slices.shape[1] * slices.shape[2])
    return shares


def _nearest_axis(normal: NDArray[np.float64]) -> int:
    """Of R, A, S; among those that fit alike, the last."""
    fit = np.abs(normal)
    return int(np.flatnonzero(fit >= fit.max() - _CLEARLY)[-1])

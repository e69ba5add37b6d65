"""From the planes of slices to one regular grid: their order, spacing, gaps and tilt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from highdicom.spatial import get_normal_vector, get_volume_positions
from numpy.typing import NDArray

from tasks.codes import Code, PairError

FloatArray = NDArray[np.float64]

MAX_TILT: Final = 0.5
"""Degrees between the line through the slices and their normal."""
_COSINE_TOLERANCE: Final = 1e-4
_POSITION_TOLERANCE: Final = 0.1
"""Millimetres by which a slice may lie off its place. Positions are often written with one decimal, and a tenth of a
millimetre is far below what a scan resolves. For thin slices it is a tenth of their distance."""
_INDEX_CONVENTION: Final = "RD"
"""With highdicom's right-handed rule the normal is then cross(row, column)."""


@dataclass(frozen=True, eq=False)
class SlicePlane:
    """Where one slice lies, as its file says (PS3.3 section C.7.6.2).

    Attributes:
        position: [3] of the first voxel's centre, millimetres, LPS+.
        orientation: [6] cosines of a row's direction, then of a column's, LPS+.
        spacing: (between rows, between columns) in millimetres.
        thickness: in millimetres; needed of a lone slice only.
    """

    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None


@dataclass(frozen=True, eq=False)
class SliceGrid:
    """The regular grid that slices lie on.

    Attributes:
        places: for each input slice its index along the grid's slice axis, which ascends along cross(row, column).
        count: of places, those without a slice included.
        affine: [4, 4] from (slice, row, column, 1) to millimetres in RAS+.
        shifts: [inputs, 2] where each input's first voxel lies on its plane of the grid, in (rows, columns); None
            where the stack stands upright.
    """

    places: tuple[int, ...]
    count: int
    affine: FloatArray
    shifts: FloatArray | None


def check_plane(plane: SlicePlane) -> None:
    """Refuse directions that are no unit vectors at right angles, and spacings that are not positive.

    Raises:
        PairError: NO_GEOMETRY.
    """
    row, column = np.array(plane.orientation[:3]), np.array(plane.orientation[3:])
    worst = max(abs(float(row @ row) - 1), abs(float(column @ column) - 1), abs(float(row @ column)))
    if not worst <= 2 * _COSINE_TOLERANCE:
        raise PairError(Code.NO_GEOMETRY, f"direction cosines are off by {worst:.2g}")
    if not min(plane.spacing) > 0:
        raise PairError(Code.NO_GEOMETRY, "PixelSpacing is not positive")


def normal_of(orientation: tuple[float, ...]) -> FloatArray:
    """The unit vector cross(row, column), LPS+."""
    normal: FloatArray = get_normal_vector(orientation, index_convention=_INDEX_CONVENTION)
    return normal


def grid_of(planes: Sequence[SlicePlane], *, fill_gaps: bool, remove_tilt: bool) -> SliceGrid:
    """Lay slices at distinct places on one grid.

    Args:
        planes: checked, of one orientation and pixel spacing, in any order, no two at one place.
        fill_gaps: leave places free where slices are missing between others, instead of refusing.
        remove_tilt: say how the slices are shifted against each other, instead of refusing.

    Raises:
        PairError: NO_GEOMETRY (a lone slice without thickness), SHEARED, MISSING_SLICES, IRREGULAR_SPACING.
    """
    first = planes[0]
    axes = _orthonormal(first.orientation)
    normal = np.cross(axes[0], axes[1])
    positions = np.array([plane.position for plane in planes], dtype=np.float64)
    centre = positions.mean(axis=0)
    depths = (positions - centre) @ normal
    offsets = (positions - centre) @ axes.T
    drift = (depths @ offsets) / (depths @ depths) if len(planes) > 1 else np.zeros(2)
    tilt = float(np.degrees(np.arctan(np.linalg.norm(drift))))
    scatter = float(np.abs(offsets - np.outer(depths, drift)).max())
    if scatter > _POSITION_TOLERANCE:
        raise PairError(Code.IRREGULAR_SPACING, f"slices are shifted against each other by {scatter:.2f} mm")
    if tilt > MAX_TILT and not remove_tilt:
        raise PairError(Code.SHEARED, f"by {tilt:.1f} degrees")
    spacing, places = _places(first, depths, normal, fill_gaps=fill_gaps)
    origin = centre + (depths.mean() - spacing * places.mean()) * normal
    affine = np.eye(4)
    affine[:3, 0] = spacing * normal
    affine[:3, 1] = first.spacing[0] * axes[1]
    affine[:3, 2] = first.spacing[1] * axes[0]
    affine[:3, 3] = origin
    # From DICOM's LPS+ axes to RAS+.
    affine[:2] = 0.0 - affine[:2]
    shifts = offsets[:, ::-1] / np.array(first.spacing) if tilt > MAX_TILT else None
    return SliceGrid(tuple(places.tolist()), int(places.max()) + 1, affine, shifts)


def _orthonormal(orientation: Sequence[float]) -> FloatArray:
    """[2, 3] the unit vectors at right angles that are nearest to a row's and a column's cosines.

    Cosines are written with six digits or so; a direction matrix is expected to be orthonormal to more.
    """
    left, _, right = np.linalg.svd(np.array(orientation, dtype=np.float64).reshape(2, 3), full_matrices=False)
    axes: FloatArray = left @ right
    return axes


def _places(
    first: SlicePlane, depths: FloatArray, normal: FloatArray, *, fill_gaps: bool
) -> tuple[float, NDArray[np.int64]]:
    """Millimetres from place to place, and the place of each slice, counted along the normal."""
    if len(depths) == 1:
        if first.thickness is None or not first.thickness > 0:
            raise PairError(Code.NO_GEOMETRY, "a single slice without SliceThickness")
        return first.thickness, np.zeros(1, dtype=np.int64)
    steps = np.diff(np.sort(depths))
    # What lies between the slices is all that highdicom judges here; the tilt was judged above, more finely.
    upright = np.outer(depths, normal)
    usual = float(np.median(steps))
    for hint in (None, usual, float(steps.min())):
        spacing, places = get_volume_positions(
            image_positions=upright.tolist(),
            image_orientation=first.orientation,
            index_convention=_INDEX_CONVENTION,
            atol=min(_POSITION_TOLERANCE, 0.1 * usual),
            perpendicular_tol=1.0,
            allow_missing_positions=hint is not None,
            spacing_hint=hint,
        )
        if spacing is None:
            continue
        found = np.array(places, dtype=np.int64)
        slope, intercept = np.polyfit(found, depths, 1)
        off = float(np.abs(depths - (slope * found + intercept)).max())
        if off > min(_POSITION_TOLERANCE, 0.1 * usual):
            break
        missing = int(found.max()) + 1 - len(found)
        if missing and not fill_gaps:
            raise PairError(Code.MISSING_SLICES, f"{missing} of {missing + len(found)}, which lie {slope:.3g} mm apart")
        return float(slope), found
    raise PairError(Code.IRREGULAR_SPACING, f"from {steps.min():.3g} to {steps.max():.3g} mm apart")

"""A stack of slices that are shifted against each other, such as a gantry tilt leaves them, onto upright axes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError

_SMALLEST_SHIFT = 1e-6
"""Pixels; what is smaller is rounding, and would cost a row at the edge."""


def straighten(
    voxels: NDArray[np.float32],
    valid: NDArray[np.bool_],
    affine: NDArray[np.float64],
    shifts: NDArray[np.float64],
    most_bytes: int,
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Resample each slice within its own plane, linearly; nothing is mixed between slices.

    Args:
        voxels: float32 [slices, rows, columns].
        valid: bool of the same shape.
        affine: [4, 4] of the upright grid.
        shifts: [slices, 2] where each slice's first voxel lies on the grid, in (rows, columns); NaN for no slice.
        most_bytes: that the result may have.

    Returns:
        Voxels, mask and affine of a grid that is wide enough for all slices; outside of a slice it is not valid.

    Raises:
        PairError: TOO_LARGE.
    """
    shifts = np.round(shifts / _SMALLEST_SHIFT) * _SMALLEST_SHIFT
    origin = np.nanmin(shifts, axis=0)
    shifts = shifts - origin
    count, rows, columns = voxels.shape
    height, width = (
        size + math.ceil(float(most)) for size, most in zip((rows, columns), np.nanmax(shifts, axis=0), strict=True)
    )
    if count * height * width * 4 > most_bytes:
        raise PairError(Code.TOO_LARGE, f"{count} x {height} x {width} voxels once the tilt is removed")
    upright = np.zeros((count, height, width), np.float32)
    upright_valid = np.zeros(upright.shape, np.bool_)
    for index, (down, right) in enumerate(shifts):
        if math.isnan(down):
            continue
        values, inside = voxels[index], valid[index]
        values, inside, top = _shifted(values, inside, float(down))
        values, inside, left = _shifted(values.T, inside.T, float(right))
        place = np.s_[index, top : top + values.shape[1], left : left + values.shape[0]]
        upright[place], upright_valid[place] = values.T, inside.T
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 1:3] @ origin
    return upright, upright_valid, moved


def _shifted(
    values: NDArray[np.float32], inside: NDArray[np.bool_], shift: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Rows moved down by a shift >= 0: those that lie between two old ones or on one, and the place of the first."""
    whole = math.floor(shift)
    part = np.float32(shift - whole)
    if part == 0:
        return values, inside, whole
    return (1 - part) * values[1:] + part * values[:-1], inside[1:] & inside[:-1], whole + 1

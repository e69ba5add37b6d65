"""Where the voxels of a NIfTI file lie: its sform, its qform, or only its spacing (nifti1.h, methods 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from nibabel.quaternions import quat2mat
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.volume import Flag

SAME_LENGTH: Final = 1e-3
"""Share by which voxel sizes of sform and qform may differ."""

SAME_DIRECTION: Final = 2e-3
"""Radians between the axes of sform and qform; near half turns a quaternion computed in float32 is good to 1.3e-3."""

SAME_ORIGIN: Final = 1e-2
"""Share of the smallest voxel side by which origins of sform and qform may differ."""

SAME_PIXDIM: Final = 1e-2
"""Share by which the sform's voxel sizes may differ from pixdim, which some writers round."""

MOST_SHEAR: Final = math.radians(0.5)
"""By which the angle between two axes may differ from a right one."""

_SAME_SPACING: Final = 0.01
_MILLIMETRES: Final = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""By the code of the unit of length: unknown, metre, millimetre, micrometre."""

_matrix_of: Final[Callable[[list[float]], NDArray[np.float64]]] = quat2mat
_QUATERNION_ROUNDING: Final = 3 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True, eq=False)
class Grid:
    """The geometry of a NIfTI volume.

    Attributes:
        affine: float64 [4, 4], indices i, j, k to millimetres in RAS+ axes.
        slice_axis: the axis of the largest spacing.
        flags: UNITS_UNKNOWN, NO_ORIENTATION.
    """

    affine: NDArray[np.float64]
    slice_axis: int
    flags: frozenset[Flag]


def grid_of(header: Any, shape: tuple[int, int, int]) -> Grid:
    """The geometry that a header describes.

    Args:
        header: nibabel's Nifti1Header or Nifti2Header.
        shape: voxels along i, j, k.

    Raises:
        PairError: NO_GEOMETRY, AFFINE_SINGULAR, AFFINE_CONFLICT, SHEARED.
    """
    flags = set()
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MILLIMETRES:
        raise PairError(Code.NO_GEOMETRY, f"unit code {unit} is not one of length")
    if unit == 0:
        flags.add(Flag.UNITS_UNKNOWN)
    pixdim = np.asarray(header["pixdim"], np.float64)
    if not (np.isfinite(pixdim[1:4]).all() and (pixdim[1:4] > 0).all()):
        raise PairError(Code.NO_GEOMETRY, f"pixdim of {_figures(pixdim[1:4])}")
    sform = _sform(header) if int(header["sform_code"]) > 0 else None
    qform = _qform(header, pixdim) if int(header["qform_code"]) > 0 else None
    if sform is not None:
        _check_pixdim(sform, pixdim)
        if qform is not None:
            _check_agreement(header, sform, qform)
        affine = sform
    elif qform is not None:
        affine = qform
    else:
        affine = _centred(pixdim, shape)
        flags.add(Flag.NO_ORIENTATION)
    affine[:3] *= _MILLIMETRES[unit]
    return Grid(affine, _slice_axis(affine, shape), frozenset(flags))


def _sform(header: Any) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3] = [np.asarray(header[row], np.float64) for row in ("srow_x", "srow_y", "srow_z")]
    if not np.isfinite(affine).all():
        raise PairError(Code.AFFINE_SINGULAR, "sform holds values that are not finite")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() == 0:
        raise PairError(Code.AFFINE_SINGULAR, "an axis of the sform has no length")
    directions = affine[:3, :3] / lengths
    if abs(np.linalg.det(directions)) < 1e-3:
        raise PairError(Code.AFFINE_SINGULAR, "the axes of the sform lie in one plane")
    for one, other in ((0, 1), (0, 2), (1, 2)):
        shear = abs(math.asin(float(np.clip(directions[:, one] @ directions[:, other], -1, 1))))
        if shear > MOST_SHEAR:
            raise PairError(Code.SHEARED, f"axes {one} and {other} of the sform: {math.degrees(shear):.2f} degrees")
    return affine


def _qform(header: Any, pixdim: NDArray[np.float64]) -> NDArray[np.float64]:
    b, c, d = (float(header[part]) for part in ("quatern_b", "quatern_c", "quatern_d"))
    origin = [float(header[part]) for part in ("qoffset_x", "qoffset_y", "qoffset_z")]
    if not all(map(math.isfinite, (b, c, d, *origin))):
        raise PairError(Code.AFFINE_SINGULAR, "qform holds values that are not finite")
    # Each of the three is rounded by the writer, so their squares may add up to a little more than 1.
    square = 1 - (b * b + c * c + d * d)
    if square < -_QUATERNION_ROUNDING:
        raise PairError(Code.AFFINE_SINGULAR, f"the qform's quaternion has a length of {math.sqrt(1 - square):.4f}")
    if pixdim[0] not in (-1, 0, 1):
        raise PairError(Code.AFFINE_SINGULAR, f"the qform's handedness, pixdim[0], is {pixdim[0]:g}")
    affine = np.eye(4)
    affine[:3, :3] = _matrix_of([math.sqrt(max(square, 0)), b, c, d]) * pixdim[1:4]
    if pixdim[0] == -1:
        affine[:3, 2] *= -1
    affine[:3, 3] = origin
    return affine


def _centred(pixdim: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """nibabel's choice without qform and sform: i to the left, the origin in the middle."""
    affine = np.diag([-pixdim[1], pixdim[2], pixdim[3], 1.0])
    affine[:3, 3] = -(np.asarray(shape) - 1) / 2 * np.diag(affine)[:3]
    return affine


def _check_pixdim(sform: NDArray[np.float64], pixdim: NDArray[np.float64]) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    if (np.abs(lengths - pixdim[1:4]) > SAME_PIXDIM * lengths).any():
        raise PairError(Code.AFFINE_CONFLICT, f"sform spacing {_figures(lengths)}, pixdim {_figures(pixdim[1:4])}")


def _check_agreement(header: Any, sform: NDArray[np.float64], qform: NDArray[np.float64]) -> None:
    lengths = np.linalg.norm(sform[:3, :3], axis=0)
    others = np.linalg.norm(qform[:3, :3], axis=0)
    length = float(np.max(np.abs(lengths - others) / lengths))
    chord = np.linalg.norm(sform[:3, :3] / lengths - qform[:3, :3] / others, axis=0)
    angle = float(np.max(2 * np.arcsin(np.clip(chord / 2, 0, 1))))
    origin = float(np.max(np.abs(sform[:3, 3] - qform[:3, 3])))
    if length > SAME_LENGTH or angle > SAME_DIRECTION or origin > SAME_ORIGIN * lengths.min():
        codes = f"sform_code {int(header['sform_code'])}, qform_code {int(header['qform_code'])}"
        figures = f"spacing {length:.2%}, directions {math.degrees(angle):.2f} degrees, origins {origin:.3g}"
        raise PairError(Code.AFFINE_CONFLICT, f"{codes}; they differ by: {figures} units of length")


def _slice_axis(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> int:
    if shape.count(1) == 1:
        return shape.index(1)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return int(np.flatnonzero(spacing >= (1 - _SAME_SPACING) * spacing.max())[-1])


def _figures(lengths: NDArray[np.float64]) -> str:
    return " x ".join(f"{length:.5g}" for length in lengths)

"""Where voxels lie: affines of sample grids and rigid motions, in millimetres and RAS+ axes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def rigid_motion(
    axis: ArrayLike = (0, 0, 1), degrees: float = 0.0, translation: ArrayLike = (0, 0, 0)
) -> NDArray[np.float64]:
    """Turn about ``axis`` through the origin by ``degrees`` (right-handed), then move by ``translation`` mm: [4, 4].

    Source: Rodrigues' rotation formula.
    """
    x, y, z = np.asarray(axis, float) / np.linalg.norm(np.asarray(axis, float))
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    motion = np.eye(4)
    motion[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    motion[:3, 3] = translation
    return motion


def random_motion(generator: np.random.Generator, max_degrees: float, max_distance: float) -> NDArray[np.float64]:
    """About a random axis by up to ``max_degrees``, in a random direction by up to ``max_distance`` mm: [4, 4]."""
    degrees, distance = generator.uniform(0, max_degrees), generator.uniform(0, max_distance)
    direction = generator.standard_normal(3)
    return rigid_motion(generator.standard_normal(3), degrees, distance * direction / np.linalg.norm(direction))


def slices_grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    centre: ArrayLike = (0, 0, 0),
    turn: NDArray[np.float64] | None = None,
    plane: str = "axial",
) -> NDArray[np.float64]:
    """The affine of a scan in DICOM's voxel order, [slice, row, column] to RAS mm: [4, 4].

    Args:
        shape: voxels along slice, row, column.
        spacing: millimetres along slice, row, column.
        centre: of the grid, in RAS mm.
        turn: a rigid motion applied about the centre; makes the scan oblique.
        plane: ``axial`` (slices upwards, rows backwards, columns to the left), ``coronal`` or ``sagittal``.
    """
    left, back, up = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)
    down, front = (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)
    axes = {"axial": (up, back, left), "coronal": (front, down, left), "sagittal": (left, down, back)}[plane]
    return _centred(np.array(axes).T, shape, spacing, centre, turn)


def axes_grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    centre: ArrayLike = (0, 0, 0),
    turn: NDArray[np.float64] | None = None,
    axes: str = "RAS",
) -> NDArray[np.float64]:
    """The affine of a grid whose index axes point along ``axes`` (nibabel's letters, such as RAS or LPS): [4, 4]."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    return _centred(np.array([directions[axis] for axis in axes], float).T, shape, spacing, centre, turn)


def tilted(affine: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """A scan in DICOM's voxel order whose gantry was tilted: each slice slides along the columns' direction.

    Sample the head on this grid too, then its voxels and the positions agree, as those of a tilted CT do.
    """
    sheared = affine.copy()
    down = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    sheared[:3, 0] += np.tan(np.deg2rad(degrees)) * np.linalg.norm(affine[:3, 0]) * down
    return sheared


def _centred(
    directions: NDArray[np.float64],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    centre: ArrayLike,
    turn: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    rotation = np.eye(3) if turn is None else turn[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = rotation @ directions * np.array(spacing)
    affine[:3, 3] = np.asarray(centre, float) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine

"""Volumes and the grids they lie on: to SimpleITK and back, resampled, block-averaged, compared.

Two conventions meet here. A :class:`~tasks.volume.Volume` has indices (a, b, c) and RAS+ millimetres; an ITK image has
its fastest index first, so (c, b, a), and LPS+ millimetres. Transforms are ITK's: they map a point of the fixed
source to the point of the moving one that shows the same tissue, both in LPS+.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.volume import DISTANCE_TOLERANCE, Volume

ItkImage: TypeAlias = Any
ItkTransform: TypeAlias = Any
"""SimpleITK has no types of its own."""

LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From RAS+ to LPS+ and back."""

AIR_HU: Final = -1000.0


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie.

    Attributes:
        shape: voxels along the axes a, b, c.
        affine: float64 [4, 4] from (a, b, c, 1) to RAS+ millimetres; its axes are orthogonal.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, volume: Volume) -> Grid:
        """The grid of a volume."""
        a, b, c = volume.voxels.shape
        return cls((a, b, c), volume.affine)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Millimetres from voxel to voxel along a, b, c."""
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))

    def points(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """RAS+ millimetres [n, 3] of indices [n, 3]."""
        return np.asarray(indices @ self.affine[:3, :3].T + self.affine[:3, 3])

    @property
    def corners(self) -> NDArray[np.float64]:
        """RAS+ millimetres [8, 3] of the centres of the corner voxels."""
        ends = [(0, size - 1) for size in self.shape]
        return self.points(np.array(list(itertools.product(*ends)), dtype=np.float64))


def same_grid(fixed: Grid | Volume, moving: Grid | Volume) -> bool:
    """Whether both have one shape and the same voxel at each corner within ``DISTANCE_TOLERANCE`` millimetres."""
    first, second = (Grid.of(side) if isinstance(side, Volume) else side for side in (fixed, moving))
    if first.shape != second.shape:
        return False
    return bool(np.linalg.norm(first.corners - second.corners, axis=1).max() <= DISTANCE_TOLERANCE)


def itk_geometry(grid: Grid) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Origin, spacing and row-major direction of a grid as ITK wants them.

    Raises:
        PairError: NO_GEOMETRY when the affine has no inverse, SHEARED when its axes are not orthogonal: ITK would
            take both and put the voxels elsewhere.
    """
    lps = LPS @ grid.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if not np.isfinite(lps).all() or spacing.min() <= 0:
        raise PairError(Code.NO_GEOMETRY, "the affine is not finite or has an axis of no length")
    direction = lps[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
        raise PairError(Code.SHEARED, "the axes of the affine are not orthogonal")
    # The nearest orthonormal matrix: ITK checks to a tolerance that float32 headers miss.
    left, _, right = np.linalg.svd(direction)
    direction = (left @ right)[:, ::-1]
    return tuple(lps[:3, 3].tolist()), tuple(spacing[::-1].tolist()), tuple(direction.ravel().tolist())


def to_itk(voxels: NDArray[Any], grid: Grid) -> ItkImage:
    """A SimpleITK image with a copy of the voxels."""
    image = sitk.GetImageFromArray(voxels)
    origin, spacing, direction = itk_geometry(grid)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    return image


def from_itk(image: ItkImage) -> tuple[NDArray[Any], Grid]:
    """The voxels [a, b, c], copied, and the grid of a SimpleITK image of three dimensions."""
    voxels = sitk.GetArrayFromImage(image)
    direction = np.array(image.GetDirection(), dtype=np.float64).reshape(3, 3)
    lps = np.eye(4)
    lps[:3, :3] = (direction * np.array(image.GetSpacing()))[:, ::-1]
    lps[:3, 3] = image.GetOrigin()
    a, b, c = voxels.shape
    return voxels, Grid((a, b, c), LPS @ lps)


def use_one_itk_thread() -> None:
    """ITK's filters run in the thread that calls them: sums come in one order, and forked workers cannot hang.

    The setting is the process's and stays, since several threads of ours may be inside ITK at once.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)


def outside_value(volume: Volume) -> float:
    """What lies outside of a volume: air for CT in Hounsfield units, 0 otherwise."""
    return AIR_HU if volume.modality == "CT" and volume.unit == "HU" else 0.0


def with_invalid_as_nan(volume: Volume) -> NDArray[np.float32]:
    """The voxels, NaN where they are not valid; a copy only if there are such."""
    if volume.valid is None or volume.valid.all():
        return volume.voxels
    return np.where(volume.valid, volume.voxels, np.float32(np.nan))


def block_mean(volume: Volume, factors: tuple[int, int, int]) -> Volume:
    """Each block of ``factors`` voxels averaged into one; needs memory for the small volume only.

    A block counts as valid when at least half of it is; its mean is that of its valid voxels. An incomplete block at
    the far ends of the axes counts as completed with invalid voxels.
    """
    if factors == (1, 1, 1):
        return volume
    fa, fb, fc = factors
    sizes = volume.voxels.shape
    small = tuple(-(-size // factor) for size, factor in zip(sizes, factors, strict=True))
    means = np.zeros(small, np.float32)
    valid = np.zeros(small, np.bool_)
    rows, columns = np.arange(0, sizes[1], fb), np.arange(0, sizes[2], fc)
    for index in range(small[0]):
        slab = volume.voxels[index * fa : (index + 1) * fa].astype(np.float32, copy=False)
        if volume.valid is None:
            total = slab.sum(axis=0, dtype=np.float64)
            count = np.full(total.shape, float(len(slab)))
        else:
            mask = volume.valid[index * fa : (index + 1) * fa]
            total = np.where(mask, slab, np.float32(0)).sum(axis=0, dtype=np.float64)
            count = mask.sum(axis=0, dtype=np.float64)
        total = np.add.reduceat(np.add.reduceat(total, rows, axis=0), columns, axis=1)
        count = np.add.reduceat(np.add.reduceat(count, rows, axis=0), columns, axis=1)
        valid[index] = 2 * count >= fa * fb * fc
        means[index] = np.where(valid[index], total / np.maximum(count, 1), 0)
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= np.array(factors)
    return replace(volume, voxels=means, affine=affine, valid=valid)


def _antialias_factors(moving: Grid, fixed: Grid, linear: NDArray[np.float64]) -> tuple[int, int, int]:
    """Whole voxels of ``moving`` along its axes between two neighbouring points at which ``fixed`` samples it."""
    steps = LPS[:3, :3] @ linear @ LPS[:3, :3] @ fixed.affine[:3, :3]
    axes = moving.affine[:3, :3] / moving.spacing
    reach = np.linalg.norm(axes.T @ steps, axis=1) / moving.spacing
    # A quarter of tolerance: 1.99 voxels are two, and 1.5 do not blur by two.
    a, b, c = np.minimum(np.maximum(np.floor(reach + 0.25), 1), moving.shape).astype(int).tolist()
    return a, b, c


def _linear_part(transform: ItkTransform | None) -> NDArray[np.float64]:
    """The transform's 3 x 3 matrix by differences about the origin; near enough for a choice of factors."""
    if transform is None:
        return np.eye(3)
    zero = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - zero for unit in np.eye(3)]
    return np.stack(columns, axis=1)


def resample(
    moving: Volume,
    fixed: Grid | Volume,
    transform: ItkTransform | None = None,
    *,
    interpolation: Literal["linear", "bspline"] = "linear",
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``moving`` on the grid of ``fixed``.

    A fixed grid that is at least twice as coarse gets block means of the moving one, so that fine detail does not
    alias. Cubic B-splines overshoot at edges: PET and SPECT are always interpolated linearly.

    Args:
        moving: the volume to resample.
        fixed: the grid, or a volume on it.
        transform: from fixed to moving points (LPS+); the scanner's own coordinates by default.
        interpolation: ``linear``, or ``bspline`` of order 3.

    Returns:
        Float32 voxels on the fixed grid, and where they are valid: True only where the moving grid reaches and no
        invalid voxel lies within the eight neighbours. Elsewhere CT in HU is -1000, everything else 0.

    Raises:
        PairError: NO_GEOMETRY or SHEARED for an affine that ITK cannot hold.
    """
    grid = Grid.of(fixed) if isinstance(fixed, Volume) else fixed
    outside = outside_value(moving)
    source = block_mean(moving, _antialias_factors(Grid.of(moving), grid, _linear_part(transform)))
    image = to_itk(with_invalid_as_nan(source).astype(np.float32, copy=False), Grid.of(source))
    voxels = _resampled(image, grid, transform, sitk.sitkLinear)
    valid = np.isfinite(voxels)
    if interpolation == "bspline" and source.modality not in {"PT", "NM"}:
        # One NaN would spread over the whole image in the spline's recursive filter.
        filled = np.nan_to_num(with_invalid_as_nan(source), nan=outside, posinf=outside, neginf=outside)
        image = to_itk(filled, Grid.of(source))
        voxels = _resampled(image, grid, transform, sitk.sitkBSpline)
    voxels[~valid] = outside
    return voxels, valid


def resample_filter(grid: Grid) -> Any:
    """ITK's filter that puts an image on ``grid``: float32, linear, NaN outside of the image; set its transform."""
    origin, spacing, direction = itk_geometry(grid)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetNumberOfThreads(1)
    filter_.SetSize([int(size) for size in reversed(grid.shape)])
    filter_.SetOutputOrigin(origin)
    filter_.SetOutputSpacing(spacing)
    filter_.SetOutputDirection(direction)
    filter_.SetInterpolator(sitk.sitkLinear)
    filter_.SetDefaultPixelValue(float("nan"))
    filter_.SetOutputPixelType(sitk.sitkFloat32)
    return filter_


def _resampled(image: ItkImage, grid: Grid, transform: ItkTransform | None, interpolator: Any) -> NDArray[np.float32]:
    use_one_itk_thread()
    filter_ = resample_filter(grid)
    filter_.SetTransform(sitk.Transform(3, sitk.sitkIdentity) if transform is None else transform)
    filter_.SetInterpolator(interpolator)
    result = filter_.Execute(image)
    voxels: NDArray[np.float32] = sitk.GetArrayFromImage(result)
    return voxels


def on_grid_by_header(moving: Volume, fixed: Volume) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``moving`` on the grid of ``fixed`` by what the two headers say of the scanner's space.

    Raises:
        PairError: NO_GEOMETRY when one of the headers does not say where its volume lies.
    """
    if not (fixed.in_scanner_space and moving.in_scanner_space):
        raise PairError(Code.NO_GEOMETRY, "one of the volumes has no orientation, so its header cannot align it")
    return resample(moving, fixed)

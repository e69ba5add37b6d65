"""Which part of a volume is patient, roughly; where it lies, and how much of it two volumes share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.register.affine_map import AffineMap, Box
from tasks.register.grid import Grid, block_mean, use_one_itk_thread
from tasks.volume import Volume

_POINTS: Final = 200_000
_TISSUE_HU: Final = -300.0
_SHARE_OF_OTSU: Final = 0.6
"""Otsu's threshold lies between dark and bright tissue where the background is small; below it is still patient."""

_MARGIN: Final = 0.14
_FEWEST_VOXELS: Final = 64


def reduction(volume: Volume, level: float) -> tuple[int, int, int]:
    """Whole voxels along each axis that ``level`` millimetres hold, at least one."""
    a, b, c = (max(1, int(level / spacing + 1e-6)) for spacing in volume.spacing)
    return a, b, c


@dataclass(frozen=True, eq=False)
class Foreground:
    """The largest connected thing in a volume.

    Attributes:
        grid: of the volume, coarser where that is large.
        mask: bool, on that grid.
        known: bool, on that grid: whether there is a measurement.
        points: RAS+ mm [n, 3] of the voxels of the mask.
    """

    grid: Grid
    mask: NDArray[np.bool_]
    known: NDArray[np.bool_]
    points: NDArray[np.float64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """Its centre of gravity in mm, [3]."""
        return np.asarray(self.points.mean(axis=0))

    @property
    def box(self) -> Box:
        """The box about it with a margin of background."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        margin = _MARGIN / 2 * float(np.mean(high - low))
        return Box(low - margin, high + margin)

    @property
    def voxel_volume(self) -> float:
        """Cubic millimetres that a point stands for."""
        return float(np.prod(self.grid.spacing))


def foreground_of(volume: Volume) -> Foreground:
    """The foreground: above -300 HU in CT, above 0.6 of Otsu's threshold otherwise; opened, its largest component.

    Raises:
        PairError: REGISTRATION_FAILED for a volume that is constant, or holds nothing that stands out.
    """
    use_one_itk_thread()
    level = (math.prod(volume.spacing) * volume.voxels.size / _POINTS) ** (1 / 3)
    small = block_mean(volume, reduction(volume, level))
    known = np.isfinite(small.voxels) if small.valid is None else small.valid
    if known.sum() < _FEWEST_VOXELS:
        raise PairError(Code.REGISTRATION_FAILED, f"a volume has {int(known.sum())} valid voxels")
    low, high = np.percentile(small.voxels[known], [0.5, 99.5])
    if not high > low:
        raise PairError(Code.REGISTRATION_FAILED, "a volume is constant")
    values = np.clip(np.where(known, small.voxels, low), low, high)
    threshold = _TISSUE_HU if volume.modality == "CT" and volume.unit == "HU" else _threshold(values, low)
    tissue = sitk.GetImageFromArray((values > threshold).astype(np.uint8))
    # A radius of one needs three voxels; the couch and the noise in air are what it removes.
    radius = [1 if size >= 3 else 0 for size in reversed(values.shape)]
    components = sitk.RelabelComponent(sitk.ConnectedComponent(sitk.BinaryMorphologicalOpening(tissue, radius)))
    mask = sitk.GetArrayFromImage(components) == 1
    if mask.sum() < _FEWEST_VOXELS:
        raise PairError(Code.REGISTRATION_FAILED, f"the foreground of a volume is {int(mask.sum())} voxels")
    grid = Grid.of(small)
    return Foreground(grid, mask, known, grid.points(np.argwhere(mask).astype(np.float64)))


def _threshold(values: NDArray[np.float32], low: float) -> float:
    filter_ = sitk.OtsuThresholdImageFilter()
    filter_.SetNumberOfThreads(1)
    filter_.SetNumberOfHistogramBins(128)
    filter_.Execute(sitk.GetImageFromArray(values.astype(np.float32)))
    return low + _SHARE_OF_OTSU * (float(filter_.GetThreshold()) - low)


def field_of_view(volume: Volume) -> float:
    """Cubic millimetres of the grid."""
    return math.prod(volume.spacing) * volume.voxels.size


def overlap_and_dice(fixed: Foreground, moving: Foreground, mapping: AffineMap) -> tuple[float, float]:
    """How much two volumes share when ``mapping`` lays them over each other.

    Returns:
        The share of a foreground that lies where the other volume has measurements, of that side where it is larger:
        a small field of view inside a large one overlaps wholly. And the Dice coefficient of the two foregrounds
        within the field of view that they share.
    """
    known_to_moving, in_both = _lookup(moving, mapping(fixed.points))
    known_to_fixed, _ = _lookup(fixed, mapping.inverse()(moving.points))
    first = float(known_to_moving.sum()) * fixed.voxel_volume
    second = float(known_to_fixed.sum()) * moving.voxel_volume
    dice = 2 * float(in_both.sum()) * fixed.voxel_volume / (first + second) if first + second else 0.0
    return max(float(known_to_moving.mean()), float(known_to_fixed.mean())), dice


def _lookup(there: Foreground, points: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each point [n, 3]: whether it was measured there, and whether it is foreground there."""
    to_index = np.linalg.inv(there.grid.affine)
    indices = np.rint(points @ to_index[:3, :3].T + to_index[:3, 3]).astype(np.int64)
    inside = ((indices >= 0) & (indices < there.grid.shape)).all(axis=1)
    known, mask = np.zeros(len(points), np.bool_), np.zeros(len(points), np.bool_)
    a, b, c = indices[inside].T
    known[inside] = there.known[a, b, c]
    mask[inside] = there.mask[a, b, c]
    return known, mask & known

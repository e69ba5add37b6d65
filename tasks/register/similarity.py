"""How well two volumes fit under a map: the normalised mutual information of points taken in a box.

C. Studholme, D. Hill, D. Hawkes: An overlap invariant entropy measure of 3D medical image alignment, Pattern
Recognition 32, 1999.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.register.affine_map import AffineMap, Box
from tasks.register.foreground import reduction
from tasks.register.grid import (
    LPS,
    Grid,
    ItkTransform,
    block_mean,
    resample,
    resample_filter,
    to_itk,
    use_one_itk_thread,
)
from tasks.register.information import BINS, Information, binned, information
from tasks.volume import Volume

_LEAST_SHARE: Final = 0.3
"""Of the points that must fall on the moving source: fewer say little, and can be made to say anything."""


class Clock:
    """Counts evaluations, and stops a registration that takes too long.

    Args:
        max_seconds: from now on.
    """

    def __init__(self, max_seconds: float) -> None:
        self.evaluations = 0
        self._began = time.monotonic()
        self._max_seconds = max_seconds

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self.seconds > self._max_seconds

    def tick(self) -> None:
        """One more evaluation.

        Raises:
            PairError: REGISTRATION_FAILED when the time is up.
        """
        self.evaluations += 1
        self.check()

    def check(self) -> None:
        """Stop here when the time is up.

        Raises:
            PairError: REGISTRATION_FAILED when it is.
        """
        if self.is_over:
            raise PairError(Code.REGISTRATION_FAILED, f"not done after {self._max_seconds:g} s")


class Similarity:
    """Two volumes, ready to be compared under many maps.

    Args:
        fixed, moving: the volumes; they are block-averaged to ``level`` here.
        box: where points are taken, ``level`` apart.
        level: mm.
        clock: told of each evaluation.
    """

    def __init__(self, fixed: Volume, moving: Volume, box: Box, level: float, clock: Clock) -> None:
        use_one_itk_thread()
        shape = np.maximum(np.ceil((box.high - box.low) / level).astype(int), 2)
        affine = np.diag([level, level, level, 1.0])
        affine[:3, 3] = box.low
        a, b, c = shape.tolist()
        self.grid = Grid((a, b, c), affine)
        self.box = box
        self.level = level
        self.clock = clock
        values, known = resample(block_mean(fixed, reduction(fixed, level)), self.grid)
        self._fixed_bins = np.full(values.shape, -1, np.int64)
        if known.any():
            self._fixed_bins[known] = np.rint(binned(values[known]))
        reduced = block_mean(moving, reduction(moving, level))
        there = np.isfinite(reduced.voxels) if reduced.valid is None else reduced.valid
        bins = np.full(reduced.voxels.shape, np.nan, np.float32)
        if there.any():
            bins[there] = binned(reduced.voxels[there])
        self._moving = to_itk(bins, Grid.of(reduced))
        self._select(known)

    def restricted_to(self, where: NDArray[np.bool_]) -> Similarity:
        """The same on a part of the points: bool on ``grid``."""
        part = object.__new__(Similarity)
        part.__dict__.update(self.__dict__)
        # No more is resampled than the box of those points.
        indices = np.argwhere(where)
        low, high = (indices.min(axis=0), indices.max(axis=0)) if len(indices) else (np.zeros(3, int), np.zeros(3, int))
        window = tuple(slice(first, last + 1) for first, last in zip(low.tolist(), high.tolist(), strict=True))
        affine = self.grid.affine.copy()
        affine[:3, 3] = self.grid.points(low[None].astype(np.float64))[0]
        part._fixed_bins = np.ascontiguousarray(self._fixed_bins[window])
        a, b, c = (high - low + 1).tolist()
        part.grid = Grid((a, b, c), affine)
        part._select(where[window] & (part._fixed_bins >= 0))
        return part

    def _select(self, where: NDArray[np.bool_]) -> None:
        self._selected = np.flatnonzero(where.ravel())
        self._selected_bins = self._fixed_bins.ravel()[self._selected] * BINS

    @property
    def points(self) -> int:
        """How many are compared."""
        return len(self._selected)

    def information(self, mapping: AffineMap) -> Information:
        """Mutual information under a map."""
        self.clock.tick()
        transform: ItkTransform = sitk.AffineTransform(3)
        transform.SetMatrix((LPS[:3, :3] @ mapping.matrix @ LPS[:3, :3]).ravel().tolist())
        transform.SetTranslation((LPS[:3, :3] @ mapping.offset).tolist())
        filter_ = resample_filter(self.grid)
        filter_.SetTransform(transform)
        resampled = filter_.Execute(self._moving)
        return information(self._selected_bins, sitk.GetArrayFromImage(resampled).ravel()[self._selected])

    def score(self, mapping: AffineMap) -> float:
        """Normalised mutual information less one; negative, and the lower the fewer, where too few points meet."""
        information = self.information(mapping)
        if information.share < _LEAST_SHARE:
            return information.share - 1
        return information.normalised - 1

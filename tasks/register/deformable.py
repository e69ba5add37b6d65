"""Beyond rigid, by explicit choice only: an affine map for scales that are off, B-splines for tissue that moved.

Both start from a rigid map that was judged, must fit better than it, and may move nothing far: an affine map that
is free invents scales, and a free deformation invents anatomy.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import SimpleITK as sitk

from tasks.codes import Code, PairError
from tasks.register.affine_map import AffineMap
from tasks.register.ascent import climb
from tasks.register.foreground import field_of_view, reduction
from tasks.register.grid import (
    Grid,
    ItkTransform,
    block_mean,
    itk_geometry,
    resample,
    to_itk,
    use_one_itk_thread,
    with_invalid_as_nan,
)
from tasks.register.rigid import objective
from tasks.register.similarity import Clock, Similarity
from tasks.volume import Volume

_MOST_STRETCH: Final = 1.15
_MESH: Final = (5, 5, 4)
_MOST_BENT_MM: Final = 10.0
_LEVEL_MM: Final = 4.0
_MOST_POINTS: Final = 500_000
_JACOBIAN_STEP_MM: Final = 6.0
_ITERATIONS: Final = 20
_SAMPLED: Final = 0.2
_SAMPLING_SEED: Final = 1


def affine_from(similarity: Similarity, rigid: AffineMap) -> AffineMap:
    """The affine map next to a rigid one, both from the box's source.

    Raises:
        PairError: REGISTRATION_FAILED when it stretches by more than 15 per cent, or did not come to rest.
    """
    box, level = similarity.box, similarity.level
    start = np.concatenate([box.parameters_of(rigid), np.zeros(6)])
    peak = climb(objective(similarity), start, step=level / 2, tolerance=level / 25, sweeps=20)
    mapping = box.map_of(peak.parameters)
    largest = float(max(mapping.stretches[0], 1 / mapping.stretches[-1]))
    if largest > _MOST_STRETCH:
        detail = f"the affine map stretches by a factor of {largest:.2f}, at most {_MOST_STRETCH}"
        raise PairError(Code.REGISTRATION_FAILED, detail)
    if not peak.settled:
        raise PairError(Code.REGISTRATION_FAILED, "the search of the affine map did not come to rest")
    return mapping


def bspline_from(fixed: Volume, moving: Volume, rigid: AffineMap, clock: Clock) -> tuple[ItkTransform, float]:
    """Cubic B-splines on a mesh of 5 x 5 x 4 over the fixed grid, before the rigid map; Mattes mutual information.

    Returns:
        The whole transform from fixed to moving points, and the least determinant of the Jacobian of its bending, on
        a grid of some 6 mm: 1 where volumes stay, 0 where space folds.

    Raises:
        PairError: REGISTRATION_FAILED when it folds space or does not fit better than the rigid map.
    """
    use_one_itk_thread()
    level = max(_LEVEL_MM, (field_of_view(fixed) / _MOST_POINTS) ** (1 / 3))
    grid = _coarser(Grid.of(fixed), level)
    values, known = resample(fixed, grid)
    fixed_image = to_itk(values, grid)
    small = block_mean(moving, reduction(moving, level))
    moving_values = with_invalid_as_nan(small)
    moving_image = to_itk(np.nan_to_num(moving_values, nan=0.0), Grid.of(small))
    start = rigid.to_itk(rigid=True)
    bending: ItkTransform = sitk.BSplineTransformInitializer(fixed_image, list(_MESH), 3)
    method: Any = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(32)
    # Every so many points, moved a little by the seed: all of them take minutes.
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(_SAMPLED, _SAMPLING_SEED)
    method.SetMetricFixedMask(to_itk(known.astype(np.uint8), grid))
    method.SetMetricMovingMask(to_itk(np.isfinite(moving_values).astype(np.uint8), Grid.of(small)))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMovingInitialTransform(start)
    method.SetInitialTransform(bending, inPlace=True)
    bound = _MOST_BENT_MM / math.sqrt(3)
    method.SetOptimizerAsLBFGSB(numberOfIterations=_ITERATIONS, lowerBound=-bound, upperBound=bound)

    def stop_in_time() -> None:
        clock.evaluations += 1
        if clock.is_over:
            method.Abort()

    method.AddCommand(sitk.sitkIterationEvent, stop_in_time)
    try:
        before = method.MetricEvaluate(fixed_image, moving_image)
        method.Execute(fixed_image, moving_image)
        after = method.GetMetricValue()
    except RuntimeError:
        # ITK's sentences are long and name its source files.
        raise PairError(Code.REGISTRATION_FAILED, "the B-splines could not be optimised") from None
    clock.check()
    least = _least_jacobian(bending, Grid.of(fixed))
    # ITK minimises: more information is less.
    if after >= before:
        raise PairError(Code.REGISTRATION_FAILED, "the B-splines fit no better than the rigid map")
    if not least > 0:
        raise PairError(Code.REGISTRATION_FAILED, f"the B-splines fold space, least Jacobian {least:.2f}")
    # A composite applies first what was added last.
    return sitk.CompositeTransform([start, bending]), least


def _least_jacobian(bending: ItkTransform, grid: Grid) -> float:
    coarse = _coarser(grid, _JACOBIAN_STEP_MM)
    origin, spacing, direction = itk_geometry(coarse)
    size = list(reversed(coarse.shape))
    field: Any = sitk.TransformToDisplacementField(bending, sitk.sitkVectorFloat64, size, origin, spacing, direction)
    determinants: Any = sitk.DisplacementFieldJacobianDeterminant(field)
    return float(sitk.GetArrayFromImage(determinants).min())


def _coarser(grid: Grid, level: float) -> Grid:
    """A grid over the same field of view whose voxels are ``level`` mm wide, or as wide as they were."""
    factors = np.maximum(level / grid.spacing, 1)
    a, b, c = np.maximum(np.array(grid.shape) // factors, 1).astype(int).tolist()
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((factors - 1) / 2)
    affine[:3, :3] *= factors
    return Grid((a, b, c), affine)

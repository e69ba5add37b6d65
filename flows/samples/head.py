"""A head computed from formulas, as CT, MR and PET see it: any grid, any position, the truth known.

The parts of :mod:`flows.samples.anatomy` are painted from the outside in. What is painted are tissues, on a grid twice
as fine as asked for along each axis; each modality gives the tissues its own values, which are averaged over the voxel.
The same border shows in one modality and not in another (grey and white matter hardly differ in CT, bone and air are
alike in MR), so that no map of intensities turns one into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flows.samples.anatomy import (
    HEAD_BOX,
    VALUES,
    Part,
    Tissue,
    anatomy,
    head_corners,
    head_landmarks,
)
from flows.samples.grids import rigid_motion

__all__ = ["HEAD_BOX", "head_corners", "head_ct", "head_landmarks", "head_mr", "head_pet"]

_Affine: TypeAlias = NDArray[np.float64]
_Voxels: TypeAlias = NDArray[np.float32]

_OVERSAMPLING: Final = 2
_POINTS_AT_ONCE: Final = 1 << 21


def head_ct(
    shape: tuple[int, int, int],
    affine: _Affine,
    transform: _Affine | None = None,
    *,
    seed: int = 0,
    noise: float = 8.0,
    noise_seed: int = 0,
    couch: bool = True,
) -> _Voxels:
    """The head in a CT scanner, with the couch under it: float32 in HU, of the given ``shape``.

    Args:
        shape: of the grid.
        affine: [4, 4], indices to the scanner's RAS mm; any direction, also oblique.
        transform: [4, 4], rigid, the head's RAS mm to the scanner's; None: the head lies in the scanner's origin.
        seed: which head. 0 is the standard one; others differ in size and shape by some percent, in their folds and
            in where the tumour lies.
        noise: standard deviation in HU.
        noise_seed: of the noise.
        couch: whether the couch is seen, some 112 mm behind the middle of the head.
    """
    height = 0.0 if transform is None else float(transform[1, 3])
    values = _paint(shape, affine, transform, seed, 0, height - 112.0 if couch else None)
    generator = np.random.default_rng(noise_seed)
    for plane in values:  # one after the other: a whole CT's noise would need as much memory as the CT
        plane += np.float32(noise) * generator.standard_normal(plane.shape, np.float32)
    return np.maximum(values, np.float32(-1024), out=values)


def head_mr(
    shape: tuple[int, int, int],
    affine: _Affine,
    transform: _Affine | None = None,
    *,
    seed: int = 0,
    noise: float = 14.0,
    noise_seed: int = 0,
    bias: float = 0.25,
) -> _Voxels:
    """The head in an MR scanner, T1-weighted: float32 in arbitrary units, 0 to about 1100, of the given ``shape``.

    Args:
        shape, affine, transform, seed: see :func:`head_ct`.
        noise: standard deviation of either channel of the Rician noise.
        noise_seed: of the noise and of the bias field.
        bias: by which share the receive sensitivity goes up and down over some 200 mm.
    """
    values = _paint(shape, affine, transform, seed, 1, None)
    generator = np.random.default_rng(noise_seed)
    field = np.zeros(shape, np.float32)
    for phase in generator.uniform(0, 2 * np.pi, 3):
        direction = generator.standard_normal(3)
        direction *= 2 * np.pi / 260 / np.linalg.norm(direction)
        field += np.sin(_linear(shape, affine, direction, phase))
    values *= 1 + np.float32(bias / 2) * field
    values += np.float32(noise) * generator.standard_normal(shape, np.float32)
    signal: _Voxels = np.hypot(values, np.float32(noise) * generator.standard_normal(shape, np.float32))
    return signal


def head_pet(
    shape: tuple[int, int, int],
    affine: _Affine,
    transform: _Affine | None = None,
    *,
    seed: int = 0,
    noise: float = 0.06,
    noise_seed: int = 0,
    resolution: float = 6.0,
) -> _Voxels:
    """The head in a PET scanner after FDG: float32, standardised uptake values (SUVbw, g/ml), of the given ``shape``.

    Args:
        shape, affine, transform, seed: see :func:`head_ct`; the affine's axes must be orthogonal.
        noise: standard deviation as a share of the value in grey matter; it falls off with the root of the value
            and is as coarse as the resolution.
        noise_seed: of the noise.
        resolution: full width at half maximum of the point spread in mm.
    """
    sigma = resolution / np.sqrt(8 * np.log(2))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    values = _blur(_paint(shape, affine, transform, seed, 2, None), sigma / spacing)
    grain = _blur(np.random.default_rng(noise_seed).standard_normal(shape, np.float32), sigma / 1.5 / spacing)
    grey = np.float32(VALUES[Tissue.GREY][2])
    scale = np.float32(noise / max(float(grain.std()), 1e-6))
    values += scale * grain * np.sqrt(np.maximum(values, 0) * grey)
    return np.maximum(values, 0, out=values)


def _paint(
    shape: tuple[int, int, int],
    affine: _Affine,
    transform: _Affine | None,
    seed: int,
    modality: int,
    couch: float | None,
) -> _Voxels:
    """The column ``modality`` of the table of values, averaged over each voxel; ``couch``: its scanner y in mm."""
    to_head = affine if transform is None else np.linalg.inv(transform) @ affine
    table = np.array([VALUES[tissue][modality] for tissue in Tissue], np.float32)
    parts = anatomy(seed)
    values = np.empty(shape, np.float32)
    for start, stop in _slabs(shape):
        coarse = (stop - start, shape[1], shape[2])
        fine = (coarse[0] * _OVERSAMPLING, coarse[1] * _OVERSAMPLING, coarse[2] * _OVERSAMPLING)
        labels = np.full(fine, Tissue.AIR, np.uint8)
        into = _finer(start)
        for part in parts:
            _paint_part(labels, to_head @ into, part, seed)
        if couch is not None:
            _paint_couch(labels, affine @ into, couch)
        blocks = table[labels].reshape(coarse[0], 2, coarse[1], 2, coarse[2], 2)
        blocks = blocks[:, 0] + blocks[:, 1]
        blocks = blocks[:, :, 0] + blocks[:, :, 1]
        values[start:stop] = (blocks[..., 0] + blocks[..., 1]) / _OVERSAMPLING**3
    return values


def _slabs(shape: tuple[int, int, int]) -> Iterator[tuple[int, int]]:
    """Ranges of the first axis with so many points that they stay in memory that is fast."""
    step = max(1, _POINTS_AT_ONCE // (shape[1] * shape[2] * _OVERSAMPLING**3))
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def _finer(start: int) -> _Affine:
    """From indices of the finer grid of a slab that begins at ``start`` to indices of the grid."""
    into = np.diag([1 / _OVERSAMPLING] * 3 + [1.0])
    into[:3, 3] = (1 / _OVERSAMPLING - 1) / 2
    into[0, 3] += start
    return into


def _linear(
    shape: tuple[int, int, int],
    affine: _Affine,
    direction: NDArray[np.float64],
    offset: float,
    start: tuple[int, int, int] = (0, 0, 0),
) -> _Voxels:
    """``direction`` . point + ``offset`` for the points of a grid of ``shape`` that begins at index ``start``."""
    slopes = direction @ affine[:3, :3]
    ramps = [
        (slope * np.arange(first, first + count)).astype(np.float32)
        for slope, first, count in zip(slopes, start, shape, strict=True)
    ]
    plane = ramps[0][:, None] + (ramps[1] + np.float32(direction @ affine[:3, 3] + offset))[None]
    grid: _Voxels = plane[:, :, None] + ramps[2]
    return grid


def _paint_part(labels: NDArray[np.uint8], affine: _Affine, part: Part, seed: int) -> None:
    """Paint ``part`` into ``labels``, whose indices ``affine`` takes to the head's mm."""
    turn = rigid_motion((0, 0, 1), part.turn[1])[:3, :3] @ rigid_motion((1, 0, 0), part.turn[0])[:3, :3]
    half_axes = np.array(part.half_axes)
    centre = np.array(part.centre)
    # How far an ellipsoid reaches along an index axis: the length of that axis' gradient in the ellipsoid's own units.
    to_index = np.linalg.inv(affine)
    middle = to_index[:3, :3] @ centre + to_index[:3, 3]
    reach = np.linalg.norm(to_index[:3, :3] @ turn * half_axes, axis=1) * np.sqrt(1 + part.folds)
    low = np.clip(np.ceil(middle - reach), 0, labels.shape).astype(int)
    high = np.clip(np.floor(middle + reach) + 1, low, labels.shape).astype(int)
    window = (int(high[0] - low[0]), int(high[1] - low[1]), int(high[2] - low[2]))
    if 0 in window:
        return
    start = (int(low[0]), int(low[1]), int(low[2]))
    radius = np.zeros(window, np.float32)
    for axis in range(3):
        direction = turn[:, axis] / half_axes[axis]
        component = _linear(window, affine, direction, float(-direction @ centre), start)
        radius += np.square(component, out=component)
    view = labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    if part.folds:
        radius -= np.float32(part.folds) * _folds(window, affine, start, seed)
    inside = radius < 1
    if part.over:
        inside &= np.isin(np.arange(len(Tissue)), part.over)[view]
    view[inside] = part.tissue


def _folds(window: tuple[int, int, int], affine: _Affine, start: tuple[int, int, int], seed: int) -> _Voxels:
    """Waves between -1 and 1, some 14 mm to 20 mm long, that differ from head to head."""
    generator = np.random.default_rng((7, seed))
    waves = np.ones(window, np.float32)
    for length in (14.0, 17.0, 20.0):
        direction = generator.standard_normal(3)
        direction *= 2 * np.pi / length / np.linalg.norm(direction)
        waves *= np.cos(_linear(window, affine, direction, generator.uniform(0, 2 * np.pi), start))
    return np.cbrt(waves)


def _paint_couch(labels: NDArray[np.uint8], affine: _Affine, height: float) -> None:
    """A shell 8 mm thick, hollow towards the patient, where there is nothing else; its lowest line at y ``height``."""
    across = _linear(labels.shape, affine, np.array([1.0, 0.0, 0.0]), 0.0)
    depth = _linear(labels.shape, affine, np.array([0.0, 1.0, 0.0]), -height)
    depth -= np.square(across) / np.float32(600)
    labels[(np.abs(depth) < 4) & (np.abs(across) < 200) & (labels == Tissue.AIR)] = Tissue.COUCH


def _blur(values: _Voxels, sigmas: NDArray[np.float64]) -> _Voxels:
    """Gaussian blur with standard deviations in voxels; what lies beyond the border counts as the border's share."""
    for axis, sigma in enumerate(sigmas):
        index = np.arange(values.shape[axis])
        kernel = np.exp(-0.5 * ((index[:, None] - index[None]) / max(float(sigma), 1e-3)) ** 2)
        kernel = (kernel / kernel.sum(1, keepdims=True)).astype(np.float32)
        values = np.moveaxis(np.tensordot(kernel, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values)

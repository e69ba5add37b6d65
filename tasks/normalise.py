"""Stored values to [-1, 1], the range that the core works in, and back.

- 8 bits: 0..255 goes to [-1, 1], so pictures keep the brightness that people see.
- More bits, or floats: the 0.1 and 99.9 percentiles of the picture's own values go to -1 and 1. A 14-bit infrared
  picture uses a few hundred of its levels, and a single hot pixel must not decide the contrast of the rest.
- A range given by the job goes before both, so that every picture of an archive is mapped alike.

A picture is mapped by one straight line, for RGB the same one in all three channels; what lies outside is clipped.
The line is kept (:class:`Normalisation`), so that a result can be put back into the unit of its source.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tasks.read.raster import Image

PERCENTILES: Final = (0.1, 99.9)

Rule: TypeAlias = Literal["full_range", "percentile", "min_max", "constant", "given"]


@dataclass(frozen=True)
class Normalisation:
    """The line that a picture was mapped by: stored ``lo`` to -1, stored ``hi`` to 1.

    Attributes:
        rule: ``full_range``: 0 to 255. ``percentile``: the 0.1 and 99.9 percentiles. ``min_max``: the extremes,
            taken where the percentiles coincide (a few spots on an even ground would be clipped away with them).
            ``constant``: all values are equal; lo = hi, the picture is 0 everywhere. ``given``: the job's range.
    """

    rule: Rule
    lo: float
    hi: float


def normalise(
    image: Image, value_range: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], Normalisation]:
    """Map a picture to [-1, 1].

    Args:
        image: finite pixels, as :func:`tasks.read.raster.read_raster` gives them.
        value_range: stored values that become -1 and 1; None: by the rule for the pixel type.

    Returns:
        [1 or 3, H, W] in [-1, 1], and the line.

    Raises:
        ValueError: ``value_range`` is not finite and ascending.
    """
    channels = image.pixels[None] if image.pixels.ndim == 2 else image.pixels.transpose(2, 0, 1)
    line = _line(image.pixels, value_range)
    if line.rule == "constant":
        return np.zeros(channels.shape, np.float32), line
    # In float64: a float32 picture may be a small signal on a large offset.
    values = (channels.astype(np.float64) - line.lo) * (2 / (line.hi - line.lo)) - 1
    return np.clip(values, -1, 1).astype(np.float32, order="C"), line


def _line(pixels: NDArray[Any], value_range: tuple[float, float] | None) -> Normalisation:
    if value_range is not None:
        lo, hi = value_range
        if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
            raise ValueError(f"value_range must be two finite numbers in ascending order, not {value_range}")
        return Normalisation("given", float(lo), float(hi))
    if pixels.dtype == np.uint8:
        return Normalisation("full_range", 0.0, 255.0)
    lo, hi = (float(value) for value in np.percentile(pixels.astype(np.float64), PERCENTILES))
    if lo < hi:
        return Normalisation("percentile", lo, hi)
    lo, hi = float(pixels.min()), float(pixels.max())
    return Normalisation("min_max" if lo < hi else "constant", lo, hi)


def denormalise(values: NDArray[np.floating[Any]], line: Normalisation, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Values in [-1, 1] back to stored ones, of any shape.

    Args:
        line: what :func:`normalise` returned; of a constant picture every value gives its constant.
        dtype: of the result; integers are rounded, halves to even, and clipped to the type's range.
    """
    stored = (values.astype(np.float64) + 1) / 2 * (line.hi - line.lo) + line.lo
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        stored = np.clip(np.rint(stored), limits.min, limits.max)
    return stored.astype(kind)

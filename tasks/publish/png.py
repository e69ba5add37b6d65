"""Fused pictures to files: PNG of 8 or 16 bits, grey or RGB.

A level is ``rint((value + 1) / 2 * top)`` with top 255 or 65535: values are clipped to [-1, 1], halves go to the even
level. :func:`to_grey_levels` gives the same 8-bit levels to the metrics, so a run measures what it publishes.

The same pixels give the same bytes: no time stamps, no text, and a compression that only looks at runs (zlib's
Z_RLE), which finds the same matches in every build of zlib, where faster builds hash differently.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError

# Measured with the 512 x 512 photographs of scikit-image on one core, time and share of the raw size:
# level 6 as usual takes 20 ms and 0.557 (grey), 49 ms and 0.567 (RGB); runs only, each row with the best of PNG's
# five filters, 6 ms and 0.533, 13 ms and 0.536. The level does not matter to runs.
_LEVEL: Final = 1
_RUNS_ONLY: Final = 3
_ALL_FILTERS: Final = 0xF8


def to_grey_levels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The 8-bit picture of [C, H, W] in [-1, 1] as levels 0..255, [C, H, W]: what ``encode_png`` writes at 8 bits.

    Raises:
        PairError: FUSION_FAILED when a value is not finite.
    """
    levels: NDArray[np.uint8] = _levels(image, 255).astype(np.uint8)
    return levels


def encode_png(image: NDArray[np.float32], bit_depth: Literal[8, 16]) -> bytes:
    """A PNG file of [C, H, W] in [-1, 1], C 1 or 3; grey also for three equal channels.

    Raises:
        PairError: FUSION_FAILED when a value is not finite.
        ValueError: the shape or the depth is not one of these.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3) or bit_depth not in (8, 16):
        raise ValueError(f"expected [1 or 3, H, W] at 8 or 16 bits, got {list(image.shape)} at {bit_depth}")
    levels = _levels(image, 255).astype(np.uint8) if bit_depth == 8 else _levels(image, 65535).astype(np.uint16)
    grey = all(np.array_equal(levels[0], other) for other in levels[1:])
    picture = levels[0] if grey else levels.transpose(1, 2, 0)
    encoded = imagecodecs.png_encode(
        np.ascontiguousarray(picture), level=_LEVEL, strategy=_RUNS_ONLY, filter=_ALL_FILTERS
    )
    return bytes(encoded)


def _levels(image: NDArray[np.float32], top: int) -> NDArray[np.floating[Any]]:
    """Whole numbers 0..top as floats; float32 holds them and the halves between them exactly."""
    bad = image.size - np.count_nonzero(np.isfinite(image))
    if bad:
        raise PairError(Code.FUSION_FAILED, f"{bad} of {image.size} values are not finite")
    levels: NDArray[np.floating[Any]] = np.rint((np.clip(image, -1, 1) + 1) * (top / 2))
    return levels

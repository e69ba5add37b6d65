"""The metrics of a fused picture, on the very grey levels that are published."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ddfm_core.colour import luma
from ddfm_core.fusion import SMALLEST_SIDE
from ddfm_core.metrics import METRIC_NAMES, evaluator_grey, fusion_metrics
from tasks.publish.png import to_grey_levels

GREY_LEVELS_PER_UNIT: Final = 127.5
"""Grey levels of 255 per unit of values in [-1, 1]."""


def mean_grey_levels(deviation: NDArray[np.float32]) -> float:
    """The mean of a map of differences in units of [-1, 1], as grey levels of 255."""
    return float(deviation.mean(dtype=np.float64)) * GREY_LEVELS_PER_UNIT


def grey_of(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The luma [1, H, W] of [C, H, W], as the core sees it."""
    values: NDArray[np.float32] = luma(torch.from_numpy(image)[None])[0].numpy()
    return values


def grey(image: NDArray[np.float32]) -> torch.Tensor:
    """[C, H, W] in [-1, 1] as the evaluator sees its 8-bit file: grey levels [1, H, W], 0 to 255, whole numbers."""
    levels = torch.from_numpy(to_grey_levels(image).astype(np.float64))
    return evaluator_grey(levels)[None] if len(levels) == 3 else levels


def measure(
    fused: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    valid: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """Every metric of one pair, by name; NaN where a figure does not exist.

    Args:
        fused, first, second: [C, H, W] in [-1, 1]. Sources of 8 bits give back exactly their stored levels;
            deeper ones are measured as they were normalised.
        valid: bool [H, W], where both sources have values; None: everywhere. What lies around the smallest rectangle
            that holds all of it is left out, and what is not valid inside is black in all three pictures. Of a
            rectangle too small for a picture there are no figures.
    """
    pictures: tuple[torch.Tensor, ...] = grey(fused), grey(first), grey(second)
    if valid is not None and not valid.all():
        rows, columns = (np.flatnonzero(valid.any(axis=axis)) for axis in (1, 0))
        if min(np.ptp(side) if len(side) else 0 for side in (rows, columns)) < SMALLEST_SIDE - 1:
            return dict.fromkeys(METRIC_NAMES, math.nan)
        mask = torch.from_numpy(np.ascontiguousarray(valid))
        window = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        pictures = tuple((picture * mask)[window] for picture in pictures)
    figures = fusion_metrics(pictures[0], pictures[1], pictures[2])
    return {name: float(figure[0]) for name, figure in figures.items()}

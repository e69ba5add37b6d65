"""The metrics of a fused picture, on the very grey levels that are published."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ddfm_core.metrics import evaluator_grey, fusion_metrics
from tasks.publish.png import to_grey_levels


def grey(image: NDArray[np.float32]) -> torch.Tensor:
    """[C, H, W] in [-1, 1] as the evaluator sees its 8-bit file: grey levels [1, H, W], 0 to 255, whole numbers."""
    levels = torch.from_numpy(to_grey_levels(image).astype(np.float64))
    return evaluator_grey(levels)[None] if len(levels) == 3 else levels


def measure(fused: NDArray[np.float32], first: NDArray[np.float32], second: NDArray[np.float32]) -> dict[str, float]:
    """Every metric of one pair, by name; NaN where a figure does not exist.

    Args:
        fused, first, second: [C, H, W] in [-1, 1]. Sources of 8 bits give back exactly their stored levels;
            deeper ones are measured as they were normalised.
    """
    figures = fusion_metrics(grey(fused), grey(first), grey(second))
    return {name: float(figure[0]) for name, figure in figures.items()}

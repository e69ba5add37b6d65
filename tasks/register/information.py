"""Mutual information from a joint histogram of two images' values.

Values are put into bins by a scale half way between linear and rank, so that neither the background nor the few
brightest values own most of the bins; the moving value is shared linearly between its two neighbouring bins, which
makes the figures smooth enough for line searches. Everything is summed in one order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 32


@dataclass(frozen=True)
class Information:
    """What a joint histogram says.

    Attributes:
        mutual: mutual information in nats.
        normalised: (H(fixed) + H(moving)) / H(both), from 1 (independent) to 2.
        share: of the fixed source's points that fall on the moving one.
    """

    mutual: float
    normalised: float
    share: float


def binned(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values [n] as positions on the scale of bins that they make, 0 to BINS - 1; all 0 where they are constant."""
    if values.size == 0:
        return values
    low, high = np.percentile(values, [0.5, 99.8])
    if not high > low:
        return np.zeros(values.shape, np.float32)
    edges = np.linspace(low, high, 257)
    rank = np.searchsorted(np.sort(values), edges) / len(values)
    rank = (rank - rank[0]) / max(float(rank[-1] - rank[0]), 1e-9)
    position = (np.linspace(0, 1, len(edges)) + rank) / 2 * (BINS - 1)
    return np.asarray(np.interp(values, edges, position), np.float32)


def information(fixed: NDArray[np.int64], moving: NDArray[np.float32]) -> Information:
    """What the values at the same points say of each other.

    Args:
        fixed: [n] the fixed source's bin, 0 to BINS - 1, times BINS.
        moving: [n] positions on the moving source's scale of bins, NaN where a point falls outside of it.
    """
    there = np.isfinite(moving)
    values = moving[there]
    if not len(values):
        return Information(0.0, 1.0, 0.0)
    lower = values.astype(np.int64)
    weight = (values - lower).astype(np.float64)
    cell = fixed[there] + lower
    # The last bin has no upper neighbour; its weight there is zero, and one cell more takes it.
    counts = np.bincount(cell, 1 - weight, BINS * BINS + 1) + np.bincount(cell + 1, weight, BINS * BINS + 1)
    both = counts[:-1].reshape(BINS, BINS) / len(values)
    first, second, joint = _entropy(both.sum(axis=1)), _entropy(both.sum(axis=0)), _entropy(both.ravel())
    normalised = (first + second) / joint if joint > 0 else 1.0
    return Information(first + second - joint, normalised, len(values) / len(moving))


def _entropy(probabilities: NDArray[np.float64]) -> float:
    positive = probabilities[probabilities > 0]
    return -float((positive * np.log(positive)).sum())

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ddfm_core.metrics.edges import edge_preservation

Array = NDArray[np.float64]


def gradient(picture: Array, i: int, j: int) -> tuple[float, float]:
    """Strength and direction of the Sobel gradient of one pixel, zeros outside."""

    def at(row: int, column: int) -> float:
        inside = 0 <= row < picture.shape[0] and 0 <= column < picture.shape[1]
        return float(picture[row, column]) if inside else 0.0

    smooth = ((-1, 1), (0, 2), (1, 1))
    sx = sum(weight * (at(i + k, j - 1) - at(i + k, j + 1)) for k, weight in smooth)
    sy = sum(weight * (at(i + 1, j + k) - at(i - 1, j + k)) for k, weight in smooth)
    return math.hypot(sx, sy), math.pi / 2 if sx == 0 else math.atan(sy / sx)


def preservation(fused: Array, first: Array, second: Array) -> float:
    """Qabf straight from its definition, pixel by pixel."""
    preserved = present = 0.0
    for i, j in np.ndindex(fused.shape):
        strength_f, angle_f = gradient(fused, i, j)
        for source in (first, second):
            strength, angle = gradient(source, i, j)
            weaker, stronger = sorted((strength, strength_f))
            ratio = strength_f if weaker == stronger else weaker / stronger
            agreement = 1 - abs(angle - angle_f) / (math.pi / 2)
            kept = 0.9994 / (1 + math.exp(-15 * (ratio - 0.5)))
            kept *= 0.9879 / (1 + math.exp(-22 * (agreement - 0.8)))
            preserved += kept * strength
            present += strength
    return preserved / present


def measured(fused: Array, first: Array, second: Array) -> float:
    f, a, b = (torch.from_numpy(picture)[None] for picture in (fused, first, second))
    return edge_preservation(f, a, b).item()


@pytest.mark.parametrize("seed", range(3))
def test_against_the_definition(seed: int) -> None:
    # Few levels, so that equal strengths and vertical gradients occur.
    fused, first, second = np.random.default_rng(seed).integers(0, 4, (3, 9, 8)).astype(np.float64)
    first[:, :4] = fused[:, :4]
    assert measured(fused, first, second) == pytest.approx(preservation(fused, first, second), rel=1e-5)


def test_values_between_the_grey_levels() -> None:
    fused, first, second = np.random.default_rng(5).uniform(0, 255, (3, 9, 8))
    assert measured(fused, first, second) == pytest.approx(preservation(fused, first, second), rel=1e-5)


def test_identical_pictures_keep_nearly_all() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 8)).astype(np.float64)
    # Direction agrees fully, and strong equal gradients saturate the other factor.
    limit = 0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2))
    assert measured(picture, picture, picture) == pytest.approx(limit, rel=1e-6)


def test_a_flat_fused_picture_keeps_nothing_inside() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 8)).astype(np.float64)
    assert measured(np.zeros_like(picture), picture, picture) < 1e-3


def test_constant_pictures() -> None:
    black, grey = np.zeros((6, 7)), np.full((6, 7), 90.0)
    assert math.isnan(measured(grey, black, black))
    # Outside the picture lies black, so the border of any other constant is an edge.
    assert measured(grey, grey, grey) == pytest.approx(preservation(grey, grey, grey), rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (9, 2)])
def test_smaller_than_the_window(shape: tuple[int, int]) -> None:
    assert math.isnan(measured(np.ones(shape), np.ones(shape), np.ones(shape)))

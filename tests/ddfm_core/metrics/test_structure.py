from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ddfm_core.metrics.structure import structural_similarity

Array = NDArray[np.float64]


def similarity_of_one(source: Array, fused: Array, data_range: float) -> float:
    """s(source, fused) straight from its definition, window by window."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(source.shape[0] - 6):
        for j in range(source.shape[1] - 6):
            x, y = source[i : i + 7, j : j + 7].ravel(), fused[i : i + 7, j : j + 7].ravel()
            (vx, cxy), (_, vy) = np.cov(x, y)
            mx, my = x.mean(), y.mean()
            values.append((2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


def similarities(fused: Array, first: Array, second: Array) -> list[float]:
    f, a, b = (torch.from_numpy(picture)[None] for picture in (fused, first, second))
    return [similarity.item() for similarity in structural_similarity(f, a, b)]


def random_pictures(height: int, width: int) -> tuple[Array, Array, Array]:
    fused, first, second = np.random.default_rng(0).integers(0, 256, (3, height, width)).astype(np.float64)
    first[:9, :9] = fused[:9, :9] = 250  # flat in both: decided by the small constants
    return fused, first, second


@pytest.mark.parametrize("shape", [(7, 7), (12, 15)])
def test_against_the_definition(shape: tuple[int, int]) -> None:
    fused, first, second = random_pictures(*shape)
    for got, data_range in zip(similarities(fused, first, second), (2, 255), strict=True):
        expected = similarity_of_one(first, fused, data_range) + similarity_of_one(second, fused, data_range)
        assert got == pytest.approx(expected, rel=1e-7)


def test_identical_pictures_and_equal_constants() -> None:
    picture, _, _ = random_pictures(12, 15)
    assert similarities(picture, picture, picture) == pytest.approx([2, 2])
    flat = np.full_like(picture, 131.7)
    assert similarities(flat, flat, flat) == pytest.approx([2, 2])


def test_different_constants_differ_in_brightness_only() -> None:
    dark, bright = np.full((9, 9), 50.0), np.full((9, 9), 100.0)
    for got, data_range in zip(similarities(dark, bright, bright), (2, 255), strict=True):
        c1 = (0.01 * data_range) ** 2
        assert got == pytest.approx(2 * (2 * 50 * 100 + c1) / (50**2 + 100**2 + c1), rel=1e-6)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (1, 1)])
def test_smaller_than_the_window(shape: tuple[int, int]) -> None:
    flat = np.ones(shape)
    assert all(math.isnan(similarity) for similarity in similarities(flat, flat, flat))

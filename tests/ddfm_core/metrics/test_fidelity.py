from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ddfm_core.metrics.fidelity import visual_information_fidelity

Array = NDArray[np.float64]


def fidelity_of_one(source: Array, fused: Array) -> float:
    """v(source, fused) straight from its definition, with full two-dimensional windows."""
    passed = present = 0.0
    for size in (17, 9, 5, 3):
        offsets = np.arange(size) - size // 2
        window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (size / 5) ** 2))
        window /= window.sum()

        def local_mean(picture: Array, window: Array = window) -> Array:
            mean: Array = (sliding_window_view(picture, window.shape) * window).sum((-2, -1))
            return mean

        if size < 17:
            source, fused = local_mean(source)[::2, ::2], local_mean(fused)[::2, ::2]
        source_mean, fused_mean = local_mean(source), local_mean(fused)
        s1 = np.maximum(local_mean(source**2) - source_mean**2, 0)
        s2 = np.maximum(local_mean(fused**2) - fused_mean**2, 0)
        s12 = local_mean(source * fused) - source_mean * fused_mean
        for a, b, c in zip(s1.flat, s2.flat, s12.flat, strict=True):
            g = c / (a + 1e-10)
            sv = b - g * c
            if a < 1e-10:
                g, sv, a = 0.0, b, 0.0
            if b < 1e-10:
                g, sv = 0.0, 0.0
            if g < 0:
                g, sv = 0.0, b
            passed += math.log10(1 + g * g * a / (max(sv, 1e-10) + 2))
            present += math.log10(1 + a / 2)
    return 1.0 if present == 0 else passed / present


def fidelity(fused: Array, first: Array, second: Array) -> float:
    f, a, b = (torch.from_numpy(picture)[None] for picture in (fused, first, second))
    return visual_information_fidelity(f, a, b).item()


def random_pictures(height: int, width: int) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 256, (2, height, width)).astype(np.float64)
    first[: height // 2, : width // 2] = 255  # a saturated region: no variance at all
    fused = np.floor((first + second) / 2)
    fused[-20:] = 12  # and one where only the fused picture is flat
    return fused, first, second


@pytest.mark.parametrize("shape", [(41, 41), (44, 53)])
def test_against_the_definition(shape: tuple[int, int]) -> None:
    fused, first, second = random_pictures(*shape)
    expected = fidelity_of_one(first, fused) + fidelity_of_one(second, fused)
    assert fidelity(fused, first, second) == pytest.approx(expected, rel=1e-9)


def test_identical_pictures_keep_all_and_more_contrast_counts_more() -> None:
    _, _, picture = random_pictures(60, 50)
    assert fidelity(picture, picture, picture) == pytest.approx(2, rel=1e-6)
    assert fidelity(1.5 * picture, picture, picture) > 2
    assert fidelity(0.5 * picture, picture, picture) < 2


def test_a_negative_passes_nothing() -> None:
    _, _, picture = random_pictures(60, 50)
    assert fidelity(255 - picture, picture, picture) == 0


def test_a_constant_source_counts_as_one() -> None:
    _, _, picture = random_pictures(60, 50)
    # A tenth has no exact binary form; rounding must not pass for variance.
    flat = np.full_like(picture, 200.1)
    assert fidelity(picture, flat, picture) == pytest.approx(2, rel=1e-6)
    assert fidelity(flat, flat, flat) == 2
    assert fidelity(flat, picture, picture) == pytest.approx(0, abs=1e-9)


def test_too_small_for_four_scales() -> None:
    assert math.isnan(fidelity(*random_pictures(40, 100)))
    assert math.isnan(fidelity(*random_pictures(100, 40)))
    assert math.isnan(fidelity(*random_pictures(1, 1)))

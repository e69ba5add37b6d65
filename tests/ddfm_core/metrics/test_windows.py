from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from ddfm_core.metrics import windows


def random_maps(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size", [17, 9, 5, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_correlate_is_the_windowed_sum(size: int, stride: int) -> None:
    maps = random_maps(70, 2, 59)
    got = windows.correlate(maps, windows.gaussian_band(size, size / 5, stride, maps.device), size, stride)

    offsets = np.arange(size) - size // 2
    gaussian = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * (size / 5) ** 2))
    patches = sliding_window_view(maps.numpy(), (size, size), axis=(0, 2))[::stride, :, ::stride]
    expected = (patches * gaussian).sum((-2, -1)) / gaussian.sum()

    assert got.shape == expected.shape
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_box_sums() -> None:
    maps = random_maps(11, 3, 9)
    expected = sliding_window_view(maps.numpy(), (7, 7), axis=(0, 2)).sum((-2, -1))
    np.testing.assert_allclose(windows.box_sums_7(maps).numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("height", [6, 7, 8, 30, 31, 100])
def test_stripes_hold_each_window_once(height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_CPU_PIXELS", 1)  # as few rows per stripe as there may be
    rows = torch.arange(height).view(height, 1, 1, 1).expand(height, 3, 1, 2)
    tops = [int(top) for stripe in windows.stripes(rows, 7) for top in stripe[: len(stripe) - 6, 0, 0, 0]]
    assert tops == list(range(height - 6))


def test_rows_first_lays_out_and_pads() -> None:
    pictures = random_maps(3, 2, 4, 5)
    together = windows.rows_first(*pictures, margin=1)
    assert together.shape == (6, 3, 2, 7)
    assert torch.equal(together[1:-1, :, :, 1:-1], pictures.permute(2, 0, 1, 3))
    assert together.count_nonzero() == pictures.count_nonzero()

"""Structural similarity (SSIM) of the fused picture to both sources."""

from __future__ import annotations

import torch
from torch import Tensor

from ddfm_core.metrics.statistics import undefined
from ddfm_core.metrics.windows import box_sums_7, rows_first, stripes

WINDOW = 7
_SAMPLES = WINDOW**2
_TO_SAMPLE = _SAMPLES / (_SAMPLES - 1)  # from the mean square to the sample variance


def structural_similarity(
    fused: Tensor, first: Tensor, second: Tensor, data_ranges: tuple[float, ...] = (2.0, 255.0)
) -> tuple[Tensor, ...]:
    """SSIM = s(F, A) + s(F, B) for each data range, no unit, -2..2 (Wang et al. 2004).

    s is the mean over all 7 x 7 windows inside the picture of
    (2 mF mA + C1)(2 cFA + C2) / ((mF^2 + mA^2 + C1)(vF + vA + C2)) with the windows' means m, sample variances v
    and covariances c (divided by 48), C1 = (0.01 L)^2, C2 = (0.03 L)^2 and the data range L. Published fusion
    tables were made with L = 2, although their values run to 255: with constants as small as that, noise in flat
    regions weighs as much as structure. L = 255 is what the values call for.

    Float64 pictures [B, H, W] to float64 [B] per data range; float64, because with L = 2 the variance of a flat
    window must come out far below C2 = 0.0036. NaN: a side shorter than 7 pixels.
    """
    if min(fused.shape[1:]) < WINDOW:
        return tuple(undefined(fused) for _ in data_ranges)
    sums = [fused.new_zeros(len(fused)) for _ in data_ranges]
    for rows in stripes(rows_first(fused, first, second), WINDOW):
        f, source = rows[:, :1], rows[:, 1:]
        # s needs no variance alone, only vF + vA, so the squares may be added before the window.
        moments = box_sums_7(torch.cat([rows, source.square().addcmul_(f, f), source * f], dim=1)).div_(_SAMPLES)
        mean, squares, cross = moments[:, :3], moments[:, 3:5], moments[:, 5:]
        mean_product = mean[:, 1:] * mean[:, :1]
        covariance = cross.sub_(mean_product).mul_(2 * _TO_SAMPLE)
        mean_square = mean.square_()
        energy = mean_square[:, 1:] + mean_square[:, :1]
        spread = squares.sub_(energy).mul_(_TO_SAMPLE)
        mean_product *= 2
        for data_range, total in zip(data_ranges, sums, strict=True):
            c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
            similarity = (mean_product + c1).mul_(covariance + c2)
            total += similarity.div_(energy + c1).div_(spread + c2).sum((0, 1, 3))
    windows = (fused.shape[1] - WINDOW + 1) * (fused.shape[2] - WINDOW + 1)
    return tuple(total / windows for total in sums)

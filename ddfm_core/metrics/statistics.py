"""Statistics of grey values: contrast and activity of the fused picture, differences and correlations.

All take float64 pictures [B, H, W] and return float64 [B]. F is the fused picture, A and B are the sources.
Formulas as in the evaluator published with CDDFuse (Zhao et al., CVPR 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A picture or difference whose variance lies below this (a standard deviation of 1e-4 grey levels) counts as
# constant: what is left is float32 rounding, and a correlation with it would say nothing.
_CONSTANT_VARIANCE = 1e-8


def standard_deviation(fused: Tensor) -> Tensor:
    """SD = sqrt(mean((F - mean F)^2)) in grey levels, >= 0; always exists."""
    return fused.var((1, 2), correction=0).sqrt()


def spatial_frequency(fused: Tensor) -> Tensor:
    """SF = sqrt(mean dx^2 + mean dy^2) in grey levels per pixel, >= 0 (Eskicioglu & Fisher 1995).

    dx and dy are differences of neighbours along rows and columns, each averaged over its own number.
    NaN: a side of 1 pixel, which has no neighbours.
    """
    rows = fused.diff(dim=2).square_().mean((1, 2))
    columns = fused.diff(dim=1).square_().mean((1, 2))
    return (rows + columns).sqrt()


def average_gradient(fused: Tensor) -> Tensor:
    """AG = mean sqrt((gx^2 + gy^2) / 2) in grey levels per pixel, >= 0 (Cui et al. 2015).

    gx and gy are central differences inside and one-sided ones at the border. NaN: a side of 1 pixel.
    """
    if min(fused.shape[1:]) < 2:
        return undefined(fused)
    energy = _central_differences(fused, 2).square_()
    gy = _central_differences(fused, 1)
    return energy.addcmul_(gy, gy).sqrt_().mean((1, 2)) / math.sqrt(2)


def _central_differences(picture: Tensor, axis: int) -> Tensor:
    """Derivative [B, H, W] along ``axis``: central inside, one-sided at both ends."""
    last = picture.shape[axis] - 1
    ends = [picture.narrow(axis, i + 1, 1) - picture.narrow(axis, i, 1) for i in (0, last - 1)]
    inside = (picture.narrow(axis, 2, last - 1) - picture.narrow(axis, 0, last - 1)).mul_(0.5)
    return torch.cat([ends[0], inside, ends[1]], dim=axis)


def differences(fused: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """MSE and PSNR of the fused picture against both sources.

    MSE = (mean (F - A)^2 + mean (F - B)^2) / 2 in squared grey levels, >= 0; always exists.
    PSNR = 10 log10(max(F)^2 / MSE) in dB; the peak is the fused picture's own maximum, not 255.
    PSNR is inf where MSE = 0 and NaN where max(F) <= 0, which has no peak.
    """
    mse = ((fused - first).square_().mean((1, 2)) + (fused - second).square_().mean((1, 2))) / 2
    peak = fused.amax((1, 2))
    psnr = 10 * torch.log10(peak.square() / mse)
    return mse, psnr.masked_fill(peak <= 0, math.nan)


def correlations(fused: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """CC and SCD, sums of Pearson correlations.

    CC = (corr(F, A) + corr(F, B)) / 2 in -1..1. NaN: one of the three pictures is constant.
    SCD = corr(A, F - B) + corr(B, F - A) in -2..2 (Aslantas & Bendes 2015). NaN: a source or a difference is
    constant, as where the fused picture is one of the sources.
    """
    fused, first, second = (picture - picture.mean((1, 2), keepdim=True) for picture in (fused, first, second))

    def covariance(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).mean((1, 2))

    ff, aa, bb = covariance(fused, fused), covariance(first, first), covariance(second, second)
    fa, fb, ab = covariance(fused, first), covariance(fused, second), covariance(first, second)
    cc = (_pearson(fa, ff, aa) + _pearson(fb, ff, bb)) / 2
    # The moments of a difference follow from those of its terms.
    scd = _pearson(fa - ab, ff + bb - 2 * fb, aa) + _pearson(fb - ab, ff + aa - 2 * fa, bb)
    return cc, scd


def _pearson(covariance: Tensor, variance: Tensor, other_variance: Tensor) -> Tensor:
    constant = torch.minimum(variance, other_variance) < _CONSTANT_VARIANCE
    return (covariance / (variance * other_variance).sqrt()).masked_fill(constant, math.nan)


def undefined(pictures: Tensor) -> Tensor:
    """NaN for each member of ``pictures`` [B, H, W]."""
    return torch.full(pictures.shape[:1], math.nan, dtype=torch.float64, device=pictures.device)

"""Classical rules of fusion, to compare DDFM with: the mean, the maximum, a Laplacian pyramid, a gradient-domain rule.

They see luma only, draw no noise and need no prior. Each image of a batch is fused as it would be alone.

Shapes: luma [B, 1, H, W] float32 in [-1, 1], H and W at least 16. The mean and the maximum stay in that range, the
others may leave it.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, TypeGuard, get_args

import torch
from torch import Tensor

from ddfm_core.gradient_domain import gaussian_mean, inner_gradient, inner_gradient_adjoint, smooth, solve_screened

Baseline: TypeAlias = Literal["mean", "max", "laplacian", "gradient"]

# The pyramid is reduced while both sides of the next level have so many pixels at least.
SMALLEST_BASE = 8
MOST_LEVELS = 4
# Burt and Adelson's kernel with a = 3/8.
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)

# Standard deviation in pixels of the window in which the gradients of the two sources are compared.
GRADIENT_WINDOW = 1.0
# Pull of the base in the gradient-domain rule. What the gradients say reaches some 1 / sqrt(0.1) = 3 pixels far.
BASE_WEIGHT = 0.1


def is_baseline(mode: str) -> TypeGuard[Baseline]:
    """Whether this is the name of a classical rule."""
    return mode in get_args(Baseline)


def fuse_baseline(baseline: Baseline, first: Tensor, second: Tensor) -> Tensor:
    """The luma [B, 1, H, W] that a classical rule makes of two, not clipped.

    Args:
        baseline: `mean` or `max` per pixel, `laplacian` (:func:`laplacian_fusion`) or `gradient`
            (:func:`gradient_fusion`).
        first, second: luma of the sources.

    Raises:
        ValueError: the shapes differ or are not [B, 1, H, W].
    """
    if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 1:
        raise ValueError(f"sources must both be [B, 1, H, W], got {list(first.shape)} and {list(second.shape)}")
    match baseline:
        case "mean":
            return (first + second) / 2
        case "max":
            return torch.maximum(first, second)
        case "laplacian":
            return laplacian_fusion(first, second)
        case "gradient":
            return gradient_fusion(first, second)


def laplacian_fusion(first: Tensor, second: Tensor) -> Tensor:
    """Laplacian pyramid fusion (Burt and Adelson 1983; selection by salience: Burt and Kolczynski 1993).

    Per band and pixel the coefficient of the source with more energy in a window of 5 x 5 pixels is taken, the first
    one's where they are alike, and at the base the brighter pixel. (Single coefficients compared without a window give
    a grainier picture and lower figures.) Up to four bands are split off, as long as the base keeps 8 pixels a side;
    beyond its borders a picture goes on as its mirror image.
    """
    details: list[Tensor] = []
    while len(details) < MOST_LEVELS and min(first.shape[-2:]) >= 2 * SMALLEST_BASE:
        coarse_first, coarse_second = _reduce(first), _reduce(second)
        size = (first.shape[-2], first.shape[-1])
        detail_first, detail_second = first - _expand(coarse_first, size), second - _expand(coarse_second, size)
        energy_first, energy_second = (smooth(detail.square(), _BINOMIAL) for detail in (detail_first, detail_second))
        details.append(torch.where(energy_first >= energy_second, detail_first, detail_second))
        first, second = coarse_first, coarse_second
    fused = torch.maximum(first, second)
    for detail in reversed(details):
        fused = detail + _expand(fused, (detail.shape[-2], detail.shape[-1]))
    return fused


def gradient_fusion(first: Tensor, second: Tensor) -> Tensor:
    """Gradient-domain fusion: the picture whose gradients come nearest those of the locally stronger source.

    With B = max(i, v) and g the gradient of the source whose gradients have more energy in a Gaussian window of
    one pixel, it is

        f = argmin  BASE_WEIGHT ||f - B||^2 + ||grad f - g||^2,

    the screened Poisson equation (BASE_WEIGHT + grad^T grad) f = BASE_WEIGHT B + grad^T g, with gradients that none
    of the picture's borders lead across (:mod:`ddfm_core.gradient_domain`).
    """
    gradients = inner_gradient(first), inner_gradient(second)
    energies = [gaussian_mean(gradient.square().sum(dim=1, keepdim=True), GRADIENT_WINDOW) for gradient in gradients]
    wanted = torch.where(energies[0] >= energies[1], gradients[0], gradients[1])
    base = torch.maximum(first, second)
    return solve_screened(BASE_WEIGHT * base + inner_gradient_adjoint(wanted), BASE_WEIGHT)


def _reduce(image: Tensor) -> Tensor:
    """Smoothed, and every second row and column of it."""
    return smooth(image, _BINOMIAL)[..., ::2, ::2]


def _expand(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The way back from :func:`_reduce` to ``size``: zeros in between, then smoothed at four times the gain.

    Mirrored at the border, the zeros still alternate with the values, so that a flat picture stays flat out to there.
    """
    spread = image.new_zeros((*image.shape[:2], *size))
    spread[..., ::2, ::2] = 4 * image
    return smooth(spread, _BINOMIAL)

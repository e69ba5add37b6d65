"""Preservation of the sources' edges (Qabf)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddfm_core.metrics.statistics import undefined
from ddfm_core.metrics.windows import rows_first, stripes

WINDOW = 3


def edge_preservation(fused: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Qabf = sum(QA gA + QB gB) / sum(gA + gB), no unit, 0..1 (Xydeas & Petrovic 2000).

    g is the strength and alpha the direction of the Sobel gradient. Per pixel and source,
    Q = 0.9994 / (1 + exp(-15 (G - 0.5))) * 0.9879 / (1 + exp(-22 (D - 0.8))), where G is the weaker strength
    over the stronger one of source and fused, and D = 1 - |alpha - alpha_F| / (pi / 2).

    Two habits of the published evaluator are kept, since its figures contain them: where both strengths are
    equal, G is the fused strength itself, and the pictures continue as zeros outside, which makes an edge of
    each border that is not black.

    Pictures [B, H, W] of 0..255 to float64 [B]. Gradients are float32 (of whole grey levels they and their
    squares are exact), sums float64. NaN: a side shorter than 3 pixels, or both sources black, without any
    gradient.
    """
    if min(fused.shape[1:]) < WINDOW:
        return undefined(fused)
    preserved = fused.new_zeros(len(fused))
    present = fused.new_zeros(len(fused))
    for rows in stripes(rows_first(fused, first, second, dtype=torch.float32, margin=1), WINDOW):
        strength, direction = _sobel(rows)
        sources = strength[:, 1:]
        preserved += _quality(strength, direction).mul_(sources).sum((0, 1, 3), dtype=torch.float64)
        present += sources.sum((0, 1, 3), dtype=torch.float64)
    return preserved / present


def _sobel(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Strength and direction in (-pi/2, pi/2] of the gradient inside [H, N, B, W], both [H - 2, N, B, W - 2]."""
    # Differences come before sums: in a flat region they are exactly zero, whatever the values are.
    across = pictures[..., :-2] - pictures[..., 2:]
    across = (across[:-2] + across[2:]).add_(across[1:-1], alpha=2)
    down = pictures[2:] - pictures[:-2]
    down = (down[..., :-2] + down[..., 2:]).add_(down[..., 1:-1], alpha=2)
    direction = (down / across).masked_fill_(across == 0, math.inf).atan_()
    return across.square_().addcmul_(down, down).sqrt_(), direction


def _quality(strength: Tensor, direction: Tensor) -> Tensor:
    """Q [H, 2, B, W] of both sources from strength and direction of (F, A, B) [H, 3, B, W]."""
    fused, sources = strength[:, :1], strength[:, 1:]
    weaker, stronger = torch.minimum(fused, sources), torch.maximum(fused, sources)
    ratio = torch.where(weaker == stronger, fused, weaker / stronger)
    kept_strength = ratio.sub_(0.5).mul_(15).sigmoid_()
    # 22 (D - 0.8) with D = 1 - |difference| / (pi / 2)
    difference = (direction[:, 1:] - direction[:, :1]).abs_()
    kept_direction = difference.mul_(-22 / (math.pi / 2)).add_(22 * 0.2).sigmoid_()
    return kept_strength.mul_(kept_direction).mul_(0.9994 * 0.9879)

"""Entropy and mutual information of grey levels, from histograms.

Both work on whole grey levels: values are rounded (half to even) first, and a figure is NaN where a rounded
value lies outside 0..255, for which the 256 bins have no place. F is the fused picture, A and B the sources.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEVELS = 256


def entropy(fused: Tensor) -> Tensor:
    """EN = -sum p log2 p over the 256 grey levels of F, in bits, 0..8 (Roberts et al. 2008).

    Pictures [B, H, W] to float64 [B]. NaN: a rounded value outside 0..255.
    """
    levels, inside = _grey_levels(fused)
    bits = _entropy(_histograms(levels, LEVELS)) / math.log(2)
    return bits.masked_fill(~inside, math.nan)


def mutual_information(fused: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """MI = I(F; A) + I(F; B) over joint histograms of 256 x 256 grey levels, in nats, >= 0 (Qu et al. 2002).

    Pictures [B, H, W] to float64 [B]. NaN: a rounded value outside 0..255 in any of the three.
    """
    fused_levels, inside = _grey_levels(fused)
    total = torch.zeros(len(fused), dtype=torch.float64, device=fused.device)
    for source in (first, second):
        levels, source_inside = _grey_levels(source)
        inside = inside & source_inside
        joint = _histograms(levels.add_(fused_levels, alpha=LEVELS), LEVELS**2)
        table = joint.view(-1, LEVELS, LEVELS)
        # I(F; S) = H(F) + H(S) - H(F, S); rounding must not make it negative.
        total += (_entropy(table.sum(2)) + _entropy(table.sum(1)) - _entropy(joint)).clamp_min_(0)
    return total.masked_fill(~inside, math.nan)


def _grey_levels(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Whole grey levels int64 [B, H, W], forced into 0..255, and whether none needed force [B]."""
    rounded = picture.round()
    inside = (rounded.amin((1, 2)) >= 0) & (rounded.amax((1, 2)) < LEVELS)
    return rounded.to(torch.int64).clamp_(0, LEVELS - 1), inside


def _histograms(indices: Tensor, bins: int) -> Tensor:
    """Relative frequencies float64 [B, bins] of the values 0..bins - 1 in each member of ``indices`` [B, H, W]."""
    members = len(indices)
    offsets = bins * torch.arange(members, device=indices.device)
    flat = (indices + offsets[:, None, None]).flatten()
    if flat.is_cuda:
        # bincount would wait for the device to learn the largest value.
        counts = torch.zeros(members * bins, dtype=torch.int32, device=flat.device)
        counts.scatter_add_(0, flat, counts.new_ones(()).expand(flat.shape))
    else:
        counts = torch.bincount(flat, minlength=members * bins)
    return counts.to(torch.float64).view(members, bins) / indices[0].numel()


def _entropy(frequencies: Tensor) -> Tensor:
    """-sum p ln p over the last axis, in nats; 0 ln 0 = 0."""
    entropies: Tensor = torch.special.entr(frequencies)
    return entropies.sum(-1)

"""Visual information fidelity (VIF) of the fused picture towards both sources."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ddfm_core.metrics.statistics import undefined
from ddfm_core.metrics.windows import correlate, gaussian_band, rows_first, stripes

_WINDOWS = (17, 9, 5, 3)  # pixels per scale, from fine to coarse; the Gaussian's sigma is a fifth
_NOISE_VARIANCE = 2.0  # of the visual system, in squared grey levels
_TINY = 1e-10

# The shortest side that leaves one window at each of the four scales.
SMALLEST_SIDE = 41


def visual_information_fidelity(fused: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """VIF = v(A, F) + v(B, F), pixel domain, no unit, >= 0 (Sheikh & Bovik 2006; for fusion Han et al. 2013).

    v = sum log(1 + g^2 s1 / (sv + 2)) / sum log(1 + s1 / 2) over the windows of four scales, where s1 is the
    source's local variance, g the gain from source to fused, and sv the variance of F that the source does
    not explain. v is 1 where F keeps all of a source, and above 1 where F raises its contrast. From the second
    scale on the pictures are filtered with that scale's window and every second sample is kept.

    Float64 pictures [B, H, W] of 0..255 to float64 [B]; float64, because local variances are small differences of
    large squares. A source without any variance counts as 1, as in the published evaluator: nothing can be
    lost. NaN: a side shorter than 41 pixels.
    """
    if min(fused.shape[1:]) < SMALLEST_SIDE:
        return undefined(fused)
    # Only variances enter, and they cancel less when the mean is already gone.
    pictures = rows_first(*(picture - picture.mean((1, 2), keepdim=True) for picture in (fused, first, second)))
    passed = pictures.new_zeros(2, len(fused))
    present = pictures.new_zeros(2, len(fused))
    for size in _WINDOWS:
        if size != _WINDOWS[0]:
            halving = gaussian_band(size, size / 5, 2, fused.device)
            pictures = correlate(pictures, halving, size, stride=2)
        band = gaussian_band(size, size / 5, 1, fused.device)
        for rows in stripes(pictures, size):
            rows_passed, rows_present = _information(correlate(_products(rows), band, size))
            passed += rows_passed
            present += rows_present
    return (passed / present).masked_fill_(present == 0, 1).sum(0)


def _products(pictures: Tensor) -> Tensor:
    """The maps [H, 8, B, W] whose local means are the moments of (F, A, B) [H, 3, B, W]: F, A, B, squares, F A, F B."""
    height, _, members, width = pictures.shape
    maps = pictures.new_empty(height, 8, members, width)
    maps[:, :3].copy_(pictures)
    torch.mul(pictures, pictures, out=maps[:, 3:6])
    torch.mul(pictures[:, 1:], pictures[:, :1], out=maps[:, 6:])
    return maps


def _information(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The two sums of ``v``, each [2, B] for both sources, over windows with ``moments`` [H, 8, B, W]."""
    mean, square, cross = moments[:, :3], moments[:, 3:6], moments[:, 6:]
    covariance = cross.addcmul_(mean[:, 1:], mean[:, :1], value=-1)
    variance = square.addcmul_(mean, mean, value=-1).clamp_min_(0)
    fused, source = variance[:, :1], variance[:, 1:]
    # Nothing passes where the gain would be negative, or where either variance vanishes. The fused one needs no
    # care: the covariance vanishes with it.
    source = F.threshold(source, _TINY, 0.0, inplace=True)
    covariance.clamp_min_(0)
    gain = covariance / (source + _TINY)
    unexplained = torch.addcmul(fused, gain, covariance, value=-1).clamp_min_(_TINY)
    ratio = gain.square_().mul_(source).div_(unexplained.add_(_NOISE_VARIANCE))
    return ratio.log1p_().sum((0, 3)), source.div_(_NOISE_VARIANCE).log1p_().sum((0, 3))

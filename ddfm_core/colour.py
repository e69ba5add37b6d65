"""RGB, luma and chroma of pictures in [-1, 1] (ITU-R BT.601).

Two scalings of the same luma are in use. JPEG's *full range* maps black and white to -1 and 1 and is what sources
and results are measured in. The code published with the paper computes luma in *studio range*, 16/255 to 235/255
for values in 0..1, and feeds it values in [-1, 1]; only :class:`~ddfm_core.rectify.ReleasedRectifier` wants that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# BT.601 luma weights; green has the rest.
RED, BLUE = 0.299, 0.114
GREEN = 1 - RED - BLUE


@dataclass(frozen=True)
class LumaRange:
    """luma = offset + gain (0.299 R + 0.587 G + 0.114 B), the scaling in which a rectification sees the prior.

    Attributes:
        gain: difference of luma between white and black per difference of the RGB values.
        offset: luma of zero.
    """

    gain: float = 1.0
    offset: float = 0.0

    def luma(self, image: Tensor) -> Tensor:
        """Luma [B, 1, H, W] of an image [B, 1 or 3, H, W]; a grey value counts as R = G = B."""
        return self.offset + self.gain * luma(image)

    def with_luma(self, image: Tensor, new_luma: Tensor) -> Tensor:
        """The image [B, 1 or 3, H, W] with its luma replaced by ``new_luma`` [B, 1, H, W], its chroma kept.

        Equal RGB values have no chroma, so replacing luma and going back to RGB through the exact inverse of the
        colour matrix adds the same amount to each channel.
        """
        wanted = (new_luma - self.offset) / self.gain
        return wanted if image.shape[1] == 1 else image + (wanted - luma(image))


FULL_RANGE = LumaRange()
# The rows of the studio-range matrix are (65.481, 128.553, 24.966) / 255 for luma, with 16 / 255 added, and two rows
# of chroma that sum to zero; the luma row is 219 / 255 times the BT.601 weights.
STUDIO_RANGE = LumaRange(gain=219 / 255, offset=16 / 255)


def luma(image: Tensor) -> Tensor:
    """Full-range luma [B, 1, H, W] of an image [B, 1 or 3, H, W]; exactly the grey value where R = G = B."""
    if image.shape[1] == 1:
        return image
    red, green, blue = image.chunk(3, dim=1)
    return green + RED * (red - green) + BLUE * (blue - green)


def to_ycbcr(image: Tensor) -> Tensor:
    """Full-range luma and chroma [B, 3, H, W] of RGB [B, 3, H, W], all in [-1, 1]; grey has chroma exactly 0."""
    y = luma(image)
    return torch.cat([y, (image[:, 2:] - y) / (2 * (1 - BLUE)), (image[:, :1] - y) / (2 * (1 - RED))], dim=1)


def to_rgb(ycbcr: Tensor) -> Tensor:
    """The inverse of :func:`to_ycbcr`; not clipped."""
    y, cb, cr = ycbcr.chunk(3, dim=1)
    red, blue = 2 * (1 - RED) * cr, 2 * (1 - BLUE) * cb
    return y + torch.cat([red, -(RED * red + BLUE * blue) / GREEN, blue], dim=1)


def is_grey(image: Tensor) -> Tensor:
    """Per member, whether R = G = B everywhere: bool [B] for an image [B, 1 or 3, H, W]."""
    return (image == image[:, :1]).flatten(1).all(dim=1)


def recolour(fused_luma: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Put a fused luma into the chroma of the coloured source; may leave the range, see :func:`into_gamut`.

    Per member of the batch: the chroma of the second source (the visible image) where that one is coloured, else
    the chroma of the first (pseudo-colour PET or SPECT), else none, which makes R = G = B = luma exactly.

    Args:
        fused_luma: full-range luma [B, 1, H, W].
        first, second: the sources [B, 1 or 3, H, W] in [-1, 1].

    Returns:
        [B, 1, H, W] when both sources have one channel, else RGB [B, 3, H, W].
    """
    if first.shape[1] == second.shape[1] == 1:
        return fused_luma
    first, second = (source.expand(-1, 3, -1, -1) for source in (first, second))
    coloured = torch.where(is_grey(second)[:, None, None, None], first, second)
    return to_rgb(torch.cat([fused_luma, to_ycbcr(coloured)[:, 1:]], dim=1))


def into_gamut(image: Tensor, second: Tensor) -> Tensor:
    """Bring what :func:`recolour` made into [-1, 1], per pixel, with its hue.

    Colours of the second source are those of things as they look: luma stays, and chroma shrinks as far as it must.
    Pseudo-colours of the first are values on a palette, on which a paler colour is another value: chroma stays exactly,
    and luma gives way.

    Args:
        image: [B, 1 or 3, H, W], its luma in [-1, 1].
        second: the second source [B, 1 or 3, H, W], which gave the colour where it is coloured.
    """
    if image.shape[1] == 1:
        return image.clamp(-1, 1)
    level = luma(image)
    chroma = image - level
    room = torch.where(chroma > 0, 1 - level, 1 + level) / chroma.abs().clamp_min(torch.finfo(image.dtype).tiny)
    paler = level + room.amin(dim=1, keepdim=True).clamp(0, 1) * chroma
    above = (image.amax(dim=1, keepdim=True) - 1).clamp_min(0)
    below = (-1 - image.amin(dim=1, keepdim=True)).clamp_min(0)
    shifted = image - above + below
    # Rounding, and a chroma that is too wide for any luma.
    return torch.where(is_grey(second)[:, None, None, None], shifted, paler).clamp(-1, 1)

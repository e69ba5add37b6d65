"""What the local metrics share: stripes of pictures, and filters without padding.

Maps are laid out with their rows first, [H, ..., B, W]: a stripe of rows is then one block of memory, and
filtering along the columns is one large matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# The local metrics keep about thirty float64 maps of what they work on. On a CPU these should stay in the cores'
# caches and small enough for the allocator to reuse; an accelerator wants enough pixels per kernel, within about
# 1 GiB.
_CPU_PIXELS = 2**14
_ACCELERATOR_PIXELS = 2**22

# Outputs per banded product: few waste less on the zeros beside the band, many suit the matrix kernels better.
_BLOCK = 24


def pixels_at_once(device: torch.device) -> int:
    """How many pixels of a picture (times the batch) the metrics work on at a time on ``device``."""
    return _CPU_PIXELS if device.type == "cpu" else _ACCELERATOR_PIXELS


def rows_first(*pictures: Tensor, dtype: torch.dtype = torch.float64, margin: int = 0) -> Tensor:
    """N ``pictures`` [B, H, W] as one tensor [H + 2 margin, N, B, W + 2 margin], zero in the margin."""
    members, height, width = pictures[0].shape
    shape = (height + 2 * margin, len(pictures), members, width + 2 * margin)
    together = torch.zeros(shape, dtype=dtype, device=pictures[0].device)
    inside = together[margin : margin + height, ..., margin : margin + width]
    for i, picture in enumerate(pictures):
        inside[:, i].copy_(picture.movedim(1, 0))
    return together


def stripes(pictures: Tensor, size: int) -> Iterator[Tensor]:
    """Bands of rows of ``pictures`` [H, N, B, W] in which each window of ``size`` rows lies exactly once.

    Bands overlap by ``size - 1`` rows, so that sums over all windows are sums over the bands. Memory stays
    bounded for large pictures this way.
    """
    height, _, members, width = pictures.shape
    rows = max(_BLOCK, pixels_at_once(pictures.device) // (members * width))
    for top in range(0, height - size + 1, rows):
        yield pictures[top : top + rows + size - 1]


def gaussian_band(size: int, sigma: float, stride: int, device: torch.device) -> Tensor:
    """Matrix whose row i holds a Gaussian of ``size`` samples from column i * stride on, zeros elsewhere.

    The Gaussian has the standard deviation ``sigma`` and the sum 1. Multiplied with a run of samples the matrix
    gives the outputs of a correlation without padding, ``stride`` samples apart. float64.
    """
    columns = torch.arange((_BLOCK - 1) * stride + size, dtype=torch.float64, device=device)
    starts = stride * torch.arange(_BLOCK, dtype=torch.float64, device=device)
    distance = columns - starts[:, None] - (size - 1) / 2
    weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= (size - 1) / 2)
    return weights / weights.sum(1, keepdim=True)


def correlate(maps: Tensor, band: Tensor, size: int, stride: int = 1) -> Tensor:
    """``maps`` [H, ..., W] correlated along both axes with the window of ``size`` in ``band``, without padding.

    The result is [(H - size) // stride + 1, ..., (W - size) // stride + 1]. Banded matrix products run at the
    speed of the matrix kernels; convolutions of single channels in float64 are an order of magnitude behind.
    """
    height, width = maps.shape[0], maps.shape[-1]
    rows, columns = (height - size) // stride + 1, (width - size) // stride + 1
    maps_flat = maps.reshape(height, -1)
    down = maps.new_empty(rows, maps_flat.shape[1])
    for weights, outputs, inputs in _band_blocks(band, size, stride, rows):
        torch.mm(weights, maps_flat[inputs], out=down[outputs])
    down = down.view(-1, width)
    across = maps.new_empty(len(down), columns)
    for weights, outputs, inputs in _band_blocks(band, size, stride, columns):
        torch.mm(down[:, inputs], weights.T, out=across[:, outputs])
    return across.view(rows, *maps.shape[1:-1], columns)


def _band_blocks(band: Tensor, size: int, stride: int, outputs: int) -> Iterator[tuple[Tensor, slice, slice]]:
    """The part of ``band``, the outputs and the inputs of each product that together give ``outputs`` samples."""
    for start in range(0, outputs, _BLOCK):
        stop = min(start + _BLOCK, outputs)
        reach = (stop - start - 1) * stride + size
        first = start * stride
        yield band[: stop - start, :reach], slice(start, stop), slice(first, first + reach)


def box_sums_7(maps: Tensor) -> Tensor:
    """Sums over all 7 x 7 windows inside ``maps`` [H, ..., W], as [H - 6, ..., W - 6].

    Shifted additions (3, twice that, and 1) take four passes per axis; unlike running sums they carry no
    rounding error of the rest of the row into a flat window.
    """
    for axis in (0, -1):
        length = maps.shape[axis]
        three = maps.narrow(axis, 0, length - 2) + maps.narrow(axis, 1, length - 2)
        three += maps.narrow(axis, 2, length - 2)
        seven = three.narrow(axis, 0, length - 6) + three.narrow(axis, 3, length - 6)
        maps = seven.add_(maps.narrow(axis, 6, length - 6))
    return maps

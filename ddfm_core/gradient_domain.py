"""Pictures from wanted gradients, on a grid whose borders nothing crosses, and windows to compare gradients in.

Gradients are forward differences within the picture: unlike those of :mod:`ddfm_core.rectify`, which live on the
paper's periodic grid, no side sees the one opposite. grad^T grad is then diagonal under the DCT-II, with eigenvalues
2 - 2 cos(pi k / N) along a side of N pixels.

Shapes: luma [B, 1, H, W], gradients [B, 2, H, W], along x and along y.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def inner_gradient(image: Tensor) -> Tensor:
    """Forward differences along x and y [B, 2, H, W]; 0 in the last column and row, where there is no next pixel."""
    along_x = F.pad(image[..., 1:] - image[..., :-1], (0, 1))
    along_y = F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1))
    return torch.cat([along_x, along_y], dim=1)


def inner_gradient_adjoint(gradient: Tensor) -> Tensor:
    """The adjoint of :func:`inner_gradient`: [B, 2, H, W] to [B, 1, H, W]; the last column and row do not count."""
    along_x, along_y = gradient[:, :1, :, :-1], gradient[:, 1:, :-1]
    from_x = F.pad(along_x, (1, 0)) - F.pad(along_x, (0, 1))
    from_y = F.pad(along_y, (0, 0, 1, 0)) - F.pad(along_y, (0, 0, 0, 1))
    return from_x + from_y


def solve_screened(right: Tensor, screening: float) -> Tensor:
    """The f of (screening + grad^T grad) f = ``right`` [B, 1, H, W], with :func:`inner_gradient`.

    The DCT-II of a picture is the FFT of the picture and its mirror images, of twice its sides.
    """
    height, width = right.shape[-2:]
    mirrored = torch.cat([right, right.flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored, mirrored.flip(-2)], dim=-2)
    w_x = 2 * math.pi * torch.fft.rfftfreq(2 * width, device=right.device, dtype=right.dtype)
    w_y = 2 * math.pi * torch.fft.fftfreq(2 * height, device=right.device, dtype=right.dtype)
    operator = screening + 4 - 2 * w_x.cos() - 2 * w_y.cos()[:, None]
    solved: Tensor = torch.fft.irfft2(torch.fft.rfft2(mirrored) / operator, s=(2 * height, 2 * width))
    return solved[..., :height, :width]


def gaussian_mean(image: Tensor, sigma: float) -> Tensor:
    """Mean in a Gaussian window with a standard deviation of ``sigma`` pixels, out to three of them."""
    radius = math.ceil(3 * sigma)
    taps = [math.exp(-((offset / sigma) ** 2) / 2) for offset in range(-radius, radius + 1)]
    return smooth(image, tuple(tap / sum(taps) for tap in taps))


def smooth(image: Tensor, taps: tuple[float, ...]) -> Tensor:
    """Convolve [B, 1, H, W] with a symmetric kernel along both axes, mirrored at the borders."""
    radius = len(taps) // 2
    kernel = image.new_tensor(taps)
    padded = F.pad(image, (radius, radius, radius, radius), mode="reflect")
    along_x = F.conv2d(padded, kernel.view(1, 1, 1, -1))
    return F.conv2d(along_x, kernel.view(1, 1, -1, 1))

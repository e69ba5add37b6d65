"""The best linear denoiser for natural pictures, which a small network does not reach in much noise.

Where the noise is far above the signal, a posterior mean is nearly that of a Gaussian with the pictures' mean spectrum
(Wiener's filter). A convolutional network has to average a whole picture to see as much, and learns it slowly.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mean_spectrum(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean level (scalar) and mean power spectrum [H, W] (per-pixel units) of pictures [N, 1, H, W]."""
    level = pictures.mean()
    power = torch.fft.fft2(pictures[:, 0] - level).abs().square().mean(0) / pictures[0].numel()
    return level, power


BAND_EDGES: Final = tuple(edge / 256 for edge in (0.5, 1.5, 3, 8, 24))
"""Radial frequencies in cycles per pixel between which a share is constant; the first band is the mean level."""
BANDS: Final = len(BAND_EDGES) + 1


class LinearDenoiser(nn.Module):
    """Posterior mean of a picture under a stationary Gaussian, by a Wiener filter on the circular FFT grid.

    It stands beside a network, whose estimate it improves: at timestep t and in a band of frequencies it gets the
    share ``share[t, band]``, the network the rest.

    Args:
        side: the spectrum is kept on the grid of pictures of this many pixels squared; others are interpolated.
        num_timesteps: length of the table of shares.
    """

    level: Tensor
    log_power: Tensor
    share: Tensor

    def __init__(self, side: int, num_timesteps: int) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("log_power", torch.zeros(side, side // 2 + 1))
        self.register_buffer("share", torch.zeros(num_timesteps, BANDS))

    def forward(self, noisy: Tensor, sigma: float, x0_pred: Tensor, timestep: int) -> Tensor:
        """Join the linear estimate to a network's.

        Args:
            noisy: [B, C, H, W], x0 + sigma n with n white and of unit variance.
            sigma: standard deviation of the noise.
            x0_pred: the network's estimate, likewise.
            timestep: chooses the shares.

        Returns:
            The weighted mean of both, float32.
        """
        height, width = noisy.shape[-2:]
        share = self.share[timestep].float()[radial_bands(height, width, noisy.device)]
        spectrum = torch.fft.rfft2(x0_pred.float())
        spectrum = spectrum + share * (self.spectrum(noisy, sigma) - spectrum)
        joined: Tensor = torch.fft.irfft2(spectrum, s=(height, width))
        return joined

    def spectrum(self, noisy: Tensor, sigma: float) -> Tensor:
        """The linear estimate of x0 alone, as ``torch.fft.rfft2`` of it: complex [B, C, H, W // 2 + 1]."""
        height, width = noisy.shape[-2:]
        power = self._power(height, width)
        found: Tensor = torch.fft.rfft2(noisy.float() - self.level) * (power / (power + sigma**2))
        # The level comes back at the zero frequency, where an unnormalised transform has the sum of the pixels.
        found[..., 0, 0] += self.level * (height * width)
        return found

    def _power(self, height: int, width: int) -> Tensor:
        """The mean power at the frequencies of a picture [height, width // 2 + 1], interpolated in its logarithm."""
        device = self.log_power.device
        rows = torch.fft.fftfreq(height, device=device)
        columns = torch.fft.rfftfreq(width, device=device)
        # From -1/2 to 1/2 cycles per pixel in both ends, so that nothing lies outside the grid.
        table = torch.fft.fftshift(self.log_power.float(), dim=0)
        table = torch.cat([table, table[:1]])
        # grid_sample's coordinates go from -1 to 1, first column, then row.
        grid = torch.stack(torch.meshgrid(4 * columns - 1, 2 * rows, indexing="xy"), dim=-1)
        found = F.grid_sample(table[None, None], grid[None], mode="bilinear", align_corners=True)
        return found[0, 0].exp()


def radial_bands(height: int, width: int, device: torch.device) -> Tensor:
    """The band of each frequency of a picture, 0 to ``BANDS`` - 1, on the grid of ``torch.fft.rfft2``."""
    rows = torch.fft.fftfreq(height, device=device)[:, None]
    columns = torch.fft.rfftfreq(width, device=device)[None]
    return torch.bucketize(torch.hypot(rows, columns), torch.tensor(BAND_EDGES, device=device))


def fit_linear(linear: LinearDenoiser, pictures: Tensor) -> None:
    """Take level and spectrum from pictures [N, 1, side, side] in [-1, 1]; the shares stay as they are.

    Raises:
        ValueError: the pictures do not have the grid's side.
    """
    side = len(linear.log_power)
    if pictures.shape[-2:] != (side, side):
        raise ValueError(f"expected pictures of {side} x {side} pixels, got {list(pictures.shape)}")
    level, power = mean_spectrum(pictures)
    linear.level.copy_(level)
    linear.log_power.copy_(power[:, : side // 2 + 1].log())

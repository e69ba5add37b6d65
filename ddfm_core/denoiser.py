"""The network of the bundled prior: a small, norm-free, fully convolutional U-Net.

It works at half resolution (a pixel unshuffle replaces the first level), has no normalisation layer and
no attention, so what it predicts for a picture depends neither on the other members of the batch nor on
a fixed picture size. The timestep modulates every residual block (FiLM: Perez et al., AAAI 2018). The design
follows DRUNet (Zhang et al., TPAMI 2021) in its norm-free residual blocks and strided resampling.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddfm_core.linear_denoiser import LinearDenoiser


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape of a :class:`Denoiser`.

    Attributes:
        channels: picture channels, 1 (grey) or 3 (RGB), in and out.
        widths: features per level; level 0 works at half the picture's resolution, each further one at half
            the resolution of the one before.
        blocks: residual blocks per level, in the encoder and again in the decoder.
        embedding: width of the timestep embedding.
        spectrum: side of the grid on which a :class:`~ddfm_core.linear_denoiser.LinearDenoiser` beside the network
            keeps its spectrum; 0 for a network that stands alone.
        num_timesteps: of the schedule.
    """

    channels: int = 1
    widths: tuple[int, ...] = (64, 96, 160, 224, 256)
    blocks: int = 2
    embedding: int = 128
    spectrum: int = 0
    num_timesteps: int = 1000

    @property
    def multiple(self) -> int:
        """Height and width of an input must be multiples of this many pixels."""
        return int(2 ** len(self.widths))

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON values, as the weights file keeps them."""
        return asdict(self) | {"widths": list(self.widths)}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> DenoiserConfig:
        """Rebuild from :meth:`as_json`; an unknown field raises ``TypeError``."""
        return cls(**(fields | {"widths": tuple(fields["widths"])}))


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding [B, width] of timesteps [B] (Vaswani et al. 2017; DDPM, Ho et al. 2020, app. B)."""
    half = width // 2
    frequencies = torch.exp(
        -math.log(10_000.0) * torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    )
    angles = timestep.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(x) * (1 + scale) + shift)), scale and shift from the timestep."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(width, width, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.conv_out = nn.Conv2d(width, width, 3, padding=1)
        # Starting as the identity keeps a norm-free network stable from the first step on.
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features [B, width, h, w] and the timestep's embedding [B, embedding] to features of the same shape."""
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h: Tensor = self.conv_out(F.silu(self.conv_in(x) * (1 + scale) + shift))
        return x + h


class Denoiser(nn.Module):
    """v-prediction network: (x_t [B, C, H, W], timestep [B]) -> v [B, C, H, W] (Salimans & Ho, ICLR 2022).

    v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 stays well scaled at both ends of the schedule, where eps
    says nothing about x0 (much noise) or x0 nothing about eps (little noise). H and W must be multiples of
    ``config.multiple``. The linear denoiser, where there is one, is not part of v: the prior joins the two estimates
    of x0.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        widths, embedding = config.widths, config.embedding
        self.time_embed = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.stem = nn.Conv2d(4 * config.channels, widths[0], 3, padding=1)

        def level(width: int) -> nn.ModuleList:
            return nn.ModuleList(ResidualBlock(width, embedding) for _ in range(config.blocks))

        pairs = list(pairwise(widths))
        self.encoder = nn.ModuleList(level(width) for width in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.middle = level(widths[-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(level(width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], 4 * config.channels, 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.linear = LinearDenoiser(config.spectrum, config.num_timesteps) if config.spectrum else None

    def forward(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        """See the class."""
        embedding = F.silu(self.time_embed(timestep_embedding(timestep, self.config.embedding)))
        h = self.stem(F.pixel_unshuffle(x_t, 2))
        skips: list[Tensor] = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            for block in blocks.children():
                h = block(h, embedding)
            skips.append(h)
            h = down(h)
        for block in self.middle:
            h = block(h, embedding)
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            h = up(h) + skips.pop()
            for block in blocks.children():
                h = block(h, embedding)
        return F.pixel_shuffle(self.head(h), 2)

"""How the bundled prior is trained: v-prediction on crops of photographs, with an averaged copy of the weights.

Tensors in, tensors out; which files the pictures come from and where checkpoints go is the caller's business.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ddfm_core.denoiser import Denoiser, DenoiserConfig
from ddfm_core.linear_denoiser import BANDS, LinearDenoiser, fit_linear, radial_bands
from ddfm_core.schedule import Schedule

SHARES_FROM: Final = 0.4
"""Part of the schedule below which a network needs no linear denoiser beside it."""
SHARES: Final = 7
"""Timesteps at which the share is found; it is interpolated between them."""
SHARE_PICTURES: Final = 240
LARGEST_REDUCTION: Final = 3.0
"""By how much a training crop is reduced at most."""
PredictX0 = Callable[[Tensor, int], Tensor]
"""(x_t [B, C, H, W], timestep) -> x0_pred."""


@dataclass(frozen=True)
class TrainingConfig:
    """What a training run does.

    Attributes:
        minutes: time budget; the learning rate follows the share of it that is used up.
        pixels_per_step: pixels in a batch; a batch of larger crops has fewer of them.
        crop_sizes: sides of the square crops in pixels, taken in turn, multiples of the network's own multiple.
        learning_rate: peak of the cosine schedule of AdamW.
        gradient_norm: gradients are clipped to this norm.
        warmup_steps: steps of linear rise before it.
        ema_decay: decay of the averaged weights, which are what is kept.
        low_noise_share: share of the timesteps drawn from the lowest 30 % of the schedule, where a fused
            picture's detail is decided.
        high_noise_share: share drawn from the highest 40 %, where only the layout of a whole picture shows and large
            crops are worth their time; what both shares leave is uniform.
        seed: chooses crops, timesteps, noise and initial weights.
    """

    minutes: float = 100.0
    pixels_per_step: int = 65_536
    crop_sizes: tuple[int, ...] = (64, 64, 64, 128, 64, 64, 64, 256)
    learning_rate: float = 4e-4
    gradient_norm: float = 0.3
    warmup_steps: int = 300
    ema_decay: float = 0.999
    low_noise_share: float = 0.5
    high_noise_share: float = 0.0
    seed: int = 0


def prediction_to_x0(v: Tensor, x_t: Tensor, alpha_bar: Tensor) -> Tensor:
    """x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans & Ho 2022, app. D)."""
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * v


def sample_crops(pictures: Sequence[Tensor], size: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random crops [count, C, size, size] in [-1, 1], flipped and turned at random.

    Half of the crops show the picture reduced by a random factor of up to ``LARGEST_REDUCTION``, so that the prior
    knows detail at every scale between.

    Args:
        pictures: uint8 tensors [C, H, W], each at least ``size`` in both directions.
    """
    crops = []
    for _ in range(count):
        index, turn, flip = torch.randint(2**31, (3,), generator=generator).tolist()
        reduce, depth = torch.rand(2, generator=generator).tolist()
        picture = pictures[index % len(pictures)]
        height, width = picture.shape[-2:]
        largest = min(LARGEST_REDUCTION, height / size, width / size)
        extent = int(size * largest**depth) if reduce < 0.5 else size
        top = int(torch.randint(height - extent + 1, (), generator=generator))
        left = int(torch.randint(width - extent + 1, (), generator=generator))
        crop = picture[:, top : top + extent, left : left + extent].float()
        if extent > size:
            crop = F.interpolate(crop[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 255)
        crop = torch.rot90(crop, turn % 4, (-2, -1))
        crops.append(crop.flip(-1) if flip % 2 else crop)
    return torch.stack(crops) / 127.5 - 1


def sample_timesteps(
    count: int, num_timesteps: int, low_noise_share: float, high_noise_share: float, generator: torch.Generator
) -> Tensor:
    """Integer timesteps [count]: shares of them from the lowest 30 % and the highest 40 % of T, the rest uniform."""
    choice = torch.rand(count, generator=generator)
    is_high = choice >= 1 - high_noise_share
    span = torch.where(choice < low_noise_share, 0.3, torch.where(is_high, 0.4, 1.0))
    start = torch.where(is_high, 0.6, 0.0)
    return ((start + torch.rand(count, generator=generator) * span) * num_timesteps).long().clamp_max(num_timesteps - 1)


class Trainer:
    """A resumable training run: call :meth:`step` until the budget is used, keep :meth:`state`.

    Each step draws its batch from a generator keyed by (seed, step), so a resumed run sees the batches that an
    uninterrupted one would have seen.
    """

    def __init__(
        self, network: DenoiserConfig, config: TrainingConfig, schedule: Schedule, device: torch.device
    ) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.device = device
        self.alphas_cumprod = torch.from_numpy(schedule.alphas_cumprod).float().to(device)
        self.network = Denoiser(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.steps = 0
        self.seconds = 0.0

    @property
    def progress(self) -> float:
        """Share of the time budget used, 0 to 1."""
        return min(1.0, self.seconds / (60 * self.config.minutes))

    def step(self, pictures: Sequence[Tensor]) -> float:
        """One optimiser step on a batch of crops; returns its loss (mean squared error of v)."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.steps)
        size = config.crop_sizes[self.steps % len(config.crop_sizes)]
        count = max(1, config.pixels_per_step // size**2)
        x0 = sample_crops(pictures, size, count, generator)
        timestep = sample_timesteps(
            count, len(self.alphas_cumprod), config.low_noise_share, config.high_noise_share, generator
        )
        eps = torch.randn(x0.shape, generator=generator)
        x0, timestep, eps = (tensor.to(self.device) for tensor in (x0, timestep, eps))
        alpha_bar = self.alphas_cumprod[timestep][:, None, None, None]
        x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
        target = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0

        warmup = min(1.0, (self.steps + 1) / config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.progress))
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            v = self.network(x_t.contiguous(memory_format=torch.channels_last), timestep)
        loss = F.mse_loss(v.float(), target)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        # A norm-free network leaves the road for good after one outsized step; gradients are usually near this norm.
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_norm)
        self.optimizer.step()
        self.steps += 1
        # A short memory at first, or the average would carry the random start for thousands of steps.
        decay = min(config.ema_decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for average, current in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
                average.lerp_(current, 1 - decay)
        return float(loss.detach())

    def begin_with(self, network: Denoiser) -> None:
        """Take the weights of a trained network instead of random ones; the optimiser begins anew.

        A linear denoiser beside it is left out, as it is fitted to what the training comes to.

        Raises:
            RuntimeError: the networks differ.
        """
        weights = {key: value for key, value in network.state_dict().items() if not key.startswith("linear.")}
        self.network.load_state_dict(weights)
        self.averaged.load_state_dict(weights)

    def state(self) -> dict[str, Any]:
        """All that :meth:`load_state` needs to go on, tensors and plain values only."""
        return {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`; keys or shapes that do not fit raise ``RuntimeError``."""
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps, self.seconds = state["steps"], state["seconds"]


@torch.inference_mode()
def denoise(network: Denoiser, noisy: Tensor, sigma: float, schedule: Schedule) -> Tensor:
    """Posterior mean of pictures seen in white noise: noisy [B, C, H, W] = x0 + sigma n, x0 in [-1, 1].

    H and W are reflect-padded to the network's multiple and cropped back.
    """
    alpha_bar = torch.tensor(1 / (1 + sigma**2), dtype=noisy.dtype, device=noisy.device)
    height, width = noisy.shape[-2:]
    multiple = network.config.multiple
    padded = F.pad(noisy, (0, -width % multiple, 0, -height % multiple), mode="reflect")
    x_t = alpha_bar.sqrt() * padded
    timestep = torch.full((len(noisy),), schedule.timestep_of_sigma(sigma), device=noisy.device)
    return prediction_to_x0(network(x_t, timestep), x_t, alpha_bar)[..., :height, :width]


def join_linear(network: Denoiser, pictures: Tensor, schedule: Schedule, batch: int = 8) -> Denoiser:
    """A copy of a network with the best linear denoiser beside it.

    In the upper part of the schedule the linear estimate gets, in each band of frequencies, the share that makes the
    squared error of the weighted mean least on some of these pictures.

    Args:
        network: without a linear denoiser.
        pictures: [N, 1, side, side] in [-1, 1] from the training set; the side becomes that of the spectrum's grid.
    """
    config = replace(network.config, spectrum=pictures.shape[-1], num_timesteps=schedule.num_timesteps)
    joined = Denoiser(config).to(pictures.device).requires_grad_(False)
    joined.load_state_dict(network.state_dict(), strict=False)
    linear = joined.linear
    if linear is None:
        raise AssertionError("the configuration asks for a linear denoiser")
    fit_linear(linear, pictures)
    some = pictures[:: -(-len(pictures) // SHARE_PICTURES)]
    last = schedule.num_timesteps - 1
    timesteps = [round(position) for position in np.linspace(SHARES_FROM * last, last, SHARES)]
    shares = np.stack([_best_shares(joined, linear, some, schedule, timestep, batch) for timestep in timesteps])
    for band in range(BANDS):
        table = np.interp(np.arange(schedule.num_timesteps), timesteps, shares[:, band], left=0.0)
        linear.share[:, band].copy_(torch.from_numpy(table))
    return joined


@torch.inference_mode()
def _best_shares(
    network: Denoiser, linear: LinearDenoiser, pictures: Tensor, schedule: Schedule, timestep: int, batch: int
) -> NDArray[np.float64]:
    alpha_bar = torch.tensor(schedule.alphas_cumprod[timestep], dtype=torch.float32, device=pictures.device)
    sigma = float(schedule.sigmas[timestep])
    height, width = pictures.shape[-2:]
    bands = radial_bands(height, width, pictures.device)
    # All columns but the first and the last of half a spectrum stand for two.
    count = torch.full((width // 2 + 1,), 2.0, device=pictures.device)
    count[0] = count[-1] = 1
    across, along = torch.zeros(2, BANDS, dtype=torch.float64)
    for start in range(0, len(pictures), batch):
        x0 = pictures[start : start + batch]
        generator = torch.Generator().manual_seed(1_000_003 * timestep + start)
        noisy = x0 + sigma * torch.randn(x0.shape, generator=generator).to(x0.device)
        x_t = alpha_bar.sqrt() * noisy
        v = network(x_t, torch.full((len(x0),), timestep, device=x0.device))
        error = torch.fft.rfft2(prediction_to_x0(v, x_t, alpha_bar) - x0)
        difference = error - (linear.spectrum(noisy, sigma) - torch.fft.rfft2(x0))
        # |error - share difference|^2 is least where its derivative by the share is zero.
        for sums, products in ((across, (error * difference.conj()).real), (along, difference.abs().square())):
            sums.index_add_(0, bands.flatten().cpu(), (products * count).sum((0, 1)).flatten().double().cpu())
    # A small picture has no frequency at all in some bands.
    best: NDArray[np.float64] = torch.where(along > 0, across / along, 0.0).clamp(0, 1).numpy()
    return best


@dataclass(frozen=True)
class NoiseLevelLoss:
    """Mean squared error of eps at one noise level, of the network and of the Wiener filter it must beat."""

    timestep: int
    sigma: float
    network: float
    wiener: float


@torch.inference_mode()
def losses_per_noise_level(
    predict_x0: PredictX0,
    holdout: Tensor,
    level: Tensor,
    power: Tensor,
    schedule: Schedule,
    timesteps: Sequence[int],
    batch: int = 8,
) -> list[NoiseLevelLoss]:
    """Hold-out loss at each timestep beside the Wiener filter of the training pictures' mean spectrum.

    Both see the same noise. The errors are those of eps, (x0_pred - x0)^2 / sigma^2.

    Args:
        predict_x0: a prior.
        holdout: crops [N, 1, H, W] in [-1, 1], H and W multiples of the network's multiple.
        level, power: :func:`~ddfm_core.linear_denoiser.mean_spectrum` of training crops of the same size.
    """
    results = []
    for timestep in timesteps:
        alpha_bar = torch.tensor(schedule.alphas_cumprod[timestep], dtype=torch.float32, device=holdout.device)
        sigma = float(schedule.sigmas[timestep])
        gain = power / (power + sigma**2)
        network_error = wiener_error = 0.0
        for start in range(0, len(holdout), batch):
            x0 = holdout[start : start + batch]
            generator = torch.Generator().manual_seed(1_000_003 * timestep + start)
            eps = torch.randn(x0.shape, generator=generator).to(x0.device)
            x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
            network_error += float((predict_x0(x_t, timestep) - x0).square().sum())
            spectrum = torch.fft.fft2(x0 + sigma * eps - level) * gain
            wiener_error += float((torch.fft.ifft2(spectrum).real + level - x0).square().sum())
        scale = sigma**2 * holdout.numel()
        results.append(NoiseLevelLoss(timestep, sigma, network_error / scale, wiener_error / scale))
    return results

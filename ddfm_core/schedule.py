"""Noise schedules of a DDPM and the timesteps at which a sampler visits them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Schedule:
    """x_t = sqrt(alphas_cumprod[t]) x0 + sqrt(1 - alphas_cumprod[t]) eps (DDPM, Ho et al. 2020, Eq. 4).

    Attributes:
        alphas_cumprod: float64 [T], strictly decreasing, in (0, 1); entry t belongs to timestep t.
    """

    alphas_cumprod: NDArray[np.float64]

    def __post_init__(self) -> None:
        table = self.alphas_cumprod
        if table.ndim != 1 or table.dtype != np.float64:
            raise ValueError(f"alphas_cumprod must be a float64 vector, got {table.dtype} {table.shape}")
        if not (table[-1] > 0 and table[0] < 1 and np.all(np.diff(table) < 0)):
            raise ValueError("alphas_cumprod must fall strictly and stay inside (0, 1)")

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps that the prior was trained with."""
        return len(self.alphas_cumprod)

    @property
    def sigmas(self) -> NDArray[np.float64]:
        """Noise to signal sqrt((1 - alpha_bar) / alpha_bar) per timestep, float64 [T], rising."""
        return np.sqrt((1 - self.alphas_cumprod) / self.alphas_cumprod)

    def timestep_of_sigma(self, sigma: float) -> float:
        """The (fractional) timestep whose noise to signal is ``sigma``, log-linear between the entries.

        Raises:
            ValueError: ``sigma`` lies outside the schedule.
        """
        sigmas = self.sigmas
        if not sigmas[0] <= sigma <= sigmas[-1]:
            raise ValueError(f"sigma {sigma} lies outside the schedule's {sigmas[0]:.4g} to {sigmas[-1]:.4g}")
        return float(np.interp(np.log(sigma), np.log(sigmas), np.arange(len(sigmas))))


def linear_schedule(num_timesteps: int = 1000) -> Schedule:
    """Betas rise linearly from 1e-4 to 0.02 at T = 1000, scaled to other T (Ho et al. 2020, sec. 4).

    Raises:
        ValueError: fewer than 21 timesteps, where the last beta would reach 1.
    """
    if num_timesteps < 21:
        raise ValueError(f"a linear schedule needs at least 21 timesteps, got {num_timesteps}")
    scale = 1000 / num_timesteps
    betas = np.linspace(scale * 1e-4, scale * 0.02, num_timesteps, dtype=np.float64)
    return Schedule(np.cumprod(1 - betas, dtype=np.float64))


def cosine_schedule(num_timesteps: int = 1000) -> Schedule:
    """alpha_bar(s) = cos^2((s + 0.008) / 1.008 * pi / 2), betas at most 0.999 (Nichol & Dhariwal 2021, Eq. 17)."""
    if num_timesteps < 1:
        raise ValueError(f"a schedule needs at least 1 timestep, got {num_timesteps}")
    edges = np.arange(num_timesteps + 1, dtype=np.float64) / num_timesteps
    alpha_bar = np.cos((edges + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    return Schedule(np.cumprod(1 - betas, dtype=np.float64))


def respaced_timesteps(num_steps: int, num_timesteps: int = 1000) -> tuple[int, ...]:
    """``num_steps`` timesteps spread evenly over 0..T-1, both ends included, descending.

    Entry i of the ascending list is round(i * (T - 1) / (n - 1)), so the first step always starts from
    the noisiest timestep (Nichol & Dhariwal 2021, sec. 4); a single step uses T - 1 alone.

    Raises:
        ValueError: ``num_steps`` outside 1..T.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"num_steps must be 1..{num_timesteps}, got {num_steps}")
    if num_steps == 1:
        return (num_timesteps - 1,)
    stride = (num_timesteps - 1) / (num_steps - 1)
    return tuple(round(i * stride) for i in reversed(range(num_steps)))


def timestep_pairs(timesteps: tuple[int, ...]) -> tuple[tuple[int, int | None], ...]:
    """(t, t_prev) for each step of a descending list; t_prev is None at the last, where alpha_bar_prev = 1.

    Raises:
        ValueError: the list is empty or does not fall strictly.
    """
    if not timesteps or any(a <= b for a, b in pairwise(timesteps)):
        raise ValueError(f"timesteps must be a non-empty, strictly falling list, got {timesteps}")
    return tuple(zip(timesteps, (*timesteps[1:], None), strict=True))

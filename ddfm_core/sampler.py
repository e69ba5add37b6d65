"""Algorithm 1 of DDFM: reverse diffusion in which every predicted picture is rectified towards the two sources."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from ddfm_core.priors import Prior
from ddfm_core.rectify import Rectifier, RectifierState
from ddfm_core.schedule import timestep_pairs

Update = Literal["ddim", "posterior"]

# Called after each step with (timestep, x_t, x0_pred, x0_rectified, state); the state is None without a rectifier.
Callback = Callable[[int, Tensor, Tensor, Tensor, RectifierState | None], None]


@dataclass(frozen=True)
class Guidance:
    """What the sampler is conditioned on.

    Attributes:
        rectifier: the rule.
        first, second: luma of the sources [B, 1, H, W] in [-1, 1], float32.
        size: height and width of the pictures themselves, where the rest only repeats them; None when all is picture.
    """

    rectifier: Rectifier[Any]
    first: Tensor
    second: Tensor
    size: tuple[int, int] | None = None

    @cached_property
    def begun(self) -> RectifierState:
        """The rule's state before its first step, found once: steps make new states and leave this one as it is."""
        state: RectifierState = self.rectifier.start(self.first, self.second, self.size)
        return state


@dataclass(frozen=True)
class StepCoefficients:
    """x_{t-1} = x0 * x0_rectified + x_t * x_t + noise * z, the three factors of one update."""

    x0: float
    x_t: float
    noise: float


def noise_to_signal(alpha_bar: float) -> float:
    """sigma = sqrt((1 - alpha_bar) / alpha_bar), the noise of x_t beside a picture in [-1, 1]."""
    return math.sqrt((1 - alpha_bar) / alpha_bar)


def step_coefficients(alpha_bar: float, alpha_bar_prev: float, update: Update, eta: float = 0.0) -> StepCoefficients:
    """The factors of the step from alpha_bar to alpha_bar_prev, which is 1 at the last step.

    `ddim` (Song et al. 2021, Eqs. 12 and 16) recomputes eps from the rectified picture, eps = (x_t - sqrt(alpha_bar)
    x0) / sqrt(1 - alpha_bar), and is deterministic at eta = 0. `posterior` (DDFM Algorithm 1, line 16) draws from the
    DDPM posterior q(x_{t-1} | x_t, x0) of the respaced chain, the same distribution as `ddim` at eta = 1.
    """
    if update == "posterior":
        alpha = alpha_bar / alpha_bar_prev
        return StepCoefficients(
            x0=math.sqrt(alpha_bar_prev) * (1 - alpha) / (1 - alpha_bar),
            x_t=math.sqrt(alpha) * (1 - alpha_bar_prev) / (1 - alpha_bar),
            noise=math.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha)),
        )
    noise = eta * math.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev))
    x_t = math.sqrt(max(0.0, 1 - alpha_bar_prev - noise**2)) / math.sqrt(1 - alpha_bar)
    return StepCoefficients(x0=math.sqrt(alpha_bar_prev) - x_t * math.sqrt(alpha_bar), x_t=x_t, noise=noise)


def sample(
    prior: Prior,
    x_T: Tensor,  # noqa: N803
    timesteps: Sequence[int],
    guidance: Guidance | None = None,
    *,
    update: Update = "ddim",
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Algorithm 1: from noise to the fused picture, or without ``guidance`` to a picture of the prior.

    Args:
        prior: (x_t, timestep) -> x0_pred, unclamped, with its schedule.
        x_T: start of the trajectory [B, prior.channels, H, W], float32, H and W multiples of ``prior.multiple``.
        timesteps: falling timesteps of the prior's schedule.
        update, eta: see :func:`step_coefficients`.
        noise: timestep -> standard normal noise shaped like x_T, asked for where a step draws any.
        callback: sees each step.

    Returns:
        x_0 [B, prior.channels, H, W]: the last rectified picture, not clamped.

    Raises:
        ValueError: a step draws noise but ``noise`` was not given, or the timesteps do not fall.
    """
    alphas_cumprod = prior.schedule.alphas_cumprod
    state = guidance.begun if guidance else None
    x_t = x_T
    for timestep, previous in timestep_pairs(tuple(timesteps)):
        alpha_bar = float(alphas_cumprod[timestep])
        alpha_bar_prev = 1.0 if previous is None else float(alphas_cumprod[previous])

        x0_pred = prior(x_t, timestep).clamp(-1, 1)  # Eq. 4
        x0_rectified = x0_pred
        if guidance and state:
            luma_range = guidance.rectifier.luma_range
            luma, state = guidance.rectifier.rectify(
                luma_range.luma(x0_pred), guidance.first, guidance.second, state, noise_to_signal(alpha_bar)
            )  # Eqs. 16 to 31
            x0_rectified = luma_range.with_luma(x0_pred, luma)

        factors = step_coefficients(alpha_bar, alpha_bar_prev, update, eta)
        x_prev = factors.x0 * x0_rectified + factors.x_t * x_t  # Algorithm 1, line 16, or DDIM
        if factors.noise > 0:
            if noise is None:
                raise ValueError(f"update {update!r} with eta {eta} draws noise in its steps, but none was given")
            x_prev = x_prev + factors.noise * noise(timestep)
        if callback:
            callback(timestep, x_t, x0_pred, x0_rectified, state)
        x_t = x_prev
    return x_t

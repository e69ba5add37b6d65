"""The likelihood rectification of DDFM: one EM step that pulls the prior's picture towards the two sources.

Notation of the paper (Zhao et al., ICCV 2023, sec. 3.2 and 3.3): i the first source, v the second, f the fused luma,
x = f - v, y = i - v. The two residuals are Laplace distributed (Eq. 10), which Proposition 1 writes as Gaussians whose
variances m and n are exponential with means gamma and rho (Eq. 12); an l2 penalty on the gradient of x is split
off with k ~ x and u ~ grad k (Eqs. 13 and 23). An EM step is

    E-step   the expected inverse variances E[1/m] and E[1/n] (Eq. 16), here `weight_first` and `weight_second`
    M-step   the minimum over k, u and x in turn (Eqs. 25, 27, 29) of (Eq. 23)

             sum E[1/m] (y - x)^2 + E[1/n] x^2 + tv_weight ||u||^2 + penalty / 2 (||u - grad k||^2 + ||k - x||^2)

The paper's eta is called `penalty` and its psi `tv_weight` here. Gradients are forward differences on the periodic
grid, the one boundary for which Eq. 25 is diagonal under the FFT.

Shapes: luma [B, 1, H, W] float32. Statistics are taken per image, so a batch behaves like its members one by one.
Nothing here waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ddfm_core.colour import FULL_RANGE, STUDIO_RANGE, LumaRange

# Guards of the E-step. A residual counts as at least 1e-3 in its weight and a mean variance as at least 1e-6, the one
# that residuals of 7e-4 settle at: an eighth and a tenth of an 8-bit grey level. They keep the weights below
# sqrt(2) * 1e6 where f meets a source exactly, which pins f to that source and leaves all else finite in float32.
SMALLEST_RESIDUAL = 1e-3
SMALLEST_SCALE = 1e-6


@dataclass(frozen=True, eq=False)
class EMState:
    """What one EM step hands to the next.

    Attributes:
        weight_first: E[1/m] [B, 1, H, W], the pull towards the first source in the step that gave this state.
        weight_second: E[1/n] [B, 1, H, W], the pull towards the second.
        gradient: u [B, 2, H, W], the shrunken gradient of k along x and y.
        gamma: mean of m [B], the scale of the residual to the first source.
        rho: mean of n [B], the scale of the residual to the second.
    """

    weight_first: Tensor
    weight_second: Tensor
    gradient: Tensor
    gamma: Tensor
    rho: Tensor

    @classmethod
    def initial(cls, first: Tensor, second: Tensor) -> EMState:
        """Weights, gamma and rho 1, u 0, for sources [B, 1, H, W]; other shapes raise ``ValueError``."""
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 1:
            raise ValueError(f"sources must both be [B, 1, H, W], got {list(first.shape)} and {list(second.shape)}")
        ones, scale = torch.ones_like(first), first.new_ones(len(first))
        return cls(ones, ones, torch.zeros_like(first).expand(-1, 2, -1, -1), scale, scale)


class RectifierState(Protocol):
    """What any rule hands from step to step: at least the weights of its two pulls, to be looked at."""

    @property
    def weight_first(self) -> Tensor:
        """Of the pull towards the first source [B, 1, H, W]."""

    @property
    def weight_second(self) -> Tensor:
        """Of the pull towards the second."""


State = TypeVar("State", bound=RectifierState)


class Rectifier(Protocol[State]):
    """A rule that moves the prior's picture towards the two sources, with a state of its own."""

    @property
    def luma_range(self) -> LumaRange:
        """The luma in which the prior's picture is handed over and taken back."""

    def start(self, first: Tensor, second: Tensor, size: tuple[int, int] | None = None) -> State:
        """The state before the first step for sources [B, 1, H, W].

        ``size`` is the height and width of the pictures themselves where what lies right of and below them only repeats
        them, so that a rule may leave it out of what it takes from a whole picture; by default all is picture.
        """

    def rectify(
        self, luma_pred: Tensor, first: Tensor, second: Tensor, state: State, sigma: float = math.inf
    ) -> tuple[Tensor, State]:
        """One step: luma of x0_pred [B, 1, H, W] to that of x0_rectified, with the state for the next step.

        ``sigma`` = sqrt((1 - alpha_bar) / alpha_bar) is the noise in which the prior saw x0_pred, infinite where no
        prior has seen it. The paper's rule and its code do not ask for it.
        """


@dataclass(frozen=True)
class PaperRectifier:
    """The paper's equations, with Eq. 16 corrected.

    Let d be a residual and a its variance with prior mean s: (y - x, m, gamma) or (x, n, rho). Eq. 17 is the
    log-posterior of w = 1/a up to a constant,

        -3/2 log w - d^2 w / 2 - 1 / (s w),

    the inverse Gaussian -3/2 log w - lambda w / (2 mu^2) - lambda / (2 w) with lambda = 2 / s and lambda / mu^2 = d^2.
    Its mean is therefore

        E[1/a] = mu = sqrt(2 / (s d^2))                                                          (Eq. 16, corrected)

    where the paper prints sqrt(2 d^2 / s), which would trust a source the less the nearer f is to it. The mean
    of an inverse Gaussian's inverse gives the hyper-parameter that maximises the expected log-density of the
    exponential prior:

        E[a] = 1 / mu + 1 / lambda = sqrt(s d^2 / 2) + s / 2,  averaged over the pixels of the image     (Eq. 31)

    whose fixed point s = 2 mean(|d|)^2 is the Laplace scale's maximum-likelihood estimate sqrt(s / 2) = mean |d|.

    The order is that of Algorithm 1: E-step with the gamma and rho of the step before, Eq. 31, then k with
    the u of the step before (0 at first), u, x.

    Attributes:
        penalty: the paper's eta, how tightly k follows x and u follows grad k.
        tv_weight: the paper's psi, the weight of ||u||^2.
    """

    penalty: float = 0.1
    tv_weight: float = 0.5
    luma_range: ClassVar[LumaRange] = FULL_RANGE

    def start(
        self,
        first: Tensor,
        second: Tensor,
        size: tuple[int, int] | None = None,  # noqa: ARG002 - the scales are those of the periodic grid
    ) -> EMState:
        """See :class:`Rectifier`."""
        return EMState.initial(first, second)

    def rectify(
        self,
        luma_pred: Tensor,
        first: Tensor,
        second: Tensor,
        state: EMState,
        sigma: float = math.inf,  # noqa: ARG002 - for rules that weigh the prior
    ) -> tuple[Tensor, EMState]:
        """See :class:`Rectifier`."""
        x, y = luma_pred - second, first - second
        weight_first = expected_weight(y - x, state.gamma)  # Eq. 16: E[1/m]
        weight_second = expected_weight(x, state.rho)  # Eq. 16: E[1/n]
        gamma = mean_variance(y - x, state.gamma)  # Eq. 31
        rho = mean_variance(x, state.rho)  # Eq. 31
        k = solve_k(x, state.gradient)  # Eq. 25
        u = shrinkage(self.penalty, self.tv_weight) * gradient(k)  # Eq. 27
        x = solve_x(y, k, weight_first, weight_second, self.penalty)  # Eq. 29
        return x + second, EMState(weight_first, weight_second, u, gamma, rho)  # Eq. 30


@dataclass(frozen=True)
class ReleasedRectifier:
    """What the authors' published code computes, for comparison with results made by it.

    It differs from the paper in five ways. The sources change roles: x = f - i, y = v - i. The weight of the
    first source is at most twice that of the second. The result is mirrored, f = v - x where Eq. 30 has x + i, so that
    the two add up to i + v. The last column and row of the gradient are k itself, and its sign is opposite to the one
    in the FFT. And luma is in studio range for the prior's picture but not for the sources. Up to the
    penalty's contribution the result is a convex combination of the sources, at most 2/3 of it the second.

    In the state `weight_first` and `gamma` still belong to the residual to the first source (the code's D, tau_b),
    `weight_second` and `rho` to that to the second (C, tau_a).

    Attributes:
        penalty: the paper's eta; 0.001 makes the gradient's share of the result negligible.
        tv_weight: the paper's psi.
    """

    penalty: float = 0.001
    tv_weight: float = 0.5
    luma_range: ClassVar[LumaRange] = STUDIO_RANGE

    def start(
        self,
        first: Tensor,
        second: Tensor,
        size: tuple[int, int] | None = None,  # noqa: ARG002 - the scales are those of the periodic grid
    ) -> EMState:
        """See :class:`Rectifier`."""
        return EMState.initial(first, second)

    def rectify(
        self,
        luma_pred: Tensor,
        first: Tensor,
        second: Tensor,
        state: EMState,
        sigma: float = math.inf,  # noqa: ARG002 - for rules that weigh the prior
    ) -> tuple[Tensor, EMState]:
        """See :class:`Rectifier`."""
        x, y = luma_pred - first, second - first
        gamma, rho = state.gamma[:, None, None, None], state.rho[:, None, None, None]
        # The floor of 1e-30 only stops the division where y - x = -1e-6, exactly.
        weight_second = torch.sqrt(2 / rho / (y - x + 1e-6).square().clamp_min(1e-30))
        weight_first = torch.minimum(torch.sqrt(2 / gamma / (x.square() + 1e-6)), 2 * weight_second)
        next_gamma = (1 / (weight_first + 1e-10) + gamma / 2).mean(dim=(1, 2, 3))
        next_rho = (1 / (weight_second + 1e-10) + rho / 2).mean(dim=(1, 2, 3))
        k = solve_k(y - x, state.gradient)
        backward = torch.cat([k - F.pad(k[..., 1:], (0, 1)), k - F.pad(k[..., 1:, :], (0, 0, 0, 1))], dim=1)
        u = shrinkage(self.penalty, self.tv_weight) * backward
        x = solve_x(y, y - k, weight_second, weight_first, self.penalty)
        return second - x, EMState(weight_first, weight_second, u, next_gamma, next_rho)


def expected_weight(residual: Tensor, scale: Tensor) -> Tensor:
    """E[1/a] = sqrt(2 / (scale residual^2)) (Eq. 16) [B, 1, H, W], guarded as the constants above say.

    Args:
        residual: d [B, 1, H, W].
        scale: gamma or rho [B].
    """
    return math.sqrt(2) / (residual.abs().clamp_min(SMALLEST_RESIDUAL) * scale.sqrt()[:, None, None, None])


def mean_variance(residual: Tensor, scale: Tensor) -> Tensor:
    """Mean over the image of E[a] = sqrt(scale residual^2 / 2) + scale / 2 (Eq. 31): [B], at least SMALLEST_SCALE."""
    return ((scale / 2).sqrt() * residual.abs().mean(dim=(1, 2, 3)) + scale / 2).clamp_min(SMALLEST_SCALE)


def shrinkage(penalty: float, tv_weight: float) -> float:
    """penalty / (2 tv_weight + penalty), the u that minimises Eq. 23 per gradient (Eq. 27); 0 without a penalty."""
    return penalty / (2 * tv_weight + penalty) if penalty > 0 else 0.0


def gradient(k: Tensor) -> Tensor:
    """Forward differences along x and y on the periodic grid: [B, 1, H, W] to [B, 2, H, W]."""
    return torch.cat([k.roll(-1, dims=-1) - k, k.roll(-1, dims=-2) - k], dim=1)


def gradient_adjoint(u: Tensor) -> Tensor:
    """The adjoint of :func:`gradient`, minus the backward divergence: [B, 2, H, W] to [B, 1, H, W]."""
    along_x, along_y = u.chunk(2, dim=1)
    return (along_x.roll(1, dims=-1) - along_x) + (along_y.roll(1, dims=-2) - along_y)


def solve_k(x: Tensor, u: Tensor) -> Tensor:
    """The k that minimises ||u - grad k||^2 + ||k - x||^2, one FFT pair (Eq. 25).

    (1 + grad^T grad) k = x + grad^T u.

    Args:
        x: [B, 1, H, W].
        u: [B, 2, H, W].
    """
    return solve_smooth(x + gradient_adjoint(u), 1.0)


def solve_smooth(right: Tensor, weight: float) -> Tensor:
    """The x of (1 + weight grad^T grad) x = ``right`` [B, 1, H, W] on the periodic grid, one FFT pair.

    The forward difference has the eigenvalues exp(iw) - 1, so the operator has 1 + weight ((2 - 2 cos w_x) +
    (2 - 2 cos w_y)).
    """
    if weight == 0:
        return right
    height, width = right.shape[-2:]
    w_x = 2 * math.pi * torch.fft.rfftfreq(width, device=right.device, dtype=right.dtype)
    w_y = 2 * math.pi * torch.fft.fftfreq(height, device=right.device, dtype=right.dtype)
    operator = 1 + 4 * weight - 2 * weight * w_x.cos() - 2 * weight * w_y.cos()[:, None]
    solved: Tensor = torch.fft.irfft2(torch.fft.rfft2(right) / operator, s=(height, width))
    return solved


def solve_x(y: Tensor, k: Tensor, weight_y: Tensor, weight_zero: Tensor, penalty: float) -> Tensor:
    """The x that minimises weight_y (y - x)^2 + weight_zero x^2 + penalty / 2 (k - x)^2 (Eq. 29), [B, 1, H, W] each."""
    return (2 * weight_y * y + penalty * k) / (2 * weight_y + 2 * weight_zero + penalty)

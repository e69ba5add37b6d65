"""The adaptive rectification: local evidence decides which source leads where.

The likelihood of the paper, |f - i| + phi |f - v|, has every value between the sources as a minimum when phi = 1, so
that noise and prior decide which source wins, region by region. This rule keeps the paper's way - latent variables
that EM replaces by their means, a penalty on a gradient, a splitting whose steps are closed - and asks the gradients
instead of the values.

**Model.** Per pixel, z says which source shows what the picture has there; N is Gaussian, U uniform:

    P(z = i) ~ e1^p,  P(z = v) ~ e2^p                                                                          (A1)
    grad f ~ N(grad i, s^2) if z = i,  N(grad v, s^2) if z = v                                                 (A2)
    f ~ N(x0_pred, sigma^2),  sigma^2 = (1 - alpha_bar) / alpha_bar                                            (A3)
    f ~ U(low, high), the values that the two sources show in the 3 x 3 pixels around                          (A4)
    f ~ N(b, s^2 / LEVEL), which fixes the level that gradients leave open                                     (A5)

e1 and e2 are the strengths of the sources' gradients in a window, means of |grad|^r with r = ``ROBUSTNESS`` raised to
2 / r: with r = 2 a strong edge would speak for all that lies within a window of it. p = ``EVIDENCE_POWER``. The base b
is the brighter picture m = max(i, v) with more contrast about its mean c, within what the sources show at the pixel,

    b = m + SPREAD (m - c),  min(i, v) <= b <= max(i, v),

so that what is bright takes the brighter source's level and what is dark the darker one's. What only extends the
pictures to the sides that a prior needs does not count in c.

**E-step.** EM begins with the base, in which how far a source's gradient is from the picture's is of an unknown
scale. With the precision of (A2) integrated over a Gamma prior of shape 0 and rate t / 2 the two-dimensional residual
has the density ~ 1 / (d + t), so that the posterior shares are

    P(z = i | f) = r1 ~ e1^p / (d1 + t),  P(z = v | f) = r2 ~ e2^p / (d2 + t),  t = DOUBT (e1 + e2),           (A6)

d1 and d2 the strengths of grad i - grad b and grad v - grad b in the window. An edge that one source has the other way
round gives way to the one that goes with the levels. The M-step of (A2) is then one of a single gradient,

    r1 |grad f - grad i|^2 + r2 |grad f - grad v|^2 = |grad f - (r1 grad i + r2 grad v)|^2 + const.            (A7)

**Beside the model** stand three things that the eye asks for. One E-step settles the shares; from step to step only
the M-step goes on. Where two different structures are averaged their energy falls: with mean squares E1, E2 and the
mean product E12 over the window it is brought back to that of the stronger source, by ``LARGEST_GAIN`` at most,

    g = gain (r1 grad i + r2 grad v),  gain^2 = max(E1, E2) / (r1^2 E1 + r2^2 E2 + 2 r1 r2 E12).               (A8)

And what g shows away from the base, D = g - grad b, is not always texture. Followed, a slope, an edge or a
contradiction changes its surroundings as far as the level reaches: a halo. There the base takes over, where chance
does not explain it; mean is that of the window, ( )+ and ( )- are the positive and the negative part:

    g' = g - q D,  q^2 = beyond chance the largest of                                                          (A9)
        |mean D|^2 / mean |D|^2                               a slope, whose mean is D; that of a texture vanishes
        (mean D . grad b)+^2 / (mean |D|^2 mean |grad b|^2)   an edge that the base has anyway, less high
        (mean grad i . grad v)-^2 / (E1 E2)                   what the sources show the other way round

The q of the second counts |grad b|^2 / (|grad b|^2 + EDGE_PIXEL mean |grad b|^2) fold: at the pixels of the edge
itself, not for a texture beside it. Beyond chance means (x - CHANCE) / (CERTAIN - CHANCE), within 0 and 1. In (A8) and
(A9) each mean square has ``SMALLEST_ENERGY`` beside it, or a tenth of it where it is that of a difference.

**M-step.** The f of the largest posterior density,

    min |grad f - g'|^2 + LEVEL |f - b|^2 + (s / sigma)^2 |f - x0_pred|^2,  low <= f <= high,                 (A10)

by alternating directions as in Eq. 23: k has the quadratic terms and is one cosine transform, x has the bounds and is
a clamp, ``penalty`` and a multiplier hold the two together. The bounds (A4) keep bright halos, overshoot and lifted
backgrounds out. Because f has to fit between them *and* keep its gradients, the level gives way where the texture
of one source lies on a bright, flat part of the other.

As the noise falls the prior's picture is trusted more (A3), on the scale of s. That is small: what a prior says at a
level of noise comes through where the sources' gradients are no larger, and the last steps alone are quiet enough.
``benchmarks/rectification_ideas.md`` has what a larger s gives.

Shapes: luma [B, 1, H, W] float32 in [-1, 1]. Everything is local or per image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ddfm_core.colour import FULL_RANGE, LumaRange
from ddfm_core.gradient_domain import gaussian_mean, inner_gradient, inner_gradient_adjoint, solve_screened

LEVEL: Final = 0.006
"""Weight of the wanted level beside that of a gradient (A5): levels settle over some 13 pixels."""
SPREAD: Final = 1.0
"""By how much the base has more contrast about its mean than the brighter picture (A5)."""
DETAIL_NOISE: Final = 0.01
"""s: by how much a fused gradient may differ from the wanted one, about one grey level of 255."""
WINDOW: Final = 2.5
"""Standard deviation in pixels of the Gaussian window in which gradients are compared."""
SMALLEST_ENERGY: Final = 1e-5
"""Energy of a gradient of 0.4 grey levels, below which no source shows anything."""
EVIDENCE_POWER: Final = 1.5
"""How decidedly the source that shows more leads (A1)."""
ROBUSTNESS: Final = 0.7
"""Exponent of the means by which the strengths of gradients are told (A1, A6)."""
DOUBT: Final = 0.05
"""How little is needed to doubt a source whose gradients do not go with the base (A6)."""
LARGEST_GAIN: Final = 1.5
CHANCE: Final = 0.3
"""Up to here the coherence and the squared correlations of (A9) are what textures have by chance in a window."""
CERTAIN: Final = 0.6
"""From here on the base takes over entirely."""
EDGE_PIXEL: Final = 0.01
"""A pixel belongs to an edge of the base when its squared gradient is not below this share of the window's mean."""
FIRST_ITERATIONS: Final = 20
"""Of the M-step before the prior has said anything; later steps start where the one before ended."""
ITERATIONS: Final = 4


@dataclass(frozen=True, eq=False)
class AdaptiveState:
    """What is known of a pair, and where the M-step stands.

    Attributes:
        weight_first: factor of the first source's gradient in the wanted one [B, 1, H, W], from 0 to LARGEST_GAIN.
        weight_second: that of the second. Where (A9) lets the base take over both are small.
        lower, upper: bounds of the fused luma (A4) [B, 1, H, W].
        wanted: LEVEL b + grad^T g', the part of the normal equations of (A10) that the sources give.
        picture: x, within the bounds.
        dual: sum of the differences k - x so far.
    """

    weight_first: Tensor
    weight_second: Tensor
    lower: Tensor
    upper: Tensor
    wanted: Tensor
    picture: Tensor
    dual: Tensor


@dataclass(frozen=True)
class AdaptiveRectifier:
    """The rule of this module.

    Attributes:
        penalty: how tightly k and x are held together, above 0. The iterations of a picture are few and fixed, 40 with
            the steps by default, and end short of the minimum: on crops of RoadScene and TNO pixels lie 0.3 to 1 grey
            level from it in the mean and 6 at most. A third of the default comes three times closer, which
            changes no mean of EN, VIF, Qabf or SSIM over a full set by more than 0.006 and lowers SD on RoadScene by
            0.3. Three times the default stays 16 levels away.

    Raises:
        ValueError: a penalty that is not above 0.
    """

    penalty: float = 0.3
    luma_range: ClassVar[LumaRange] = FULL_RANGE

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise ValueError(f"penalty must be above 0 in mode adaptive, got {self.penalty}")

    def start(self, first: Tensor, second: Tensor, size: tuple[int, int] | None = None) -> AdaptiveState:
        """The E-step, and the M-step without a prior: see :class:`~ddfm_core.rectify.Rectifier`."""
        height, width = size or first.shape[-2:]
        gradient_first, gradient_second = inner_gradient(first), inner_gradient(second)
        brighter, darker = torch.maximum(first, second), torch.minimum(first, second)
        mean = brighter[..., :height, :width].mean(dim=(-2, -1), keepdim=True)
        base = torch.minimum(torch.maximum(brighter + SPREAD * (brighter - mean), darker), brighter)  # (A5)
        gradient_base = inner_gradient(base)
        share = _share_of_first(gradient_first, gradient_second, gradient_base)  # (A6)
        energy_first = _mean_product(gradient_first, gradient_first) + SMALLEST_ENERGY
        energy_second = _mean_product(gradient_second, gradient_second) + SMALLEST_ENERGY
        product = _mean_product(gradient_first, gradient_second)
        pooled = (
            share.square() * energy_first + (1 - share).square() * energy_second + 2 * share * (1 - share) * product
        )
        gain = torch.sqrt(torch.maximum(energy_first, energy_second) / pooled.clamp_min(SMALLEST_ENERGY / 10))
        gain = gain.clamp(1, LARGEST_GAIN)
        weight_first, weight_second = gain * share, gain * (1 - share)
        difference = weight_first * gradient_first + weight_second * gradient_second - gradient_base  # (A8)
        contradiction = _beyond_chance(product.clamp_max(0).square() / (energy_first * energy_second))
        taken_over = torch.maximum(_halo_share(difference, gradient_base), contradiction)
        wanted_gradient = gradient_base + (1 - taken_over) * difference  # (A9)
        state = AdaptiveState(
            (1 - taken_over) * weight_first,
            (1 - taken_over) * weight_second,
            lower=-F.max_pool2d(-darker, 3, 1, 1),
            upper=F.max_pool2d(brighter, 3, 1, 1),
            wanted=LEVEL * base + inner_gradient_adjoint(wanted_gradient),
            picture=base,
            dual=torch.zeros_like(first),
        )
        return self._solve(state, state.wanted, LEVEL, FIRST_ITERATIONS)

    def rectify(
        self,
        luma_pred: Tensor,
        first: Tensor,  # noqa: ARG002 - the state has what it needs of the sources
        second: Tensor,  # noqa: ARG002
        state: AdaptiveState,
        sigma: float = math.inf,
    ) -> tuple[Tensor, AdaptiveState]:
        """See :class:`~ddfm_core.rectify.Rectifier`."""
        prior_weight = (DETAIL_NOISE / sigma) ** 2
        state = self._solve(state, state.wanted + prior_weight * luma_pred, LEVEL + prior_weight, ITERATIONS)
        return state.picture, state

    def _solve(self, state: AdaptiveState, wanted: Tensor, level: float, iterations: int) -> AdaptiveState:
        """Iterations of (A10) from where the state stands; its normal equations: (level + grad^T grad) f = wanted."""
        picture, dual = state.picture, state.dual
        for _ in range(iterations):
            k = solve_screened(wanted + self.penalty * (picture - dual), level + self.penalty)
            picture = torch.minimum(torch.maximum(k + dual, state.lower), state.upper)
            dual = dual + k - picture
        return replace(state, picture=picture, dual=dual)


def _share_of_first(first: Tensor, second: Tensor, base: Tensor) -> Tensor:
    """r1 of (A6) [B, 1, H, W], of gradients [B, 2, H, W]."""
    strength_first, strength_second = _strength(first) + SMALLEST_ENERGY, _strength(second) + SMALLEST_ENERGY
    doubt = DOUBT * (strength_first + strength_second)
    belief_first = strength_first**EVIDENCE_POWER / (_strength(first - base) + doubt)
    belief_second = strength_second**EVIDENCE_POWER / (_strength(second - base) + doubt)
    return belief_first / (belief_first + belief_second)


def _halo_share(difference: Tensor, base: Tensor) -> Tensor:
    """q of (A9) for slopes and edges [B, 1, H, W], of D and the base's gradient [B, 2, H, W]."""
    energy = _mean_product(difference, difference) + SMALLEST_ENERGY / 10
    energy_base = _mean_product(base, base) + SMALLEST_ENERGY
    mean = torch.cat([gaussian_mean(difference[:, [axis]], WINDOW) for axis in range(2)], dim=1)
    slope = _beyond_chance(_squared(mean) / energy)
    deeper = _mean_product(difference, base).clamp_min(0).square() / (energy * energy_base)
    on_edge = _squared(base) / (_squared(base) + EDGE_PIXEL * energy_base)
    return torch.maximum(slope, _beyond_chance(deeper) * on_edge)


def _beyond_chance(statistic: Tensor) -> Tensor:
    """q of one of the statistics of (A9)."""
    return ((statistic - CHANCE) / (CERTAIN - CHANCE)).clamp(0, 1).sqrt()


def _squared(gradient: Tensor) -> Tensor:
    """Of the length of a gradient [B, 2, H, W]: [B, 1, H, W]."""
    return gradient.square().sum(dim=1, keepdim=True)


def _strength(gradient: Tensor) -> Tensor:
    """Of a gradient [B, 2, H, W] in the window, as a square that few large ones hardly sway [B, 1, H, W]."""
    # The power of 0 would have no derivative, and float32 no smaller square.
    powers = (_squared(gradient) + SMALLEST_ENERGY * 1e-7) ** (ROBUSTNESS / 2)
    return gaussian_mean(powers, WINDOW) ** (2 / ROBUSTNESS)


def _mean_product(one: Tensor, other: Tensor) -> Tensor:
    """Mean of the product of two gradients [B, 2, H, W] in the window [B, 1, H, W]."""
    return gaussian_mean((one * other).sum(dim=1, keepdim=True), WINDOW)

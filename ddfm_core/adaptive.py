"""The adaptive rectification: local evidence decides which source leads where.

The likelihood of the paper, |f - i| + phi |f - v|, has every value between the sources as a minimum when phi = 1, so
that noise and prior decide which source wins, region by region. This rule keeps the paper's way - Gaussian
residuals with latent variances, a penalty on a gradient, a splitting whose steps are closed - and asks the gradients
instead of the values.

**Model.** Per pixel, with N Gaussian and U uniform:

    grad i ~ N(grad f, s^2 / weight_first),  grad v ~ N(grad f, s^2 / weight_second)                         (A1)
    f ~ N(x0_pred, sigma^2),  sigma^2 = (1 - alpha_bar) / alpha_bar                                          (A2)
    f ~ U(low, high), the values that the two sources show in the 3 x 3 pixels around                        (A3)
    f ~ N(b, s^2 / LEVEL), which fixes the level that gradients leave open,                                  (A4)
        b = c + (1 + SPREAD) (max(i, v) - c),  c the mean of max(i, v)

The weights stand where the paper has E[1/m] and E[1/n], and are found like these. A source is believed where it shows
something, and where what it shows goes with the picture: per pixel, precisions tau have a Gamma prior

    tau_i ~ Gamma(shape ~ e1^p, rate ~ DOUBT (e1 + e2)),  tau_v ~ Gamma(shape ~ e2^p, rate ~ DOUBT (e1 + e2)),

with e1, e2 the energies of the sources' gradients in a small window and p = ``EVIDENCE_POWER``, in place of one
parameter per image (Eq. 31).

**E-step.** With d1, d2 the windowed energies of grad i - grad f and grad v - grad f, and f the picture that EM begins
with, max(i, v), the conjugate posterior has the means

    E[tau_i] ~ e1^p / (d1 + DOUBT (e1 + e2)),  E[tau_v] ~ e2^p / (d2 + DOUBT (e1 + e2)),                      (A5)

whose shares r and 1 - r pool the gradients. So an edge that one source has the other way round - a warm pole before a
cold sky that is white in the other - gives way to the edge that goes with the levels, instead of darkening the sky
around it. One E-step settles the weights; from step to step the M-step goes on. Where two different structures are
averaged their energy falls; with e12 their windowed product it is brought back to that of the stronger source, by
``LARGEST_GAIN`` at most:

    g = gain (r grad i + (1 - r) grad v),
    gain^2 = max(e1, e2) / (r^2 e1 + (1 - r)^2 e2 + 2 r (1 - r) e12)                                         (A6)

**Slopes.** What a source shows below the other's level is either texture, which is wanted, or the slope of something
that lies above it elsewhere: the glow of a lamp whose dark surroundings are warm in the infrared picture. Following it
darkens them: a halo. With D = g - grad max(i, v), a texture's windowed mean of D nearly vanishes, a slope's is D.
So where chance does not explain it the gradient of the brighter picture takes over:

    g' = g - q D,  q^2 = (|mean D|^2 / mean |D|^2 - CHANCE)+ / (1 - CHANCE)                                  (A7)

**M-step.** The f of the largest posterior density,

    min |grad f - g'|^2 + LEVEL |f - b|^2 + (s / sigma)^2 |f - x0_pred|^2,  low <= f <= high,                (A8)

by alternating directions as in Eq. 23: k has the quadratic terms and is one cosine transform, x has the bounds and is
a clamp, ``penalty`` and a multiplier hold the two together. The bounds (A3) keep bright halos, overshoot and lifted
backgrounds out. Because f has to fit between them *and* keep its gradients, the level gives way where the texture
of one source lies on a bright, flat part of the other. And because b lies beyond them, what is brighter than the
picture's mean takes the brighter source's level, what is darker the darker one's: (A4) asks for the contrast of both.

As the noise falls the prior's picture is trusted more (A2): it takes out what does not look like a picture at the
scale of s.

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

LEVEL: Final = 0.002
"""Weight of the wanted level beside that of a gradient (A4): levels settle over some 22 pixels."""
SPREAD: Final = 2.0
"""By how much the wanted level lies beyond the brighter source's, away from the mean (A4)."""
DETAIL_NOISE: Final = 0.015
"""s: by how much a fused gradient may differ from the wanted one, about two grey levels of 255."""
WINDOW: Final = 2.0
"""Standard deviation in pixels of the Gaussian window in which gradients are compared."""
SMALLEST_ENERGY: Final = 1e-5
"""Energy of a gradient of 0.4 grey levels, below which no source shows anything."""
EVIDENCE_POWER: Final = 1.5
"""How decidedly the source that shows more leads (A5)."""
DOUBT: Final = 0.1
"""How little is needed to doubt a source whose gradients do not go with the brighter source's picture (A5)."""
LARGEST_GAIN: Final = 1.5
CHANCE: Final = 0.3
"""How coherent gradients of a texture look in a window by chance (A7)."""
FIRST_ITERATIONS: Final = 20
"""Of the M-step before the prior has said anything; later steps start where the one before ended."""
ITERATIONS: Final = 4


@dataclass(frozen=True, eq=False)
class AdaptiveState:
    """What is known of a pair, and where the M-step stands.

    Attributes:
        weight_first: share of the first source in the wanted gradient, with its gain [B, 1, H, W]; what both shares
            lack is the brighter picture's.
        weight_second: that of the second.
        lower, upper: bounds of the fused luma (A3) [B, 1, H, W].
        wanted: LEVEL b + grad^T g', the part of the normal equations of (A8) that the sources give.
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
        penalty: how tightly k and x are held together; it changes how fast the M-step converges, not where to.
    """

    penalty: float = 0.3
    luma_range: ClassVar[LumaRange] = FULL_RANGE

    def start(self, first: Tensor, second: Tensor) -> AdaptiveState:
        """The E-step, and the M-step without a prior: see :class:`~ddfm_core.rectify.Rectifier`."""
        gradient_first, gradient_second = inner_gradient(first), inner_gradient(second)
        energy_first = energy_of(gradient_first) + SMALLEST_ENERGY
        energy_second = energy_of(gradient_second) + SMALLEST_ENERGY
        product = window_product(gradient_first, gradient_second)
        brighter = torch.maximum(first, second)
        gradient_brighter = inner_gradient(brighter)
        doubt = DOUBT * (energy_first + energy_second)
        belief_first = energy_first**EVIDENCE_POWER / (energy_of(gradient_first - gradient_brighter) + doubt)  # (A5)
        belief_second = energy_second**EVIDENCE_POWER / (energy_of(gradient_second - gradient_brighter) + doubt)
        share = belief_first / (belief_first + belief_second)
        pooled = (
            share.square() * energy_first + (1 - share).square() * energy_second + 2 * share * (1 - share) * product
        )
        gain = torch.sqrt(torch.maximum(energy_first, energy_second) / pooled.clamp_min(SMALLEST_ENERGY / 10))
        gain = gain.clamp(1, LARGEST_GAIN)
        weight_first, weight_second = gain * share, gain * (1 - share)
        pooled_gradient = weight_first * gradient_first + weight_second * gradient_second  # (A6)
        difference = pooled_gradient - gradient_brighter
        slope = slope_share(difference)
        wanted_gradient = pooled_gradient - slope * difference  # (A7)
        darker = torch.minimum(first, second)
        mean = brighter.mean(dim=(-2, -1), keepdim=True)
        wanted_level = mean + (1 + SPREAD) * (brighter - mean)  # (A4)
        state = AdaptiveState(
            (1 - slope) * weight_first,
            (1 - slope) * weight_second,
            lower=-F.max_pool2d(-darker, 3, 1, 1),
            upper=F.max_pool2d(brighter, 3, 1, 1),
            wanted=LEVEL * wanted_level + inner_gradient_adjoint(wanted_gradient),
            picture=brighter,
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
        """Iterations of (A8) from where the state stands; its normal equations are (level + grad^T grad) f = wanted."""
        picture, dual = state.picture, state.dual
        for _ in range(iterations):
            k = solve_screened(wanted + self.penalty * (picture - dual), level + self.penalty)
            picture = torch.minimum(torch.maximum(k + dual, state.lower), state.upper)
            dual = dual + k - picture
        return replace(state, picture=picture, dual=dual)


def energy_of(gradient: Tensor) -> Tensor:
    """Windowed energy of a gradient [B, 2, H, W]: [B, 1, H, W]."""
    return window_product(gradient, gradient)


def window_product(one: Tensor, other: Tensor) -> Tensor:
    """Windowed mean of the product of two gradients [B, 2, H, W]: [B, 1, H, W]."""
    return gaussian_mean((one * other).sum(dim=1, keepdim=True), WINDOW)


def slope_share(difference: Tensor) -> Tensor:
    """q of (A7) for D = ``difference`` [B, 2, H, W], 0 (texture) to 1 (slope): [B, 1, H, W]."""
    mean = torch.cat([gaussian_mean(difference[:, [axis]], WINDOW) for axis in range(2)], dim=1)
    coherence = mean.square().sum(dim=1, keepdim=True) / (energy_of(difference) + SMALLEST_ENERGY / 10)
    return ((coherence - CHANCE) / (1 - CHANCE)).clamp(0, 1).sqrt()

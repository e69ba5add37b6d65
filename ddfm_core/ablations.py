"""Parts of DDFM on their own, for the comparisons of the paper's Table 2: the rectification without a prior, and the
fusion loss with a fixed balance of the sources in place of the one that the EM infers.

Notation as in :mod:`ddfm_core.rectify`: i and v the sources, f the fused luma, x = f - v, y = i - v, forward
differences on the periodic grid. Shapes: luma [B, 1, H, W] float32, statistics per image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddfm_core.colour import FULL_RANGE, LumaRange
from ddfm_core.rectify import solve_smooth
from ddfm_core.sampler import Callback, Guidance


def rectify_alone(guidance: Guidance, steps: int, callback: Callback | None = None) -> Tensor:
    """So many steps of a rectification without diffusion: the luma [B, 1, H, W], not clamped (Table 2, Exp. I).

    Each step takes the picture of the step before for x0_pred, the first one the mean of the sources. There is no noise
    and no network.

    Args:
        guidance: the rule and the sources.
        steps: 1 or more.
        callback: sees each step; its timestep counts down to 0, and x_t is x0_pred.
    """
    rectifier, first, second = guidance.rectifier, guidance.first, guidance.second
    state = guidance.begun
    picture = (first + second) / 2
    for timestep in reversed(range(steps)):
        x0_pred = picture
        luma, state = rectifier.rectify(rectifier.luma_range.luma(x0_pred), first, second, state)
        picture = rectifier.luma_range.with_luma(x0_pred, luma)
        if callback:
            callback(timestep, x0_pred, x0_pred, picture, state)
    return picture


@dataclass(frozen=True, eq=False)
class BalanceState:
    """What :class:`FixedBalanceRectifier` shows of a step; nothing is carried from one to the next.

    Attributes:
        weight_first, weight_second: 1 and phi everywhere [B, 1, H, W].
    """

    weight_first: Tensor
    weight_second: Tensor


@dataclass(frozen=True)
class FixedBalanceRectifier:
    """The fusion loss of Eq. 9 with its balance phi given, solved by ADMM (Table 2, Exp. III and IV).

    Eq. 9 with the paper's penalty on the gradient of x, which the EM has as well (Eq. 13), is

        min over x of  |x - y|_1 + phi |x|_1 + tv_weight ||grad x||^2.

    Split by p = x - y and q = x, with scaled multipliers a and b, its augmented Lagrangian is, up to a constant,

        |p|_1 + phi |q|_1 + tv_weight ||grad x||^2 + penalty / 2 (||x - y - p + a||^2 + ||x - q + b||^2)

    and one iteration of ADMM (Boyd et al. 2011, sec. 3.1.1), begun behind its x, is

        p <- shrink(x - y + a, 1 / penalty),      a <- a + x - y - p
        q <- shrink(x + b, phi / penalty),        b <- b + x - q
        (1 + tv_weight / penalty grad^T grad) x = (y + p - a + q - b) / 2.

    What shrinking takes away is what the multiplier keeps: a = clamp(x - y + a, +-1 / penalty), p the rest.

    Every diffusion step begins anew at the prior's picture. Without the gradient's term the minimum is i where
    phi < 1 and v where phi > 1, whatever the prior says, and for phi = 1 every value between them: a fixed balance
    cannot say which source to follow where, which is why the EM infers it.

    Attributes:
        phi: weight of the second source's residual, 0 or more.
        penalty: of the splitting, above 0. It sets the pace and not the minimum; 10 makes the first threshold 0.1,
            13 grey levels.
        tv_weight: the paper's psi.
        iterations: of ADMM in a step; 30 come within 0.3 % of the least loss on photographs.
    """

    phi: float
    penalty: float = 10.0
    tv_weight: float = 0.5
    iterations: int = 30
    luma_range: ClassVar[LumaRange] = FULL_RANGE

    def start(
        self,
        first: Tensor,
        second: Tensor,
        size: tuple[int, int] | None = None,  # noqa: ARG002 - nothing is taken from the whole picture
    ) -> BalanceState:
        """See :class:`~ddfm_core.rectify.Rectifier`."""
        if first.shape != second.shape or first.ndim != 4 or first.shape[1] != 1:
            raise ValueError(f"sources must both be [B, 1, H, W], got {list(first.shape)} and {list(second.shape)}")
        ones = torch.ones_like(first)
        return BalanceState(ones, self.phi * ones)

    def rectify(
        self,
        luma_pred: Tensor,
        first: Tensor,
        second: Tensor,
        state: BalanceState,
        sigma: float = math.inf,  # noqa: ARG002 - for rules that weigh the prior
    ) -> tuple[Tensor, BalanceState]:
        """See :class:`~ddfm_core.rectify.Rectifier`."""
        x, y = luma_pred - second, first - second
        a = b = torch.zeros_like(x)
        for _ in range(self.iterations):
            moved_first, moved_second = x - y + a, x + b
            a = moved_first.clamp(-1 / self.penalty, 1 / self.penalty)
            b = moved_second.clamp(-self.phi / self.penalty, self.phi / self.penalty)
            p, q = moved_first - a, moved_second - b
            x = solve_smooth((y + p - a + q - b) / 2, self.tv_weight / self.penalty)
        return x + second, state

"""Parts of DDFM alone: the rectification without a prior, and the fusion loss with a fixed balance."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddfm_core.ablations import FixedBalanceRectifier, rectify_alone
from ddfm_core.rectify import EMState, PaperRectifier, ReleasedRectifier
from ddfm_core.sampler import Guidance


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 1.8 - 0.9


def solve(rule: FixedBalanceRectifier, pred: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return rule.rectify(pred, first, second, rule.start(first, second))[0]


def brute_force(y: np.ndarray[Any, np.dtype[np.float64]], phi: float, tv_weight: float) -> Any:
    """The x of least |x - y| + phi |x| + tv_weight |grad x|^2, periodic, pixel by pixel until nothing moves.

    One pixel's loss is a parabola with kinks at 0 and y; its minimum is a kink or the vertex of one of the branches.
    """
    size = len(y)
    x = (y / 2).tolist()
    while True:
        moved = 0.0
        for row, column in np.ndindex(size, size):
            around = [x[row - 1][column], x[(row + 1) % size][column], x[row][column - 1], x[row][(column + 1) % size]]
            vertices = [sum(around) / 4 - (a + phi * b) / (8 * tv_weight) for a in (-1, 1) for b in (-1, 1)]
            best = min(
                (0.0, float(y[row, column]), *vertices),
                key=lambda v: (
                    abs(v - y[row, column]) + phi * abs(v) + tv_weight * sum((v - one) ** 2 for one in around)
                ),
            )
            moved = max(moved, abs(best - x[row][column]))
            x[row][column] = best
        if moved < 1e-6:
            return x


@pytest.mark.parametrize(("phi", "tv_weight"), [(0.1, 0.5), (0.7, 0.05), (1.3, 0.1)])
def test_admm_finds_the_minimum_of_equation_9_with_its_gradient_term(phi: float, tv_weight: float) -> None:
    first, second = random(1, 1, 4, 4, seed=1), random(1, 1, 4, 4, seed=2)
    wanted = brute_force((first - second)[0, 0].numpy(), phi, tv_weight)
    rule = FixedBalanceRectifier(phi, tv_weight=tv_weight, iterations=1000)
    for pred in (random(1, 1, 4, 4, seed=3), second):
        np.testing.assert_allclose((solve(rule, pred, first, second) - second)[0, 0], wanted, atol=1e-5)


def test_without_the_gradient_term_the_lighter_source_gives_way() -> None:
    first, second, pred = (random(2, 1, 16, 16, seed=seed) for seed in range(3))
    for phi, wanted in ((0.1, first), (3, second)):
        found = solve(FixedBalanceRectifier(phi, tv_weight=0, iterations=300), pred, first, second)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_with_equal_balance_the_result_lies_between_the_sources_and_follows_the_prior() -> None:
    first, second = torch.full((1, 1, 16, 16), -0.6), torch.full((1, 1, 16, 16), 0.7)
    rule = FixedBalanceRectifier(1, tv_weight=0, iterations=200)
    dark, bright = (solve(rule, torch.full_like(first, value), first, second).mean() for value in (-0.4, 0.5))
    assert -0.6 <= dark < bright <= 0.7


def test_the_em_alone_takes_its_own_picture_for_that_of_the_prior() -> None:
    first, second = random(2, 1, 16, 20, seed=1).float(), random(2, 1, 16, 20, seed=2).float()
    rule = PaperRectifier()
    picture, state = (first + second) / 2, rule.start(first, second)
    for _ in range(3):
        picture, state = rule.rectify(picture, first, second, state)
    assert torch.equal(rectify_alone(Guidance(rule, first, second), 3), picture)


def test_the_released_em_alone_stays_around_the_mean() -> None:
    """It mirrors its result at the mean of the sources in each step, so it settles on neither of them."""
    first, second = random(1, 1, 32, 32, seed=1).float(), random(1, 1, 32, 32, seed=2).float()
    picture = rectify_alone(Guidance(ReleasedRectifier(), first, second), 40)
    share = ((picture - second) * (first - second)).mean() / (first - second).square().mean()
    assert 0.3 < share < 0.7


def test_a_callback_sees_every_step() -> None:
    first, second = random(1, 1, 16, 16, seed=1).float(), random(1, 1, 16, 16, seed=2).float()
    seen: list[tuple[int, Tensor, Tensor]] = []

    def told(timestep: int, x_t: Tensor, x0_pred: Tensor, x0_rectified: Tensor, state: object) -> None:
        assert torch.equal(x_t, x0_pred)
        assert isinstance(state, EMState)
        seen.append((timestep, x0_pred, x0_rectified))

    picture = rectify_alone(Guidance(PaperRectifier(), first, second), 4, told)
    assert [timestep for timestep, *_ in seen] == [3, 2, 1, 0]
    assert torch.equal(seen[0][1], (first + second) / 2)
    assert torch.equal(seen[2][1], seen[1][2])
    assert torch.equal(seen[-1][2], picture)

"""The EM step against its own objective: numerical integration, brute-force minimisers, plain transcriptions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import kstest
from torch import Tensor

from ddfm_core.rectify import (
    SMALLEST_RESIDUAL,
    SMALLEST_SCALE,
    EMState,
    PaperRectifier,
    Rectifier,
    ReleasedRectifier,
    expected_weight,
    gradient,
    gradient_adjoint,
    mean_variance,
    shrinkage,
    solve_k,
    solve_x,
)

PENALTY, TV_WEIGHT = 0.1, 0.5
RECTIFIERS: list[Rectifier] = [PaperRectifier(), ReleasedRectifier()]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def run(rectifier: Rectifier, predictions: list[Tensor], first: Tensor, second: Tensor) -> list[tuple[Tensor, EMState]]:
    state, steps = rectifier.start(first, second), []
    for luma_pred in predictions:
        luma, state = rectifier.rectify(luma_pred, first, second, state)
        steps.append((luma, state))
    return steps


# The distributions


def test_laplace_is_a_scale_mixture_of_gaussians_with_exponential_variance() -> None:
    """Proposition 1: variance a ~ EXP(mean tau), residual ~ N(0, a) is Laplace with scale sqrt(tau / 2)."""
    rng, tau = np.random.default_rng(1), 0.3
    residual = rng.standard_normal(200_000) * np.sqrt(rng.exponential(tau, 200_000))
    assert kstest(residual, "laplace", args=(0, np.sqrt(tau / 2))).pvalue > 0.01
    assert kstest(residual, "laplace", args=(0, np.sqrt(tau))).pvalue < 1e-6


@pytest.mark.parametrize(("residual", "scale"), [(0.05, 0.02), (0.4, 0.3), (1.3, 0.05), (-0.4, 2.0)])
def test_expectations_agree_with_integration_of_the_posterior(residual: float, scale: float) -> None:
    """Eqs. 16 and 31 against quadrature of p(a | d) ~ N(d; 0, a) EXP(a; scale), over log a."""

    def moment(power: int) -> float:
        def integrand(log_a: float) -> float:
            a = np.exp(log_a)
            return float(a ** (power + 1) * a**-0.5 * np.exp(-(residual**2) / (2 * a) - a / scale))

        return float(quad(integrand, -40, 12, limit=500, points=[np.log(residual**2 / 2), np.log(scale)])[0])

    image, scales = torch.full((1, 1, 3, 3), residual, dtype=torch.float64), torch.tensor([scale], dtype=torch.float64)
    assert expected_weight(image, scales).flatten()[0].item() == pytest.approx(moment(-1) / moment(0), rel=1e-6)
    assert mean_variance(image, scales).item() == pytest.approx(moment(1) / moment(0), rel=1e-6)


def test_repeated_hyper_parameter_updates_settle_at_the_maximum_likelihood_scale() -> None:
    residual, scale = random(1, 1, 8, 8), torch.tensor([1.0], dtype=torch.float64)
    for _ in range(200):
        scale = mean_variance(residual, scale)
    assert (scale / 2).sqrt().item() == pytest.approx(residual.abs().mean().item(), rel=1e-9)


def test_guards_keep_identical_sources_finite_for_a_thousand_steps() -> None:
    first = torch.zeros(1, 1, 4, 4)
    for luma, state in run(PaperRectifier(), [first] * 1000, first, first)[-1:]:
        assert torch.equal(luma, first)
        assert state.gamma.item() == pytest.approx(SMALLEST_SCALE)
        assert state.weight_first.max().item() == pytest.approx(2**0.5 / SMALLEST_RESIDUAL / SMALLEST_SCALE**0.5)


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_finite_where_the_prediction_meets_a_source(rectifier: Rectifier) -> None:
    first, second = (random(1, 1, 6, 6, seed=seed).float() for seed in (1, 2))
    second[..., :2] = first[..., :2]
    at_the_released_pole = second - torch.tensor(-1e-6)
    predictions = [first, second, at_the_released_pole, torch.full_like(first, 5e6)]
    for luma, state in run(rectifier, predictions, first, second):
        assert luma.isfinite().all()
        for values in (state.weight_first, state.weight_second, state.gamma, state.rho):
            assert values.isfinite().all()
            assert (values > 0).all()


# The blocks of the M-step


def differences(k: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences on the periodic grid, by index."""
    height, width = k.shape[-2:]
    right, below = (torch.arange(1, side + 1) % side for side in (width, height))
    return k[..., right] - k, k[..., below, :] - k


def objective(x: Tensor, k: Tensor, u: Tensor, y: Tensor, m: Tensor, n: Tensor) -> Tensor:
    """Eq. 23, for x, k, y and the weights m, n [1, 1, H, W], u [1, 2, H, W]."""
    gradients = torch.cat(differences(k), dim=1)
    fit = (m * (y - x).square()).sum() + (n * x.square()).sum()
    split = (u - gradients).square().sum() + (k - x).square().sum()
    return fit + TV_WEIGHT * u.square().sum() + PENALTY / 2 * split


def minimiser(function: Callable[[Tensor], Tensor], size: int) -> Tensor:
    """The minimum of a quadratic function of a vector, from its Hessian and its gradient at 0."""
    zero = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    hessian = torch.autograd.functional.hessian(function, zero, vectorize=True)
    (slope,) = torch.autograd.grad(function(zero), zero)
    return torch.linalg.solve(hessian, -slope)


@pytest.fixture
def block() -> dict[str, Tensor]:
    """Random x, k, u, y and positive weights on a 4 x 4 image."""
    values = {name: random(1, 1, 4, 4, seed=seed) for seed, name in enumerate(("x", "k", "y"))}
    weights = {name: random(1, 1, 4, 4, seed=seed).abs() * 2 + 0.05 for seed, name in ((4, "m"), (5, "n"))}
    return values | weights | {"u": random(1, 2, 4, 4, seed=6)}


def test_k_minimises_its_block(block: dict[str, Tensor]) -> None:
    best = minimiser(lambda k: objective(**block | {"k": k.view(1, 1, 4, 4)}), 16)
    torch.testing.assert_close(solve_k(block["x"], block["u"]).flatten(), best)


def test_u_minimises_its_block(block: dict[str, Tensor]) -> None:
    best = minimiser(lambda u: objective(**block | {"u": u.view(1, 2, 4, 4)}), 32)
    torch.testing.assert_close((shrinkage(PENALTY, TV_WEIGHT) * gradient(block["k"])).flatten(), best)


def test_x_minimises_its_block(block: dict[str, Tensor]) -> None:
    best = minimiser(lambda x: objective(**block | {"x": x.view(1, 1, 4, 4)}), 16)
    x = solve_x(block["y"], block["k"], block["m"], block["n"], PENALTY)
    torch.testing.assert_close(x.flatten(), best)


def test_iterated_updates_reach_the_joint_minimum(block: dict[str, Tensor]) -> None:
    y, m, n = block["y"], block["m"], block["n"]

    def joint(z: Tensor) -> Tensor:
        return objective(z[:16].view(1, 1, 4, 4), z[16:32].view(1, 1, 4, 4), z[32:].view(1, 2, 4, 4), y, m, n)

    x, u = block["x"], block["u"]
    for _ in range(300):
        k = solve_k(x, u)
        u = shrinkage(PENALTY, TV_WEIGHT) * gradient(k)
        x = solve_x(y, k, m, n, PENALTY)
    torch.testing.assert_close(torch.cat([x.flatten(), k.flatten(), u.flatten()]), minimiser(joint, 64))


@pytest.mark.parametrize("shape", [(4, 4), (5, 8), (8, 5), (3, 7)])
def test_gradient_adjoint_and_fourier_operator_belong_together(shape: tuple[int, int]) -> None:
    k, u = random(2, 1, *shape), random(2, 2, *shape, seed=1)
    torch.testing.assert_close(gradient(k), torch.cat(differences(k), dim=1))
    torch.testing.assert_close((gradient(k) * u).sum(), (k * gradient_adjoint(u)).sum())
    solved = solve_k(k, u)
    torch.testing.assert_close(solved + gradient_adjoint(gradient(solved)), k + gradient_adjoint(u))


def test_no_penalty_leaves_the_weighted_mean() -> None:
    first, second, luma_pred = (random(1, 1, 5, 5, seed=seed) for seed in range(3))
    luma, state = PaperRectifier(penalty=0, tv_weight=0).rectify(
        luma_pred, first, second, PaperRectifier().start(first, second)
    )
    total = state.weight_first + state.weight_second
    torch.testing.assert_close(luma, (state.weight_first * first + state.weight_second * second) / total)
    assert not state.gradient.any()


# Whole steps, transcribed in numpy with complex FFTs


def fourier_k(x: NDArray[np.float64], u_x: NDArray[np.float64], u_y: NDArray[np.float64]) -> NDArray[np.float64]:
    kernel_x = np.exp(2j * np.pi * np.fft.fftfreq(x.shape[1]))[None] - 1
    kernel_y = np.exp(2j * np.pi * np.fft.fftfreq(x.shape[0]))[:, None] - 1
    numerator = np.fft.fft2(x) + kernel_x.conj() * np.fft.fft2(u_x) + kernel_y.conj() * np.fft.fft2(u_y)
    return np.fft.ifft2(numerator / (1 + abs(kernel_x) ** 2 + abs(kernel_y) ** 2)).real


def test_paper_follows_algorithm_1() -> None:
    first, second, *predictions = (0.2 * random(1, 1, 6, 9, seed=seed) for seed in range(5))
    first, second = first + 0.6, second - 0.6  # residuals large enough for the guards not to act
    i, v = first[0, 0].numpy(), second[0, 0].numpy()
    gamma = rho = 1.0
    u_x = u_y = np.zeros_like(i)
    for prediction, (luma, state) in zip(predictions, run(PaperRectifier(), predictions, first, second), strict=True):
        x, y = prediction[0, 0].numpy() - v, i - v
        m, n = np.sqrt(2 / (gamma * (y - x) ** 2)), np.sqrt(2 / (rho * x**2))
        gamma = np.mean(np.sqrt(gamma * (y - x) ** 2 / 2) + gamma / 2)
        rho = np.mean(np.sqrt(rho * x**2 / 2) + rho / 2)
        k = fourier_k(x, u_x, u_y)
        u_x, u_y = (0.1 / 1.1 * (np.roll(k, -1, axis) - k) for axis in (1, 0))
        x = (2 * m * y + 0.1 * k) / (2 * m + 2 * n + 0.1)
        np.testing.assert_allclose(luma[0, 0], x + v, atol=1e-12)
        np.testing.assert_allclose([state.gamma.item(), state.rho.item()], [gamma, rho])
        np.testing.assert_allclose(state.gradient[0], [u_x, u_y], atol=1e-12)


def test_released_follows_the_published_code() -> None:
    """With a penalty a hundred times the published one, so that the gradient's odd boundary and sign show."""
    first, second, *predictions = (random(1, 1, 6, 9, seed=seed) for seed in range(5))
    code_i, code_v = second[0, 0].numpy(), first[0, 0].numpy()
    tau_a = tau_b = 1.0
    f_1 = f_2 = np.zeros_like(code_i)
    steps = run(ReleasedRectifier(penalty=0.1), predictions, first, second)
    for prediction, (luma, state) in zip(predictions, steps, strict=True):
        x, y = prediction[0, 0].numpy() - code_v, code_i - code_v
        d, c = np.sqrt(2 / tau_b / (x**2 + 1e-6)), np.sqrt(2 / tau_a / (y - x + 1e-6) ** 2)
        d = np.minimum(d, 2 * c)
        tau_b, tau_a = np.mean(1 / (d + 1e-10) + tau_b / 2), np.mean(1 / (c + 1e-10) + tau_a / 2)
        h = fourier_k(y - x, f_1, f_2)
        f_1, f_2 = h.copy(), h.copy()
        f_1[:, :-1] -= h[:, 1:]
        f_2[:-1] -= h[1:]
        f_1, f_2 = 0.1 / 1.1 * f_1, 0.1 / 1.1 * f_2
        x = (2 * c * y + 0.1 * (y - h)) / (2 * c + 2 * d + 0.1)
        np.testing.assert_allclose(luma[0, 0], code_i - x, atol=1e-12)
        np.testing.assert_allclose([state.gamma.item(), state.rho.item()], [tau_b, tau_a])
        np.testing.assert_allclose(state.gradient[0], [f_1, f_2], atol=1e-12)


# Properties


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_batch_equals_its_members(rectifier: Rectifier) -> None:
    first, second, *predictions = (random(3, 1, 17, 22, seed=seed).float() for seed in range(6))
    second[1] = 0.2 * second[1] - 0.5  # members of unlike statistics
    together = run(rectifier, predictions, first, second)
    for b in range(3):
        member = slice(b, b + 1)
        alone = run(rectifier, [p[member] for p in predictions], first[member], second[member])
        for (luma, state), (luma_alone, state_alone) in zip(together, alone, strict=True):
            torch.testing.assert_close(luma[member], luma_alone, rtol=0, atol=1e-6)
            torch.testing.assert_close(state.gamma[member], state_alone.gamma, rtol=1e-6, atol=0)
            torch.testing.assert_close(state.rho[member], state_alone.rho, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rectifier", RECTIFIERS)
def test_float32_in_float32_out(rectifier: Rectifier) -> None:
    first, second, luma_pred = (random(2, 1, 5, 7, seed=seed).float() for seed in range(3))
    ((luma, state),) = run(rectifier, [luma_pred], first, second)
    assert luma.shape == first.shape
    assert state.gradient.shape == (2, 2, 5, 7)
    assert {
        t.dtype for t in (luma, state.weight_first, state.weight_second, state.gradient, state.gamma, state.rho)
    } == {torch.float32}


def test_paper_does_not_tell_the_sources_apart_without_penalty() -> None:
    first, second, *predictions = (random(1, 1, 8, 8, seed=seed) for seed in range(6))
    rectifier = PaperRectifier(penalty=0)
    (forward, forward_state), (swapped, swapped_state) = (
        run(rectifier, predictions, *sources)[-1] for sources in ((first, second), (second, first))
    )
    torch.testing.assert_close(forward, swapped)
    torch.testing.assert_close(forward_state.gamma, swapped_state.rho)


def test_paper_trusts_the_source_that_the_prediction_is_near() -> None:
    first, second = torch.ones(1, 1, 4, 4), -torch.ones(1, 1, 4, 4)
    near_first = torch.full_like(first, 0.8)
    ((luma, _),) = run(PaperRectifier(), [near_first], first, second)
    assert (luma > 0.75).all()


def test_released_is_a_bounded_mixture_of_the_sources_and_the_mirror_of_eq_30() -> None:
    first, second = (random(1, 1, 16, 16, seed=seed).float() for seed in (1, 2))
    noise = [3 * random(1, 1, 16, 16, seed=seed).float() for seed in range(10, 22)]  # no prior could be worse
    for luma, _ in run(ReleasedRectifier(), noise, first, second):
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        excess = torch.maximum(luma - high, low - luma).max().item()
        assert excess < 1e-3
        share_of_second = (luma - first) / (second - first)
        assert share_of_second[(second - first).abs() > 0.2].max() < 2 / 3 + 2e-3
    for luma, state in run(ReleasedRectifier(penalty=0), noise, first, second):
        weight_first, weight_second = state.weight_first, state.weight_second
        assert (weight_first <= 2 * weight_second).all()
        eq_30 = (weight_second * second + weight_first * first) / (weight_first + weight_second)
        torch.testing.assert_close(luma + eq_30, first + second, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rectifier", RECTIFIERS)
@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 3, 4, 4), (1, 1, 4, 5), (4, 4)])
def test_start_rejects_sources_that_do_not_fit(rectifier: Rectifier, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must both be \[B, 1, H, W\]"):
        rectifier.start(torch.zeros(1, 1, 4, 4), torch.zeros(shape))

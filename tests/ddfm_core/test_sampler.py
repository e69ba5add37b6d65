"""The loop against priors whose every trajectory is known in closed form."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from ddfm_core.colour import FULL_RANGE, LumaRange, luma, to_ycbcr
from ddfm_core.priors import CallablePrior
from ddfm_core.rectify import EMState, PaperRectifier, ReleasedRectifier
from ddfm_core.sampler import Guidance, Update, sample, step_coefficients
from ddfm_core.schedule import Schedule, cosine_schedule, linear_schedule, respaced_timesteps, timestep_pairs

MU, S = 0.2, 0.12  # narrow enough that the clamp of Eq. 4 never acts


def gaussian_prior(schedule: Schedule, mu: float = MU, s: float = S, channels: int = 1) -> CallablePrior:
    """The exact prior of pictures with independent N(mu, s^2) pixels, in the precision of x_t."""

    def posterior_mean(x_t: Tensor, timestep: int) -> Tensor:
        alpha_bar = float(schedule.alphas_cumprod[timestep])
        gain = math.sqrt(alpha_bar) * s**2 / (alpha_bar * s**2 + 1 - alpha_bar)
        return mu + gain * (x_t - math.sqrt(alpha_bar) * mu)

    return CallablePrior(posterior_mean, schedule, channels)


def bars(schedule: Schedule, steps: int) -> list[tuple[float, float]]:
    pairs = timestep_pairs(respaced_timesteps(steps, schedule.num_timesteps))
    table = schedule.alphas_cumprod
    return [(float(table[t]), 1.0 if t_prev is None else float(table[t_prev])) for t, t_prev in pairs]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# One step


@pytest.mark.parametrize(("update", "eta"), [("ddim", 0.0), ("ddim", 0.4), ("ddim", 1.0), ("posterior", 0.0)])
@pytest.mark.parametrize("steps", [2, 25, 1000])
def test_a_step_carries_the_marginal_of_x_t_to_that_of_x_prev(update: Update, eta: float, steps: int) -> None:
    """From x_t = sqrt(a) x0 + sqrt(1 - a) eps with the true x0 comes x_prev of mean sqrt(a') x0, variance 1 - a'."""
    for alpha_bar, alpha_bar_prev in bars(linear_schedule(), steps):
        factors = step_coefficients(alpha_bar, alpha_bar_prev, update, eta)
        assert factors.x0 + factors.x_t * math.sqrt(alpha_bar) == pytest.approx(math.sqrt(alpha_bar_prev), abs=1e-12)
        variance = factors.x_t**2 * (1 - alpha_bar) + factors.noise**2
        assert variance == pytest.approx(1 - alpha_bar_prev, abs=1e-12)
    assert (factors.x0, factors.x_t, factors.noise) == (1, 0, 0)  # the last step is the rectified picture itself


def test_the_posterior_is_ddim_at_eta_1() -> None:
    for alpha_bar, alpha_bar_prev in bars(linear_schedule(), 20):
        posterior = step_coefficients(alpha_bar, alpha_bar_prev, "posterior")
        ddim = step_coefficients(alpha_bar, alpha_bar_prev, "ddim", eta=1)
        assert (posterior.x0, posterior.x_t, posterior.noise) == pytest.approx((ddim.x0, ddim.x_t, ddim.noise))


def test_the_posterior_is_the_product_of_two_gaussians() -> None:
    """q(x_prev | x_t, x0) ~ q(x_t | x_prev) q(x_prev | x0) of the respaced chain, whose alpha is a / a'."""
    for alpha_bar, alpha_bar_prev in bars(linear_schedule(), 20)[:-1]:
        alpha = alpha_bar / alpha_bar_prev
        precision_forward, precision_prior = alpha / (1 - alpha), 1 / (1 - alpha_bar_prev)
        total = precision_forward + precision_prior
        factors = step_coefficients(alpha_bar, alpha_bar_prev, "posterior")
        assert factors.noise == pytest.approx(total**-0.5)
        assert factors.x_t == pytest.approx(precision_forward / math.sqrt(alpha) / total)
        assert factors.x0 == pytest.approx(precision_prior * math.sqrt(alpha_bar_prev) / total)


# Without guidance


@pytest.mark.parametrize("schedule", [linear_schedule(), cosine_schedule()], ids=["linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_ddim_of_a_gaussian_in_closed_form(schedule: Schedule, steps: int) -> None:
    """Each step maps x - sqrt(a) mu by (sqrt(a a') s^2 + sqrt((1 - a)(1 - a'))) / (a s^2 + 1 - a)."""
    x_T = normal(1, 1, 8, 8)
    factor = 1.0
    for a, a_prev in bars(schedule, steps):
        factor *= (math.sqrt(a * a_prev) * S**2 + math.sqrt((1 - a) * (1 - a_prev))) / (a * S**2 + 1 - a)
    start = math.sqrt(schedule.alphas_cumprod[-1]) * MU
    x_0 = sample(gaussian_prior(schedule), x_T, respaced_timesteps(steps))
    torch.testing.assert_close(x_0, MU + factor * (x_T - start), rtol=0, atol=1e-9)


def test_ddim_in_every_timestep_reaches_the_standard_deviation() -> None:
    x_0 = sample(gaussian_prior(linear_schedule()), normal(1, 1, 64, 64), respaced_timesteps(1000))
    assert x_0.mean().item() == pytest.approx(MU, abs=0.01)
    assert x_0.std().item() == pytest.approx(S, rel=0.03)


@pytest.mark.parametrize(("update", "eta"), [("posterior", 0.0), ("ddim", 1.0), ("ddim", 0.5)])
def test_ancestral_sampling_has_the_mean_and_variance_of_its_recursion(update: Update, eta: float) -> None:
    schedule, steps = linear_schedule(), 40
    mean, variance = 0.0, 1.0
    for a, a_prev in bars(schedule, steps):
        factors = step_coefficients(a, a_prev, update, eta)
        gain = math.sqrt(a) * S**2 / (a * S**2 + 1 - a)
        slope = factors.x0 * gain + factors.x_t
        mean = factors.x0 * (1 - gain * math.sqrt(a)) * MU + slope * mean
        variance = slope**2 * variance + factors.noise**2
    x_T = normal(1, 1, 128, 128)
    seen: list[int] = []

    def noise(timestep: int) -> Tensor:
        seen.append(timestep)
        return normal(*x_T.shape, seed=timestep)

    timesteps = respaced_timesteps(steps)
    x_0 = sample(gaussian_prior(schedule), x_T, timesteps, update=update, eta=eta, noise=noise)
    assert x_0.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance) / 128)
    assert x_0.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2) / 128)
    assert seen == list(timesteps[:-1])  # the last step draws none


def test_steps_that_draw_noise_need_some() -> None:
    with pytest.raises(ValueError, match="draws noise"):
        sample(gaussian_prior(linear_schedule()), normal(1, 1, 4, 4), (500, 0), update="posterior")


def test_timesteps_must_fall() -> None:
    with pytest.raises(ValueError, match="falling"):
        sample(gaussian_prior(linear_schedule()), normal(1, 1, 4, 4), (0, 500))


# With guidance


@dataclass(frozen=True)
class FixedWeights:
    """A Gaussian likelihood of known weights: f minimises m (i - f)^2 + n (v - f)^2 + p (f - x0_pred)^2."""

    m: float
    n: float
    p: float
    luma_range: ClassVar[LumaRange] = FULL_RANGE

    def start(
        self,
        first: Tensor,
        second: Tensor,
        size: tuple[int, int] | None = None,  # noqa: ARG002
    ) -> EMState:
        return EMState.initial(first, second)

    def rectify(
        self,
        luma_pred: Tensor,
        first: Tensor,
        second: Tensor,
        state: EMState,
        sigma: float = math.inf,  # noqa: ARG002
    ) -> tuple[Tensor, EMState]:
        total = self.m + self.n + self.p
        return (self.m * first + self.n * second + self.p * luma_pred) / total, state


@pytest.mark.parametrize("rule", [FixedWeights(1, 2, 0), FixedWeights(0.5, 0.2, 1), FixedWeights(0, 0, 1)])
def test_fixed_weights_give_the_known_combination(rule: FixedWeights) -> None:
    """The whole map is affine per pixel: x_0 = A x_T + B, with A and B the composition of the steps'."""
    schedule, steps = linear_schedule(), 30
    first, second = 0.3 * normal(1, 1, 8, 8, seed=1), 0.3 * normal(1, 1, 8, 8, seed=2)
    data, trust = rule.m * first + rule.n * second, rule.m + rule.n + rule.p
    slope, offset = 1.0, torch.zeros_like(first)
    for a, a_prev in bars(schedule, steps):
        gain = math.sqrt(a) * S**2 / (a * S**2 + 1 - a)
        # x0_rectified = to_x0 x_t + from_data, then eps from it, then DDIM.
        to_x0 = rule.p * gain / trust
        from_data = (data + rule.p * (1 - gain * math.sqrt(a)) * MU) / trust
        turn = math.sqrt((1 - a_prev) / (1 - a))
        on_x0 = math.sqrt(a_prev) - turn * math.sqrt(a)
        step_slope = on_x0 * to_x0 + turn
        slope, offset = step_slope * slope, step_slope * offset + on_x0 * from_data
    x_T = normal(1, 1, 8, 8)
    x_0 = sample(gaussian_prior(schedule), x_T, respaced_timesteps(steps), Guidance(rule, first, second))
    torch.testing.assert_close(x_0, slope * x_T + offset, rtol=0, atol=1e-9)


def test_callback_sees_the_whole_trajectory() -> None:
    schedule, timesteps = linear_schedule(), respaced_timesteps(5)
    first, second = 0.5 * normal(2, 1, 8, 8, seed=1), 0.5 * normal(2, 1, 8, 8, seed=2)
    steps: list[tuple[int, Tensor, Tensor, Tensor, EMState | None]] = []
    x_T, prior = normal(2, 1, 8, 8), gaussian_prior(schedule, mu=0.9, s=2.0)  # wide: the clamp acts
    x_0 = sample(
        prior, x_T, timesteps, Guidance(PaperRectifier(), first, second), callback=lambda *step: steps.append(step)
    )
    assert [timestep for timestep, *_ in steps] == list(timesteps)
    assert torch.equal(steps[0][1], x_T)
    assert torch.equal(steps[-1][3], x_0)
    state = PaperRectifier().start(first, second)
    for timestep, x_t, x0_pred, x0_rectified, state_after in steps:
        assert torch.equal(x0_pred, prior(x_t, timestep).clamp(-1, 1))  # Eq. 4
        wanted, state = PaperRectifier().rectify(x0_pred, first, second, state)
        assert torch.equal(x0_rectified, wanted)
        assert state_after is not None
        assert torch.equal(state_after.gamma, state.gamma)
    assert max(step[2].max().item() for step in steps) == 1


@pytest.mark.parametrize("rectifier", [PaperRectifier(), ReleasedRectifier()])
def test_an_rgb_prior_keeps_its_chroma(rectifier: PaperRectifier | ReleasedRectifier) -> None:
    first, second = 0.5 * normal(1, 1, 8, 8, seed=1), 0.5 * normal(1, 1, 8, 8, seed=2)
    prior = gaussian_prior(linear_schedule(), channels=3)

    def look(timestep: int, x_t: Tensor, x0_pred: Tensor, x0_rectified: Tensor, state: EMState | None) -> None:
        torch.testing.assert_close(to_ycbcr(x0_rectified)[:, 1:], to_ycbcr(x0_pred)[:, 1:])
        wanted, _ = rectifier.rectify(rectifier.luma_range.luma(x0_pred), first, second, rectifier.start(first, second))
        torch.testing.assert_close(rectifier.luma_range.luma(x0_rectified), wanted)

    sample(prior, normal(1, 3, 8, 8), (0,), Guidance(rectifier, first, second), callback=look)


def test_grey_and_rgb_priors_agree_on_grey() -> None:
    first, second, x_T = (0.4 * normal(1, 1, 8, 8, seed=seed) for seed in range(3))
    for rectifier in (PaperRectifier(), ReleasedRectifier()):
        grey, colour = (
            sample(
                gaussian_prior(linear_schedule(), channels=channels),
                x_T.expand(-1, channels, -1, -1),
                respaced_timesteps(6),
                Guidance(rectifier, first, second),
            )
            for channels in (1, 3)
        )
        torch.testing.assert_close(luma(colour), grey)

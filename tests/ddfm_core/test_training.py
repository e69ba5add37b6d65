"""Training of the bundled prior: batches, resuming, and the Wiener filter it is judged against."""

import math

import pytest
import torch

from ddfm_core.denoiser import Denoiser, DenoiserConfig
from ddfm_core.linear_denoiser import mean_spectrum
from ddfm_core.priors import DenoiserPrior
from ddfm_core.schedule import linear_schedule
from ddfm_core.training import (
    Trainer,
    TrainingConfig,
    denoise,
    losses_per_noise_level,
    prediction_to_x0,
    sample_crops,
    sample_timesteps,
)

NETWORK = DenoiserConfig(widths=(8, 12), blocks=1, embedding=16)
CONFIG = TrainingConfig(pixels_per_step=2048, crop_sizes=(16, 32), warmup_steps=5, learning_rate=2e-3)
SCHEDULE = linear_schedule()


def stripes(count=6, side=64):
    """Pictures with few grey levels, which are easy to learn."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 2, (count, 1, side // 8, 1), generator=generator) * 200 + 20
    return list(rows.repeat_interleave(8, 2).expand(count, 1, side, side).to(torch.uint8))


def trainer():
    return Trainer(NETWORK, CONFIG, SCHEDULE, torch.device("cpu"))


def test_the_loss_falls():
    run, pictures = trainer(), stripes()
    losses = [run.step(pictures) for _ in range(250)]
    assert sum(losses[-40:]) < 0.75 * sum(losses[:40])


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped():
    pictures = stripes()
    whole, first, second = trainer(), trainer(), trainer()
    for _ in range(8):
        whole.step(pictures)
    for _ in range(5):
        first.step(pictures)
    second.load_state(first.state())
    for _ in range(3):
        second.step(pictures)
    assert second.steps == 8
    for name, expected in whole.averaged.state_dict().items():
        torch.testing.assert_close(second.averaged.state_dict()[name], expected, rtol=0, atol=0)


def test_the_average_lags_behind_the_weights():
    run, pictures = trainer(), stripes()
    start = {name: value.clone() for name, value in run.network.state_dict().items()}
    for _ in range(20):
        run.step(pictures)

    def moved(network):
        return sum(float((value - start[name]).square().sum()) for name, value in network.state_dict().items())

    assert 0 < moved(run.averaged) < moved(run.network)


def test_progress_is_the_share_of_the_time_budget():
    run = trainer()
    run.seconds = 30 * CONFIG.minutes
    assert run.progress == pytest.approx(0.5)
    run.seconds = 1e9
    assert run.progress == 1


def test_crops_come_from_the_pictures_in_range():
    crops = sample_crops(stripes(), 16, 40, torch.Generator().manual_seed(1))
    assert crops.shape == (40, 1, 16, 16)
    levels = (crops * 127.5 + 127.5).round()
    assert levels.min() >= 0
    assert levels.max() <= 255
    as_they_are = ((levels == 20) | (levels == 220)).all(dim=(1, 2, 3))
    assert 0 < as_they_are.sum() < 40  # the others are reduced, which makes levels in between
    assert any(torch.equal(crop[:, :, :1].expand_as(crop), crop) for crop in crops)  # not turned
    assert any(torch.equal(crop[:, :1].expand_as(crop), crop) for crop in crops)  # turned by 90 degrees


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.0), (0.1, 0.6), (0.0, 0.0)])
def test_timesteps_favour_the_chosen_ends(low, high):
    timesteps = sample_timesteps(20_000, 1000, low, high, torch.Generator().manual_seed(0))
    assert int(timesteps.min()) >= 0
    assert int(timesteps.max()) <= 999
    rest = 1 - low - high
    assert float((timesteps < 300).double().mean()) == pytest.approx(low + 0.3 * rest, abs=0.02)
    assert float((timesteps >= 600).double().mean()) == pytest.approx(high + 0.4 * rest, abs=0.02)


def test_v_gives_back_x0():
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 1, 4, 4, generator=generator)
    alpha_bar = torch.tensor(0.3)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    torch.testing.assert_close(prediction_to_x0(v, x_t, alpha_bar), x0)


def test_denoising_a_picture_of_any_size_with_a_network_that_knows_nothing():
    network = Denoiser(NETWORK)  # its head starts at zero: v = 0, so x0 = sqrt(alpha_bar) x_t
    noisy = torch.rand(2, 1, 17, 23)
    sigma = 0.5
    torch.testing.assert_close(denoise(network, noisy, sigma, SCHEDULE), noisy / (1 + sigma**2))


def test_the_wiener_filter_reaches_its_theoretical_loss_on_gaussian_pictures():
    generator = torch.Generator().manual_seed(0)
    side = 32
    frequency = torch.fft.fftfreq(side)
    power = 0.05 / (frequency[:, None] ** 2 + frequency[None] ** 2 + 0.01)
    white = torch.randn(64, 1, side, side, generator=generator)
    pictures = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
    level, measured = mean_spectrum(pictures)
    timestep = 400
    sigma = float(SCHEDULE.sigmas[timestep])
    prior = DenoiserPrior(Denoiser(NETWORK), SCHEDULE)
    (loss,) = losses_per_noise_level(prior, pictures, level, measured, SCHEDULE, [timestep])
    expected = float((power / (power + sigma**2)).mean())  # mean posterior variance over sigma^2
    assert loss.wiener == pytest.approx(expected, rel=0.05)
    assert math.isclose(loss.sigma, sigma)
    assert loss.network > loss.wiener

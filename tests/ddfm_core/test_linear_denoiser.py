"""The linear denoiser beside a network: Wiener's filter, on any size of picture, and the share that it gets."""

import pytest
import torch

from ddfm_core.denoiser import Denoiser, DenoiserConfig
from ddfm_core.linear_denoiser import BANDS, LinearDenoiser, fit_linear, mean_spectrum, radial_bands
from ddfm_core.priors import DenoiserPrior
from ddfm_core.schedule import linear_schedule
from ddfm_core.training import join_linear

SIDE = 32


def gaussian_pictures(count, height=SIDE, width=SIDE, level=0.2, seed=0):
    """Stationary pictures with a falling spectrum, and their power on their own grid."""
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    power = 0.02 / (frequency**2 + 0.02)
    white = torch.randn(count, 1, height, width, generator=torch.Generator().manual_seed(seed))
    return torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real + level, power


def fitted(share=1.0):
    linear = LinearDenoiser(SIDE, 10)
    fit_linear(linear, gaussian_pictures(400)[0])
    linear.share.fill_(share)
    return linear


def test_with_the_whole_share_it_is_the_wiener_filter():
    linear = fitted()
    pictures, _ = gaussian_pictures(400)
    level, power = mean_spectrum(pictures)
    noisy = pictures[:3] + 0.5 * torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    expected = torch.fft.ifft2(torch.fft.fft2(noisy - level) * power / (power + 0.25)).real + level
    found = linear(noisy, 0.5, torch.zeros_like(noisy), timestep=3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_without_a_share_the_network_stays_alone():
    estimate = torch.randn(2, 1, 24, 40, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fitted(0.0)(torch.randn(2, 1, 24, 40), 0.5, estimate, 3), estimate)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 48), (40, 96), (33, 31)])
def test_it_denoises_pictures_of_any_size(height, width):
    clean, power = gaussian_pictures(60, height, width, seed=5)
    sigma = 0.7
    noisy = clean + sigma * torch.randn(clean.shape, generator=torch.Generator().manual_seed(2))
    error = (fitted()(noisy, sigma, torch.zeros_like(noisy), 0) - clean).square().mean()
    best = (power * sigma**2 / (power + sigma**2)).mean()
    assert float(error) < 1.1 * float(best)


def test_the_bands_part_all_frequencies_and_the_first_is_the_mean_level():
    bands = radial_bands(256, 256, torch.device("cpu"))
    assert bands.shape == (256, 129)
    assert set(bands.unique().tolist()) == set(range(BANDS))
    assert (bands == 0).nonzero().tolist() == [[0, 0]]


def test_pictures_of_another_side_are_refused():
    with pytest.raises(ValueError, match="32 x 32"):
        fit_linear(LinearDenoiser(SIDE, 10), torch.zeros(2, 1, 16, 16))


def test_joined_to_a_network_that_knows_nothing_it_takes_over():
    schedule = linear_schedule()
    network = Denoiser(DenoiserConfig(widths=(8, 12), blocks=1, embedding=16)).requires_grad_(False)
    pictures, _ = gaussian_pictures(40)
    joined = join_linear(network, pictures, schedule)
    assert joined.linear is not None
    assert joined.config.spectrum == SIDE
    assert joined.linear.share[:400].count_nonzero() == 0
    assert joined.linear.share[-1, 0] > 0.9
    alone, together = DenoiserPrior(network, schedule), DenoiserPrior(joined, schedule)
    timestep = 900
    sigma = float(schedule.sigmas[timestep])
    alpha_bar = float(schedule.alphas_cumprod[timestep])
    eps = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(9))
    x_t = alpha_bar**0.5 * (pictures + sigma * eps)
    errors = [float((prior(x_t, timestep) - pictures).square().mean()) for prior in (alone, together)]
    assert errors[1] < 0.9 * errors[0]
    torch.testing.assert_close(alone(x_t, 100), together(x_t, 100))

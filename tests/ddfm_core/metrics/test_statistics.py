from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddfm_core.metrics import fusion_metrics
from ddfm_core.metrics.statistics import average_gradient, spatial_frequency, standard_deviation

SQUARE = torch.tensor([[[0, 0, 0, 0], [0, 4, 4, 0], [0, 4, 4, 0], [0, 0, 0, 0]]], dtype=torch.float64)


def random_picture(seed: int, *shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).double()


def figure(name: str, fused: Tensor, first: Tensor, second: Tensor) -> float:
    return fusion_metrics(fused, first, second, [name])[name].item()


def test_a_square_by_hand() -> None:
    # A quarter of the pixels is 4: mean 1, mean square 4.
    assert standard_deviation(SQUARE).item() == pytest.approx(math.sqrt(3))
    # Two rows hold the differences 4, 0, -4, two hold none: mean square 64 / 12 along each axis.
    assert spatial_frequency(SQUARE).item() == pytest.approx(math.sqrt(2 * 64 / 12))
    # Corners 0; eight border pixels beside the square with one derivative of 4; inside both are 2.
    assert average_gradient(SQUARE).item() == pytest.approx((8 * math.sqrt(16 / 2) + 4 * 2) / 16)


def test_a_ramp() -> None:
    ramp = (3.0 * torch.arange(6, dtype=torch.float64)).expand(1, 5, 6)
    assert spatial_frequency(ramp).item() == pytest.approx(3)
    assert average_gradient(ramp).item() == pytest.approx(3 / math.sqrt(2))


def test_a_constant_picture_has_no_contrast() -> None:
    flat = torch.full((1, 4, 5), 77.0, dtype=torch.float64)
    assert standard_deviation(flat).item() == spatial_frequency(flat).item() == average_gradient(flat).item() == 0


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (1, 5, 1)])
def test_a_side_of_one_pixel_has_no_gradient(shape: tuple[int, ...]) -> None:
    thin = torch.ones(shape, dtype=torch.float64)
    assert spatial_frequency(thin).isnan().all()
    assert average_gradient(thin).isnan().all()
    assert standard_deviation(thin).item() == 0


def test_two_by_two_is_enough_for_a_gradient() -> None:
    corner = torch.tensor([[[0.0, 2.0], [0.0, 2.0]]], dtype=torch.float64)
    assert average_gradient(corner).item() == pytest.approx(math.sqrt(2))


def test_mse_and_psnr() -> None:
    fused = torch.tensor([[[200.0, 0.0], [0.0, 0.0]]])
    first, second = fused + 4, fused - 8
    assert figure("MSE", fused, first, second) == (16 + 64) / 2
    assert figure("PSNR", fused, first, second) == pytest.approx(10 * math.log10(200**2 / 40))


def test_psnr_of_equal_pictures_is_infinite_and_of_black_ones_undefined() -> None:
    fused, black = random_picture(0, 1, 4, 4), torch.zeros(1, 4, 4)
    assert figure("MSE", fused, fused, fused) == 0
    assert figure("PSNR", fused, fused, fused) == math.inf
    assert math.isnan(figure("PSNR", black, black, black))
    assert math.isnan(figure("PSNR", black, fused, fused))


def test_correlation_of_a_picture_with_itself_and_its_negative() -> None:
    fused = random_picture(0, 1, 9, 7)
    assert figure("CC", fused, fused, 2 * fused + 3) == pytest.approx(1)
    assert figure("CC", fused, 255 - fused, 255 - fused) == pytest.approx(-1)
    assert figure("CC", fused, fused, 255 - fused) == pytest.approx(0, abs=1e-12)


def test_scd_of_the_sum_is_two() -> None:
    first, second = random_picture(1, 1, 9, 7), random_picture(2, 1, 9, 7)
    assert figure("SCD", first + second, first, second) == pytest.approx(2)


def test_correlations_follow_their_definition() -> None:
    fused, first, second = (random_picture(seed, 1, 9, 7) for seed in range(3))

    def correlation(x: Tensor, y: Tensor) -> float:
        return torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1].item()

    cc = (correlation(fused, first) + correlation(fused, second)) / 2
    scd = correlation(first, fused - second) + correlation(second, fused - first)
    assert figure("CC", fused, first, second) == pytest.approx(cc)
    assert figure("SCD", fused, first, second) == pytest.approx(scd)


def test_correlation_with_a_constant_is_undefined() -> None:
    picture, other = random_picture(0, 1, 6, 6), random_picture(1, 1, 6, 6)
    # A tenth has no exact binary form: its mean differs from it in the last bits.
    flat = torch.full((1, 6, 6), 0.1)
    assert math.isnan(figure("CC", flat, picture, other))
    assert math.isnan(figure("CC", picture, flat, other))
    assert math.isnan(figure("CC", picture, other, flat))
    assert math.isnan(figure("SCD", other, flat, picture))
    # The difference of the fused picture and one of the sources is constant.
    assert math.isnan(figure("SCD", picture, picture, other))
    assert math.isnan(figure("SCD", picture.float() + 0.1, picture, other))

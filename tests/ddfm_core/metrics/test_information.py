from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ddfm_core.metrics.information import entropy, mutual_information

ALL_LEVELS = torch.arange(256, dtype=torch.float64).view(1, 16, 16)


def halves(columns: bool) -> Tensor:
    """Half 10, half 200, split between the columns or between the rows."""
    picture = torch.full((1, 4, 4), 10.0, dtype=torch.float64)
    if columns:
        picture[:, :, 2:] = 200
    else:
        picture[:, 2:] = 200
    return picture


def test_entropy_of_one_two_and_all_levels() -> None:
    assert entropy(torch.full((1, 3, 5), 9.0, dtype=torch.float64)).item() == 0
    assert entropy(halves(columns=True)).item() == 1
    assert entropy(ALL_LEVELS).item() == pytest.approx(8)


def test_values_are_rounded_to_even() -> None:
    picture = torch.tensor([[[0.5, 0.4], [1.5, 2.4]]], dtype=torch.float64)  # 0, 0, 2, 2
    assert entropy(picture).item() == 1
    assert mutual_information(picture, picture, picture).item() == pytest.approx(2 * math.log(2))


def test_information_of_a_picture_with_itself_is_its_entropy() -> None:
    picture = torch.randint(0, 20, (1, 9, 9), generator=torch.Generator().manual_seed(0)).double()
    nats = entropy(picture).item() * math.log(2)
    assert mutual_information(picture, picture, picture).item() == pytest.approx(2 * nats)
    assert mutual_information(picture, 255 - picture, picture).item() == pytest.approx(2 * nats)


def test_independent_and_constant_pictures_share_nothing() -> None:
    flat = torch.full((1, 4, 4), 3.0, dtype=torch.float64)
    assert mutual_information(halves(columns=True), halves(columns=False), flat).item() == pytest.approx(0, abs=1e-15)
    assert mutual_information(flat, ALL_LEVELS[:, :4, :4], flat).item() == pytest.approx(0, abs=1e-15)


def test_a_joint_histogram_by_hand() -> None:
    fused = torch.tensor([[[0.0, 0.0], [255.0, 255.0]]], dtype=torch.float64)
    source = torch.tensor([[[7.0, 7.0], [7.0, 8.0]]], dtype=torch.float64)
    # Joint 1/2, 1/4, 1/4; marginals 1/2, 1/2 and 3/4, 1/4.
    shared = 0.5 * math.log(0.5 / (0.5 * 0.75)) + 0.25 * math.log(0.25 / (0.5 * 0.75)) + 0.25 * math.log(2)
    assert mutual_information(fused, source, fused).item() == pytest.approx(shared + math.log(2))


@pytest.mark.parametrize("value", [-1.0, 256.0, 1e30, math.nan, math.inf, -math.inf])
def test_values_without_a_bin_leave_only_their_member_undefined(value: float) -> None:
    pictures = torch.stack([ALL_LEVELS[0], ALL_LEVELS[0]])
    bad = pictures.clone()
    bad[0, 3, 3] = value
    assert entropy(bad).isnan().tolist() == [True, False]
    for order in ((bad, pictures, pictures), (pictures, bad, pictures), (pictures, pictures, bad)):
        assert mutual_information(*order).isnan().tolist() == [True, False]


def test_values_that_round_into_the_range_are_inside() -> None:
    picture = torch.tensor([[[-0.4, 255.4]]], dtype=torch.float64)
    assert entropy(picture).item() == 1

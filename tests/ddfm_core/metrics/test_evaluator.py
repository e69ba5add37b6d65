from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ddfm_core.metrics import METRIC_NAMES, evaluator, evaluator_grey, fusion_metrics, windows

Pictures = tuple[Tensor, Tensor, Tensor]


def random_pictures(*shape: int, dtype: torch.dtype = torch.uint8) -> Pictures:
    generator = torch.Generator().manual_seed(0)
    fused, first, second = (torch.randint(0, 256, shape, generator=generator) for _ in range(3))
    return fused.to(dtype), first.to(dtype), second.to(dtype)


def member(pictures: Pictures, i: int) -> Pictures:
    fused, first, second = (picture[i : i + 1] for picture in pictures)
    return fused, first, second


def assert_equal_figures(got: dict[str, Tensor], expected: dict[str, Tensor], rtol: float = 1e-9) -> None:
    assert list(got) == list(expected)
    for name in got:
        torch.testing.assert_close(got[name], expected[name], rtol=rtol, atol=1e-12, equal_nan=True, msg=name)


def test_all_names_in_order_as_float64() -> None:
    figures = fusion_metrics(*random_pictures(2, 48, 45))
    assert tuple(figures) == METRIC_NAMES
    assert len(METRIC_NAMES) == 13
    for figure in figures.values():
        assert figure.dtype == torch.float64
        assert figure.shape == (2,)
        assert figure.isfinite().all()


def test_chosen_names_come_in_the_given_order_with_the_same_figures() -> None:
    pictures = random_pictures(2, 48, 45)
    everything = fusion_metrics(*pictures)
    chosen = fusion_metrics(*pictures, names=["SSIM_255", "EN", "PSNR", "SCD"])
    assert list(chosen) == ["SSIM_255", "EN", "PSNR", "SCD"]
    assert all(torch.equal(figure, everything[name]) for name, figure in chosen.items())
    assert fusion_metrics(*pictures, names=[]) == {}


@pytest.mark.parametrize(("pixels", "members"), [(1, 64), (5000, 64), (2**22, 64), (2**22, 2)])
def test_a_batch_measures_as_its_members(pixels: int, members: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = random_pictures(5, 45, 60)
    pictures[0][1] = 7  # a constant and a black picture among the others
    pictures[1][2] = pictures[2][2] = 0
    singles = [fusion_metrics(*member(pictures, i)) for i in range(5)]
    expected = {name: torch.cat([single[name] for single in singles]) for name in METRIC_NAMES}
    monkeypatch.setattr(windows, "_CPU_PIXELS", pixels)
    monkeypatch.setattr(evaluator, "_MEMBERS_AT_ONCE", members)
    assert_equal_figures(fusion_metrics(*pictures), expected)


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint16, torch.int64, torch.float16, torch.float32, torch.float64])
def test_the_dtype_does_not_matter(dtype: torch.dtype) -> None:
    expected = fusion_metrics(*random_pictures(1, 48, 45))
    assert_equal_figures(fusion_metrics(*random_pictures(1, 48, 45, dtype=dtype)), expected, rtol=0)


def test_layout_and_gradients_do_not_matter() -> None:
    fused, first, second = random_pictures(2, 48, 45, dtype=torch.float32)
    strange = fused.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    figures = fusion_metrics(strange, first, second)
    assert_equal_figures(figures, fusion_metrics(fused, first, second), rtol=0)
    assert not any(figure.requires_grad for figure in figures.values())


def test_the_pictures_stay_as_they_are() -> None:
    pictures = random_pictures(1, 48, 45, dtype=torch.float64)
    copies = [picture.clone() for picture in pictures]
    fusion_metrics(*pictures)
    assert all(torch.equal(picture, copy) for picture, copy in zip(pictures, copies, strict=True))


def test_an_empty_batch() -> None:
    figures = fusion_metrics(*random_pictures(0, 48, 45))
    assert tuple(figures) == METRIC_NAMES
    assert all(figure.shape == (0,) for figure in figures.values())


UNDEFINED: dict[str, tuple[Callable[[], Pictures], set[str]]] = {
    "one pixel": (
        lambda: random_pictures(1, 1, 1),
        {"SF", "AG", "CC", "SCD", "VIF", "Qabf", "SSIM", "SSIM_255"},
    ),
    "one row": (lambda: random_pictures(1, 1, 50), {"SF", "AG", "VIF", "Qabf", "SSIM", "SSIM_255"}),
    "two columns": (lambda: random_pictures(1, 50, 2), {"VIF", "Qabf", "SSIM", "SSIM_255"}),
    "six rows": (lambda: random_pictures(1, 6, 50), {"VIF", "SSIM", "SSIM_255"}),
    "forty columns": (lambda: random_pictures(1, 50, 40), {"VIF"}),
    "all black": (
        lambda: (torch.zeros(1, 50, 50), torch.zeros(1, 50, 50), torch.zeros(1, 50, 50)),
        {"CC", "PSNR", "SCD", "Qabf"},
    ),
    "constant": (
        lambda: (torch.full((1, 50, 50), 90.1), torch.full((1, 50, 50), 80.1), torch.full((1, 50, 50), 100.1)),
        {"CC", "SCD"},
    ),
    "fused is a source": (
        lambda: (random_pictures(1, 50, 50)[1], *random_pictures(1, 50, 50)[1:]),
        {"SCD"},
    ),
    "a fused picture of 65535": (
        lambda: (torch.full((1, 50, 50), 65535), *random_pictures(1, 50, 50)[1:]),
        {"EN", "MI", "CC"},
    ),
}


@pytest.mark.parametrize("case", UNDEFINED)
def test_what_does_not_exist_is_nan_and_only_that(case: str) -> None:
    pictures, undefined = UNDEFINED[case]
    figures = fusion_metrics(*pictures())
    assert {name for name, figure in figures.items() if figure.isnan().any()} == undefined


@pytest.mark.parametrize("role", [0, 1, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_spoils_only_its_member(role: int, value: float) -> None:
    pictures = random_pictures(3, 48, 45, dtype=torch.float32)
    expected = fusion_metrics(*pictures)
    pictures[role][1, 20, 20] = value
    figures = fusion_metrics(*pictures)
    of_fused = {"EN", "SD", "SF", "AG"}
    for name, figure in figures.items():
        looked_at = role == 0 or name not in of_fused
        assert figure.isnan().tolist() == [False, looked_at, False], name
        torch.testing.assert_close(figure[[0, 2]], expected[name][[0, 2]], rtol=1e-9, atol=0)


def test_errors_name_what_is_allowed() -> None:
    good = torch.zeros(2, 8, 8)
    with pytest.raises(ValueError, match=r"unknown metrics \['SSMI'\]; known are EN, .*, SSIM_255"):
        fusion_metrics(good, good, good, ["EN", "SSMI"])
    with pytest.raises(ValueError, match=r"use \['EN'\]"):
        fusion_metrics(good, good, good, "EN")
    with pytest.raises(ValueError, match=r"fused must be grey pictures \[B, H, W\] with pixels, got \[8, 8\]"):
        fusion_metrics(good[0], good, good)
    with pytest.raises(ValueError, match=r"with pixels, got \[2, 0, 8\]"):
        fusion_metrics(good[:, :0], good[:, :0], good[:, :0])
    with pytest.raises(ValueError, match=r"fused is \[2, 8, 8\] on cpu, second is \[2, 8, 7\] on cpu"):
        fusion_metrics(good, good, good[..., :7])
    with pytest.raises(ValueError, match=r"fused is \[2, 8, 8\] on cpu, first is \[2, 8, 8\] on meta"):
        fusion_metrics(good, good.to("meta"), good)
    with pytest.raises(ValueError, match=r"second must be .* integer or floating dtype, got torch.bool"):
        fusion_metrics(good, good, good.bool())
    array: Any = np.zeros((2, 8, 8))
    with pytest.raises(ValueError, match=r"first must be a tensor .*, got ndarray"):
        fusion_metrics(good, array, good)


def test_grey_of_equal_channels_is_unchanged() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    assert torch.equal(evaluator_grey(levels), levels[0])
    assert torch.equal(evaluator_grey(levels.float()), levels[0].float())


@pytest.mark.parametrize(
    ("rgb", "grey"),
    [
        ((255, 0, 0), 76),  # 76.245
        ((0, 255, 0), 150),  # 149.685
        ((0, 0, 255), 29),  # 29.07
        ((1, 3, 4), 3),  # 2.516
        ((0, 250, 0), 147),  # 146.75
        ((0, 0, 250), 28),  # 28.5, to even
        ((0, 2, 224), 27),  # 26.71
        ((250, 0, 0), 75),  # 74.75
        ((0, 0, 125), 14),  # 14.25
        ((7, 1, 210), 27),  # 26.62
    ],
)
def test_grey_of_colours(rgb: tuple[int, int, int], grey: int) -> None:
    picture = torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1)
    assert evaluator_grey(picture).tolist() == [[[grey]]]


def test_grey_of_every_tie_is_even() -> None:
    red, green, blue = torch.meshgrid(*(3 * [torch.arange(0, 256, 5)]), indexing="ij")
    ties = (299 * red + 587 * green + 114 * blue) % 1000 == 500
    assert ties.any()
    colours = torch.stack([red, green, blue])[:, ties][:, None]
    assert (evaluator_grey(colours) % 2 == 0).all()


def test_grey_keeps_leading_axes_and_refuses_others() -> None:
    assert evaluator_grey(torch.zeros(2, 5, 3, 4, 6)).shape == (2, 5, 4, 6)
    with pytest.raises(ValueError, match=r"\[..., 3, H, W\], got \[4, 8, 8\]"):
        evaluator_grey(torch.zeros(4, 8, 8))
    with pytest.raises(ValueError, match=r"integer or floating dtype, got torch.complex64"):
        evaluator_grey(torch.zeros(3, 8, 8, dtype=torch.complex64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_gives_the_same_without_waiting() -> None:
    pictures = random_pictures(5, 100, 90)
    pictures[0][1] = 7
    fused, first, second = (picture.cuda() for picture in pictures)
    fusion_metrics(fused, first, second)  # loads the libraries, which may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        figures = fusion_metrics(fused, first, second)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(figure.is_cuda for figure in figures.values())
    assert_equal_figures({name: figure.cpu() for name, figure in figures.items()}, fusion_metrics(*pictures), rtol=1e-6)
    colours = torch.randint(0, 256, (3, 99, 99))
    assert torch.equal(evaluator_grey(colours.cuda()).cpu(), evaluator_grey(colours))

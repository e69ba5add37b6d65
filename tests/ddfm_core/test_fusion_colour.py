"""What fusion does to colours, as people see them: hue, hot spots, and which source's colour is kept."""

from functools import cache

import numpy as np
import pytest
import torch
from skimage.color import hsv2rgb, rgb2lab
from torch import Tensor

from benchmarks.colour import hottest_spots
from ddfm_core.colour import recolour, to_ycbcr
from ddfm_core.fusion import FusionConfig, Mode, fuse
from ddfm_core.priors import CallablePrior, Prior, load_prior
from ddfm_core.schedule import linear_schedule
from tasks.evaluation.pictures import picture_of

MODES: list[Mode] = ["adaptive", "paper", "released", "mean", "max", "laplacian", "gradient"]
PRIOR = CallablePrior(lambda x_t, _: torch.tanh(0.5 * x_t), linear_schedule(), 1)


def blurred(*shape: int, seed: int, sigma: float = 4) -> Tensor:
    """A smooth random field in [0, 1]."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    offsets = torch.arange(-12, 13)
    kernel = torch.exp(-((offsets / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for _ in range(2):
        noise = torch.nn.functional.conv2d(torch.nn.functional.pad(noise, (12, 12, 0, 0), "reflect"), kernel)
        noise = noise.transpose(-1, -2)
    return (noise - noise.min()) / (noise.max() - noise.min())


def lab(image: Tensor) -> np.ndarray:
    return rgb2lab((image[0].permute(1, 2, 0).numpy().astype(float) + 1) / 2)


def hue_change(image: Tensor, source: Tensor) -> np.ndarray:
    """Degrees per pixel between the CIELAB hues of two pictures, where the source's chroma is above 10."""
    ours, wanted = lab(image), lab(source)
    hues = [np.degrees(np.arctan2(one[..., 2], one[..., 1])) for one in (ours, wanted)]
    looked_at = np.hypot(wanted[..., 1], wanted[..., 2]) > 10
    assert looked_at.mean() > 0.2
    return abs((hues[0] - hues[1] + 180) % 360 - 180)[looked_at]


@pytest.mark.parametrize("mode", MODES)
def test_hues_of_a_visible_picture_are_kept(mode: Mode) -> None:
    """Colours as photographs of streets have them: all hues, chroma mostly between 10 and 60."""
    hue, saturation, value = (blurred(1, 1, 64, 64, seed=seed) for seed in (1, 2, 3))
    hsv = torch.cat([(2 * hue) % 1, 0.15 + 0.4 * saturation, 0.3 + 0.5 * value], dim=1)[0].permute(1, 2, 0).numpy()
    visible = torch.from_numpy(hsv2rgb(hsv)).permute(2, 0, 1)[None].float() * 2 - 1
    infrared = 1.2 * blurred(1, 1, 64, 64, seed=4) - 0.6
    result = fuse(infrared, visible, PRIOR, FusionConfig(mode=mode, steps=8, output="clip"))
    assert np.median(hue_change(result.image, visible)) <= 2


@cache
def bundled() -> Prior:
    return load_prior("bundled")


def hot_spot_below_a_bright_mri() -> tuple[Tensor, Tensor]:
    """PET from black over blue, green and yellow to red, hottest where the MRI is so bright that red does not fit, and
    nearly as hot where the MRI is dark."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")

    def bump(row: float, column: float, size: float) -> Tensor:
        return torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))

    uptake = (1.05 * bump(22, 40, 7) + 0.98 * bump(44, 20, 7)).clamp(0, 1)
    stops = torch.tensor([[0, 0, 0], [0, 0, 0.8], [0, 0.7, 0.3], [1, 0.9, 0], [1, 0, 0]])
    place = uptake * 4
    low = place.floor().long().clamp(max=3)
    pet = (stops[low] + (place - low)[..., None] * (stops[low + 1] - stops[low])).permute(2, 0, 1)[None] * 2 - 1
    mri = (1.3 * bump(22, 40, 14) + 0.3 * blurred(1, 1, 64, 64, seed=5)[0, 0]).clamp(0, 1)[None, None] * 2 - 1
    return pet, mri


def hot_spots(image: Tensor, pet: Tensor) -> tuple[float, float]:
    """By how many pixels the hottest spot has moved in the 8-bit picture, and which share of it is elsewhere."""
    return hottest_spots(picture_of(image[0].numpy()), picture_of(pet[0].numpy()))


@pytest.mark.parametrize("mode", MODES)
def test_the_hottest_spot_of_a_pseudo_coloured_source_stays(mode: Mode) -> None:
    pet, mri = hot_spot_below_a_bright_mri()
    result = fuse(pet, mri, bundled(), FusionConfig(mode=mode, steps=5, output="clip"))
    hottest = recolour(result.luma, pet, mri)[0, :, 20:25, 38:43]
    assert float(hottest.max()) > 1.1
    moved, elsewhere = hot_spots(result.image, pet)
    assert moved <= 3
    assert elsewhere <= 0.01


@pytest.mark.parametrize("mode", ["adaptive", "max"])
def test_clipping_each_channel_would_move_it(mode: Mode) -> None:
    """What the test above would say of a rule that takes chroma away where it does not fit."""
    pet, mri = hot_spot_below_a_bright_mri()
    fused = fuse(pet, mri, bundled(), FusionConfig(mode=mode, steps=5, output="clip")).luma
    moved, elsewhere = hot_spots(recolour(fused, pet, mri).clamp(-1, 1), pet)
    assert moved > 3
    assert elsewhere > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_of_two_coloured_sources_the_second_gives_the_colour(mode: Mode) -> None:
    first, second = (
        0.3 * torch.cat([2 * blurred(1, 1, 32, 32, seed=seed + channel) - 1 for channel in range(3)], dim=1)
        for seed in (10, 20)
    )
    image = fuse(first, second, PRIOR, FusionConfig(mode=mode, steps=4, output="clip")).image
    torch.testing.assert_close(to_ycbcr(image)[:, 1:], to_ycbcr(second)[:, 1:], rtol=0, atol=1e-5)

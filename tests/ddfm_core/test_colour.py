"""Colour conversions against the numbers of the standards and an independent implementation."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddfm_core.colour import FULL_RANGE, STUDIO_RANGE, LumaRange, into_gamut, is_grey, luma, recolour, to_rgb, to_ycbcr

# The studio-range matrix with offsets, for RGB in 0..1 and results in 0..255.
STUDIO_MATRIX = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
STUDIO_OFFSET = np.array([16.0, 128.0, 128.0])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pixel(*values: float) -> Tensor:
    return torch.tensor(values).view(1, len(values), 1, 1)


def test_luma_of_the_primaries() -> None:
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        primary = torch.full((1, 3, 1, 1), -1.0)
        primary[:, channel] = 1
        assert luma(primary).item() == pytest.approx(2 * weight - 1)
    assert luma(pixel(1, 1, 1)).item() == 1
    assert luma(pixel(-1, -1, -1)).item() == -1


def test_equal_to_jpeg_within_rounding() -> None:
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = torch.from_numpy(values).permute(2, 0, 1)[None] / 127.5 - 1
    ours = ((to_ycbcr(image) + 1) * 127.5)[0].permute(1, 2, 0).numpy()
    jpeg = np.asarray(Image.fromarray(values).convert("YCbCr")).astype(float)
    # Its chroma is centred on 128, ours on 127.5.
    assert abs(ours + np.array([0, 0.5, 0.5]) - jpeg).max() <= 1


def test_chroma_spans_the_range_and_comes_back() -> None:
    image = random(2, 3, 9, 9)
    torch.testing.assert_close(to_rgb(to_ycbcr(image)), image, rtol=0, atol=1e-6)
    assert to_ycbcr(pixel(-1, -1, 1))[0, 1].item() == pytest.approx(1)
    assert to_ycbcr(pixel(1, -1, -1))[0, 2].item() == pytest.approx(1)


def test_grey_is_exact() -> None:
    grey = random(1, 1, 64, 64)
    image = grey.expand(-1, 3, -1, -1)
    assert torch.equal(luma(image), grey)
    assert not to_ycbcr(image)[:, 1:].any()
    assert torch.equal(to_rgb(to_ycbcr(image)), image)


def test_studio_range_is_the_matrix_and_its_exact_inverse() -> None:
    image, new_luma = random(1, 3, 8, 8), random(1, 1, 8, 8, seed=1)
    rgb = image[0].reshape(3, -1).double().numpy()
    ycbcr = (STUDIO_MATRIX @ rgb + STUDIO_OFFSET[:, None]) / 255
    np.testing.assert_allclose(STUDIO_RANGE.luma(image).flatten(), ycbcr[0], atol=1e-6)
    ycbcr[0] = new_luma.flatten()
    wanted = np.linalg.solve(STUDIO_MATRIX, 255 * ycbcr - STUDIO_OFFSET[:, None])
    np.testing.assert_allclose(STUDIO_RANGE.with_luma(image, new_luma)[0].reshape(3, -1), wanted, atol=1e-5)


@pytest.mark.parametrize(("grey", "studio"), [(-1, -0.796), (0, 0.063), (1, 0.922)])
def test_studio_range_of_greys(grey: float, studio: float) -> None:
    assert STUDIO_RANGE.luma(pixel(grey, grey, grey)).item() == pytest.approx(studio, abs=5e-4)
    assert STUDIO_RANGE.luma(pixel(grey)).item() == pytest.approx(studio, abs=5e-4)
    back = STUDIO_RANGE.with_luma(pixel(0.3), pixel(1.0)).item()
    assert back == pytest.approx(1.091, abs=5e-4)


@pytest.mark.parametrize("luma_range", [FULL_RANGE, STUDIO_RANGE])
def test_replacing_luma_keeps_chroma(luma_range: LumaRange) -> None:
    image, new_luma = random(2, 3, 8, 8), random(2, 1, 8, 8, seed=1)
    replaced = luma_range.with_luma(image, new_luma)
    torch.testing.assert_close(luma_range.luma(replaced), new_luma, rtol=0, atol=1e-6)
    torch.testing.assert_close(to_ycbcr(replaced)[:, 1:], to_ycbcr(image)[:, 1:], rtol=0, atol=1e-6)


def test_is_grey_per_member() -> None:
    batch = random(3, 1, 4, 4).expand(-1, 3, -1, -1).clone()
    batch[1, 2, 3, 3] += 1e-3
    assert is_grey(batch).tolist() == [True, False, True]
    assert is_grey(batch[:, :1]).tolist() == [True] * 3


def test_recolour_takes_the_second_sources_chroma_else_the_firsts() -> None:
    colour_a, colour_b, grey = random(1, 3, 8, 8), random(1, 3, 8, 8, seed=1), random(1, 1, 8, 8, seed=2)
    grey_rgb, fused = grey.expand(-1, 3, -1, -1), random(4, 1, 8, 8, seed=3)
    first = torch.cat([colour_a, colour_a, grey_rgb, grey_rgb])
    second = torch.cat([colour_b, grey_rgb, colour_b, grey_rgb])
    image = recolour(fused, first, second)
    torch.testing.assert_close(luma(image), fused, rtol=0, atol=1e-6)
    for member, source in enumerate((colour_b, colour_a, colour_b, grey_rgb)):
        chroma = to_ycbcr(image[member : member + 1])[:, 1:]
        torch.testing.assert_close(chroma, to_ycbcr(source)[:, 1:], rtol=0, atol=1e-6)
    assert torch.equal(image[3], fused[3].expand(3, -1, -1))


def test_recolour_mixes_one_and_three_channels() -> None:
    colour, grey, fused = random(1, 3, 8, 8), random(1, 1, 8, 8, seed=2), random(1, 1, 8, 8, seed=3)
    assert torch.equal(recolour(fused, grey, grey), fused)
    for sources in ((colour, grey), (grey, colour)):
        torch.testing.assert_close(to_ycbcr(recolour(fused, *sources))[:, 1:], to_ycbcr(colour)[:, 1:])
    equal_channels = grey.expand(-1, 3, -1, -1)
    assert torch.equal(recolour(fused, equal_channels, grey), fused.expand(-1, 3, -1, -1))


def test_colours_of_a_visible_image_get_paler_where_they_do_not_fit() -> None:
    visible, fused = random(1, 3, 32, 32), random(1, 1, 32, 32, seed=1)
    unfitted = recolour(fused, random(1, 1, 32, 32, seed=2), visible)
    fitted = into_gamut(unfitted, visible)
    assert float(fitted.abs().max()) <= 1
    torch.testing.assert_close(luma(fitted), fused, atol=1e-5, rtol=0)
    inside = (unfitted.abs() <= 1).all(dim=1, keepdim=True).expand_as(fitted)
    torch.testing.assert_close(fitted[inside], unfitted[inside], atol=1e-6, rtol=0)
    before, after = to_ycbcr(visible)[0, 1:], to_ycbcr(fitted)[0, 1:]
    across = before[0] * after[1] - before[1] * after[0]
    assert float(across.abs().max()) < 1e-5
    # As colourful as there is room for.
    assert float((1 - fitted.abs().amax(dim=1)[(unfitted.abs() > 1).any(dim=1)]).max()) < 1e-5


def test_pseudo_colours_stay_exactly_and_luma_gives_way() -> None:
    pet, fused = random(1, 3, 32, 32), random(1, 1, 32, 32, seed=1)
    mri = random(1, 3, 32, 32, seed=2)[:, :1].expand(-1, 3, -1, -1)
    unfitted = recolour(fused, pet, mri)
    fitted = into_gamut(unfitted, mri)
    assert float(fitted.abs().max()) <= 1
    torch.testing.assert_close(to_ycbcr(fitted)[:, 1:], to_ycbcr(pet)[:, 1:], atol=1e-5, rtol=0)
    inside = (unfitted.abs() <= 1).all(dim=1, keepdim=True)
    torch.testing.assert_close(luma(fitted)[inside], fused[inside], atol=1e-5, rtol=0)


def test_grey_pictures_are_clipped() -> None:
    image = 3 * random(2, 1, 8, 8)
    assert torch.equal(into_gamut(image, image), image.clamp(-1, 1))

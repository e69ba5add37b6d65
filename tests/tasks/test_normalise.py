from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tasks.normalise import Normalisation, denormalise, normalise
from tasks.read.raster import Image

SHAPES = st.sampled_from([(16, 17), (16, 17, 3)])


def image(pixels: NDArray[Any]) -> Image:
    return Image(pixels, pixels.itemsize * 8, "TIFF")


def ramp(count: int, dtype: type) -> NDArray[Any]:
    return np.arange(count).reshape(-1, 100).astype(dtype)


def test_eight_bits_keep_their_brightness() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values, line = normalise(image(levels))
    assert line == Normalisation("full_range", 0, 255)
    assert values.shape == (1, 16, 16)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values[0], levels / 127.5 - 1, atol=1e-7)
    assert (values.min(), values.max()) == (-1, 1)


def test_colour_goes_first_channel_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    values, _ = normalise(image(pixels))
    assert values.shape == (3, 16, 20)
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values[2], pixels[..., 2] / 127.5 - 1, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_more_bits_go_by_percentiles(dtype: type) -> None:
    pixels = ramp(10001 * 100, np.float64)[:, 0].repeat(100).reshape(-1, 100) / 100
    values, line = normalise(image(pixels.astype(dtype)))
    assert line.rule == "percentile"
    assert (line.lo, line.hi) == pytest.approx((10, 9990), abs=1e-6)
    assert values[0, 10, 0] == pytest.approx(-1, abs=1e-6)
    assert values[0, 5000, 0] == pytest.approx(0, abs=1e-6)
    assert values[0, 2505, 0] == pytest.approx(-0.5, abs=1e-6)
    assert (values[0, 0, 0], values[0, 10000, 0]) == (-1, 1)


def test_one_hot_pixel_does_not_decide_the_contrast() -> None:
    pixels = 7000 + ramp(10000, np.uint16) // 20
    pixels[50, 50] = 65535
    _, line = normalise(image(pixels))
    assert 7000 <= line.lo < line.hi <= 7500


def test_colour_has_one_range_for_all_channels() -> None:
    pixels = np.stack([ramp(10000, np.uint16), ramp(10000, np.uint16) + 20000, ramp(10000, np.uint16) + 40000], -1)
    values, line = normalise(image(pixels))
    assert line.lo < 100
    assert line.hi > 49900
    assert values[0].max() < values[1].min() < values[1].max() < values[2].min()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_given_range_goes_first_and_clips(dtype: type) -> None:
    values, line = normalise(image(ramp(1600, np.float64).clip(0, 200).astype(dtype)), (50, 150))
    assert line == Normalisation("given", 50, 150)
    assert values.flat[[0, 50, 75, 100, 150, 199]] == pytest.approx([-1, -1, -0.5, 0, 1, 1])


@pytest.mark.parametrize("value_range", [(5, 5), (6, 5), (float("nan"), 5), (0, float("inf"))])
def test_a_range_that_is_none(value_range: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="value_range"):
        normalise(image(ramp(1600, np.uint16)), value_range)


@pytest.mark.parametrize("value", [0, 7, 300])
def test_a_constant_picture_is_zero_and_comes_back(value: int) -> None:
    pixels = np.full((16, 16), value, np.uint16)
    values, line = normalise(image(pixels))
    assert line == Normalisation("constant", value, value)
    assert not values.any()
    np.testing.assert_array_equal(denormalise(values[0], line, np.uint16), pixels)


def test_a_few_spots_on_an_even_ground_survive() -> None:
    pixels = np.full((100, 100), 40, np.float32)
    pixels[20, 30] = 90
    values, line = normalise(image(pixels))
    assert line == Normalisation("min_max", 40, 90)
    assert values[0, 20, 30] == 1
    assert (values == -1).sum() == 9999


def test_a_small_signal_on_a_large_offset_is_resolved() -> None:
    pixels = np.float32(1e6) + (ramp(10000, np.float32) % 16) / 16
    values, _ = normalise(image(pixels))
    np.testing.assert_allclose(np.unique(values), np.linspace(-1, 1, 16), atol=1e-6)


@settings(deadline=None)  # shared machines pause at any time
@given(arrays(np.uint8, SHAPES))
def test_eight_bits_return_exactly(pixels: NDArray[np.uint8]) -> None:
    values, line = normalise(image(pixels))
    planes = pixels if pixels.ndim == 3 else pixels[..., None]
    np.testing.assert_array_equal(denormalise(values, line, np.uint8), planes.transpose(2, 0, 1))


@settings(deadline=None)  # shared machines pause at any time
@given(arrays(np.uint16, SHAPES))
def test_sixteen_bits_return_exactly_within_their_range(pixels: NDArray[np.uint16]) -> None:
    values, line = normalise(image(pixels))
    planes = pixels if pixels.ndim == 3 else pixels[..., None]
    expected = np.rint(np.clip(planes.transpose(2, 0, 1).astype(np.float64), line.lo, line.hi))
    back = denormalise(values, line, np.uint16)
    inside = (planes.transpose(2, 0, 1) > line.lo) & (planes.transpose(2, 0, 1) < line.hi)
    np.testing.assert_array_equal(back[inside], expected[inside])


@settings(deadline=None)  # shared machines pause at any time
@given(arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_any_finite_picture_lands_between_minus_one_and_one(pixels: NDArray[np.float32]) -> None:
    values, line = normalise(image(pixels))
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 1
    assert line.lo <= line.hi
    assert np.isfinite(denormalise(values, line)).all()


def test_rounding_back_is_half_to_even_and_clipped() -> None:
    line = Normalisation("given", 0, 128)
    values = np.array([1 / 128, 3 / 128, 1.0, 5.0, -3.0])
    assert denormalise(values, line, np.uint8).tolist() == [64, 66, 128, 255, 0]

import io
import time
from typing import Literal

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.normalise import normalise
from tasks.publish.png import encode_png, to_grey_levels
from tasks.read.raster import read_raster

Depth = Literal[8, 16]
TOP = {8: 255, 16: 65535}


def picture(channels: int, height: int = 24, width: int = 40, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (channels, height, width)).astype(np.float32)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_written_is_read(channels: int, depth: Depth) -> None:
    image = picture(channels)
    read = read_raster(encode_png(image, depth), max_pixels=10**6)
    expected = np.rint((image.astype(np.float64) + 1) / 2 * TOP[depth])
    assert read.stored_bits == depth
    planes = read.pixels[None] if channels == 1 else read.pixels.transpose(2, 0, 1)
    assert np.abs(planes - expected).max() <= (depth == 16)  # float32 may fall on the other side of a half
    assert (planes == expected).mean() > 0.99


@pytest.mark.parametrize("depth", [8, 16])
def test_every_level_survives(depth: Depth) -> None:
    top = TOP[depth]
    levels = np.arange(top + 1).reshape(1, 16, -1)
    image = (levels / top * 2 - 1).astype(np.float32)
    read = read_raster(encode_png(image, depth), max_pixels=10**6)
    np.testing.assert_array_equal(read.pixels, levels[0])


def test_sixteen_bit_colour_is_sixteen_bits() -> None:
    image = picture(3, 64, 64)
    data = encode_png(image, 16)
    assert data[24:26] == bytes([16, 2])  # depth and colour type in the header
    assert len(np.unique(read_raster(data, max_pixels=10**6).pixels)) > 5000


@pytest.mark.parametrize("depth", [8, 16])
def test_equal_channels_make_a_grey_file(depth: Depth) -> None:
    image = picture(1)
    assert encode_png(np.repeat(image, 3, 0), depth) == encode_png(image, depth)
    two_equal = np.concatenate([image, image, picture(1, seed=1)])
    assert read_raster(encode_png(two_equal, depth), max_pixels=10**6).pixels.shape == (24, 40, 3)


def test_outside_is_clipped_and_halves_go_to_even() -> None:
    image = np.full((1, 16, 16), 9, np.float32)
    image[0, 0, :4] = -5, -1, 0, 1  # 0 lies on 127.5, and on 32767.5
    assert to_grey_levels(image)[0, 0, :5].tolist() == [0, 0, 128, 255, 255]
    deep = read_raster(encode_png(image, 16), max_pixels=10**6).pixels
    assert deep[0, :5].tolist() == [0, 0, 32768, 65535, 65535]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_metrics_see_the_published_picture(channels: int) -> None:
    image = picture(channels) * 1.2
    levels = to_grey_levels(image)
    assert levels.dtype == np.uint8
    published = np.asarray(PIL.Image.open(io.BytesIO(encode_png(image, 8))))
    np.testing.assert_array_equal(levels, published[None] if channels == 1 else published.transpose(2, 0, 1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    image = picture(3)
    image[1, 2, 3] = value
    for call in (lambda: encode_png(image, 8), lambda: encode_png(image, 16), lambda: to_grey_levels(image)):
        with pytest.raises(PairError) as caught:
            call()
        assert caught.value.code == Code.FUSION_FAILED
        assert "1 of 2880" in caught.value.detail


@pytest.mark.parametrize("shape", [(16, 16), (2, 16, 16), (4, 16, 16), (1, 3, 16, 16)])
def test_shapes_that_are_no_picture(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        encode_png(np.zeros(shape, np.float32), 8)
    with pytest.raises(ValueError, match="12"):
        encode_png(np.zeros((1, 16, 16), np.float32), 12)  # type: ignore[arg-type]


def test_the_same_pixels_give_the_same_bytes_whatever_their_layout() -> None:
    image = picture(3)
    strided = np.asfortranarray(image)
    first = encode_png(image, 8)
    assert all(encode_png(other, 8) == first for other in (image.copy(), strided, image.astype(np.float64)))
    assert [first[at : at + 4] for at in (12, 37, len(first) - 8)] == [b"IHDR", b"IDAT", b"IEND"]


@settings(deadline=None)  # shared machines pause at any time
@given(arrays(np.uint8, st.sampled_from([(16, 17), (16, 17, 3)])))
def test_a_picture_of_eight_bits_passes_through_unchanged(pixels: NDArray[np.uint8]) -> None:
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    image = read_raster(encode_png((planes / 127.5 - 1).astype(np.float32), 8), max_pixels=10**6)
    values, _ = normalise(image)
    np.testing.assert_array_equal(to_grey_levels(values), planes[: len(values)])


def test_encoding_is_fast() -> None:
    rows, columns = np.mgrid[:512, :512] / 40
    noise = np.random.default_rng(0).normal(0, 0.02, rows.shape)
    image = np.clip(np.sin(rows) * np.cos(columns) + noise, -1, 1).astype(np.float32)[None]
    spent = []
    for _ in range(5):
        began = time.process_time()
        encode_png(image, 8)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.015

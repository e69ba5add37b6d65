import io
import logging
import re
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import PIL.ImageFile
import pytest
import tifffile
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.read import raster
from tasks.read.raster import RASTER_SUFFIXES, Image, read_raster

Pixels = NDArray[Any]

LIMIT = 10**6
HEIGHT, WIDTH = 40, 56
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
GREY = (128 + 60 * np.sin(COLUMNS / 7) + 50 * np.cos(ROWS / 5) + (ROWS * 7 + COLUMNS * 3) % 11).astype(np.uint8)
RGB = np.stack([GREY, np.roll(GREY, 5, 1), np.roll(GREY, 9, 0)], -1)
GREY16 = GREY.astype(np.uint16) * 64 + 7
RGB16 = RGB.astype(np.uint16) * 257 - np.arange(3, dtype=np.uint16) * 2
ALPHA = ((ROWS + COLUMNS) % 256).astype(np.uint8)


def read(data: bytes, max_pixels: int = LIMIT) -> Image:
    return read_raster(data, max_pixels=max_pixels)


def code_of(data: bytes, max_pixels: int = LIMIT) -> Code:
    with pytest.raises(PairError) as caught:
        read(data, max_pixels)
    return caught.value.code


def save(picture: Pixels | PIL.Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if isinstance(picture, np.ndarray):
        picture = PIL.Image.fromarray(picture)
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def tiff(pixels: Pixels, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows: Pixels, width: int, depth: int, colour: int, *before: bytes) -> bytes:
    """A PNG of packed rows [H, bytes], with chunks put before its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    filtered = np.pad(rows, ((0, 0), (1, 0))).tobytes()
    return (
        b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND", b"")
    )


def pack(values: Pixels, bits: int) -> Pixels:
    """Rows of values below 2^bits, packed into bytes."""
    planes = np.unpackbits(values[..., None].astype(np.uint8), axis=-1)[..., 8 - bits :]
    return np.packbits(planes.reshape(len(values), -1), axis=-1)


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II" if order == "<" else b"MM"
    entry = struct.pack(order + "HHIHH", 274, 3, 1, orientation, 0)
    return b"Exif\0\0" + mark + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


def same(data: bytes, pixels: Pixels, bits: int, file_format: str) -> None:
    image = read(data)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == pixels.dtype
    assert image.pixels.flags.c_contiguous
    assert (image.stored_bits, image.file_format, image.size) == (bits, file_format, pixels.shape[:2])


class TestPng:
    @pytest.mark.parametrize(
        ("data", "pixels", "bits"),
        [
            (save(GREY, "PNG"), GREY, 8),
            (save(RGB, "PNG"), RGB, 8),
            (save(np.dstack([RGB, ALPHA]), "PNG"), RGB, 8),
            (save(np.dstack([GREY, ALPHA]), "PNG"), GREY, 8),
            (save(np.dstack([GREY, GREY, GREY]), "PNG"), GREY, 8),
            (save(GREY, "PNG", transparency=100), GREY, 8),
            (save(RGB, "PNG", transparency=tuple(RGB[0, 0].tolist())), RGB, 8),
            (imagecodecs.png_encode(GREY16), GREY16, 16),
            (imagecodecs.png_encode(RGB16), RGB16, 16),
            (imagecodecs.png_encode(np.dstack([GREY16, GREY16 * 2])), GREY16, 16),
            (imagecodecs.png_encode(np.dstack([RGB16, GREY16])), RGB16, 16),
            (imagecodecs.png_encode(np.dstack([GREY16] * 3)), GREY16, 16),
        ],
    )
    def test_pixels_are_those_stored(self, data: bytes, pixels: Pixels, bits: int) -> None:
        same(data, pixels, bits, "PNG")

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_few_grey_bits_are_stretched(self, bits: int) -> None:
        levels = GREY >> (8 - bits)
        same(png(pack(levels, bits), WIDTH, bits, 0), levels * np.uint8(255 // (2**bits - 1)), bits, "PNG")

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    @pytest.mark.parametrize("coloured", [True, False])
    def test_palettes_are_looked_up(self, bits: int, coloured: bool) -> None:
        levels = GREY >> (8 - bits)
        ramp = np.linspace(250, 3, 2**bits).astype(np.uint8)
        palette = np.stack([ramp, ramp[::-1] if coloured else ramp, ramp], -1)
        transparency = chunk(b"tRNS", b"\x00\x80")
        data = png(pack(levels, bits), WIDTH, bits, 3, chunk(b"PLTE", palette.tobytes()), transparency)
        same(data, palette[levels] if coloured else ramp[levels], 8, "PNG")

    def test_gamma_is_not_applied(self) -> None:
        same(png(GREY, WIDTH, 8, 0, chunk(b"gAMA", struct.pack(">I", 100000))), GREY, 8, "PNG")

    def test_orientation_is_applied(self) -> None:
        same(png(GREY, WIDTH, 8, 0, chunk(b"eXIf", exif(6)[6:])), np.rot90(GREY, -1), 8, "PNG")

    def test_an_animation_is_refused_and_a_single_frame_is_not(self) -> None:
        frames = [PIL.Image.fromarray(np.roll(GREY, shift, 1)) for shift in range(3)]
        assert code_of(save(frames[0], "PNG", save_all=True, append_images=frames[1:])) == Code.MULTI_PAGE
        same(png(GREY, WIDTH, 8, 0, chunk(b"acTL", struct.pack(">II", 1, 0))), GREY, 8, "PNG")

    def test_a_flipped_pixel_bit_is_noticed(self) -> None:
        # Stored, not compressed: the flip would otherwise decode to a picture that differs in one value.
        data = bytearray(save(GREY, "PNG", compress_level=0))
        data[len(data) // 2] ^= 4
        assert code_of(bytes(data)) == Code.DECODE_FAILED

    def test_missing_rows_within_intact_chunks_are_noticed(self) -> None:
        whole = png(GREY, WIDTH, 8, 0)
        half = png(GREY[: HEIGHT // 2], WIDTH, 8, 0)
        assert code_of(whole[:33] + half[33:]) == Code.DECODE_FAILED

    def test_damage_to_an_ancillary_chunk_costs_nothing(self) -> None:
        text = bytearray(chunk(b"tEXt", b"Title\0night"))
        text[-1] ^= 1
        same(png(GREY, WIDTH, 8, 0, bytes(text)), GREY, 8, "PNG")


class TestJpeg:
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("pixels", [GREY, RGB])
    def test_pixels_are_those_of_other_readers(self, pixels: Pixels, progressive: bool) -> None:
        data = save(pixels, "JPEG", quality=85, progressive=progressive)
        expected = np.asarray(PIL.Image.open(io.BytesIO(data)))
        same(data, expected, 8, "JPEG")
        assert np.abs(expected.astype(int) - pixels).mean() < 6

    def test_grey_stored_as_colour_is_grey(self) -> None:
        assert read(save(np.dstack([GREY] * 3), "JPEG")).pixels.shape == GREY.shape

    def test_twelve_bits_are_kept(self) -> None:
        image = read(imagecodecs.jpeg8_encode(GREY.astype(np.uint16) * 16, level=95, bitspersample=12))
        assert image.pixels.dtype == np.uint16
        assert image.stored_bits == 12
        assert np.abs(image.pixels.astype(int) - GREY.astype(int) * 16).mean() < 40

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("orientation", range(10))
    def test_every_orientation_is_undone_as_pillow_does(self, orientation: int, order: str) -> None:
        data = save(GREY, "JPEG", exif=exif(orientation, order))
        expected = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(read(data).pixels, np.asarray(expected))

    def test_damaged_metadata_costs_nothing(self) -> None:
        expected = np.asarray(PIL.Image.open(io.BytesIO(save(GREY, "JPEG"))))
        for block in (exif(6)[:20], exif(6)[:10] + b"\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0XX*\0"):
            np.testing.assert_array_equal(read(save(GREY, "JPEG", exif=block)).pixels, expected)

    def test_cmyk_is_refused(self) -> None:
        assert code_of(save(PIL.Image.fromarray(RGB).convert("CMYK"), "JPEG")) == Code.CMYK

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("pixels", [GREY, RGB])
    @pytest.mark.parametrize("part", [0.1, 0.5, 0.8])
    def test_a_lost_end_is_noticed_even_when_the_end_mark_was_put_back(
        self, pixels: Pixels, progressive: bool, part: float
    ) -> None:
        data = save(pixels, "JPEG", quality=90, progressive=progressive)
        start = data.rindex(b"\xff\xda") + 12
        cut = data[: start + int((len(data) - start) * part)].rstrip(b"\xff")
        assert code_of(cut) == Code.TRUNCATED
        assert code_of(cut + bytes(len(data) - len(cut))) == Code.TRUNCATED
        assert code_of(cut + b"\xff\xd9") == Code.TRUNCATED

    def test_restart_marks_are_no_ends(self) -> None:
        data = save(RGB, "JPEG", quality=80, restart_marker_blocks=2)
        assert b"\xff\xd3" in data
        same(data, np.asarray(PIL.Image.open(io.BytesIO(data))), 8, "JPEG")

    @pytest.mark.parametrize("subsampling", [0, 2])
    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("pixels", [GREY, RGB])
    def test_an_end_lost_between_restart_marks_is_noticed(
        self, pixels: Pixels, progressive: bool, subsampling: int
    ) -> None:
        options = {"restart_marker_blocks": 1, "progressive": progressive, "subsampling": subsampling}
        data = save(pixels, "JPEG", **options)
        same(data, np.asarray(PIL.Image.open(io.BytesIO(data))), 8, "JPEG")
        for kept in (1, 3, 9):
            scan = data.rindex(b"\xff\xda")
            marks = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data[scan:])]
            assert code_of(data[: scan + marks[-kept]] + b"\xff\xd9") == Code.TRUNCATED

    def test_a_preview_inside_and_a_tail_behind_are_ignored(self) -> None:
        plain = save(GREY, "JPEG")
        preview = save(GREY[:20, :20], "JPEG")
        data = plain[:2] + b"\xff\xe5" + struct.pack(">H", len(preview) + 2) + preview + plain[2:] + preview
        np.testing.assert_array_equal(read(data).pixels, read(plain).pixels)

    def test_a_bomb_of_scans_is_refused(self) -> None:
        data = save(RGB, "JPEG", progressive=True)
        scan = data[data.rindex(b"\xff\xda") : -2]
        assert code_of(data[:-2] + scan * 120 + b"\xff\xd9") == Code.DECODE_FAILED


class TestTiff:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"byteorder": ">"},
            {"bigtiff": True},
            {"bigtiff": True, "byteorder": ">"},
            {"rowsperstrip": 7},
            {"tile": (16, 32)},
            {"compression": "lzw", "rowsperstrip": 7},
            {"compression": "zlib", "tile": (16, 16), "byteorder": ">"},
            {"compression": "zlib", "predictor": True},
            {"compression": "packbits"},
            {"compression": "zstd"},
            {"compression": "lzma"},
        ],
    )
    @pytest.mark.parametrize(
        "pixels", [GREY, RGB, GREY16, RGB16, GREY16.astype(np.float32) / 9 - 50, RGB.astype(np.float32) / 255]
    )
    def test_layouts(self, options: dict[str, Any], pixels: Pixels) -> None:
        if options.get("predictor") and pixels.dtype.kind == "f":
            options = {**options, "predictor": 3}
        photometric = "rgb" if pixels.ndim == 3 else "minisblack"
        same(tiff(pixels, photometric=photometric, **options), pixels, pixels.itemsize * 8, "TIFF")

    @pytest.mark.parametrize("pixels", [RGB, RGB16])
    @pytest.mark.parametrize("options", [{}, {"compression": "lzw", "rowsperstrip": 9}, {"tile": (16, 16)}])
    def test_planes_stored_one_after_the_other(self, pixels: Pixels, options: dict[str, Any]) -> None:
        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        data = tiff(planes, photometric="rgb", planarconfig="separate", **options)
        same(data, pixels, pixels.itemsize * 8, "TIFF")

    def test_fourteen_bits_within_sixteen_are_kept(self) -> None:
        assert GREY16.max() < 2**14
        same(tiff(GREY16, metadata=None), GREY16, 16, "TIFF")

    @pytest.mark.parametrize("bits", [10, 12, 14])
    def test_packed_bits(self, bits: int) -> None:
        values = (GREY16 % 2**bits).astype(np.uint16)
        planes = np.unpackbits(values[..., None].astype(">u2").view(np.uint8), axis=-1)[..., 16 - bits :]
        packed = np.packbits(planes.reshape(HEIGHT, -1), axis=-1).tobytes()
        same(handmade_tiff(packed, {258: bits}), values, bits, "TIFF")

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    @pytest.mark.parametrize("inverted", [False, True])
    def test_few_bits_and_inverted_grey(self, bits: int, inverted: bool) -> None:
        levels = GREY >> (8 - bits)
        data = handmade_tiff(pack(levels, bits).tobytes(), {258: bits, 262: 0 if inverted else 1})
        bright = levels * np.uint8(255 // (2**bits - 1))
        same(data, 255 - bright if inverted else bright, bits, "TIFF")

    def test_inverted_sixteen_bits(self) -> None:
        same(tiff(GREY16, photometric="miniswhite"), 65535 - GREY16, 16, "TIFF")

    @pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "raw"])
    def test_fax_compressions(self, compression: str) -> None:
        bilevel = PIL.Image.fromarray(GREY).convert("1")
        expected = np.asarray(bilevel.convert("L"))
        same(save(bilevel, "TIFF", compression=compression), expected, 1, "TIFF")

    def test_palettes_of_sixteen_and_of_eight_bits(self) -> None:
        ramp = np.arange(256, dtype=np.uint16)
        for scale in (257, 1):
            palette = np.stack([ramp, ramp[::-1], ramp // 2]) * np.uint16(scale)
            data = tiff(GREY, photometric="palette", colormap=palette)
            same(data, np.stack([GREY, 255 - GREY, GREY // 2], -1), 8, "TIFF")

    @pytest.mark.parametrize("pixels", [GREY, RGB])
    def test_jpeg_within_tiff(self, pixels: Pixels) -> None:
        data = save(pixels, "TIFF", compression="jpeg", quality=95)
        same(data, np.asarray(PIL.Image.open(io.BytesIO(data))), 8, "TIFF")
        model = "rgb" if pixels.ndim == 3 else "minisblack"
        tiled = tiff(pixels, photometric=model, compression="jpeg", compressionargs={"level": 98}, tile=(16, 32))
        for image in (read(data), read(tiled)):
            assert np.abs(image.pixels.astype(int) - pixels).mean() < 4

    def test_half_a_jpeg_strip_is_noticed(self) -> None:
        data = bytearray(tiff(GREY, compression="jpeg", photometric="minisblack"))
        end = data.rindex(b"\xff\xd9")
        data[end:] = bytes(len(data) - end)
        assert code_of(bytes(data)) == Code.TRUNCATED

    @pytest.mark.parametrize("kind", ["unassalpha", "unspecified"])
    def test_alpha_is_dropped(self, kind: str) -> None:
        same(tiff(np.dstack([RGB, ALPHA]), photometric="rgb", extrasamples=[kind]), RGB, 8, "TIFF")

    def test_grey_with_alpha(self) -> None:
        data = tiff(np.dstack([GREY16, GREY16]), photometric="minisblack", planarconfig=1, extrasamples=["unassalpha"])
        same(data, GREY16, 16, "TIFF")

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_colour_multiplied_by_alpha_is_divided_by_it(self, dtype: type) -> None:
        top = 1 if dtype is np.float32 else np.iinfo(dtype).max
        alpha = np.where(COLUMNS < 10, 0, np.where(COLUMNS < 30, 0.5, 1))[..., None]
        colour = RGB / 255
        stored = np.concatenate([colour * alpha, alpha], -1) * top
        stored = (stored if dtype is np.float32 else np.rint(stored)).astype(dtype)
        image = read(tiff(stored, photometric="rgb", extrasamples=["assocalpha"]))
        np.testing.assert_allclose(image.pixels[:, 10:] / top, colour[:, 10:], atol=0.008)
        assert not image.pixels[:, :10].any()
        np.testing.assert_array_equal(image.pixels[:, 30:], stored[:, 30:, :3])

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation_is_undone_as_pillow_does(self, orientation: int) -> None:
        # Pillow turns a TIFF upright by itself when it loads it.
        data = tiff(GREY, extratags=[(274, "H", 1, orientation, True)])
        np.testing.assert_array_equal(read(data).pixels, np.asarray(PIL.Image.open(io.BytesIO(data))))

    def test_signed_and_wide_values_become_float32(self) -> None:
        hounsfield = GREY.astype(np.int16) * 10 - 1024
        same(tiff(hounsfield), hounsfield.astype(np.float32), 16, "TIFF")
        same(tiff(GREY / 3), (GREY / 3).astype(np.float32), 64, "TIFF")
        same(tiff(GREY.astype(np.float16)), GREY.astype(np.float32), 16, "TIFF")

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite(self, value: float) -> None:
        pixels = GREY.astype(np.float32)
        pixels[3, 4] = value
        assert code_of(tiff(pixels)) == Code.NOT_FINITE
        assert code_of(tiff(np.full((20, 20), 1e300))) == Code.NOT_FINITE

    @pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint32, np.int64, np.complex64])
    def test_types_without_a_meaning_here(self, dtype: type) -> None:
        assert code_of(tiff(GREY.astype(dtype))) == Code.PIXELS_UNSUPPORTED

    def test_colour_models_without_a_meaning_here(self) -> None:
        assert code_of(tiff(np.dstack([RGB, GREY]), photometric="separated")) == Code.CMYK
        assert code_of(tiff(RGB, photometric="cielab")) == Code.PIXELS_UNSUPPORTED
        assert code_of(tiff(GREY, photometric="cfa")) == Code.PIXELS_UNSUPPORTED
        assert code_of(tiff(GREY.astype(np.float32), photometric="miniswhite")) == Code.PIXELS_UNSUPPORTED
        bands = tiff(np.dstack([RGB, RGB]), photometric="minisblack", planarconfig=1)
        assert code_of(bands) == Code.PIXELS_UNSUPPORTED

    def test_a_missing_colour_model_is_guessed(self) -> None:
        same(handmade_tiff(GREY.tobytes(), {262: None}), GREY, 8, "TIFF")
        same(handmade_tiff(RGB.tobytes(), {262: None, 277: 3}), RGB, 8, "TIFF")

    def test_unknown_compressions(self) -> None:
        assert code_of(handmade_tiff(GREY.tobytes(), {259: 32809})) == Code.CODEC_MISSING
        assert code_of(tiff(GREY, compression="jpeg2000")) == Code.CODEC_MISSING

    def test_pages_frames_and_planes(self) -> None:
        assert code_of(tiff(np.stack([GREY, GREY]))) == Code.MULTI_PAGE
        assert code_of(tiff(np.stack([GREY, GREY]), imagej=True)) == Code.MULTI_PAGE
        assert code_of(tiff(np.stack([GREY] * 16), volumetric=True, tile=(16, 16, 16))) == Code.MULTI_PAGE
        one_directory = tiff(np.stack([GREY, GREY]), metadata=None, description="ImageJ=1.11a\nimages=2\n")
        assert code_of(one_directory) == Code.MULTI_PAGE

    def test_reduced_copies_and_masks_are_no_pages(self) -> None:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(GREY, metadata=None)
            writer.write(GREY[::2, ::2], subfiletype=1, metadata=None)
            writer.write(GREY[::2, ::2] > 99, subfiletype=4, metadata=None)
        same(buffer.getvalue(), GREY, 8, "TIFF")
        assert code_of(tiff(GREY, subfiletype=1)) == Code.PIXELS_UNSUPPORTED

    def test_a_chain_of_directories_that_bites_its_tail_ends(self) -> None:
        data = bytearray(tiff(GREY, metadata=None))
        (directory,) = struct.unpack_from("<I", data, 4)
        (entries,) = struct.unpack_from("<H", data, directory)
        struct.pack_into("<I", data, directory + 2 + 12 * entries, directory)
        assert code_of(bytes(data)) == Code.MULTI_PAGE

    @pytest.mark.parametrize("bigtiff", [False, True])
    def test_a_lost_second_page_is_noticed(self, bigtiff: bool) -> None:
        data = tiff(np.stack([GREY, GREY]), metadata=None, bigtiff=bigtiff)
        assert code_of(data) == Code.MULTI_PAGE
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            second = file.pages[1].offset
        assert code_of(data[:second]) == Code.TRUNCATED

    def test_equal_tiles_may_share_their_bytes_and_others_may_not(self) -> None:
        tiles = {273: None, 278: None, 279: None, 256: 64, 257: 64, 322: 16, 323: 16}
        shared = handmade_tiff(bytes(256), {**tiles, 324: [250] * 16, 325: [256] * 16})
        assert read(shared).size == (64, 64)
        endless = handmade_tiff(bytes(90_000), {**tiles, 324: [250] * 16, 325: [80_000] * 16})
        assert code_of(endless) == Code.DECODE_FAILED

    def test_more_than_can_be_held_is_refused(self) -> None:
        wide = np.zeros((2000, 2000, 3), np.float64)
        assert code_of(tiff(wide, photometric="rgb", compression="zlib"), 5 * 10**6) == Code.TOO_LARGE
        assert read(tiff(wide, photometric="rgb", compression="zlib"), 12 * 10**6).size == (2000, 2000)

    def test_strips_beyond_number_are_refused(self) -> None:
        count = 300_000
        data = handmade_tiff(bytes(16), {256: 16, 257: count, 278: 1, 273: [8] * count, 279: [16] * count})
        assert code_of(data, 10**7) == Code.DECODE_FAILED

    def test_tags_that_contradict_each_other(self) -> None:
        tiled: dict[int, int | list[int] | None] = {273: None, 278: None, 279: None, 324: 200, 325: 99, 323: 2**24}
        assert code_of(handmade_tiff(GREY.tobytes(), {**tiled, 322: [16] * 9000})) == Code.DECODE_FAILED
        assert code_of(handmade_tiff(GREY.tobytes(), {**tiled, 322: 0})) == Code.DECODE_FAILED
        same(handmade_tiff(GREY.tobytes(), {338: 1}), GREY, 8, "TIFF")

    def test_strips_that_are_not_there(self) -> None:
        strips = {278: 10, 273: [200, 200, 200, 200], 279: [560, 560, 560, 560]}
        pixels = GREY.tobytes()
        assert read(handmade_tiff(pixels, strips)).size == (HEIGHT, WIDTH)
        assert code_of(handmade_tiff(pixels, {**strips, 279: [560, 560, 0, 560]})) == Code.TRUNCATED
        assert code_of(handmade_tiff(pixels, {**strips, 279: [560, 560, 9999, 560]})) == Code.TRUNCATED
        assert code_of(handmade_tiff(pixels, {**strips, 273: [200, 200, 200], 279: [560] * 3})) == Code.TRUNCATED
        assert code_of(handmade_tiff(pixels, {**strips, 279: [560, 560, 99, 560]})) == Code.DECODE_FAILED


def handmade_tiff(pixels: bytes, tags: dict[int, int | list[int] | None]) -> bytes:
    """A little-endian TIFF [HEIGHT, WIDTH], 8 bits unless ``tags`` says otherwise; None leaves a tag out."""
    every: dict[int, int | list[int] | None] = {
        256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 273: 0, 277: 1, 278: HEIGHT, 279: len(pixels), **tags
    }  # fmt: skip
    kept = {tag: value if isinstance(value, list) else [value] for tag, value in every.items() if value is not None}
    directory = 8
    behind = directory + 2 + 12 * len(kept) + 4
    lists = {}
    tail = b""
    for tag, values in kept.items():
        if len(values) > 1:
            lists[tag] = behind + len(tail)
            tail += struct.pack(f"<{len(values)}I", *values)
    start = behind + len(tail)
    if kept.get(273) == [0]:
        kept[273] = [start]
    entries = b"".join(
        struct.pack("<HHII", tag, 4, len(values), lists.get(tag, values[0])) for tag, values in sorted(kept.items())
    )
    return b"II*\0" + struct.pack("<IH", directory, len(kept)) + entries + bytes(4) + tail + pixels


class TestBmp:
    @pytest.mark.parametrize(
        ("picture", "pixels"),
        [
            (GREY, GREY),
            (RGB, RGB),
            (np.dstack([RGB, ALPHA]), RGB),
            (PIL.Image.fromarray(GREY).convert("1"), np.asarray(PIL.Image.fromarray(GREY).convert("1").convert("L"))),
        ],
    )
    def test_pixels_are_those_stored(self, picture: Any, pixels: Pixels) -> None:
        same(save(picture, "BMP"), pixels, 8, "BMP")

    def test_palette(self) -> None:
        picture = PIL.Image.fromarray(RGB).quantize(16)
        same(save(picture, "BMP"), np.asarray(picture.convert("RGB")), 8, "BMP")

    def test_top_row_first(self) -> None:
        data = bytearray(save(RGB, "BMP"))
        struct.pack_into("<i", data, 22, -HEIGHT)
        same(bytes(data), RGB[::-1].copy(), 8, "BMP")

    def test_run_lengths(self) -> None:
        side = 16
        header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, side * 4 + 2, 0, 0, 256, 0)
        palette = b"".join(bytes([level, level, level, 0]) for level in range(256))
        rows = b"".join(bytes([10, row, 6, 200, 0, 0]) for row in range(side)) + b"\0\1"
        start = 14 + len(header) + len(palette)
        data = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows
        expected = np.full((side, side), 200, np.uint8)
        expected[:, :10] = np.arange(side, dtype=np.uint8)[::-1, None]
        same(data, expected, 8, "BMP")
        assert code_of(data[:-40]) == Code.TRUNCATED

    def test_pictures_of_other_formats_inside(self) -> None:
        data = bytearray(save(RGB, "BMP"))
        struct.pack_into("<I", data, 30, 4)
        assert code_of(bytes(data)) == Code.CODEC_MISSING


class TestWebp:
    @pytest.mark.parametrize("pixels", [GREY, RGB])
    def test_lossless_pixels_are_those_stored(self, pixels: Pixels) -> None:
        same(save(pixels, "WEBP", lossless=True), pixels, 8, "WebP")

    def test_lossy_pixels_are_those_of_other_readers(self) -> None:
        data = save(RGB, "WEBP", quality=80)
        same(data, np.asarray(PIL.Image.open(io.BytesIO(data))), 8, "WebP")

    def test_alpha_is_dropped(self) -> None:
        same(save(np.dstack([RGB, ALPHA]), "WEBP", lossless=True, exact=True), RGB, 8, "WebP")

    def test_orientation_is_applied(self) -> None:
        same(save(GREY, "WEBP", lossless=True, exif=exif(8)[6:]), np.rot90(GREY), 8, "WebP")

    def test_an_animation_is_refused(self) -> None:
        frames = [PIL.Image.fromarray(np.roll(RGB, shift, 1)) for shift in range(3)]
        assert code_of(save(frames[0], "WEBP", save_all=True, append_images=frames[1:])) == Code.MULTI_PAGE


class TestGif:
    @pytest.mark.parametrize("interlace", [False, True])
    def test_pixels_are_those_stored(self, interlace: bool) -> None:
        same(save(GREY, "GIF", interlace=interlace), GREY, 8, "GIF")
        picture = PIL.Image.fromarray(RGB).quantize(64)
        same(save(picture, "GIF", transparency=3), np.asarray(picture.convert("RGB")), 8, "GIF")

    def test_an_animation_is_refused(self) -> None:
        frames = [PIL.Image.fromarray(np.roll(GREY, shift, 1)) for shift in range(3)]
        assert code_of(save(frames[0], "GIF", save_all=True, append_images=frames[1:])) == Code.MULTI_PAGE


SAMPLES: dict[str, bytes] = {
    "png": save(GREY, "PNG"),
    "png palette": save(PIL.Image.fromarray(RGB).quantize(16), "PNG"),
    "png 16": imagecodecs.png_encode(RGB16),
    "jpeg": save(RGB, "JPEG"),
    "jpeg progressive": save(RGB, "JPEG", progressive=True),
    "tiff": tiff(RGB, photometric="rgb", rowsperstrip=7),
    "tiff 16": tiff(GREY16, byteorder=">"),
    "tiff lzw": tiff(RGB, photometric="rgb", compression="lzw"),
    "tiff deflate": tiff(GREY16, compression="zlib", predictor=True, tile=(16, 16)),
    "tiff float": tiff(GREY.astype(np.float32), compression="zlib", predictor=3),
    "tiff jpeg": tiff(RGB, photometric="rgb", compression="jpeg", tile=(16, 32)),
    "tiff fax": save(PIL.Image.fromarray(GREY).convert("1"), "TIFF", compression="group4"),
    "tiff palette": save(PIL.Image.fromarray(RGB).quantize(16), "TIFF"),
    "bmp": save(RGB, "BMP"),
    "bmp palette": save(PIL.Image.fromarray(RGB).quantize(16), "BMP"),
    "webp": save(RGB, "WEBP"),
    "webp lossless": save(np.dstack([RGB, ALPHA]), "WEBP", lossless=True),
    "gif": save(GREY, "GIF"),
}


class TestDamage:
    @pytest.mark.parametrize("name", SAMPLES)
    def test_a_file_cut_anywhere_is_truncated(self, name: str) -> None:
        data = SAMPLES[name]
        for length in range(len(data) - 1, 12, -max(1, len(data) // 60)):
            assert code_of(data[:length]) == Code.TRUNCATED, length

    @pytest.mark.parametrize("name", ["png", "jpeg", "bmp", "gif"])
    def test_leniency_switched_on_elsewhere_does_not_matter(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PIL.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        assert code_of(SAMPLES[name][:-40]) == Code.TRUNCATED

    @pytest.mark.parametrize(
        "data", [b"no picture at all", b"\0" * 500, b"%PDF-1.7\n" + b"x" * 99, b"BM", b"\x89PNG", b"\xff\xd8", b"RIFF"]
    )
    def test_what_is_not_a_picture(self, data: bytes) -> None:
        assert code_of(data) in (Code.DECODE_FAILED, Code.TRUNCATED)

    def test_an_empty_file_is_truncated(self) -> None:
        assert code_of(b"") == Code.TRUNCATED

    def test_mutations_give_a_picture_or_a_reason(self) -> None:
        logging.getLogger("tifffile").setLevel(logging.CRITICAL)
        generator = np.random.default_rng(20)
        heads = list(SAMPLES.values())
        began = time.process_time()
        for data in SAMPLES.values():
            for _ in range(300):
                mutated = mutate(data, heads, generator)
                try:
                    image = read(mutated)
                except PairError:
                    continue
                assert image.pixels.dtype in (np.uint8, np.uint16, np.float32)
                assert image.pixels.shape[2:] in ((), (3,))
                assert np.isfinite(image.pixels).all()
        assert time.process_time() - began < 30

    def test_running_out_of_memory_is_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(data: bytes) -> None:
            raise MemoryError

        monkeypatch.setattr(imagecodecs, "png_decode", fail)
        assert code_of(SAMPLES["png"]) == Code.OUT_OF_MEMORY
        monkeypatch.setattr(raster, "_is_grey", fail)
        assert code_of(SAMPLES["jpeg"]) == Code.OUT_OF_MEMORY

    def test_a_codec_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(data: bytes) -> None:
            raise ImportError("no module")

        monkeypatch.setattr(imagecodecs, "webp_decode", fail)
        assert code_of(SAMPLES["webp"]) == Code.CODEC_MISSING


def mutate(data: bytes, heads: list[bytes], generator: np.random.Generator) -> bytes:
    """Flip bits, overwrite header bytes, cut, drop a piece, swap the head, or write a huge number."""
    changed = bytearray(data)

    def place(end: int = len(data)) -> int:
        return int(generator.integers(0, end))

    match generator.integers(0, 6):
        case 0:
            return data[: place()]
        case 1:
            for _ in range(place(3) + 1):
                changed[place()] ^= 1 << place(8)
        case 2:
            for _ in range(place(5) + 1):
                changed[place(min(400, len(data)))] = place(256)
        case 3:
            start, end = sorted((place(), place()))
            del changed[start:end]
        case 4:
            length = 4 + place(60)
            changed[:length] = heads[place(len(heads))][:length]
        case _:
            start = place()
            changed[start : start + 4] = b"\xff\xff\xff" + bytes([place(256)])
    return bytes(changed)


def bigger_png() -> bytes:
    data = bytearray(save(GREY, "PNG"))
    struct.pack_into(">II", data, 16, 60000, 60000)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return bytes(data)


def bigger_jpeg() -> bytes:
    data = bytearray(save(GREY, "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 60000, 60000)
    return bytes(data)


def bigger_bmp() -> bytes:
    data = bytearray(save(GREY, "BMP"))
    struct.pack_into("<ii", data, 18, 60000, 60000)
    return bytes(data)


def bigger_webp() -> bytes:
    data = bytearray(save(RGB, "WEBP"))
    struct.pack_into("<HH", data, data.index(b"\x9d\x01\x2a") + 3, 16000, 16000)
    return bytes(data)


def bigger_gif() -> bytes:
    data = bytearray(save(GREY, "GIF"))
    struct.pack_into("<HH", data, 6, 60000, 60000)
    return bytes(data)


class TestSize:
    @pytest.mark.parametrize(
        "make",
        [
            bigger_png,
            bigger_jpeg,
            bigger_bmp,
            bigger_webp,
            bigger_gif,
            lambda: handmade_tiff(GREY.tobytes(), {256: 60000, 257: 60000}),
            lambda: handmade_tiff(
                GREY.tobytes(), {273: None, 279: None, 278: None, 324: 0, 325: 9, 322: 65536, 323: 65536}
            ),
        ],
    )
    def test_bombs_are_refused_by_their_header(self, make: Callable[[], bytes]) -> None:
        data = make()
        began = time.process_time()
        assert code_of(data) == Code.TOO_LARGE
        assert time.process_time() - began < 0.5

    def test_a_bomb_within_a_tiff_strip_is_refused(self) -> None:
        assert code_of(handmade_tiff(bigger_jpeg(), {259: 7})) == Code.DECODE_FAILED

    @pytest.mark.parametrize("name", SAMPLES)
    def test_the_limit_is_exact_and_nobody_elses(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
        assert read(SAMPLES[name], HEIGHT * WIDTH).size == (HEIGHT, WIDTH)
        assert code_of(SAMPLES[name], HEIGHT * WIDTH - 1) == Code.TOO_LARGE

    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"])
    def test_sixteen_pixels_a_side_are_needed(self, file_format: str) -> None:
        assert read(save(RGB[:16, :16], file_format)).size == (16, 16)
        assert code_of(save(RGB[:15], file_format)) == Code.TOO_SMALL
        assert code_of(save(RGB[:, :15], file_format)) == Code.TOO_SMALL


def test_threads_do_not_disturb_each_other() -> None:
    files = list(SAMPLES.values()) * 8
    expected = [read(data).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        for pixels, image in zip(expected, pool.map(read, files), strict=True):
            np.testing.assert_array_equal(image.pixels, pixels)


def test_the_name_does_not_matter_but_the_index_needs_endings() -> None:
    assert {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"} <= RASTER_SUFFIXES
    assert all(suffix == suffix.lower() for suffix in RASTER_SUFFIXES)

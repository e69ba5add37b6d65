"""TIFF and BigTIFF to samples."""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import tifffile

from tasks.codes import Code, PairError
from tasks.read.decoding import Decoded, Pixels, check_size, decode, unpack
from tasks.read.jpeg import parse_jpeg

_COMPRESSIONS: Final = {
    1: "none",
    2: "CCITT RLE",
    3: "CCITT T.4",
    4: "CCITT T.6",
    5: "LZW",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate, old",
    34925: "LZMA",
    34926: "Zstandard, old",
    50000: "Zstandard",
}
"""Those whose output size is known before they run; a picture format within a strip could claim any size."""
_JPEG: Final = 7
_MAX_PAGES: Final = 32
"""Reduced copies and masks beside the picture, as pyramids have them; more is a loop or a stack."""
_MAX_SAMPLES: Final = 16
_BYTES_PER_PIXEL: Final = 8
"""Of ``max_pixels``, for all samples: colour and alpha of 16 bits, or grey of 64."""
_ROOM: Final = 2**22
"""Pixels that are always granted: a tile may exceed a small picture, so a low ``max_pixels`` does not bound it."""
_MAX_SEGMENTS: Final = 2**18
"""Strips or tiles. Each costs some microseconds, however small; tiles of 16 x 16 for 50 million pixels are 195,364."""
_MAX_JPEG_TABLES: Final = 2**16
"""Bytes, read anew for each strip or tile. Four tables of each kind take less than 2,500."""
_JPEG_MARGIN: Final = 32
"""Pixels by which a JPEG may exceed its strip or tile: one of its units, at most."""
_ALPHA_BLOCK: Final = 2**20
"""Samples that are divided by their alpha at a time."""
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2


def read_tiff(data: bytes, max_pixels: int) -> Decoded:
    """TIFF and BigTIFF: tifffile reads the tags and undoes one strip or tile at a time, after checks of its place.

    tifffile's own ``asarray`` is not used: it fills strips that are empty or absent.
    """
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    offset_layout, count_layout, entry_bytes = ("Q", "Q", 20) if big else ("I", "H", 12)
    (directory,) = unpack(order + offset_layout, data, 8 if big else 4)
    # tifffile takes a chain that leads out of the file for its end; then pages are missing.
    for _ in range(_MAX_PAGES + 1):
        (entries,) = unpack(order + count_layout, data, directory)
        link = directory + struct.calcsize(count_layout) + entry_bytes * entries
        (directory,) = unpack(order + offset_layout, data, link)
        if directory == 0:
            break
    return decode(_picture, data, max_pixels)


def _picture(data: bytes, max_pixels: int) -> Decoded:
    """The picture in a TIFF. tifffile reads tags when they are asked for, so damaged ones raise from anywhere here."""
    # These three kinds make tifffile walk all directories as it opens the file, however many there are.
    with tifffile.TiffFile(io.BytesIO(data), is_lsm=False, is_ndpi=False, is_scanimage=False) as tiff:
        page = _page(tiff)
        check_size(int(page.imagewidth), int(page.imagelength), max_pixels)
        photometric = _photometric(page)
        samples = _samples(page, data, max(max_pixels, _ROOM))
        bits = 8 if photometric == _PALETTE else int(page.bitspersample)
        orientation = page.tags.valueof(274, 1)
        return Decoded(_colours(page, samples, photometric), bits, orientation if orientation in range(1, 9) else 1)


def _page(tiff: Any) -> Any:
    """The one full picture of a TIFF; reduced copies and masks beside it do not count."""
    full = []
    for index in range(_MAX_PAGES + 1):
        try:
            page = tiff.pages[index]
        except IndexError:
            break
        if not page.subfiletype & 0b101:
            full.append(page)
        if len(full) > 1 or index == _MAX_PAGES:
            raise PairError(Code.MULTI_PAGE, f"{index + 1} pages or more")
    if not full:
        raise PairError(Code.PIXELS_UNSUPPORTED, "a TIFF of reduced copies only, as cameras' raw files are")
    planes = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
    planes = max(planes, int(full[0].imagedepth))
    if planes > 1:
        raise PairError(Code.MULTI_PAGE, f"{planes} planes in one page")
    return full[0]


def _photometric(page: Any) -> int:
    """The colour model, one of MINISWHITE, MINISBLACK, RGB (also YCbCr within JPEG) and PALETTE.

    Raises:
        PairError: CMYK, PIXELS_UNSUPPORTED or CODEC_MISSING for what cannot be read.
    """
    compression, samples, bits = int(page.compression), int(page.samplesperpixel), page.bitspersample
    if compression not in _COMPRESSIONS:
        raise PairError(Code.CODEC_MISSING, f"TIFF compression {compression}")
    # tifffile takes an absent colour model for MINISWHITE; libtiff guesses from the samples.
    guess = _RGB if samples >= 3 else _MINISBLACK
    photometric = int(page.photometric) if 262 in page.tags else guess
    if photometric == _SEPARATED:
        raise PairError(Code.CMYK, f"TIFF of {samples} inks")
    if photometric == _YCBCR and compression == _JPEG:
        photometric = _RGB  # libjpeg converts
    dtype = page.dtype
    supported = dtype is not None and (
        (dtype.kind in "ub" and bits in (1, 2, 4, 8, 10, 12, 14, 16)) or dtype.kind == "f" or dtype == np.int16
    )
    if not supported or not 1 <= samples <= _MAX_SAMPLES:
        raise PairError(
            Code.PIXELS_UNSUPPORTED, f"{samples} samples of {bits} bits, TIFF sample format {int(page.sampleformat)}"
        )
    extra = tuple(int(kind) for kind in page.extrasamples)
    grey = samples == 1 or (samples == 2 and extra in ((_ASSOCIATED_ALPHA,), (_UNASSOCIATED_ALPHA,)))
    known = {
        _MINISBLACK: grey,
        # The largest value is what white is inverted about; only unsigned integers have one.
        _MINISWHITE: grey and dtype.kind in "ub",
        _RGB: samples >= 3,
        _PALETTE: samples == 1 and dtype.kind in "ub" and bits <= 8,
    }
    if not known.get(photometric, False):
        raise PairError(
            Code.PIXELS_UNSUPPORTED, f"TIFF colour model {photometric}, {samples} samples of {bits} bits, {dtype}"
        )
    return photometric


@dataclass(frozen=True)
class _Segments:
    """Strips or tiles.

    Attributes:
        down, across: rows and columns of each; what lies beyond the picture's edge is padding.
        places: (offset, length) of each, in bytes.
    """

    down: int
    across: int
    places: tuple[tuple[int, int], ...]


def _segments(page: Any, data: bytes, room: int) -> _Segments:
    """Where the strips or tiles lie, after a check of what they would cost.

    Raises:
        PairError: TRUNCATED when one is missing, empty or beyond the end; TOO_LARGE for more samples than ``room``
            pixels may have; DECODE_FAILED for more strips, or longer ones, than the picture can need.
    """
    separate, _, height, width, together = page.shaped
    # A damaged tag may be a tuple of any length, hence int().
    down = int(page.tilelength if page.is_tiled else page.rowsperstrip)
    across, deep = (int(page.tilewidth), int(page.tiledepth)) if page.is_tiled else (width, 1)
    rows, columns = math.ceil(height / down), math.ceil(width / across)
    count = rows * columns * separate
    sample_bytes = int(page.dtype.itemsize)
    picture_bytes = height * width * separate * together * sample_bytes
    one, every = down * across * deep, rows * down * columns * across * deep
    # A decoder holds a strip or tile twice at times, besides the picture.
    limit = room * _BYTES_PER_PIXEL // (1 if count == 1 else 2)
    if picture_bytes > room * _BYTES_PER_PIXEL:
        raise PairError(
            Code.TOO_LARGE, f"{picture_bytes} bytes of TIFF samples, max_pixels allows {room * _BYTES_PER_PIXEL}"
        )
    if one * together * sample_bytes > limit or every > 2 * room:
        raise PairError(Code.TOO_LARGE, f"TIFF strips or tiles of {across} x {down}")
    if count > _MAX_SEGMENTS:
        raise PairError(Code.DECODE_FAILED, f"{count} TIFF strips or tiles, more than {_MAX_SEGMENTS}")
    places = tuple(zip(page.dataoffsets, page.databytecounts, strict=False))[:count]
    if len(places) < count:
        raise PairError(Code.TRUNCATED, f"{len(places)} of {count} TIFF strips or tiles")
    for index, (offset, length) in enumerate(places):
        if length == 0 or offset + length > len(data):
            raise PairError(Code.TRUNCATED, f"{len(data)} bytes, TIFF strip or tile {index} ends at {offset + length}")
    # Equal tiles may share their bytes, but then they are short.
    stored = sum(length for _, length in places)
    if stored > len(data) + every * separate * together * sample_bytes:
        raise PairError(Code.DECODE_FAILED, f"TIFF strips or tiles of {stored} bytes in a file of {len(data)}")
    return _Segments(down, across, places)


def _samples(page: Any, data: bytes, room: int) -> Pixels:
    """[H, W, samples] as stored, every strip or tile present and complete.

    Raises:
        PairError: as :func:`_segments`; DECODE_FAILED for a strip or tile of another size than the tags say.
    """
    separate, _, height, width, together = page.shaped
    segments = _segments(page, data, room)
    if len(segments.places) == 1:
        only, _ = _segment(page, data, 0, segments)
        return only if only.flags.writeable else only.copy()
    samples: Pixels = np.empty((separate, height, width, together), page.dtype)
    for index in range(len(segments.places)):
        inside, (plane, top, left) = _segment(page, data, index, segments)
        samples[plane, top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    if separate > 1:
        return samples[..., 0].transpose(1, 2, 0)
    first: Pixels = samples[0]
    return first


def _segment(page: Any, data: bytes, index: int, segments: _Segments) -> tuple[Pixels, tuple[int, int, int]]:
    """A strip or tile [rows, columns, samples], cut at the picture's edge, and its plane, top and left."""
    _, _, height, width, together = page.shaped
    offset, length = segments.places[index]
    encoded = data[offset : offset + length]
    tables = page.jpegtables
    if page.compression == _JPEG:
        _check_jpeg(encoded, segments)
        if tables is not None and len(tables) > _MAX_JPEG_TABLES:
            raise PairError(Code.DECODE_FAILED, f"JPEG tables of {len(tables)} bytes")
    block, (plane, _, top, left, _), _ = page.decode(encoded, index, jpegtables=tables)
    rows, columns = min(segments.down, height - top), min(segments.across, width - left)
    inside: Pixels = block[0, :rows, :columns]
    if inside.shape != (rows, columns, together):
        raise PairError(Code.DECODE_FAILED, f"TIFF strip or tile {index} has shape {inside.shape}")
    return inside, (plane, top, left)


def _check_jpeg(encoded: bytes, segments: _Segments) -> None:
    """A JPEG says its size itself; it must be that of the strip or tile it fills."""
    layout = parse_jpeg(encoded)
    if layout.width > segments.across + _JPEG_MARGIN or layout.height > segments.down + _JPEG_MARGIN:
        raise PairError(
            Code.DECODE_FAILED,
            f"JPEG of {layout.width} x {layout.height} in a TIFF strip or tile of {segments.across} x {segments.down}",
        )


def _colours(page: Any, samples: Pixels, photometric: int) -> Pixels:
    """Stored samples [H, W, S] to grey or colour: palette, inversion, stretching of few bits, associated alpha."""
    bits = int(page.bitspersample)
    if samples.dtype.kind == "b":
        samples = samples.astype(np.uint8)
    if photometric == _PALETTE:
        palette = np.asarray(page.colormap)
        if palette.shape != (3, 2**bits):
            raise PairError(Code.DECODE_FAILED, f"TIFF palette of shape {palette.shape} for {bits} bits")
        # 16 bits by the standard; some writers store 8, as libtiff knows too.
        entries = (palette >> 8 if palette.max() > 255 else palette).astype(np.uint8)
        coloured: Pixels = entries.T[samples[..., 0]]
        return coloured
    colours = 3 if photometric == _RGB else 1
    if samples.shape[2] > colours and page.extrasamples[:1] == (_ASSOCIATED_ALPHA,):
        samples = _divide_by_alpha(samples[..., : colours + 1], bits)
    if photometric == _MINISWHITE:
        samples = (2**bits - 1) - samples
    if bits < 8:
        samples = samples * np.uint8(255 // (2**bits - 1))
    return samples


def _divide_by_alpha(samples: Pixels, bits: int) -> Pixels:
    """Colour [H, W, S - 1] out of [H, W, S] whose last sample is the alpha it was multiplied by."""
    colour, alpha = samples[..., :-1], samples[..., -1:]
    if samples.dtype.kind == "f":
        divided: Pixels = colour / np.where(alpha == 0, 1, alpha)
        return divided
    # Where alpha is 0 colour is 0 too, so any divisor will do. Rows by rows, for they become 64-bit floats on the way.
    top = 2**bits - 1
    restored: Pixels = np.empty(colour.shape, samples.dtype)
    blocks = min(len(samples), 1 + samples.size // _ALPHA_BLOCK)
    for rows in np.array_split(np.arange(len(samples)), blocks):
        block = slice(rows[0], rows[-1] + 1)
        restored[block] = np.minimum(np.rint(colour[block] * (top / np.maximum(alpha[block], 1))), top)
    return restored

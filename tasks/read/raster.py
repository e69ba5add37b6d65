"""Encoded pictures to pixels: PNG, JPEG, TIFF, BMP, WebP and still GIF.

The format is told from the bytes, never from the name. Every file gives either an :class:`Image` or a
:class:`~tasks.codes.PairError`, whatever its bytes are. What a file promises is checked before a decoder sees it:
the size in its header against ``max_pixels``, and its structure up to its end mark, because decoders are lenient
in different ways (libjpeg paints what is missing grey, tifffile zero) and Pillow's strictness and size limit are
global switches that any library in the process may turn.

What is done to the stored values, and nothing else:

- Grey of 1, 2 or 4 bits is stretched to 0..255. More bits are kept as stored.
- Palettes are looked up. Alpha is dropped, not blended: the values under a transparent pixel are what the sensor
  or the writer stored, a background colour would be invented, and OpenCV and Pillow's ``convert`` read the same.
  Colour that was multiplied by its alpha (TIFF's associated alpha) is divided by it again.
- Inverted grey (TIFF's MINISWHITE) is turned round, so that bright is bright.
- The EXIF or TIFF orientation is applied, as every viewer does.
- Colour with R = G = B everywhere is grey and loses its third axis.
- Signed 16-bit integers and 64-bit floats become 32-bit floats of the same values.
- Colour profiles and gamma marks are ignored; file names, text and times are never read.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, ParamSpec, TypeVar

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import BmpImagePlugin, GifImagePlugin, ImageFile

from tasks.codes import Code, PairError

RASTER_SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Lower-case name endings that an index takes for pictures."""

MIN_SIDE: Final = 16
"""Pixels; below it the prior's reflect padding has nothing to reflect."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Pixels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded picture.

    Attributes:
        pixels: [H, W] grey or [H, W, 3] RGB; uint8, uint16 or float32; C-contiguous, upright, finite.
        stored_bits: bits per sample in the file (1 to 16, 32 or 64); 8 for palettes, that of their colours.
        file_format: "PNG", "JPEG", "TIFF", "BMP", "WebP" or "GIF".
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]
    stored_bits: int
    file_format: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True, eq=False)
class _Decoded:
    """What a format's reader hands over: [H, W] or [H, W, 1 to 4 samples], extra samples being alpha."""

    samples: _Pixels
    stored_bits: int = 8
    orientation: int = 1


def read_raster(data: bytes, *, max_pixels: int) -> Image:
    """Decode one picture. Holds no state, so any number of threads may call it at once.

    Args:
        data: the whole file.
        max_pixels: the largest width x height that is decoded; looked at before any pixel is.

    Raises:
        PairError: TRUNCATED (also an empty file), DECODE_FAILED (no known format, or damaged), MULTI_PAGE
            (pages, frames, planes), CMYK, PIXELS_UNSUPPORTED, CODEC_MISSING, NOT_FINITE, TOO_SMALL,
            TOO_LARGE, OUT_OF_MEMORY.
    """
    if not data:
        raise PairError(Code.TRUNCATED, "the file is empty")
    for signature, file_format, reader in _READERS:
        if signature.match(data):
            decoded = reader(data, max_pixels)
            try:
                return _finish(decoded, file_format)
            except MemoryError as error:
                raise PairError(Code.OUT_OF_MEMORY, f"while converting the {file_format}") from error
    raise PairError(Code.DECODE_FAILED, "no signature of PNG, JPEG, TIFF, BMP, WebP or GIF")


def _finish(decoded: _Decoded, file_format: str) -> Image:
    """Drop alpha, collapse grey colour, check and convert the type, turn upright."""
    samples = decoded.samples
    if samples.ndim == 3:
        # One or two samples are grey and grey with alpha, three or four are RGB and RGB with alpha.
        samples = samples[..., :3] if samples.shape[2] >= 3 else samples[..., 0]
    if samples.ndim == 3 and _is_grey(samples):
        samples = samples[..., 0]
    if samples.dtype.kind == "f" or samples.dtype == np.int16:
        with np.errstate(over="ignore"):
            samples = samples.astype(np.float32)
        bad = samples.size - np.count_nonzero(np.isfinite(samples))
        if bad:
            raise PairError(Code.NOT_FINITE, f"{bad} of {samples.size} values as 32-bit float")
    elif samples.dtype not in (np.uint8, np.uint16):
        raise PairError(Code.PIXELS_UNSUPPORTED, f"{samples.dtype} samples")
    upright = _turn_upright(samples, decoded.orientation)
    return Image(np.ascontiguousarray(upright), decoded.stored_bits, file_format)


def _is_grey(rgb: _Pixels) -> bool:
    red = rgb[..., 0]
    return all(bool(np.array_equal(red, rgb[..., channel])) for channel in (1, 2))


def _turn_upright(samples: _Pixels, orientation: int) -> _Pixels:
    """Apply the TIFF/EXIF orientation 1..8 to [H, W, ...]: which corner the first stored row and column lie at."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


# What every format needs


def _decode(decoder: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a decoder; whatever it raises becomes a PairError."""
    try:
        return decoder(*args, **kwargs)
    except PairError:
        raise
    except MemoryError as error:
        raise PairError(Code.OUT_OF_MEMORY, "while decoding") from error
    except ImportError as error:
        raise PairError(Code.CODEC_MISSING, type(error).__name__) from error
    except Exception as error:
        # Decoders document few of the kinds that damaged bytes make them raise: besides their own there are
        # struct.error, KeyError, TypeError, ZeroDivisionError and more. The message may quote the file: not kept.
        raise PairError(Code.DECODE_FAILED, type(error).__name__) from error


def _unpack(layout: str, data: bytes, offset: int) -> tuple[Any, ...]:
    """``struct.unpack_from``; a header that the file ends in is TRUNCATED."""
    if offset + struct.calcsize(layout) > len(data):
        raise PairError(Code.TRUNCATED, f"{len(data)} bytes, and a header or chunk goes on beyond them")
    return struct.unpack_from(layout, data, offset)


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise PairError(Code.TOO_LARGE, f"{width} x {height} = {width * height} pixels, max_pixels is {max_pixels}")
    if min(width, height) < MIN_SIDE:
        raise PairError(Code.TOO_SMALL, f"{width} x {height}")


def _check_decoded(samples: _Pixels, width: int, height: int) -> None:
    """The decoder must have found the size that the header check let through."""
    if samples.ndim not in (2, 3) or samples.shape[:2] != (height, width):
        raise PairError(Code.DECODE_FAILED, f"header says {height} x {width}, data has shape {samples.shape}")


def _exif_orientation(block: bytes) -> int:
    """Orientation 1..8 in an Exif block, a TIFF file of its own; 1 where it is absent or unreadable.

    Damaged metadata leaves the pixels as good as they were, so it is no error.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == 274:
                return int(value) if (kind, number) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


# PNG


def _read_png(data: bytes, max_pixels: int) -> _Decoded:
    """PNG: walk the chunks, then libpng, which fails on missing pixels.

    libpng sees the critical chunks only. The others hold transparency, which is dropped, and profiles and texts,
    which may be damaged or unpack to any size. It checks a chunk's sum when it moves on to the next one, so never
    that of the last pixels; hence it is done here.
    """
    width, height, depth, colour = _unpack(">IIBB", data, 16)
    _check_size(width, height, max_pixels)
    orientation = 1
    critical = [data[:8]]
    offset, kind = 8, b""
    while kind != b"IEND":
        length, kind = _unpack(">I4s", data, offset)
        start, end = offset + 8, offset + 8 + length
        if not kind.isalpha():
            raise PairError(Code.DECODE_FAILED, f"no PNG chunk at byte {offset}")
        (checksum,) = _unpack(">I", data, end)
        if kind[:1].isupper():
            if zlib.crc32(data[offset + 4 : end]) != checksum:
                raise PairError(Code.DECODE_FAILED, f"wrong checksum of the PNG chunk at byte {offset}")
            critical.append(data[offset : end + 4])
        elif kind == b"acTL" and _unpack(">I", data, start)[0] > 1:
            raise PairError(Code.MULTI_PAGE, "animated PNG")
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[start:end])
        offset = end + 4
    samples = _decode(imagecodecs.png_decode, b"".join(critical))
    _check_decoded(samples, width, height)
    palette = colour == 3
    return _Decoded(samples, 8 if palette else depth, orientation)


# JPEG

_JPEG_MARKER: Final = re.compile(rb"\xff+[^\x00\xff]")
_JPEG_SCAN_END: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""In entropy-coded data FF 00 is a literal FF, and D0 to D7 only restart the decoder."""
_JPEG_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_HUFFMAN_DCT: Final = frozenset({0xC0, 0xC1, 0xC2})
_JPEG_MAX_SCANS: Final = 100
"""Progressive encoders write about ten; each one costs a pass over the whole picture."""
_JPEG_FILL: Final = bytes.fromhex("35a75c931ed269b8") * 64


@dataclass(frozen=True)
class _JpegLayout:
    """What a JPEG's markers say.

    Attributes:
        frame: the start-of-frame marker, which names the process.
        scan_ends: byte offsets at which entropy-coded data ends.
    """

    frame: int
    precision: int
    width: int
    height: int
    components: int
    orientation: int
    scan_ends: tuple[int, ...]


def _parse_jpeg(data: bytes) -> _JpegLayout:
    """Walk a JPEG's markers to the end-of-image mark; what follows it (previews, more pictures) is ignored.

    Raises:
        PairError: TRUNCATED without that mark, DECODE_FAILED without a picture.
    """
    frame = precision = width = height = components = 0
    orientation = 1
    scan_ends: list[int] = []
    position, in_scan = 2, False
    while True:
        found = (_JPEG_SCAN_END if in_scan else _JPEG_MARKER).search(data, position)
        if found is None:
            raise PairError(Code.TRUNCATED, f"{len(data)} bytes, no end-of-image mark")
        if in_scan:
            scan_ends.append(found.start())
            in_scan = False
        position = found.end()
        marker = data[position - 1]
        if marker == 0xD9:
            break
        if marker in _JPEG_STANDALONE:
            continue
        (length,) = _unpack(">H", data, position)
        if position + length > len(data):
            raise PairError(Code.TRUNCATED, f"{len(data)} bytes, ends within a JPEG segment")
        if length < 2:
            raise PairError(Code.DECODE_FAILED, f"JPEG segment of length {length}")
        if marker in _JPEG_FRAMES:
            frame = marker
            precision, height, width, components = _unpack(">BHHB", data, position + 2)
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", position + 2):
            orientation = _exif_orientation(data[position + 2 : position + length])
        in_scan = marker == 0xDA
        position += length
    if not frame or not scan_ends or len(scan_ends) > _JPEG_MAX_SCANS:
        raise PairError(Code.DECODE_FAILED, f"JPEG with {len(scan_ends)} scans")
    return _JpegLayout(frame, precision, width, height, components, orientation, tuple(scan_ends))


def _read_jpeg(data: bytes, max_pixels: int) -> _Decoded:
    """JPEG by libjpeg-turbo, of 8 or 12 bits.

    libjpeg only warns when entropy-coded data ends before the picture is full, and paints the rest grey; the
    warning is out of reach. So the picture is decoded twice, the second time with arbitrary bytes put in where
    each scan ends: a decoder that has all it needs skips them, one that runs dry takes them for picture.
    Arithmetic coding may leave off trailing zeros, so it is not tried.
    """
    layout = _parse_jpeg(data)
    if layout.components == 4:
        raise PairError(Code.CMYK, "JPEG of four components")
    if layout.components not in (1, 3):
        raise PairError(Code.PIXELS_UNSUPPORTED, f"JPEG of {layout.components} components")
    _check_size(layout.width, layout.height, max_pixels)
    samples = _decode(imagecodecs.jpeg8_decode, data)
    _check_decoded(samples, layout.width, layout.height)
    if layout.frame in _JPEG_HUFFMAN_DCT:
        cuts = [0, *layout.scan_ends, len(data)]
        probe = _JPEG_FILL.join(data[start:end] for start, end in pairwise(cuts))
        if not np.array_equal(samples, _decode(imagecodecs.jpeg8_decode, probe)):
            raise PairError(Code.TRUNCATED, "the JPEG's compressed data ends before its last pixel")
    return _Decoded(samples, layout.precision, layout.orientation)


# TIFF

_TIFF_COMPRESSIONS: Final = {
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
_TIFF_JPEG: Final = 7
_TIFF_MAX_PAGES: Final = 32
"""Reduced copies and masks beside the picture, as pyramids have them; more is a loop or a stack."""
_TIFF_MAX_SAMPLES: Final = 16
_TIFF_MAX_TILE: Final = 2**22
"""Pixels. A tile may exceed a small picture, so ``max_pixels`` alone does not bound it."""
_MINISWHITE, _MINISBLACK, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2


def _read_tiff(data: bytes, max_pixels: int) -> _Decoded:
    """TIFF and BigTIFF: tifffile reads the tags and undoes one strip or tile at a time, after checks of its place.

    tifffile's own ``asarray`` is not used: it fills strips that are empty or absent.
    """
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]
    (directory,) = _unpack(order + "Q", data, 8) if big else _unpack(order + "I", data, 4)
    (entries,) = _unpack(order + ("Q" if big else "H"), data, directory)
    end = directory + (8 + 20 * entries + 8 if big else 2 + 12 * entries + 4)
    if end > len(data):
        raise PairError(Code.TRUNCATED, f"{len(data)} bytes, the TIFF's directory ends at {end}")
    return _decode(_tiff_picture, data, max_pixels)


def _tiff_picture(data: bytes, max_pixels: int) -> _Decoded:
    """The picture in a TIFF. tifffile reads tags when they are asked for, so damaged ones raise from anywhere here."""
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = _tiff_page(tiff)
        _check_size(int(page.imagewidth), int(page.imagelength), max_pixels)
        photometric = _tiff_photometric(page)
        samples = _tiff_samples(page, data, max(max_pixels, _TIFF_MAX_TILE))
        bits = 8 if photometric == _PALETTE else int(page.bitspersample)
        orientation = page.tags.valueof(274, 1)
        return _Decoded(
            _tiff_colours(page, samples, photometric), bits, orientation if orientation in range(1, 9) else 1
        )


def _tiff_page(tiff: Any) -> Any:
    """The one full picture of a TIFF; reduced copies and masks beside it do not count."""
    full = []
    for index in range(_TIFF_MAX_PAGES + 1):
        try:
            page = tiff.pages[index]
        except IndexError:
            break
        if not page.subfiletype & 0b101:
            full.append(page)
        if len(full) > 1 or index == _TIFF_MAX_PAGES:
            raise PairError(Code.MULTI_PAGE, f"{index + 1} pages or more")
    if not full:
        raise PairError(Code.PIXELS_UNSUPPORTED, "a TIFF of reduced copies only, as cameras' raw files are")
    planes = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
    planes = max(planes, int(full[0].imagedepth))
    if planes > 1:
        raise PairError(Code.MULTI_PAGE, f"{planes} planes in one page")
    return full[0]


def _tiff_photometric(page: Any) -> int:
    """The colour model, one of MINISWHITE, MINISBLACK, RGB (also YCbCr within JPEG) and PALETTE.

    Raises:
        PairError: CMYK, PIXELS_UNSUPPORTED or CODEC_MISSING for what cannot be read.
    """
    compression, samples, bits = int(page.compression), int(page.samplesperpixel), page.bitspersample
    if compression not in _TIFF_COMPRESSIONS:
        raise PairError(Code.CODEC_MISSING, f"TIFF compression {compression}")
    # tifffile takes an absent colour model for MINISWHITE; libtiff guesses from the samples.
    guess = _RGB if samples >= 3 else _MINISBLACK
    photometric = int(page.photometric) if 262 in page.tags else guess
    if photometric == _SEPARATED:
        raise PairError(Code.CMYK, f"TIFF of {samples} inks")
    if photometric == _YCBCR and compression == _TIFF_JPEG:
        photometric = _RGB  # libjpeg converts
    dtype = page.dtype
    supported = dtype is not None and (
        (dtype.kind in "ub" and bits in (1, 2, 4, 8, 10, 12, 14, 16)) or dtype.kind == "f" or dtype == np.int16
    )
    if not supported or not 1 <= samples <= _TIFF_MAX_SAMPLES:
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


def _tiff_samples(page: Any, data: bytes, max_tile: int) -> _Pixels:
    """[H, W, samples] as stored, every strip or tile present and complete.

    Raises:
        PairError: TRUNCATED when a strip is missing, empty or beyond the end; TOO_LARGE for a tile above ``max_tile``.
    """
    separate, _, height, width, together = page.shaped
    # A damaged tag may be a tuple of any length, hence int().
    step_down = int(page.tilelength if page.is_tiled else page.rowsperstrip)
    step_across = int(page.tilewidth) if page.is_tiled else width
    if page.is_tiled and step_down * step_across * int(page.tiledepth) > max_tile:
        raise PairError(Code.TOO_LARGE, f"TIFF tiles of {step_across} x {step_down}")
    segments = math.ceil(height / step_down) * math.ceil(width / step_across) * separate
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))[:segments]
    if len(places) < segments:
        raise PairError(Code.TRUNCATED, f"{len(places)} of {segments} TIFF strips or tiles")
    samples: _Pixels = np.empty((separate, height, width, together), page.dtype)
    for index, (offset, length) in enumerate(places):
        if length == 0 or offset + length > len(data):
            raise PairError(Code.TRUNCATED, f"{len(data)} bytes, TIFF strip or tile {index} ends at {offset + length}")
        encoded = data[offset : offset + length]
        if page.compression == _TIFF_JPEG:
            layout = _parse_jpeg(encoded)
            if layout.width * layout.height > max_tile:
                raise PairError(Code.TOO_LARGE, f"JPEG of {layout.width} x {layout.height} within the TIFF")
        block, (plane, _, top, left, _), _ = page.decode(encoded, index, jpegtables=page.jpegtables)
        rows, columns = min(step_down, height - top), min(step_across, width - left)
        inside = block[0, :rows, :columns]
        if inside.shape != (rows, columns, together):
            raise PairError(Code.DECODE_FAILED, f"TIFF strip or tile {index} has shape {inside.shape}")
        samples[plane, top : top + rows, left : left + columns] = inside
    if separate > 1:
        return samples[..., 0].transpose(1, 2, 0)
    first: _Pixels = samples[0]
    return first


def _tiff_colours(page: Any, samples: _Pixels, photometric: int) -> _Pixels:
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
        coloured: _Pixels = entries.T[samples[..., 0]]
        return coloured
    colours = 3 if photometric == _RGB else 1
    if samples.shape[2] > colours and page.extrasamples[:1] == (_ASSOCIATED_ALPHA,):
        samples = _divide_by_alpha(samples[..., : colours + 1], bits)
    if photometric == _MINISWHITE:
        samples = (2**bits - 1) - samples
    if bits < 8:
        samples = samples * np.uint8(255 // (2**bits - 1))
    return samples


def _divide_by_alpha(samples: _Pixels, bits: int) -> _Pixels:
    """Colour [H, W, S - 1] out of [H, W, S] whose last sample is the alpha it was multiplied by."""
    colour, alpha = samples[..., :-1], samples[..., -1:]
    if samples.dtype.kind == "f":
        divided: _Pixels = colour / np.where(alpha == 0, 1, alpha)
        return divided
    # Where alpha is 0 colour is 0 too, so any divisor will do.
    top = 2**bits - 1
    restored: _Pixels = np.minimum(np.rint(colour * (top / np.maximum(alpha, 1))), top).astype(samples.dtype)
    return restored


# BMP

_BMP_UNCOMPRESSED: Final = (0, 3)
_BMP_RUN_LENGTHS: Final = (1, 2)


def _read_bmp(data: bytes, max_pixels: int) -> _Decoded:
    """BMP by Pillow, after a check that the rows it announces are there."""
    start, header = _unpack("<II", data, 10)
    compression = size = 0
    if header == 12:
        width, height, _, bits = _unpack("<HHHH", data, 18)
    else:
        width, height, _, bits, compression, size = _unpack("<iiHHII", data, 18)
    if width < 0:
        raise PairError(Code.DECODE_FAILED, f"BMP of width {width}")
    height = abs(height)  # negative: the top row comes first
    _check_size(width, height, max_pixels)
    if compression in _BMP_UNCOMPRESSED:
        size = (width * bits + 31) // 32 * 4 * height
    elif compression not in _BMP_RUN_LENGTHS:
        raise PairError(Code.CODEC_MISSING, f"BMP compression {compression}")
    if start + size > len(data):
        raise PairError(Code.TRUNCATED, f"{len(data)} bytes, the BMP's rows end at {start + size}")
    samples = _decode(_pillow_rgb, BmpImagePlugin.BmpImageFile, data)
    _check_decoded(samples, width, height)
    return _Decoded(samples)


def _pillow_rgb(plugin: Callable[[io.BytesIO], ImageFile.ImageFile], data: bytes) -> NDArray[np.uint8]:
    """[H, W, 3] by one of Pillow's plugins, called without ``Image.open`` and its process-wide size limit."""
    with plugin(io.BytesIO(data)) as picture:
        return np.array(picture.convert("RGB"))


# WebP


def _read_webp(data: bytes, max_pixels: int) -> _Decoded:
    """WebP by libwebp, which fails on incomplete data."""
    (size,) = _unpack("<I", data, 4)
    if 8 + size > len(data):
        raise PairError(Code.TRUNCATED, f"{len(data)} bytes, the WebP has {8 + size}")
    canvas: tuple[int, int] | None = None
    orientation, frames = 1, 0
    offset = 12
    while offset + 8 <= 8 + size:
        kind, length = _unpack("<4sI", data, offset)
        start = offset + 8
        found: tuple[int, int] | None = None
        if kind == b"VP8X":
            wide, wide_high, high, high_high = _unpack("<HBHB", data, start + 4)
            found = (wide | wide_high << 16) + 1, (high | high_high << 16) + 1
        elif kind == b"VP8 ":
            wide, high = _unpack("<HH", data, start + 6)
            found = wide & 0x3FFF, high & 0x3FFF
        elif kind == b"VP8L":
            (packed,) = _unpack("<I", data, start + 1)
            found = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        elif kind == b"EXIF":
            orientation = _exif_orientation(data[start : start + length])
        frames += kind == b"ANMF"
        if found is not None:
            # The picture within a canvas is what libwebp allocates, so both sizes count.
            _check_size(*found, max_pixels)
            canvas = canvas or found
        offset = start + length + (length & 1)
    if frames > 1:
        raise PairError(Code.MULTI_PAGE, f"animated WebP of {frames} frames")
    if canvas is None:
        raise PairError(Code.DECODE_FAILED, "WebP without a picture")
    samples = _decode(imagecodecs.webp_decode, data)
    _check_decoded(samples, *canvas)
    return _Decoded(samples, 8, orientation)


# GIF


def _read_gif(data: bytes, max_pixels: int) -> _Decoded:
    """A GIF of one frame by Pillow, after a walk over its blocks to the trailer."""
    width, height, flags = _unpack("<HHB", data, 6)
    _check_size(width, height, max_pixels)
    frames = 0
    offset = 13 + _gif_table_bytes(flags)
    while True:
        (kind,) = _unpack("<B", data, offset)
        if kind == 0x3B:
            break
        if kind == 0x21:
            offset += 2
        elif kind == 0x2C:
            left, top, wide, high, flags = _unpack("<HHHHB", data, offset + 1)
            if left + wide > width or top + high > height:
                raise PairError(Code.DECODE_FAILED, "GIF frame beyond the GIF's size")
            frames += 1
            if frames > 1:
                raise PairError(Code.MULTI_PAGE, "animated GIF")
            offset += 11 + _gif_table_bytes(flags)
        else:
            raise PairError(Code.DECODE_FAILED, f"no GIF block at byte {offset}")
        length = -1
        while length:
            (length,) = _unpack("<B", data, offset)
            offset += 1 + length
    if not frames:
        raise PairError(Code.DECODE_FAILED, "GIF without a picture")
    samples = _decode(_pillow_rgb, GifImagePlugin.GifImageFile, data)
    _check_decoded(samples, width, height)
    return _Decoded(samples)


def _gif_table_bytes(flags: int) -> int:
    """Bytes of the colour table that a GIF's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


_READERS: Final[tuple[tuple[re.Pattern[bytes], str, Callable[[bytes, int], _Decoded]], ...]] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", _read_png),
    (re.compile(rb"\xff\xd8\xff"), "JPEG", _read_jpeg),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF", _read_tiff),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WebP", _read_webp),
    (re.compile(rb"GIF8[79]a"), "GIF", _read_gif),
    (re.compile(rb"BM"), "BMP", _read_bmp),
)
"""(signature, name, reader); BMP last, its two letters begin many texts."""

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

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.read.bmp import read_bmp
from tasks.read.decoding import Decoded, Pixels
from tasks.read.gif import read_gif
from tasks.read.jpeg import read_jpeg
from tasks.read.png import read_png
from tasks.read.tiff import read_tiff
from tasks.read.webp import read_webp

RASTER_SUFFIXES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Lower-case name endings that an index takes for pictures."""

_FINITE_PART: Final = 2**22


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


def read_raster(data: bytes, *, max_pixels: int) -> Image:
    """Decode one picture. Holds no state, so any number of threads may call it at once.

    Args:
        data: the whole file.
        max_pixels: the largest width x height that is decoded; looked at before any pixel is. Beyond ``data`` itself
            some 20 bytes of memory for each of them are enough, whatever the file claims.

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


def _finish(decoded: Decoded, file_format: str) -> Image:
    """Drop alpha, collapse grey colour, check and convert the type, turn upright."""
    samples = decoded.samples
    if samples.ndim == 3:
        # One or two samples are grey and grey with alpha, three or four are RGB and RGB with alpha.
        samples = samples[..., :3] if samples.shape[2] >= 3 else samples[..., 0]
    if samples.ndim == 3 and _is_grey(samples):
        samples = samples[..., 0]
    if samples.dtype.kind == "f" or samples.dtype == np.int16:
        with np.errstate(over="ignore"):
            samples = samples.astype(np.float32, copy=False)
        # In parts, for the marks of all values at once would take a quarter of their memory again.
        parts = np.array_split(samples, 1 + samples.size // _FINITE_PART)
        bad = sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)
        if bad:
            raise PairError(Code.NOT_FINITE, f"{bad} of {samples.size} values as 32-bit float")
    elif samples.dtype not in (np.uint8, np.uint16):
        raise PairError(Code.PIXELS_UNSUPPORTED, f"{samples.dtype} samples")
    upright = _turn_upright(samples, decoded.orientation)
    return Image(np.ascontiguousarray(upright), decoded.stored_bits, file_format)


def _is_grey(rgb: Pixels) -> bool:
    red = rgb[..., 0]
    return all(bool(np.array_equal(red, rgb[..., channel])) for channel in (1, 2))


def _turn_upright(samples: Pixels, orientation: int) -> Pixels:
    """Apply the TIFF/EXIF orientation 1..8 to [H, W, ...]: which corner the first stored row and column lie at."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


_READERS: Final[tuple[tuple[re.Pattern[bytes], str, Callable[[bytes, int], Decoded]], ...]] = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "PNG", read_png),
    (re.compile(rb"\xff\xd8\xff"), "JPEG", read_jpeg),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "TIFF", read_tiff),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), "WebP", read_webp),
    (re.compile(rb"GIF8[79]a"), "GIF", read_gif),
    (re.compile(rb"BM"), "BMP", read_bmp),
)
"""(signature, name, reader); BMP last, its two letters begin many texts."""

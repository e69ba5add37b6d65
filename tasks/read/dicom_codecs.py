"""Compressed frames of DICOM files to stored values, by imagecodecs.

pydicom's own plugins are not used for these: GDCM, which it falls back to, ends the process (abort) on damaged
lossless JPEG and JPEG 2000 data, and its Pillow and GDCM plugins refuse JPEG of 12 bits. libjpeg-turbo reads baseline,
extended and lossless JPEG of up to 16 bits, OpenJPEG JPEG 2000 and HTJ2K, CharLS JPEG-LS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.utils import get_j2k_parameters
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from tasks.codes import Code, PairError
from tasks.read.decoding import decode, unpack
from tasks.read.jpeg import parse_jpeg

_J2K_START: Final = b"\xff\x4f\xff\x51"
_JPEG_LS_FRAME: Final = b"\xff\xf7"
_END_OF_IMAGE: Final = b"\xff\xd9"
_ARITHMETIC: Final = range(0xC9, 0xD0)
_FILL: Final = bytes.fromhex("35a75c931ed269b8") * 64

Samples = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """What the header says of a frame's pixels.

    Attributes:
        bits_allocated: 8, 16 or 32.
        signed: PixelRepresentation 1.
    """

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored values, in native byte order."""
        return np.dtype(f"{'i' if self.signed else 'u'}{self.bits_allocated // 8}")


def decode_frame(frame: bytes, transfer_syntax: str, pixels: FrameFormat) -> Samples:
    """Decode one compressed frame.

    Args:
        frame: its codestream, fragments put together.
        transfer_syntax: one of CODECS.
        pixels: what the header says; the codestream must agree in size.

    Returns:
        [rows, columns] of ``pixels.dtype``.

    Raises:
        PairError: TRUNCATED, DECODE_FAILED, OUT_OF_MEMORY.
    """
    samples = CODECS[UID(transfer_syntax)].decoder(frame, pixels)
    if samples.shape != (pixels.rows, pixels.columns) or samples.dtype.kind not in "iu":
        raise PairError(Code.DECODE_FAILED, f"header says {pixels.rows} x {pixels.columns}, data is {samples.shape}")
    return samples.astype(pixels.dtype, copy=False)


def _jpeg(frame: bytes, pixels: FrameFormat) -> Samples:
    """Baseline, extended, progressive or lossless JPEG (T.81).

    libjpeg paints what is missing, so the frame is decoded again with arbitrary bytes where its data ends: a decoder
    that has all it needs skips them. (See :func:`tasks.read.jpeg.read_jpeg`.)
    """
    layout = parse_jpeg(frame)
    _check_stream(layout.height, layout.width, layout.components, layout.precision, pixels)
    samples = decode(imagecodecs.jpeg8_decode, frame)
    if layout.frame not in _ARITHMETIC:
        cuts = [0, *layout.scan_ends, len(frame)]
        probe = _FILL.join(frame[start:end] for start, end in pairwise(cuts))
        if not np.array_equal(samples, decode(imagecodecs.jpeg8_decode, probe)):
            raise PairError(Code.TRUNCATED, "the compressed data ends before the last pixel")
    # The bits are those of the stored value; JPEG itself knows no sign.
    return _of_bits(samples, pixels.bits_stored, pixels.signed)


def _jpeg_2000(frame: bytes, pixels: FrameFormat) -> Samples:
    """JPEG 2000 part 1 and HTJ2K (T.800, T.814); the stream says whether it is signed, the header has the last word."""
    start = frame.find(_J2K_START)
    if start < 0:
        raise PairError(Code.DECODE_FAILED, "no JPEG 2000 codestream")
    right, lower, left, upper = unpack(">4I", frame, start + 8)
    (components,) = unpack(">H", frame, start + 40)
    stream = get_j2k_parameters(frame[start:])
    precision = int(stream.get("precision", pixels.bits_stored))
    _check_stream(lower - upper, right - left, components, precision, pixels)
    samples = decode(imagecodecs.jpeg2k_decode, frame)
    if bool(stream.get("is_signed", pixels.signed)) == pixels.signed:
        return samples
    return _of_bits(samples, precision, pixels.signed)


def _jpeg_ls(frame: bytes, pixels: FrameFormat) -> Samples:
    """JPEG-LS (T.87), which knows no sign."""
    start = frame.find(_JPEG_LS_FRAME)
    if start < 0:
        raise PairError(Code.DECODE_FAILED, "no JPEG-LS frame")
    precision, height, width, components = unpack(">BHHB", frame, start + 4)
    _check_stream(height, width, components, precision, pixels)
    if not frame.rstrip(b"\0").endswith(_END_OF_IMAGE):
        # CharLS takes six seconds to find out that a stream has no end.
        raise PairError(Code.TRUNCATED, "JPEG-LS without an end-of-image mark")
    samples = decode(imagecodecs.jpegls_decode, frame)
    return _of_bits(samples, precision, pixels.signed) if pixels.signed else samples


def _check_stream(height: int, width: int, components: int, precision: int, pixels: FrameFormat) -> None:
    """Before memory is spent: the codestream's own size must be the header's."""
    if (height, width, components) != (pixels.rows, pixels.columns, 1) or not 1 <= precision <= pixels.bits_allocated:
        raise PairError(
            Code.DECODE_FAILED,
            f"header says {pixels.rows} x {pixels.columns} of {pixels.bits_allocated} bits, "
            f"the compressed data {height} x {width} x {components} of {precision}",
        )


def _of_bits(samples: Samples, bits: int, signed: bool) -> Samples:
    """The values that the lowest ``bits`` stand for, as two's complement where signed."""
    wide = samples.astype(np.int64) & ((1 << bits) - 1)
    return wide - ((wide >> (bits - 1)) << bits) if signed else wide


@dataclass(frozen=True, slots=True)
class Codec:
    """A decoder, and whether the installed imagecodecs has it."""

    decoder: Callable[[bytes, FrameFormat], Samples]
    available: bool


_JPEG: Final = Codec(_jpeg, bool(imagecodecs.JPEG8.available))
_JPEG_2000: Final = Codec(_jpeg_2000, bool(imagecodecs.JPEG2K.available))
_JPEG_LS: Final = Codec(_jpeg_ls, bool(imagecodecs.JPEGLS.available))
CODECS: Final[dict[UID, Codec]] = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1), _JPEG),
    **dict.fromkeys((JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K), _JPEG_2000),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), _JPEG_LS),
}
"""By transfer syntax."""

"""BMP to samples."""

from __future__ import annotations

from typing import Final

from PIL import BmpImagePlugin

from tasks.codes import Code, PairError
from tasks.read.decoding import Decoded, check_decoded, check_size, decode, pillow_rgb, unpack

_UNCOMPRESSED: Final = (0, 3)
_RUN_LENGTHS: Final = (1, 2)


def read_bmp(data: bytes, max_pixels: int) -> Decoded:
    """BMP by Pillow, after a check that the rows it announces are there."""
    start, header = unpack("<II", data, 10)
    compression = size = 0
    if header == 12:
        width, height, _, bits = unpack("<HHHH", data, 18)
    else:
        width, height, _, bits, compression, size = unpack("<iiHHII", data, 18)
    if width < 0:
        raise PairError(Code.DECODE_FAILED, f"BMP of width {width}")
    height = abs(height)  # negative: the top row comes first
    check_size(width, height, max_pixels)
    if compression in _UNCOMPRESSED:
        size = (width * bits + 31) // 32 * 4 * height
    elif compression not in _RUN_LENGTHS:
        raise PairError(Code.CODEC_MISSING, f"BMP compression {compression}")
    if start + size > len(data):
        raise PairError(Code.TRUNCATED, f"{len(data)} bytes, the BMP's rows end at {start + size}")
    samples = decode(pillow_rgb, BmpImagePlugin.BmpImageFile, data)
    check_decoded(samples, width, height)
    return Decoded(samples)

"""WebP to samples."""

from __future__ import annotations

import imagecodecs

from tasks.codes import Code, PairError
from tasks.read.decoding import Decoded, check_decoded, check_size, decode, exif_orientation, unpack


def read_webp(data: bytes, max_pixels: int) -> Decoded:
    """WebP by libwebp, which fails on incomplete data."""
    (size,) = unpack("<I", data, 4)
    if 8 + size > len(data):
        raise PairError(Code.TRUNCATED, f"{len(data)} bytes, the WebP has {8 + size}")
    canvas: tuple[int, int] | None = None
    orientation, frames = 1, 0
    offset = 12
    while offset + 8 <= 8 + size:
        kind, length = unpack("<4sI", data, offset)
        start = offset + 8
        found: tuple[int, int] | None = None
        if kind == b"VP8X":
            wide, wide_high, high, high_high = unpack("<HBHB", data, start + 4)
            found = (wide | wide_high << 16) + 1, (high | high_high << 16) + 1
        elif kind == b"VP8 ":
            wide, high = unpack("<HH", data, start + 6)
            found = wide & 0x3FFF, high & 0x3FFF
        elif kind == b"VP8L":
            (packed,) = unpack("<I", data, start + 1)
            found = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        elif kind == b"EXIF":
            orientation = exif_orientation(data[start : start + length])
        frames += kind == b"ANMF"
        if found is not None:
            # The picture within a canvas is what libwebp allocates, so both sizes count.
            check_size(*found, max_pixels)
            canvas = canvas or found
        offset = start + length + (length & 1)
    if frames > 1:
        raise PairError(Code.MULTI_PAGE, f"animated WebP of {frames} frames")
    if canvas is None:
        raise PairError(Code.DECODE_FAILED, "WebP without a picture")
    samples = decode(imagecodecs.webp_decode, data)
    check_decoded(samples, *canvas)
    return Decoded(samples, 8, orientation)

"""GIF to samples."""

from __future__ import annotations

from typing import Final

from PIL import GifImagePlugin

from tasks.codes import Code, PairError
from tasks.read.decoding import Decoded, check_decoded, check_size, decode, pillow_rgb, unpack

_GRAPHIC_CONTROL: Final = 0xF9


def read_gif(data: bytes, max_pixels: int) -> Decoded:
    """A GIF of one frame by Pillow, after a walk over its blocks to the trailer.

    Pillow sees the frame and its graphic control only: comments and application data may be of any length and number.
    """
    width, height, flags = unpack("<HHB", data, 6)
    check_size(width, height, max_pixels)
    frames = 0
    offset = 13 + _table_bytes(flags)
    kept = [data[:offset]]
    while True:
        start = offset
        (kind,) = unpack("<B", data, offset)
        if kind == 0x3B:
            break
        keep = True
        if kind == 0x21:
            (label,) = unpack("<B", data, offset + 1)
            keep = label == _GRAPHIC_CONTROL
            offset += 2
        elif kind == 0x2C:
            left, top, wide, high, flags = unpack("<HHHHB", data, offset + 1)
            if left + wide > width or top + high > height:
                raise PairError(Code.DECODE_FAILED, "GIF frame beyond the GIF's size")
            frames += 1
            if frames > 1:
                raise PairError(Code.MULTI_PAGE, "animated GIF")
            offset += 11 + _table_bytes(flags)
        else:
            raise PairError(Code.DECODE_FAILED, f"no GIF block at byte {offset}")
        length = -1
        while length:
            (length,) = unpack("<B", data, offset)
            offset += 1 + length
        if keep:
            kept.append(data[start:offset])
    if not frames:
        raise PairError(Code.DECODE_FAILED, "GIF without a picture")
    samples = decode(pillow_rgb, GifImagePlugin.GifImageFile, b"".join([*kept, b";"]))
    check_decoded(samples, width, height)
    return Decoded(samples)


def _table_bytes(flags: int) -> int:
    """Bytes of the colour table that a GIF's flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0

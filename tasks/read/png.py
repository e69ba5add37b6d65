"""PNG to samples."""

from __future__ import annotations

import zlib

import imagecodecs

from tasks.codes import Code, PairError
from tasks.read.decoding import Decoded, check_decoded, check_size, decode, exif_orientation, unpack


def read_png(data: bytes, max_pixels: int) -> Decoded:
    """PNG: walk the chunks, then libpng, which fails on missing pixels.

    libpng sees the critical chunks only. The others hold transparency, which is dropped, and profiles and texts,
    which may be damaged or unpack to any size. It checks a chunk's sum when it moves on to the next one, so never
    that of the last pixels; hence it is done here.
    """
    width, height, depth, colour = unpack(">IIBB", data, 16)
    check_size(width, height, max_pixels)
    orientation = 1
    critical = [data[:8]]
    offset, kind = 8, b""
    while kind != b"IEND":
        length, kind = unpack(">I4s", data, offset)
        start, end = offset + 8, offset + 8 + length
        if not kind.isalpha():
            raise PairError(Code.DECODE_FAILED, f"no PNG chunk at byte {offset}")
        (checksum,) = unpack(">I", data, end)
        if kind[:1].isupper():
            if zlib.crc32(data[offset + 4 : end]) != checksum:
                raise PairError(Code.DECODE_FAILED, f"wrong checksum of the PNG chunk at byte {offset}")
            critical.append(data[offset : end + 4])
        elif kind == b"acTL" and unpack(">I", data, start)[0] > 1:
            raise PairError(Code.MULTI_PAGE, "animated PNG")
        elif kind == b"eXIf":
            orientation = exif_orientation(data[start:end])
        offset = end + 4
    samples = decode(imagecodecs.png_decode, b"".join(critical))
    check_decoded(samples, width, height)
    palette = colour == 3
    return Decoded(samples, 8 if palette else depth, orientation)

"""Small valid files of every kind of picture that is read, and the pieces to build others by hand."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[Any]

HEIGHT, WIDTH = 40, 56
_ROWS, _COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
GREY = (128 + 60 * np.sin(_COLUMNS / 7) + 50 * np.cos(_ROWS / 5) + (_ROWS * 7 + _COLUMNS * 3) % 11).astype(np.uint8)
RGB = np.stack([GREY, np.roll(GREY, 5, 1), np.roll(GREY, 9, 0)], -1)
GREY16 = GREY.astype(np.uint16) * 64 + 7
RGB16 = RGB.astype(np.uint16) * 257 - np.arange(3, dtype=np.uint16) * 2
FLOAT = GREY.astype(np.float32) / 9 - 50
ALPHA = ((_ROWS + _COLUMNS) % 256).astype(np.uint8)


def save(picture: Pixels | PIL.Image.Image, file_format: str, **options: Any) -> bytes:
    """A file as Pillow writes it."""
    buffer = io.BytesIO()
    (PIL.Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, file_format, **options)
    return buffer.getvalue()


def tiff(pixels: Pixels, **options: Any) -> bytes:
    """A file as tifffile writes it."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def make_chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def make_png(width: int, height: int, depth: int, colour: int, *chunks: bytes, interlaced: bool = False) -> bytes:
    """A PNG of a header, these chunks and the end."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", header) + b"".join(chunks) + make_chunk(b"IEND", b"")


def make_segment(marker: int, content: bytes) -> bytes:
    """A JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def make_riff_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a WebP."""
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)


def make_webp(*chunks: bytes) -> bytes:
    """A WebP of these chunks."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


TagValue = int | float | bytes | Sequence[int]


def make_tiff(
    segments: Sequence[bytes],
    tags: Mapping[int, TagValue],
    *,
    repeat: int = 1,
    tiled: bool = False,
    behind: bytes = b"",
) -> bytes:
    """A little-endian TIFF of these strips or tiles, all of them named ``repeat`` times over; tags as LONG or BYTE.

    It is 8-bit grey, `WIDTH` x `HEIGHT`, in one strip, unless ``tags`` says otherwise.
    """
    offsets, lengths, body = [], [], b""
    for segment in segments:
        offsets.append(8 + len(body))
        lengths.append(len(segment))
        body += segment
    every: dict[int, TagValue] = {256: WIDTH, 257: HEIGHT, 258: 8, 259: 1, 262: 1, 277: 1}
    every |= {324 if tiled else 273: offsets * repeat, 325 if tiled else 279: lengths * repeat}
    if not tiled:
        every[278] = 2**32 - 1
    every |= tags
    entries = b""
    for tag, value in sorted(every.items()):
        if isinstance(value, bytes):
            kind, count, packed = 7, len(value), value
        else:
            numbers = [value] if isinstance(value, int | float) else list(value)
            kind, count, packed = 4, len(numbers), np.asarray(numbers, "<u4").tobytes()
        if len(packed) > 4:
            place, body = 8 + len(body), body + packed + bytes(len(packed) % 2)
            packed = struct.pack("<I", place)
        entries += struct.pack("<HHI4s", tag, kind, count, packed)
    return (
        b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(every)) + entries + bytes(4) + behind
    )


def _pack_bits(values: Pixels, bits: int) -> bytes:
    planes = np.unpackbits(values[..., None].astype(">u2").view(np.uint8), axis=-1)[..., 16 - bits :]
    return np.packbits(planes.reshape(len(values), -1), axis=-1).tobytes()


def _deflated(rows: Pixels) -> bytes:
    return make_chunk(b"IDAT", zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes()))


def _quantized(colours: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(RGB).quantize(colours)


def _reduced_copies() -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(GREY, metadata=None)
        writer.write(GREY[::2, ::2], subfiletype=1, metadata=None)
        writer.write(GREY[::2, ::2] > 99, subfiletype=4, metadata=None)
    return buffer.getvalue()


def _run_length_bmp() -> bytes:
    rows = b"".join(bytes([20, row, 36, 200, 0, 0]) for row in range(HEIGHT)) + b"\0\1"
    return make_bmp(WIDTH, HEIGHT, 8, 1, rows)


def make_bmp(width: int, height: int, bits: int, compression: int, rows: bytes) -> bytes:
    """A BMP with a grey palette where it has one."""
    colours = 2**bits if bits <= 8 else 0
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(rows), 0, 0, colours, 0)
    palette = b"".join(bytes([level, level, level, 0]) for level in np.linspace(0, 255, colours).astype(int))
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + palette + rows


def _exif() -> bytes:
    return b"Exif\0\0II" + struct.pack("<HIH", 42, 8, 1) + struct.pack("<HHIHH", 274, 3, 1, 6, 0) + bytes(4)


_BILEVEL = PIL.Image.fromarray(GREY).convert("1")

KINDS: dict[str, Callable[[], bytes]] = {
    "PNG grey 8": lambda: save(GREY, "PNG"),
    "PNG grey 16": lambda: imagecodecs.png_encode(GREY16),
    "PNG grey 1": lambda: save(_BILEVEL, "PNG"),
    "PNG grey alpha": lambda: save(np.dstack([GREY, ALPHA]), "PNG"),
    "PNG RGB 8": lambda: save(RGB, "PNG"),
    "PNG RGB 16": lambda: imagecodecs.png_encode(RGB16),
    "PNG RGBA 16": lambda: imagecodecs.png_encode(np.dstack([RGB16, GREY16])),
    "PNG palette": lambda: save(_quantized(16), "PNG", transparency=3),
    "PNG interlaced": lambda: make_png(
        WIDTH, HEIGHT, 8, 0, make_chunk(b"IDAT", zlib.compress(_adam7(GREY))), interlaced=True
    ),
    "JPEG grey": lambda: save(GREY, "JPEG", exif=_exif()),
    "JPEG colour": lambda: save(RGB, "JPEG"),
    "JPEG restarts": lambda: save(RGB, "JPEG", restart_marker_blocks=2),
    "JPEG progressive": lambda: save(RGB, "JPEG", progressive=True),
    "JPEG progressive grey": lambda: save(GREY, "JPEG", progressive=True),
    "JPEG CMYK": lambda: save(PIL.Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "JPEG 12 bits": lambda: imagecodecs.jpeg8_encode(GREY.astype(np.uint16) * 16, level=95, bitspersample=12),
    "TIFF one strip": lambda: tiff(GREY),
    "TIFF strips": lambda: tiff(RGB, photometric="rgb", rowsperstrip=7),
    "TIFF tiles": lambda: tiff(GREY16, tile=(16, 32)),
    "TIFF planes": lambda: tiff(
        np.ascontiguousarray(RGB.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate"
    ),
    "TIFF big-endian": lambda: tiff(RGB16, photometric="rgb", byteorder=">"),
    "TIFF BigTIFF": lambda: tiff(GREY16, bigtiff=True, rowsperstrip=9),
    "TIFF float": lambda: tiff(FLOAT),
    "TIFF float predictor": lambda: tiff(FLOAT, compression="zlib", predictor=3),
    "TIFF float16": lambda: tiff(FLOAT.astype(np.float16)),
    "TIFF LZW": lambda: tiff(RGB, photometric="rgb", compression="lzw", rowsperstrip=7),
    "TIFF LZW predictor": lambda: tiff(GREY16, compression="lzw", predictor=True),
    "TIFF deflate": lambda: tiff(GREY16, compression="zlib", predictor=True, tile=(16, 16)),
    "TIFF deflate, old": lambda: make_tiff([zlib.compress(GREY.tobytes())], {259: 32946}),
    "TIFF PackBits": lambda: tiff(GREY, compression="packbits"),
    "TIFF Zstandard": lambda: tiff(RGB, photometric="rgb", compression="zstd"),
    "TIFF LZMA": lambda: tiff(GREY16, compression="lzma"),
    "TIFF JPEG": lambda: tiff(RGB, photometric="rgb", compression="jpeg", tile=(16, 32)),
    "TIFF JPEG tables": lambda: save(RGB, "TIFF", compression="jpeg"),
    "TIFF CCITT RLE": lambda: save(_BILEVEL, "TIFF", compression="tiff_ccitt"),
    "TIFF CCITT T.4": lambda: save(_BILEVEL, "TIFF", compression="group3"),
    "TIFF CCITT T.6": lambda: save(_BILEVEL, "TIFF", compression="group4"),
    "TIFF 12 bits": lambda: make_tiff([_pack_bits(GREY16 % 4096, 12)], {258: 12}),
    "TIFF 1 bit": lambda: make_tiff([_pack_bits(GREY >> 7, 1)], {258: 1, 262: 0}),
    "TIFF palette": lambda: save(_quantized(16), "TIFF"),
    "TIFF associated alpha": lambda: tiff(np.dstack([RGB, ALPHA]), photometric="rgb", extrasamples=["assocalpha"]),
    "TIFF pages": lambda: tiff(np.stack([GREY, GREY])),
    "TIFF reduced copies": _reduced_copies,
    "TIFF ImageJ": lambda: tiff(GREY16, imagej=True),
    "BMP colour": lambda: save(RGB, "BMP"),
    "BMP palette": lambda: save(_quantized(16), "BMP"),
    "BMP run lengths": _run_length_bmp,
    "GIF": lambda: save(GREY, "GIF", interlace=False, comment=b"a comment"),
    "GIF interlaced": lambda: save(_quantized(64), "GIF", transparency=3),
    "WebP lossy": lambda: save(RGB, "WEBP", quality=80),
    "WebP lossy alpha": lambda: save(np.dstack([RGB, ALPHA]), "WEBP", exif=_exif()[6:]),
    "WebP lossless": lambda: save(RGB, "WEBP", lossless=True),
}
"""What each kind is called, and how a file of it is made."""


def _adam7(pixels: Pixels) -> bytes:
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    return b"".join(
        np.pad(pixels[top::down, left::across], ((0, 0), (1, 0))).tobytes() for top, left, down, across in passes
    )

"""Hostile pictures built by hand: files that ask a decoder for far more memory or time than their bytes are worth.

"50 MP" in a description marks those that stay just below the job's default of `max_pixels` and so have to be decoded.
"""

# One bomb a line reads better than one of the width that code has.
# ruff: noqa: E501

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from functools import partial

import imagecodecs
import numpy as np

from tests.picture_files import (
    GREY,
    HEIGHT,
    RGB,
    WIDTH,
    make_bmp,
    make_chunk,
    make_png,
    make_riff_chunk,
    make_segment,
    make_tiff,
    make_webp,
    save,
)

SIDE = 7071
"""7071 x 7071 is the largest square below 50 million pixels."""
MANY = 2**32 - 1


def deflated(unit: bytes, count: int) -> bytes:
    """A zlib stream of ``unit`` ``count`` times over, put together from one block, so that it costs little to make."""
    together = max(2**20 // len(unit), 1)
    blocks, rest = divmod(count, together)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(unit * together) + compressor.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, zlib.DEFLATED, -15)
    tail = last.compress(unit * rest) + last.flush()
    checksum = 1
    for _ in range(blocks):
        checksum = zlib.adler32(unit * together, checksum)
    return b"\x78\x9c" + block * blocks + tail + struct.pack(">I", zlib.adler32(unit * rest, checksum))


def deflated_zeros(length: int) -> bytes:
    """A zlib stream of ``length`` zeros."""
    return deflated(b"\0", length)


def png_of_rows(width: int, height: int, depth: int, colour: int, pixel: bytes) -> bytes:
    """A whole PNG whose pixels are all the same."""
    return make_png(width, height, depth, colour, make_chunk(b"IDAT", deflated(b"\0" + pixel * width, height)))


# PNG

_PNG_PIXELS = make_chunk(b"IDAT", zlib.compress(np.pad(GREY, ((0, 0), (1, 0))).tobytes()))


def _png(*chunks: bytes, depth: int = 8, colour: int = 0) -> bytes:
    return make_png(WIDTH, HEIGHT, depth, colour, *chunks)


def _png_claiming(length: int) -> bytes:
    data = bytearray(_png(_PNG_PIXELS))
    struct.pack_into(">I", data, 33, length)
    return bytes(data)


# JPEG


def _jpeg(pixels: np.ndarray, **options: object) -> bytes:
    return save(pixels, "JPEG", **options)


def _jpeg_resized(width: int, height: int, frame: int, **options: object) -> bytes:
    """A small JPEG whose header says another size, and maybe another process."""
    data = bytearray(_jpeg(RGB, **options))
    at = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in data)
    data[at + 1] = frame
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


def _jpeg_field(offset: int, value: int) -> bytes:
    """A JPEG with one byte of its frame header changed."""
    data = bytearray(_jpeg(RGB))
    data[data.index(b"\xff\xc0") + offset] = value
    return bytes(data)


def _jpeg_with(segments: bytes) -> bytes:
    plain = _jpeg(GREY)
    return plain[:2] + segments + plain[2:]


def scans(width: int, height: int, count: int, *, components: int = 1, precision: int = 8, run: int = 14) -> bytes:
    """A progressive JPEG of one colour, with ``count`` more scans that add nothing.

    Each scan costs a decoder a pass over the picture, and the file next to nothing: a run of 2^14 empty blocks takes
    15 bits. ``run`` is the exponent; with 0 each block has its own bit.
    """
    blocks = -(-width // 8) * -(-height // 8)
    named = [bytes([component + 1]) for component in range(components)]
    frame = make_segment(
        0xC2, struct.pack(">BHHB", precision, height, width, components) + b"".join(n + b"\x11\0" for n in named)
    )
    tables = make_segment(0xDB, b"\0" + bytes([1] * 64))
    # One code of one bit each: category 0 for the first coefficient, a run of empty blocks for the others.
    tables += make_segment(0xC4, b"\0" + bytes([1] + [0] * 15) + b"\0")
    tables += make_segment(0xC4, b"\x10" + bytes([1] + [0] * 15) + bytes([run << 4]))
    head = bytes([components]) + b"".join(n + b"\0" for n in named) + b"\0\0\0"
    first = make_segment(0xDA, head) + bytes(-(-blocks * components // 8))
    length = (1 + run) * -(-blocks // 2**run)
    data = bytes(length // 8) + bytes([(1 << -length % 8) - 1] if length % 8 else [])
    body = b"".join(
        make_segment(0xDA, b"\1" + named[n % components] + b"\0" + bytes([place, place, 0])) + data
        for n, place in ((n, 1 + n // components % 63) for n in range(count))
    )
    return b"\xff\xd8" + tables + frame + first + body + b"\xff\xd9"


# TIFF


def _tiff(segments: list[bytes], width: int, height: int, **tags: object) -> bytes:
    return make_tiff(segments, {256: width, 257: height, **{int(tag[1:]): value for tag, value in tags.items()}})


def _tiff_of_pixels(
    samples: int, bits: int, sample_format: int, compression: int = 8, pixel: bytes = b"", **more: int
) -> bytes:
    """One strip of 50 million pixels, of zeros or all of them the same."""
    pixel = pixel or bytes(samples * bits // 8)
    count = SIDE * SIDE
    if compression == 8:
        strip = deflated(pixel, count)
    elif compression == 32773:
        strip = b"\x81\0" * -(-len(pixel) * count // 128)
    elif compression == 5:
        strip = imagecodecs.lzw_encode(pixel * count)
    elif compression == 50000:
        strip = imagecodecs.zstd_encode(pixel * count, level=1)
    else:
        strip = lzma.compress(pixel * count, preset=0)
    tags = {256: SIDE, 257: SIDE, 258: [bits] * samples, 259: compression, 262: 2 if samples >= 3 else 1, 277: samples}
    tags[339] = [sample_format] * samples
    if samples > 3:
        tags[338] = [0] * (samples - 3)
    tags |= {int(tag[1:]): value for tag, value in more.items()}
    return make_tiff([strip], tags)  # type: ignore[arg-type]


def _tiff_repeated(width: int, height: int, rows: int, segment: bytes, compression: int = 1, bits: int = 8) -> bytes:
    """Strips by the hundred thousand, all of them the same bytes of the file."""
    return make_tiff(
        [segment], {256: width, 257: height, 278: rows, 259: compression, 258: bits}, repeat=-(-height // rows)
    )


def _tiff_tiles(width: int, height: int, across: int, down: int, segment: bytes, **tags: object) -> bytes:
    count = -(-width // across) * -(-height // down)
    every = {256: width, 257: height, 322: across, 323: down, **{int(tag[1:]): value for tag, value in tags.items()}}
    return make_tiff([segment], every, repeat=count, tiled=True)


def _lzma_with_dictionary(code: int) -> bytes:
    """A .xz stream that asks for a dictionary by its code: 40 is 4 GiB - 1."""
    data = bytearray(lzma.compress(GREY.tobytes(), preset=0))
    at = data.index(b"\x21\x01", 12)
    data[at + 2] = code
    size = (data[12] + 1) * 4
    struct.pack_into("<I", data, 12 + size - 4, zlib.crc32(data[12 : 12 + size - 4]))
    return make_tiff([bytes(data)], {259: 34925})


def _zstd_with_window(exponent: int) -> bytes:
    """A Zstandard frame with a window of 2^exponent bytes and no content size: one block of repeated zeros."""
    block = struct.pack("<I", (2**17 - 1) << 3 | 1 << 1 | 1)[:3] + b"\0"
    return make_tiff([b"\x28\xb5\x2f\xfd\0" + bytes([(exponent - 10) << 3]) + block], {259: 50000})


def _tiff_chain(count: int, loop: bool, first: dict[int, object] | None = None) -> bytes:
    """Directories one after the other; the last one leads back to the first."""
    data = bytearray(make_tiff([GREY.tobytes()], first or {}))
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    link = at + 2 + 12 * entries
    copy = bytes(data[at:link])
    for _ in range(count):
        struct.pack_into("<I", data, link, len(data))
        link = len(data) + len(copy)
        data += copy + bytes(4)
    if loop:
        struct.pack_into("<I", data, link, at)
    return bytes(data)


def _tiff_entries(entries: list[tuple[int, int, int, int]], behind: bytes = b"") -> bytes:
    """A directory of raw entries (tag, type, count, value)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + behind


_PLAIN = [(256, 4, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 4, 1, 8), (259, 4, 1, 1), (262, 4, 1, 1), (277, 4, 1, 1)]


def _tiff_of_entries(*entries: tuple[int, int, int, int], behind: bytes = GREY.tobytes()) -> bytes:
    replaced = {entry[0] for entry in entries}
    kept = [entry for entry in [*_PLAIN, (273, 4, 1, 200), (279, 4, 1, GREY.size)] if entry[0] not in replaced]
    return _tiff_entries([*kept, *entries], bytes(64) + behind)


def _jpeg_tiles() -> bytes:
    """A picture of small tiles, each of which is said to be a JPEG of 50 million pixels."""
    jpeg = scans(SIDE, SIDE, 1)
    return _tiff_tiles(1024, 1024, 16, 16, jpeg, t259=7)


# BMP, GIF, WebP


def _bmp_field(place: int, layout: str, value: int) -> bytes:
    data = bytearray(save(RGB, "BMP"))
    struct.pack_into(layout, data, place, value)
    return bytes(data)


def _gif(*blocks: bytes, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A GIF without a palette: these blocks, then the trailer."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"".join(blocks) + b";"


def _gif_frame(width: int, height: int, codes: bytes, bits: int = 8) -> bytes:
    chunks = b"".join(bytes([len(codes[at : at + 255])]) + codes[at : at + 255] for at in range(0, len(codes), 255))
    return b"," + struct.pack("<HHHHBB", 0, 0, width, height, 0, bits) + chunks + b"\0"


def _gif_codes() -> bytes:
    plain = save(GREY, "GIF")
    return plain[plain.index(b",\0\0\0\0") + 11 : -2]


def _webp_payload(pixels: np.ndarray, **options: object) -> tuple[bytes, bytes]:
    """The kind and content of a simple WebP's only chunk."""
    data = save(pixels, "WEBP", **options)
    return data[12:16], data[20:]


def _webp_of_zeros(width: int, height: int) -> bytes:
    """A lossless WebP in one colour, written bit by bit."""
    bits = f"{width - 1:014b}"[::-1] + f"{height - 1:014b}"[::-1] + "0" + "000"
    bits += "0" + "0" + "0"  # no transform, no colour cache, one group of codes
    bits += ("1" + "0" + "0" + "0") * 5  # each code: simple, one symbol, of one bit, 0
    packed = bits + "0" * (-len(bits) % 8)
    body = bytes(int(packed[at : at + 8][::-1], 2) for at in range(0, len(packed), 8))
    return make_webp(make_riff_chunk(b"VP8L", b"\x2f" + body + bytes(8)))


def _webp_frame(width: int, height: int) -> bytes:
    """An animation of one frame larger than its canvas."""
    canvas = struct.pack("<I", 2) + (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    inner = _webp_of_zeros(width, height)[12:]
    place = bytes(6) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little") + bytes(4)
    return make_webp(
        make_riff_chunk(b"VP8X", canvas), make_riff_chunk(b"ANIM", bytes(6)), make_riff_chunk(b"ANMF", place + inner)
    )


def _webp_canvas(width: int, height: int, *chunks: bytes) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return make_webp(make_riff_chunk(b"VP8X", canvas), *chunks)


_LOSSLESS = _webp_payload(RGB, lossless=True)

BOMBS: list[tuple[str, str, Callable[[], bytes]]] = [
    # PNG
    ("PNG", "50 MP of one colour, RGBA 16", lambda: png_of_rows(SIDE, SIDE, 16, 6, bytes(range(8)))),
    ("PNG", "50 MP of one colour, RGB 8", lambda: png_of_rows(SIDE, SIDE, 8, 2, b"\1\2\3")),
    ("PNG", "50 MP in rows of 16", lambda: png_of_rows(16, 3_000_000, 8, 0, b"\1")),
    ("PNG", "50 MP promised, no pixels", lambda: make_png(SIDE, SIDE, 16, 6, make_chunk(b"IDAT", b""))),
    ("PNG", "50 MP promised, interlaced, 1 bit", lambda: make_png(SIDE, SIDE, 1, 0, make_chunk(b"IDAT", zlib.compress(bytes(99))), interlaced=True)),
    ("PNG", "400 MB of pixels for 16 x 16", lambda: make_png(16, 16, 8, 0, make_chunk(b"IDAT", deflated_zeros(4 * 10**8)))),
    ("PNG", "just above max_pixels", lambda: make_png(SIDE + 1, SIDE + 1, 8, 0, _PNG_PIXELS)),
    ("PNG", "largest size", lambda: make_png(2**31 - 1, 2**31 - 1, 8, 0, _PNG_PIXELS)),
    ("PNG", "size beyond 31 bits", lambda: make_png(MANY, MANY, 8, 0, _PNG_PIXELS)),
    ("PNG", "no size", lambda: make_png(0, 0, 8, 0, _PNG_PIXELS)),
    ("PNG", "50 MP in one row", lambda: make_png(49_999_999, 1, 8, 0, _PNG_PIXELS)),
    ("PNG", "200,000 empty pixel chunks", lambda: _png(make_chunk(b"IDAT", b"") * 200_000, _PNG_PIXELS)),
    ("PNG", "300,000 empty texts", lambda: _png(make_chunk(b"tEXt", b"") * 300_000, _PNG_PIXELS)),
    ("PNG", "profile of 1 GB", lambda: _png(make_chunk(b"iCCP", b"x\0\0" + deflated_zeros(10**9)), _PNG_PIXELS)),
    ("PNG", "text of 1 GB", lambda: _png(make_chunk(b"zTXt", b"x\0\0" + deflated_zeros(10**9)), _PNG_PIXELS)),
    ("PNG", "chunk of 4 GiB", lambda: _png_claiming(MANY)),
    ("PNG", "chunk of 2 GiB", lambda: _png_claiming(2**31)),
    ("PNG", "palette missing", lambda: _png(_PNG_PIXELS, colour=3)),
    ("PNG", "palette too short", lambda: _png(make_chunk(b"PLTE", b"\1\2\3"), _PNG_PIXELS, colour=3)),
    ("PNG", "palette too long", lambda: _png(make_chunk(b"PLTE", bytes(4000)), _PNG_PIXELS, colour=3)),
    ("PNG", "palette twice", lambda: _png(make_chunk(b"PLTE", bytes(768)) * 2, _PNG_PIXELS, colour=3)),
    ("PNG", "palette of 16 bits", lambda: _png(make_chunk(b"PLTE", bytes(768)), _PNG_PIXELS, depth=16, colour=3)),
    ("PNG", "colour type 5", lambda: _png(_PNG_PIXELS, colour=5)),
    ("PNG", "depth 3", lambda: _png(_PNG_PIXELS, depth=3)),
    ("PNG", "depth 0", lambda: _png(_PNG_PIXELS, depth=0)),
    ("PNG", "header twice", lambda: _png(make_chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 16, 6, 0, 0, 0)), _PNG_PIXELS)),
    ("PNG", "unknown critical chunk", lambda: _png(make_chunk(b"ABCD", bytes(99)), _PNG_PIXELS)),
    ("PNG", "2^32 - 1 frames", lambda: _png(make_chunk(b"acTL", struct.pack(">II", MANY, 0)), _PNG_PIXELS)),
    ("PNG", "orientation directory of 65,535 entries", lambda: _png(make_chunk(b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(900_000)), _PNG_PIXELS)),
    # JPEG
    ("JPEG", "50 MP promised", lambda: _jpeg_resized(SIDE, SIDE, 0xC0)),
    ("JPEG", "50 MP promised, progressive", lambda: _jpeg_resized(SIDE, SIDE, 0xC2, progressive=True)),
    ("JPEG", "50 MP promised, arithmetic", lambda: _jpeg_resized(SIDE, SIDE, 0xC9)),
    ("JPEG", "50 MP promised, arithmetic progressive", lambda: _jpeg_resized(SIDE, SIDE, 0xCA, progressive=True)),
    ("JPEG", "50 MP promised, lossless", lambda: _jpeg_resized(SIDE, SIDE, 0xC3)),
    ("JPEG", "50 MP promised, hierarchical", lambda: _jpeg_resized(SIDE, SIDE, 0xC5)),
    ("JPEG", "50 MP of one grey, 2 scans", lambda: scans(SIDE, SIDE, 1)),
    ("JPEG", "50 MP of one grey, 20 scans", lambda: scans(SIDE, SIDE, 19)),
    ("JPEG", "50 MP of one grey, 99 scans", lambda: scans(SIDE, SIDE, 98)),
    ("JPEG", "50 MP of one grey, 99 scans of all blocks", lambda: scans(SIDE, SIDE, 98, run=0)),
    ("JPEG", "50 MP of one colour, 99 scans", lambda: scans(SIDE, SIDE, 98, components=3)),
    ("JPEG", "50 MP of one colour, 12 bits", lambda: scans(SIDE, SIDE, 12, components=3, precision=12)),
    ("JPEG", "50 MP in a strip of 762", lambda: scans(65535, 762, 1)),
    ("JPEG", "101 scans", lambda: scans(WIDTH, HEIGHT, 100)),
    ("JPEG", "100 scans", lambda: scans(WIDTH, HEIGHT, 99)),
    ("JPEG", "just above max_pixels", lambda: scans(SIDE + 1, SIDE + 1, 1)),
    ("JPEG", "size inflated", lambda: _jpeg_resized(65535, 65535, 0xC0)),
    ("JPEG", "height 0, as with a later line count", lambda: _jpeg_resized(WIDTH, 0, 0xC0)),
    ("JPEG", "255 components", lambda: _jpeg_field(9, 255)),
    ("JPEG", "2 components", lambda: _jpeg_field(9, 2)),
    ("JPEG", "sampling 15 x 15", lambda: _jpeg_field(11, 0xFF)),
    ("JPEG", "sampling 0 x 0", lambda: _jpeg_field(11, 0)),
    ("JPEG", "sampling 4 x 4 beside 1 x 1", lambda: _jpeg_field(11, 0x44)),
    ("JPEG", "precision 16", lambda: _jpeg_field(4, 16)),
    ("JPEG", "precision 12 in an 8-bit frame", lambda: _jpeg_field(4, 12)),
    ("JPEG", "frame twice", lambda: _jpeg_with(make_segment(0xC0, struct.pack(">BHHB", 8, SIDE, SIDE, 1) + b"\1\x11\0"))),
    ("JPEG", "Huffman table overfull", lambda: _jpeg_with(make_segment(0xC4, b"\0" + bytes([255] * 16) + bytes(255 * 16)))),
    ("JPEG", "quantisation of zeros", lambda: _jpeg_with(make_segment(0xDB, bytes(65)))),
    ("JPEG", "restart interval of 1", lambda: _jpeg_with(make_segment(0xDD, b"\0\1"))),
    ("JPEG", "500,000 comments", lambda: _jpeg_with(make_segment(0xFE, b"") * 500_000)),
    ("JPEG", "2 MB of fill bytes", lambda: _jpeg_with(b"\xff" * 2_000_000)),
    ("JPEG", "1,000,000 restart marks", lambda: _jpeg(GREY)[:-2] + b"\xff\xd0" * 1_000_000 + b"\xff\xd9"),
    ("JPEG", "4 MB of escaped fill in the scan", lambda: _jpeg(GREY)[:-2] + b"\xff\0" * 2_000_000 + b"\xff\xd9"),
    ("JPEG", "pictures within pictures", lambda: b"\xff\xd8" * 100_000 + _jpeg(GREY)[2:]),
    ("JPEG", "segment of length 0", lambda: _jpeg_with(b"\xff\xe0\0\0")),
    ("JPEG", "no tables", lambda: b"\xff\xd8" + _jpeg(GREY)[_jpeg(GREY).index(b"\xff\xc0") :]),
    # TIFF: size
    ("TIFF", "50 MP of zeros, RGBA 16, deflate", lambda: _tiff_of_pixels(4, 16, 1, 8)),
    ("TIFF", "50 MP of zeros, RGBA 16, PackBits", lambda: _tiff_of_pixels(4, 16, 1, 32773)),
    ("TIFF", "50 MP of zeros, grey 8, LZW", lambda: _tiff_of_pixels(1, 8, 1, 5)),
    ("TIFF", "50 MP of zeros, RGB 8, Zstandard", lambda: _tiff_of_pixels(3, 8, 1, 50000)),
    ("TIFF", "50 MP of zeros, RGB 8, LZMA", lambda: _tiff_of_pixels(3, 8, 1, 34925)),
    ("TIFF", "50 MP of zeros, float 64", lambda: _tiff_of_pixels(1, 64, 3, 8)),
    ("TIFF", "50 MP of zeros, RGB float 32", lambda: _tiff_of_pixels(3, 32, 3, 8)),
    ("TIFF", "50 MP of zeros, RGBA float 16", lambda: _tiff_of_pixels(4, 16, 3, 8)),
    ("TIFF", "50 MP of zeros, RGB signed 16", lambda: _tiff_of_pixels(3, 16, 2, 8)),
    ("TIFF", "50 MP of one colour, RGBA 16", lambda: _tiff_of_pixels(4, 16, 1, pixel=bytes(range(8)))),
    ("TIFF", "50 MP of one colour, RGBA 16, predictor", lambda: _tiff_of_pixels(4, 16, 1, pixel=bytes(range(8)), t317=2)),
    ("TIFF", "50 MP of one colour, RGBA float 16", lambda: _tiff_of_pixels(4, 16, 3, pixel=b"\0\1\0\2\0\3\0\4")),
    ("TIFF", "50 MP of one colour, RGBA signed 16", lambda: _tiff_of_pixels(4, 16, 2, pixel=bytes(range(8)))),
    ("TIFF", "50 MP of one colour, associated alpha 16", lambda: _tiff_of_pixels(4, 16, 1, pixel=bytes(range(8)), t338=1)),
    ("TIFF", "50 MP of one colour, associated alpha float 16", lambda: _tiff_of_pixels(4, 16, 3, pixel=b"\0\1\0\2\0\3\0\4", t338=1)),
    ("TIFF", "50 MP of float 64, predictor", lambda: _tiff_of_pixels(1, 64, 3, pixel=bytes(range(8)), t317=3)),
    ("TIFF", "50 MP in two strips, RGBA 16, predictor", lambda: _tiff_of_pixels(4, 16, 1, t317=2, t278=7000)),
    ("TIFF", "50 MP in two colours, inverted 16", lambda: _tiff_of_pixels(1, 16, 1, pixel=b"\1\2", t262=0)),
    ("TIFF", "50 MP of palette", lambda: _tiff_of_pixels(1, 8, 1, pixel=b"\7", t262=3, t320=list(range(768)))),
    ("TIFF", "50 MP of 16 samples of 64 bits", lambda: _tiff_of_pixels(16, 64, 3, 8)),
    ("TIFF", "50 MP of 1 bit", lambda: _tiff([deflated_zeros(SIDE * 884)], SIDE, SIDE, t258=1, t259=8)),
    ("TIFF", "50 MP of RGB 14 bits", lambda: _tiff([deflated_zeros(7000 * 7000 * 3 * 14 // 8)], 7000, 7000, t258=[14] * 3, t259=8, t262=2, t277=3)),
    ("TIFF", "50 MP of fax, T.4", lambda: _tiff([bytes(range(256)) * 40], SIDE, SIDE, t258=1, t259=3)),
    ("TIFF", "50 MP of fax, T.6", lambda: _tiff([b"\xff" * 9000], SIDE, SIDE, t258=1, t259=4)),
    ("TIFF", "50 MP promised, one strip of nothing", lambda: _tiff([zlib.compress(b"")], SIDE, SIDE, t258=16, t259=8)),
    ("TIFF", "400 MB in a strip for 16 x 16", lambda: _tiff([deflated_zeros(4 * 10**8)], 16, 16, t259=8)),
    ("TIFF", "400 MB of PackBits for 16 x 16", lambda: _tiff([b"\x81\0" * 3_000_000], 16, 16, t259=32773)),
    ("TIFF", "LZW that repeats for ever", lambda: _tiff([imagecodecs.lzw_encode(bytes(2**24))], 16, 16, t259=5)),
    ("TIFF", "dictionary of 4 GiB", lambda: _lzma_with_dictionary(40)),
    ("TIFF", "dictionary of 1 GiB", lambda: _lzma_with_dictionary(36)),
    ("TIFF", "window of 2 GiB", lambda: _zstd_with_window(31)),
    ("TIFF", "window of 1 GiB", lambda: _zstd_with_window(30)),
    ("TIFF", "size inflated", lambda: _tiff([GREY.tobytes()], MANY, MANY)),
    ("TIFF", "just above max_pixels", lambda: _tiff([GREY.tobytes()], SIDE + 1, SIDE + 1)),
    ("TIFF", "depth inflated", lambda: _tiff([GREY.tobytes()], WIDTH, HEIGHT, t32997=MANY)),
    ("TIFF", "65,535 samples", lambda: _tiff([GREY.tobytes()], WIDTH, HEIGHT, t277=65535)),
    # TIFF: strips and tiles
    ("TIFF", "50 MP in 3,000,000 strips of one row of 16", lambda: _tiff_repeated(16, 3_000_000, 1, bytes(16))),
    ("TIFF", "50 MP in 500,000 strips, each a deflate stream", lambda: _tiff_repeated(99, 500_000, 1, zlib.compress(bytes(99)), 8)),
    ("TIFF", "50 MP in 65,535 strips, each of them 20 MB", lambda: _tiff_repeated(762, 65_535, 1, bytes(20_000_000))),
    ("TIFF", "65,000 strips, each of them 5 MB of deflate", lambda: _tiff_repeated(16, 65_000, 1, deflated_zeros(16) + bytes(5_000_000), 8)),
    ("TIFF", "100,000 strips", lambda: _tiff_repeated(16, 100_000, 1, bytes(16))),
    ("TIFF", "3,000,000 offsets for one strip", lambda: make_tiff([GREY.tobytes()], {}, repeat=3_000_000)),
    ("TIFF", "tiles of 50 MP for 16 x 16", lambda: _tiff_tiles(16, 16, SIDE // 16 * 16, SIDE // 16 * 16, zlib.compress(bytes(9)), t259=8)),
    ("TIFF", "tiles of 50 MP in 16 samples of 64 bits for 16 x 16", lambda: _tiff_tiles(16, 16, 7056, 7056, deflated_zeros(10**8), t259=8, t258=64, t277=16, t339=3, t262=2)),
    ("TIFF", "tiles of 4 MP, 1,000 of them for 16,000 x 16", lambda: _tiff_tiles(16_000, 16, 16, 2**18, deflated_zeros(2**22), t259=8)),
    ("TIFF", "tiles of 1,000,000 x 1 for 16 x 200,000", lambda: _tiff_tiles(16, 200_000, 1_000_000, 1, deflated_zeros(1_000_000), t259=8)),
    ("TIFF", "tiles of 16 x 16, 190,000 of them, 50 MP", lambda: _tiff_tiles(7056, 7056, 16, 16, bytes(256))),
    ("TIFF", "tiles of no size", lambda: _tiff_tiles(16, 16, 16, 16, bytes(256), t322=0, t323=0)),
    ("TIFF", "tiles 2^32 - 1 wide", lambda: _tiff_tiles(16, 16, 16, 16, bytes(256), t322=MANY, t323=MANY)),
    ("TIFF", "tiles 2^32 - 1 deep", lambda: _tiff_tiles(16, 16, 16, 16, bytes(256), t32998=MANY)),
    ("TIFF", "no rows in a strip", lambda: _tiff([GREY.tobytes()], WIDTH, HEIGHT, t278=0)),
    ("TIFF", "tiles of 16 x 16, each a JPEG of 50 MP", _jpeg_tiles),
    ("TIFF", "strip that is a JPEG of another size", lambda: _tiff([_jpeg(np.tile(GREY, (9, 9)))], WIDTH, HEIGHT, t259=7)),
    ("TIFF", "JPEG of colour in a grey strip", lambda: _tiff([_jpeg(RGB)], WIDTH, HEIGHT, t259=7)),
    ("TIFF", "JPEG tables with a frame of 50 MP", lambda: _tiff([_jpeg(GREY)], WIDTH, HEIGHT, t259=7, t347=scans(SIDE, SIDE, 1))),
    ("TIFF", "JPEG tables of 3 MB", lambda: _tiff([_jpeg(GREY)], WIDTH, HEIGHT, t259=7, t347=b"\xff\xd8" + make_segment(0xFE, bytes(60000)) * 50 + b"\xff\xd9")),
    ("TIFF", "200,000 tiles of JPEG with tables of 3 MB", lambda: _tiff_tiles(7056, 7056, 16, 16, _jpeg(GREY[:16, :16]), t259=7, t347=b"\xff\xd8" + make_segment(0xFE, bytes(60000)) * 50 + b"\xff\xd9")),
    ("TIFF", "100,000 tiles of JPEG", lambda: _tiff_tiles(4800, 4800, 16, 16, _jpeg(GREY[:16, :16]), t259=7)),
    ("TIFF", "JPEG of 12 bits in an 8-bit strip", lambda: _tiff([imagecodecs.jpeg8_encode(GREY.astype(np.uint16), bitspersample=12)], WIDTH, HEIGHT, t259=7)),
    # TIFF: directories and tags
    ("TIFF", "directory that leads to itself", lambda: _tiff_chain(0, loop=True)),
    ("TIFF", "two directories that lead to each other", lambda: _tiff_chain(1, loop=True)),
    ("TIFF", "20,000 directories", lambda: _tiff_chain(20_000, loop=False)),
    ("TIFF", "20,000 directories of a microscope's", lambda: _tiff_chain(20_000, loop=True, first={34412: bytes(600)})),
    ("TIFF", "20,000 directories of a slide scanner's", lambda: _tiff_chain(20_000, loop=True, first={65420: 1, 65421: 20})),
    ("TIFF", "virtual frames without end", lambda: _tiff_chain(0, False, {305: b"SI.LSMODE", 270: b"SI.LSMODE\nframe=1\n" * 99})),
    ("TIFF", "stack with 2^32 - 1 planes", lambda: _tiff_of_entries((33629, 5, MANY, 8), (33628, 4, MANY, 8))),
    ("TIFF", "ImageJ stack without end", lambda: make_tiff([GREY.tobytes()], {270: b"ImageJ=1.11a\nimages=99999999999999999999\n\0"})),
    ("TIFF", "ImageJ number of 100,000 digits", lambda: make_tiff([GREY.tobytes()], {270: b"ImageJ=1.11a\nimages=" + b"9" * 100_000 + b"\n\0"})),
    ("TIFF", "description of 5 MB in lines", lambda: make_tiff([GREY.tobytes()], {270: b"ImageJ=1.11a\n" + b"a=1\n" * 1_200_000 + b"\0"})),
    ("TIFF", "65,535 entries", lambda: _tiff_entries([(256, 4, 1, 16)] * 65_535)),
    ("TIFF", "4,000 unknown entries", lambda: _tiff_of_entries(*[(40000 + n, 4, 1, n) for n in range(4000)])),
    ("TIFF", "4,000 entries of unknown type", lambda: _tiff_of_entries(*[(40000 + n, 99, 1, n) for n in range(4000)])),
    ("TIFF", "directory without entries", lambda: _tiff_entries([], bytes(99))),
    *[
        ("TIFF", f"count of tag {tag} inflated", partial(_tiff_of_entries, (tag, 4, MANY, 8)))
        for tag in (256, 258, 273, 277, 279, 320, 322, 324, 330, 338, 339, 347, 50839)
    ],
    *[
        ("TIFF", f"tag {tag} a float", partial(_tiff_of_entries, (tag, 11, 1, 0x7FC00000)))
        for tag in (256, 257, 258, 273, 278, 279, 338)
    ],
    ("TIFF", "BigTIFF with 2^64 - 1 entries", lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**64 - 1) + bytes(99)),
    ("TIFF", "BigTIFF with its directory at 2^64 - 1", lambda: b"MM\0+\0\x08\0\0" + b"\xff" * 8 + bytes(99)),
    # BMP
    ("BMP", "50 MP of ends of lines", lambda: make_bmp(SIDE, SIDE, 8, 1, b"\0\0" * 200_000)),
    ("BMP", "50 MP of jumps", lambda: make_bmp(3_000_000, 16, 8, 1, b"\0\2\xff\xff" * 90_000)),
    ("BMP", "50 MP of runs of 4 bits", lambda: make_bmp(SIDE, SIDE, 4, 2, b"\xff\x12" * 200_000)),
    ("BMP", "50 MP of nothing, run lengths", lambda: make_bmp(SIDE, SIDE, 8, 1, b"\0\1")),
    ("BMP", "4 MP of runs of one", lambda: make_bmp(2048, 2048, 8, 1, b"\1\1" * 2_000_000)),
    ("BMP", "4 MP in lines that are left empty", lambda: make_bmp(2**18, 16, 8, 1, b"\1\1\0\0" * 20)),
    ("BMP", "50 MP of 1 bit", lambda: make_bmp(SIDE, SIDE, 1, 0, bytes(884 * SIDE))),
    ("BMP", "50 MP promised, 24 bits", lambda: make_bmp(SIDE, SIDE, 24, 0, bytes(99))),
    ("BMP", "jumps beyond the picture", lambda: make_bmp(WIDTH, HEIGHT, 8, 1, b"\0\2\xff\xff" * 9000)),
    ("BMP", "header of 4 GiB", lambda: _bmp_field(14, "<I", MANY)),
    ("BMP", "header of no size", lambda: _bmp_field(14, "<I", 0)),
    ("BMP", "rows beyond the file", lambda: _bmp_field(10, "<I", MANY)),
    ("BMP", "rows in the header", lambda: _bmp_field(10, "<I", 0)),
    ("BMP", "negative width", lambda: _bmp_field(18, "<i", -(2**31))),
    ("BMP", "most negative height", lambda: _bmp_field(22, "<i", -(2**31))),
    ("BMP", "no bits", lambda: _bmp_field(28, "<H", 0)),
    ("BMP", "65,535 bits", lambda: _bmp_field(28, "<H", 65535)),
    ("BMP", "2^32 - 1 colours", lambda: _bmp_field(46, "<I", MANY)),
    # GIF
    ("GIF", "50 MP of zeros", lambda: save(np.zeros((SIDE, SIDE), np.uint8), "GIF")),
    ("GIF", "50 MP promised", lambda: _gif(_gif_frame(SIDE, SIDE, _gif_codes()), width=SIDE, height=SIDE)),
    ("GIF", "50 MP without its frame", lambda: _gif(_gif_frame(16, 16, _gif_codes()), width=SIDE, height=SIDE)),
    ("GIF", "comment of 10 MB", lambda: _gif(b"!\xfe" + (b"\xff" + bytes(255)) * 40_000 + b"\0", _gif_frame(WIDTH, HEIGHT, _gif_codes()))),
    ("GIF", "1,000,000 blocks of one byte", lambda: _gif(b"!\xfe" + b"\1x" * 1_000_000 + b"\0", _gif_frame(WIDTH, HEIGHT, _gif_codes()))),
    ("GIF", "300,000 comments", lambda: _gif(b"!\xfe\1x\0" * 300_000, _gif_frame(WIDTH, HEIGHT, _gif_codes()))),
    ("GIF", "graphic control of one byte", lambda: _gif(b"!\xf9\1\1\0", _gif_frame(WIDTH, HEIGHT, _gif_codes()))),
    ("GIF", "codes of 0 bits", lambda: _gif(_gif_frame(WIDTH, HEIGHT, _gif_codes(), 0))),
    ("GIF", "codes of 12 bits", lambda: _gif(_gif_frame(WIDTH, HEIGHT, _gif_codes(), 12))),
    ("GIF", "codes of 255 bits", lambda: _gif(_gif_frame(WIDTH, HEIGHT, _gif_codes(), 255))),
    ("GIF", "no codes", lambda: _gif(_gif_frame(WIDTH, HEIGHT, b""))),
    ("GIF", "clear codes only", lambda: _gif(_gif_frame(WIDTH, HEIGHT, b"\0\1\2\4" * 99_999))),
    ("GIF", "frame without size", lambda: _gif(_gif_frame(0, 0, _gif_codes()))),
    ("GIF", "extension of no bytes", lambda: _gif(b"!\xff\0", b"!\xf9\0", _gif_frame(WIDTH, HEIGHT, _gif_codes()))),
    # WebP
    ("WebP", "50 MP of one colour", lambda: _webp_of_zeros(16383, 3051)),
    ("WebP", "50 MP promised", lambda: make_webp(make_riff_chunk(b"VP8L", b"\x2f" + struct.pack("<I", 7070 | 7070 << 14) + bytes(20)))),
    ("WebP", "just above max_pixels", lambda: _webp_of_zeros(SIDE + 1, SIDE + 1)),
    ("WebP", "canvas of 2^48 pixels", lambda: _webp_canvas(2**24, 2**24, make_riff_chunk(*_LOSSLESS))),
    ("WebP", "50 MP picture in a small canvas", lambda: _webp_canvas(WIDTH, HEIGHT, _webp_of_zeros(SIDE, SIDE)[12:])),
    ("WebP", "two pictures", lambda: make_webp(make_riff_chunk(*_LOSSLESS) * 2)),
    ("WebP", "frame larger than its canvas", lambda: _webp_frame(16383, 16383)),
    ("WebP", "500,000 empty chunks", lambda: make_webp(make_riff_chunk(b"JUNK", b"") * 500_000, make_riff_chunk(*_LOSSLESS))),
    ("WebP", "chunk of 4 GiB", lambda: make_webp(b"JUNK\xff\xff\xff\xff", make_riff_chunk(*_LOSSLESS))),
    ("WebP", "no chunks", lambda: make_webp()),
    ("WebP", "alpha that is none", lambda: _webp_canvas(WIDTH, HEIGHT, make_riff_chunk(b"ALPH", b"\xff" * 99), make_riff_chunk(*_webp_payload(RGB)))),
    # None of them
    ("none", "empty", lambda: b""),
    ("none", "one byte", lambda: b"\0"),
    ("none", "10 MB of zeros", lambda: bytes(10**7)),
    ("none", "noise", lambda: np.random.default_rng(1).bytes(10**6)),
    ("none", "text", lambda: b"BM is how this text begins, and it goes on. " * 999),
    ("none", "gzip", lambda: b"\x1f\x8b\x08" + bytes(99)),
    *[("none", f"signature {mark!r} alone", partial(bytes, mark)) for mark in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0+", b"RIFF\0\0\0\0WEBP", b"GIF89a", b"BM")],
    ("none", "signature of JPEG, then zeros", lambda: b"\xff\xd8\xff" + bytes(10**6)),
    ("none", "signature of TIFF, then zeros", lambda: b"II*\0" + bytes(10**6)),
    ("none", "signature of BMP, then noise", lambda: b"BM" + np.random.default_rng(2).bytes(10**5)),
]  # fmt: skip
"""(format, what it is, how it is made)."""

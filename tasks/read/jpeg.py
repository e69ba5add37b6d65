"""JPEG to samples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import imagecodecs
import numpy as np

from tasks.codes import Code, PairError
from tasks.read.decoding import Decoded, check_decoded, check_size, decode, exif_orientation, unpack

_MARKER: Final = re.compile(rb"\xff+[^\x00\xff]")
_SCAN_END: Final = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""In entropy-coded data FF 00 is a literal FF, and D0 to D7 only restart the decoder."""
_RESTART: Final = re.compile(rb"\xff+[\xd0-\xd7]")
_STANDALONE: Final = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_HUFFMAN_DCT: Final = frozenset({0xC0, 0xC1, 0xC2})
_LOSSLESS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_MAX_SCANS: Final = 100
"""Progressive encoders write about ten; each one costs a pass over the whole picture."""
_FILL: Final = bytes.fromhex("35a75c931ed269b8") * 64


@dataclass(frozen=True)
class JpegLayout:
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


def parse_jpeg(data: bytes) -> JpegLayout:
    """Walk a JPEG's markers to the end-of-image mark; what follows it (previews, more pictures) is ignored.

    Raises:
        PairError: TRUNCATED without that mark or with fewer restart marks than the picture needs, DECODE_FAILED
            without a picture.
    """
    frame = precision = width = height = components = 0
    orientation = 1
    scan_ends: list[int] = []
    sampling: dict[int, tuple[int, int]] = {}
    interval = restarts = 0
    position, in_scan = 2, False
    while True:
        found = (_SCAN_END if in_scan else _MARKER).search(data, position)
        if found is None:
            raise PairError(Code.TRUNCATED, f"{len(data)} bytes, no end-of-image mark")
        if in_scan:
            scan_ends.append(found.start())
            if restarts > len(_RESTART.findall(data, position, found.start())):
                raise PairError(Code.TRUNCATED, f"a JPEG scan has fewer than {restarts} restart marks")
            in_scan = False
        position = found.end()
        marker = data[position - 1]
        if marker == 0xD9:
            break
        if marker in _STANDALONE:
            continue
        (length,) = unpack(">H", data, position)
        if position + length > len(data):
            raise PairError(Code.TRUNCATED, f"{len(data)} bytes, ends within a JPEG segment")
        if length < 2:
            raise PairError(Code.DECODE_FAILED, f"JPEG segment of length {length}")
        if marker in _FRAMES:
            frame = marker
            precision, height, width, components = unpack(">BHHB", data, position + 2)
            sampling = _sampling(data, position + 8, components)
        elif marker == 0xE1 and data.startswith(b"Exif\0\0", position + 2):
            orientation = exif_orientation(data[position + 2 : position + length])
        elif marker == 0xDD:
            (interval,) = unpack(">H", data, position + 2)
        elif marker == 0xDA:
            in_scan = True
            (number,) = unpack(">B", data, position + 2)
            named = data[position + 3 : position + length][: 2 * number : 2]
            units = _units(width, height, sampling, named, 1 if frame in _LOSSLESS else 8)
            restarts = math.ceil(units / interval) - 1 if interval else 0
        position += length
    if not frame or not scan_ends or len(scan_ends) > _MAX_SCANS:
        raise PairError(Code.DECODE_FAILED, f"JPEG with {len(scan_ends)} scans")
    return JpegLayout(frame, precision, width, height, components, orientation, tuple(scan_ends))


def _sampling(data: bytes, start: int, components: int) -> dict[int, tuple[int, int]]:
    """Component to its (horizontal, vertical) sampling factors, 1 to 4, out of the frame's header."""
    sampling = {}
    for component in range(components):
        name, factors = unpack(">BB", data, start + 3 * component)
        sampling[name] = across, down = factors >> 4, factors & 15
        if not (1 <= across <= 4 and 1 <= down <= 4):
            raise PairError(Code.DECODE_FAILED, f"JPEG sampling factors {across} and {down}")
    return sampling


def _units(width: int, height: int, sampling: dict[int, tuple[int, int]], named: bytes, side: int) -> int:
    """The number of coded units (MCUs) in a scan of these components; a block has ``side`` samples a side."""
    if not set(named) <= set(sampling) or not named:
        raise PairError(Code.DECODE_FAILED, "a JPEG scan of components that its frame does not name")
    across_most = max(across for across, _ in sampling.values())
    down_most = max(down for _, down in sampling.values())
    if len(named) > 1:
        return math.ceil(width / (side * across_most)) * math.ceil(height / (side * down_most))
    # A component on its own is coded block by block, without the padding to whole units.
    across, down = sampling[named[0]]
    columns, rows = math.ceil(width * across / across_most), math.ceil(height * down / down_most)
    return math.ceil(columns / side) * math.ceil(rows / side)


def read_jpeg(data: bytes, max_pixels: int) -> Decoded:
    """JPEG by libjpeg-turbo, of 8 or 12 bits.

    libjpeg only warns when entropy-coded data ends before the picture is full, and paints the rest grey; the
    warning is out of reach. So the picture is decoded twice, the second time with arbitrary bytes put in where
    each scan ends: a decoder that has all it needs skips them, one that runs dry takes them for picture.
    Arithmetic coding may leave off trailing zeros, so it is not tried.
    """
    layout = parse_jpeg(data)
    if layout.components == 4:
        raise PairError(Code.CMYK, "JPEG of four components")
    if layout.components not in (1, 3):
        raise PairError(Code.PIXELS_UNSUPPORTED, f"JPEG of {layout.components} components")
    check_size(layout.width, layout.height, max_pixels)
    samples = decode(imagecodecs.jpeg8_decode, data)
    check_decoded(samples, layout.width, layout.height)
    if layout.frame in _HUFFMAN_DCT:
        cuts = [0, *layout.scan_ends, len(data)]
        probe = _FILL.join(data[start:end] for start, end in pairwise(cuts))
        if not np.array_equal(samples, decode(imagecodecs.jpeg8_decode, probe)):
            raise PairError(Code.TRUNCATED, "the JPEG's compressed data ends before its last pixel")
    return Decoded(samples, layout.precision, layout.orientation)

"""Damaged and hostile picture files by number: 1,000 of them, the same ones on every machine and in every process.

The first ones are bombs, each built by hand against one weakness that decoders have: sizes that a header only claims,
data that unpack to far more than they are, structures that loop or repeat. The others are small valid files of every
kind that `read_raster` takes, changed at places that a generator chooses, seeded with the mutant's number.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tests.mutant_bombs import BOMBS
from tests.picture_files import KINDS, make_chunk

TOTAL = 1000
SEED = 20231


@dataclass(frozen=True)
class Mutant:
    """One damaged file.

    Attributes:
        kind: the file format that it was made from.
        change: what was done to it.
        data: the whole file.
    """

    number: int
    kind: str
    change: str
    data: bytes


def make_mutant(number: int) -> Mutant:
    """The mutant of this number, from 0 to `TOTAL` - 1."""
    if number < len(BOMBS):
        kind, change, make = BOMBS[number]
        return Mutant(number, kind, change, make())
    index = number - len(BOMBS)
    kinds, changes = list(KINDS), list(CHANGES)
    # Every kind meets every change before one of them is met again.
    kind = kinds[index % len(kinds)]
    change = changes[(index + index // len(kinds)) % len(changes)]
    generator = np.random.default_rng([SEED, number])
    data = CHANGES[change](sample(kind), generator)
    while data == sample(kind):  # zeros over zeros, or a single piece in another order
        change = "burst"
        data = CHANGES[change](data, generator)
    return Mutant(number, kind, change, data)


def slice_numbers(step: int) -> list[int]:
    """Every ``step``-th mutant, of the bombs only those that are decided in little time."""
    return [number for number in range(0, TOTAL, step) if number >= len(BOMBS) or "50 MP" not in BOMBS[number][1]]


@functools.cache
def sample(kind: str) -> bytes:
    """The valid file that mutants of this kind are made from."""
    return KINDS[kind]()


# Places


def _below(generator: np.random.Generator, end: int) -> int:
    return int(generator.integers(0, max(end, 1)))


def _span(generator: np.random.Generator, length: int) -> tuple[int, int]:
    first, second = sorted((_below(generator, length), _below(generator, length)))
    return first, second + 1


def pieces(data: bytes) -> list[bytes]:
    """A file cut at its chunks, segments, blocks or directory entries; joined, they give the file again."""
    if data.startswith(b"\x89PNG"):
        return _cut(data, 8, lambda at: 12 + int.from_bytes(data[at : at + 4], "big"))
    if data.startswith(b"RIFF"):
        return _cut(data, 12, lambda at: 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1))
    if data.startswith(b"\xff\xd8"):
        return _cut(data, 2, lambda at: _jpeg_piece(data, at))
    if data.startswith(b"BM"):
        start = int.from_bytes(data[10:14], "little")
        return [data[:14], data[14:54], data[54:start], data[start:]]
    if data[:2] in (b"II", b"MM"):
        at, size, count = directory(data)
        ends = [0, at, *(at + (8 if size == 20 else 2) + size * entry for entry in range(count + 1)), len(data)]
        return [data[start:end] for start, end in pairwise(ends)]
    return [data[start : start + 64] for start in range(0, len(data), 64)]


def _cut(data: bytes, start: int, length: Callable[[int], int]) -> list[bytes]:
    parts = [data[:start]]
    while start < len(data):
        end = min(start + max(length(start), 1), len(data))
        parts.append(data[start:end])
        start = end
    return parts


def _jpeg_piece(data: bytes, at: int) -> int:
    if data[at] != 0xFF or data[at + 1] in (0xD9, 0):
        return len(data) - at
    length = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data[at + 1] != 0xDA:
        return length
    end = at + length
    while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
        end += 1
    return end - at


def directory(data: bytes) -> tuple[int, int, int]:
    """Where a TIFF's directory begins, the bytes of an entry, and their number."""
    order = "<" if data[:2] == b"II" else ">"
    if 43 in data[2:4]:
        (at,) = struct.unpack_from(order + "Q", data, 8)
        return at, 20, struct.unpack_from(order + "Q", data, at)[0]
    (at,) = struct.unpack_from(order + "I", data, 4)
    return at, 12, struct.unpack_from(order + "H", data, at)[0]


def repair(parts: list[bytes]) -> bytes:
    """The pieces joined; checksums and lengths of PNG chunks made right, so that the damage reaches the decoder."""
    if parts[0].startswith(b"\x89PNG"):
        return parts[0] + b"".join(make_chunk(part[4:8], part[8:-4]) if len(part) >= 12 else part for part in parts[1:])
    return b"".join(parts)


# Changes


def _flip_header_bit(data: bytes, generator: np.random.Generator) -> bytes:
    return _flipped(data, [_below(generator, min(64, len(data)))], generator)


def _flip_body_bit(data: bytes, generator: np.random.Generator) -> bytes:
    return _flipped(data, [_below(generator, len(data))], generator)


def _flip_many_bits(data: bytes, generator: np.random.Generator) -> bytes:
    return _flipped(data, [_below(generator, len(data)) for _ in range(1 + len(data) // 50)], generator)


def _flipped(data: bytes, places: list[int], generator: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in places:
        changed[place] ^= 1 << _below(generator, 8)
    return bytes(changed)


def _burst(data: bytes, generator: np.random.Generator) -> bytes:
    start = _below(generator, len(data))
    length = 1 + _below(generator, 40)
    return data[:start] + generator.bytes(len(data[start : start + length])) + data[start + length :]


def _cut_anywhere(data: bytes, generator: np.random.Generator) -> bytes:
    return data[: _below(generator, len(data))]


def _cut_at_a_piece(data: bytes, generator: np.random.Generator) -> bytes:
    parts = pieces(data)
    length = sum(map(len, parts[: 1 + _below(generator, len(parts) - 1)]))
    return data[: max(length - 1 + _below(generator, 3), 0)]


def _head_of_another_kind(data: bytes, generator: np.random.Generator) -> bytes:
    other = sample(list(KINDS)[_below(generator, len(KINDS))])
    length = 4 + _below(generator, 60)
    return other[:length] + data[length:]


def _tail_of_another_kind(data: bytes, generator: np.random.Generator) -> bytes:
    other = sample(list(KINDS)[_below(generator, len(KINDS))])
    return data[: _below(generator, len(data))] + other[_below(generator, len(other)) :]


def _zeros(data: bytes, generator: np.random.Generator) -> bytes:
    start, end = _span(generator, len(data))
    return data[:start] + bytes(end - start) + data[end:]


def _piece_twice(data: bytes, generator: np.random.Generator) -> bytes:
    parts = pieces(data)
    chosen = _below(generator, len(parts))
    return b"".join([*parts[: chosen + 1], parts[chosen], *parts[chosen + 1 :]])


def _pieces_in_another_order(data: bytes, generator: np.random.Generator) -> bytes:
    head, *parts = pieces(data)
    return head + b"".join(parts[index] for index in generator.permutation(len(parts)))


def _piece_left_out(data: bytes, generator: np.random.Generator) -> bytes:
    parts = pieces(data)
    del parts[_below(generator, len(parts))]
    return b"".join(parts)


def _piece_damaged_and_repaired(data: bytes, generator: np.random.Generator) -> bytes:
    parts = pieces(data)
    chosen = _below(generator, len(parts) - 1) + 1
    part = bytearray(parts[chosen])
    for _ in range(1 + _below(generator, 4)):
        # Between a PNG chunk's length and name and its checksum; anywhere in a short piece.
        first, length = (8, len(part) - 12) if len(part) > 12 else (0, len(part))
        if length:
            part[first + _below(generator, length)] = _below(generator, 256)
    parts[chosen] = bytes(part)
    return repair(parts)


def _junk_behind(data: bytes, generator: np.random.Generator) -> bytes:
    return data + generator.bytes(1 + _below(generator, 5000))


def _gap(data: bytes, generator: np.random.Generator) -> bytes:
    start, end = _span(generator, len(data))
    return data[:start] + data[end:]


def _huge_number(data: bytes, generator: np.random.Generator) -> bytes:
    """An extreme number over a number of the header."""
    start = _below(generator, min(len(data), 200))
    extremes = (
        b"\xff" * 4,
        b"\x7f\xff\xff\xff",
        b"\xff\xff\xff\x7f",
        b"\xff\xff",
        b"\0\0\0\0",
        b"\x80\0\0\0",
        b"\xff" * 8,
    )
    number = extremes[_below(generator, len(extremes))]
    return data[:start] + number + data[start + len(number) :]


def _larger_size(data: bytes, generator: np.random.Generator) -> bytes:
    """A size in the header many times the true one, sometimes just below the limit on pixels."""
    width, height = ((60000, 60000), (7000, 7000), (49000, 1000), (16, 3000000), (57, 40), (56, 4000))[
        _below(generator, 6)
    ]
    changed = bytearray(data)
    if data.startswith(b"\x89PNG"):
        struct.pack_into(">II", changed, 16, width, height)
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    elif data.startswith(b"\xff\xd8"):
        at = next(data.index(mark) for mark in (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2") if mark in data)
        struct.pack_into(">HH", changed, at + 5, min(height, 65535), min(width, 65535))
    elif data.startswith(b"BM"):
        struct.pack_into("<ii", changed, 18, width, height)
    elif data.startswith(b"GIF"):
        struct.pack_into("<HH", changed, 6, min(width, 65535), min(height, 65535))
        at = data.index(b",\0\0\0\0")
        struct.pack_into("<HH", changed, at + 5, min(width, 65535), min(height, 65535))
    elif data.startswith(b"RIFF"):
        at = data.find(b"\x9d\x01\x2a")
        if at >= 0:
            struct.pack_into("<HH", changed, at + 3, min(width, 16383), min(height, 16383))
        else:
            at = data.index(b"VP8L") + 9
            struct.pack_into("<I", changed, at, min(width, 16383) - 1 | min(height, 16383) - 1 << 14)
    else:
        return _with_tags(data, {256: width, 257: height})
    return bytes(changed)


def _with_tags(data: bytes, values: dict[int, int]) -> bytes:
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    at, size, count = directory(data)
    for entry in range(count):
        place = at + (8 if size == 20 else 2) + size * entry
        (tag,) = struct.unpack_from(order + "H", data, place)
        if tag in values and size == 12:
            struct.pack_into(order + "HHII", changed, place, tag, 4, 1, values[tag])
        elif tag in values:
            struct.pack_into(order + "HHQQ", changed, place, tag, 4, 1, 0)
            struct.pack_into(order + "I", changed, place + 12, values[tag])
    return bytes(changed)


def _field_at_its_limit(data: bytes, generator: np.random.Generator) -> bytes:
    """One field of a TIFF's directory, or a byte of another format's first pieces, at a limit of its range."""
    if data[:2] not in (b"II", b"MM"):
        parts = pieces(data)
        chosen = 1 + _below(generator, min(len(parts) - 1, 4))
        part = bytearray(parts[chosen])
        if len(part) > 12:
            part[8 + _below(generator, len(part) - 12)] = (0, 1, 255, 128)[_below(generator, 4)]
        parts[chosen] = bytes(part)
        return repair(parts)
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    at, size, count = directory(data)
    place = at + (8 if size == 20 else 2) + size * _below(generator, count)
    numbers = (0, 1, 2, 3, 7, 16, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, len(data), len(data) - 1, at)
    number = numbers[_below(generator, len(numbers))]
    match generator.integers(0, 4):
        case 0:
            struct.pack_into(order + "H", changed, place + 2, _below(generator, 19))
        case 1:
            struct.pack_into(order + ("I" if size == 12 else "Q"), changed, place + 4, number)
        case 2:
            struct.pack_into(
                order + "H",
                changed,
                place,
                (254, 259, 262, 277, 284, 317, 322, 325, 330, 338, 339, 347, 32997)[_below(generator, 13)],
            )
        case _:
            struct.pack_into(order + ("I" if size == 12 else "Q"), changed, place + (8 if size == 12 else 12), number)
    return bytes(changed)


def _nothing_left(data: bytes, generator: np.random.Generator) -> bytes:
    """Empty, or a few bytes."""
    return data[: _below(generator, 8)]


CHANGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "bit flipped in the header": _flip_header_bit,
    "bit flipped": _flip_body_bit,
    "bits flipped": _flip_many_bits,
    "burst": _burst,
    "cut anywhere": _cut_anywhere,
    "cut at a piece": _cut_at_a_piece,
    "head of another kind": _head_of_another_kind,
    "tail of another kind": _tail_of_another_kind,
    "zeros": _zeros,
    "piece twice": _piece_twice,
    "pieces in another order": _pieces_in_another_order,
    "piece left out": _piece_left_out,
    "piece damaged, checksum right": _piece_damaged_and_repaired,
    "junk behind": _junk_behind,
    "gap": _gap,
    "huge number": _huge_number,
    "larger size": _larger_size,
    "field at its limit": _field_at_its_limit,
    "nothing left": _nothing_left,
}

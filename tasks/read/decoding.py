"""What the readers of every picture format share: their result, their checks, and how a decoder is called."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile

from tasks.codes import Code, PairError

MIN_SIDE: Final = 16
"""Pixels; below it the prior's reflect padding has nothing to reflect."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
Pixels = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a format's reader hands over: [H, W] or [H, W, 1 to 4 samples], extra samples being alpha."""

    samples: Pixels
    stored_bits: int = 8
    orientation: int = 1


def decode(decoder: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a decoder; whatever it raises becomes a PairError."""
    try:
        return decoder(*args, **kwargs)
    except PairError:
        raise
    except MemoryError as error:
        raise PairError(Code.OUT_OF_MEMORY, "while decoding") from error
    except ImportError as error:
        raise PairError(Code.CODEC_MISSING, type(error).__name__) from error
    except Exception as error:
        # Decoders document few of the kinds that damaged bytes make them raise: besides their own there are
        # struct.error, KeyError, TypeError, ZeroDivisionError and more. The message may quote the file: not kept.
        raise PairError(Code.DECODE_FAILED, type(error).__name__) from error


def unpack(layout: str, data: bytes, offset: int) -> tuple[Any, ...]:
    """``struct.unpack_from``; a header that the file ends in is TRUNCATED."""
    if offset + struct.calcsize(layout) > len(data):
        raise PairError(Code.TRUNCATED, f"{len(data)} bytes, and a header or chunk goes on beyond them")
    return struct.unpack_from(layout, data, offset)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse what is TOO_LARGE or TOO_SMALL, in pixels."""
    if width * height > max_pixels:
        raise PairError(Code.TOO_LARGE, f"{width} x {height} = {width * height} pixels, max_pixels is {max_pixels}")
    if min(width, height) < MIN_SIDE:
        raise PairError(Code.TOO_SMALL, f"{width} x {height}")


def check_decoded(samples: Pixels, width: int, height: int) -> None:
    """The decoder must have found the size that the header check let through."""
    if samples.ndim not in (2, 3) or samples.shape[:2] != (height, width):
        raise PairError(Code.DECODE_FAILED, f"header says {height} x {width}, data has shape {samples.shape}")


def exif_orientation(block: bytes) -> int:
    """Orientation 1..8 in an Exif block, a TIFF file of its own; 1 where it is absent or unreadable.

    Damaged metadata leaves the pixels as good as they were, so it is no error.
    """
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, kind, number, value = struct.unpack_from(order + "HHIH", block, entry)
            if tag == 274:
                return int(value) if (kind, number) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def pillow_rgb(plugin: Callable[[io.BytesIO], ImageFile.ImageFile], data: bytes) -> NDArray[np.uint8]:
    """[H, W, 3] by one of Pillow's plugins, called without ``Image.open`` and its process-wide size limit."""
    with plugin(io.BytesIO(data)) as picture:
        return np.array(picture.convert("RGB"))

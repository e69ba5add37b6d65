"""A reader that fails at some mutants, in each of the ways that a trial has to notice."""

from __future__ import annotations

import os

import numpy as np

from tasks.read.raster import Image
from tests.mutant_bombs import BOMBS
from tests.mutant_trial import IMAGE, MEMORY
from tests.mutants import make_mutant

_FIRST = len(BOMBS)
OUTCOMES = {
    _FIRST: IMAGE,
    _FIRST + 1: "died with status -6",
    _FIRST + 2: IMAGE,
    _FIRST + 3: "hang",
    _FIRST + 4: "raised MemoryError: ",
    _FIRST + 5: "read differently again",
    _FIRST + 6: "returned NoneType",
    _FIRST + 7: IMAGE,
}
"""Mutant to what `read` makes of it."""


def read(data: bytes, *, max_pixels: int) -> Image | None:
    """Fail as `OUTCOMES` says."""
    number = next((number for number in OUTCOMES if make_mutant(number).data == data), None)
    pixels = np.zeros((16, 16), np.uint8)
    if number == _FIRST + 1:
        os.abort()
    while number == _FIRST + 3:
        pass
    if number == _FIRST + 4:
        bytearray(2 * MEMORY)
    if number == _FIRST + 5:
        pixels = np.frombuffer(os.urandom(256), np.uint8).reshape(16, 16)
    return None if number == _FIRST + 6 else Image(pixels, 8, "PNG")

"""Pages of pictures: labelled cells, put together in grids and below each other, on one background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# A dark grey: black borders of medical pictures stay visible on it, and it does not dazzle beside dark pictures.
BACKGROUND: Final[Colour] = (54, 54, 54)
TEXT: Final[Colour] = (240, 240, 240)
QUIET_TEXT: Final[Colour] = (176, 176, 176)

GAP: Final = 12


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at ``size`` pixels."""
    return ImageFont.load_default(size=size)


def text_width(text: str, size: int) -> int:
    """Pixels that a line of text takes."""
    return math.ceil(font(size).getlength(text))


def shortened(text: str, width: int, size: int) -> str:
    """``text``, with its middle replaced by three dots as far as it takes to fit ``width`` pixels at a font size."""
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        candidate = text[: (kept + 1) // 2] + "..." + text[len(text) - kept // 2 :]
        if text_width(candidate, size) <= width:
            return candidate
    return ""


def enlarged(image: NDArray[np.uint8], factor: int) -> Image.Image:
    """[H, W] or [H, W, 3] as an RGB picture in which every pixel is a square of ``factor`` pixels."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    return Image.fromarray(np.ascontiguousarray(rgb.repeat(factor, axis=0).repeat(factor, axis=1)))


def blank(width: int, height: int) -> Image.Image:
    """An empty page."""
    return Image.new("RGB", (width, height), BACKGROUND)


def line_height(size: int) -> int:
    """Pixels that a line of text at this font size takes, with air around it."""
    return math.ceil(size * 1.5)


def line(text: str, width: int, size: int, colour: Colour = TEXT) -> Image.Image:
    """One line of text, shortened to ``width``."""
    strip = blank(width, line_height(size))
    middle = strip.height // 2
    ImageDraw.Draw(strip).text((0, middle), shortened(text, width, size), colour, font(size), anchor="lm")
    return strip


def grid(cells: Sequence[Image.Image], columns: int, gap: int = GAP) -> Image.Image:
    """Cells of one size, row by row, ``gap`` pixels apart."""
    width, height = cells[0].size
    rows = math.ceil(len(cells) / columns)
    page = blank(columns * (width + gap) - gap, rows * (height + gap) - gap)
    for index, cell in enumerate(cells):
        page.paste(cell, ((index % columns) * (width + gap), (index // columns) * (height + gap)))
    return page


def stacked(blocks: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Blocks below each other, left-aligned, ``gap`` pixels apart."""
    page = blank(max(block.width for block in blocks), sum(block.height + gap for block in blocks) - gap)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height + gap
    return page


def beside(blocks: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """Blocks side by side, top-aligned, ``gap`` pixels apart."""
    page = blank(sum(block.width + gap for block in blocks) - gap, max(block.height for block in blocks))
    left = 0
    for block in blocks:
        page.paste(block, (left, 0))
        left += block.width + gap
    return page


def with_margin(block: Image.Image, margin: int = 2 * GAP) -> Image.Image:
    """The block with background all around it."""
    page = blank(block.width + 2 * margin, block.height + 2 * margin)
    page.paste(block, (margin, margin))
    return page

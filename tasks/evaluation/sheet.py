"""Contact sheets: the sources and every method of one pair side by side, and close-ups where the methods differ most.

Nothing is reduced or smoothed: pictures appear pixel by pixel, or with each pixel as a square.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tasks.evaluation.page import (
    BACKGROUND,
    GAP,
    QUIET_TEXT,
    TEXT,
    Colour,
    beside,
    enlarged,
    font,
    grid,
    line,
    line_height,
    stacked,
    with_margin,
)

_PAGE_WIDTH: Final = 1560
# Pictures grow to at most this width by a whole factor, so that at least three stand in a row.
_PICTURE_WIDTH: Final = 512
# Close-ups stand in one row up to this many, and grow to at most this many pixels.
_CLOSE_UPS_IN_ROW: Final = 7
_CLOSE_UP_SIDE: Final = 300
_SMALLEST_WINDOW: Final = 8
_LARGE_PICTURE: Final = 400
_TITLE_SIZE: Final = 26
_LABEL_SIZE: Final = 17
_SMALLEST_LABEL: Final = 96
_TAG_SIDE: Final = 20
_FRAME: Final = 2
# A target takes this part of a close-up's side.
_TARGET_SHARE: Final = 8
# Below this, in grey levels, differences of running sums are rounding.
_SMALLEST_SPREAD: Final = 1e-6

# Okabe and Ito's colours, which people with any colour vision tell apart; none of them is a grey.
FRAME_COLOURS: Final[tuple[Colour, ...]] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
)
_INK: Final[Colour] = (0, 0, 0)


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture with its label.

    Attributes:
        label: shown above the picture.
        image: 8-bit grey [H, W] or RGB [H, W, 3].
    """

    label: str
    image: NDArray[np.uint8]


@dataclass(frozen=True)
class Place:
    """A square window of a picture.

    Attributes:
        left, top, side: in pixels of the picture.
        spread: standard deviation across the methods, averaged over window and channels, in grey levels.
    """

    left: int
    top: int
    side: int
    spread: float


def contact_sheet(title: str, panels: Sequence[Panel], zooms: int = 3, sources: int = 2) -> Image.Image:
    """The page of one pair.

    Every picture in full size, in rows on a page some 1,600 pixels wide; pictures of up to 256 pixels are enlarged by a
    whole factor, and pictures wider than half a page make it wider, so that two always stand side by side. Below,
    for each place where the methods differ most, the same window of every picture, enlarged at least threefold; the
    last of several places is that of the most different small thing. The windows are numbered and framed on the
    pictures above.

    Args:
        title: the first line of the page.
        panels: the first ``sources`` of them are the sources, the others methods; all of one size.
        zooms: places to show at most. There are fewer where the pictures are small or equal.
        sources: how many of the panels are sources, 0 or more.

    Raises:
        ValueError: no panels, panels of several sizes or of another type, a negative number of zooms or sources.
    """
    height, width = _common_size(panels)
    if zooms < 0 or not 0 <= sources <= len(panels):
        raise ValueError(f"zooms and sources must be 0 or more, sources at most {len(panels)}; got {zooms}, {sources}")
    scale = max(1, _PICTURE_WIDTH // max(height, width))
    close_up_columns = _columns(len(panels), _CLOSE_UPS_IN_ROW)
    side, zoom = _close_up(height, width, close_up_columns)
    # One method alone is compared with its sources.
    compared = panels[sources:] if len(panels) - sources > 1 else panels
    places = _places([panel.image for panel in compared], side, zooms)

    labels = [f"source: {panel.label}" if index < sources else panel.label for index, panel in enumerate(panels)]
    pictures = [framed(enlarged(panel.image, scale), places, scale) for panel in panels]
    colours = [QUIET_TEXT] * sources + [TEXT] * (len(panels) - sources)
    cells = [_labelled(*cell) for cell in zip(labels, pictures, colours, strict=True)]
    blocks = [grid(cells, _columns(len(cells), max(2, (_PAGE_WIDTH + GAP) // (cells[0].width + GAP))))]
    for number, place in enumerate(places, start=1):
        colour = _frame_colour(number)
        close_ups = [_bordered(enlarged(_window(panel.image, place), zoom), colour) for panel in panels]
        cells = [
            _labelled(f"{number}  {label}", close_up, text)
            for label, close_up, text in zip(labels, close_ups, colours, strict=True)
        ]
        heading = (
            f"{place.side} x {place.side} pixels at x {place.left}, y {place.top}, enlarged {zoom} times; standard "
            f"deviation across {'pictures' if compared is panels else 'methods'}: {place.spread:.1f} grey levels"
        )
        blocks.append(stacked([_heading(number, heading), grid(cells, close_up_columns)], gap=GAP // 2))
    page_width = max(block.width for block in blocks)
    return with_margin(stacked([line(title, page_width, _TITLE_SIZE), *blocks], gap=2 * GAP))


def blind(panels: Sequence[Panel], sources: int, seed: int) -> tuple[list[Panel], dict[str, str]]:
    """Hide which method is which.

    Args:
        panels: sources first, as :func:`contact_sheet` takes them.
        sources: how many of the panels are sources; these keep place and label.
        seed: 0 or more, decides the order. Give each pair another seed, or one recognised method names it everywhere.

    Returns:
        The panels with the methods shuffled and labelled A, B, C ... in their new order, and the key: letter -> label.

    Raises:
        ValueError: more than 26 methods, or two with one label.
    """
    methods = panels[sources:]
    labels = [panel.label for panel in methods]
    if len(methods) > len(string.ascii_uppercase) or len(set(labels)) < len(labels):
        raise ValueError(f"expected at most 26 methods with labels of their own, got {labels}")
    order = np.random.default_rng(seed).permutation(len(methods))
    shuffled = dict(zip(string.ascii_uppercase, (methods[index] for index in order), strict=False))
    renamed = [replace(panel, label=letter) for letter, panel in shuffled.items()]
    return [*panels[:sources], *renamed], {letter: panel.label for letter, panel in shuffled.items()}


def most_different(images: Sequence[NDArray[np.uint8]], side: int, count: int) -> list[Place]:
    """The windows in which pictures differ most, the most different first.

    A window counts with the mean of the pixels' standard deviation across the pictures. Centres of the windows lie at
    least one and a half sides apart along x or y. Windows in which all pictures are equal are no places.

    Args:
        images: of one size, [H, W] or [H, W, 3].
        side: of the windows, at most H and W.
        count: places wanted at most.
    """
    means = _window_means(_spread(images), side)
    distance = math.ceil(1.5 * side)
    places: list[Place] = []
    while len(places) < count:
        top, left = (int(index) for index in np.unravel_index(means.argmax(), means.shape))
        if means[top, left] <= _SMALLEST_SPREAD:
            break
        places.append(Place(left, top, side, float(means[top, left])))
        means[max(0, top - distance + 1) : top + distance, max(0, left - distance + 1) : left + distance] = 0
    return places


def smallest_different(images: Sequence[NDArray[np.uint8]], side: int, taken: Sequence[Place]) -> Place | None:
    """The window around what differs most beyond its surroundings: a lamp, a person far away, a pole.

    None when nothing differs outside of the places that are taken.

    Args:
        images: of one size, [H, W] or [H, W, 3].
        side: of the window, at most H and W.
        taken: windows of this side that are shown already.
    """
    spread = _spread(images)
    around = _window_means(spread, side)
    small = max(1, side // _TARGET_SHARE)
    margin = (side - small) // 2
    inside = _window_means(spread, small)[margin : margin + around.shape[0], margin : margin + around.shape[1]]
    beyond = inside - around
    for place in taken:
        rows = slice(max(0, place.top - side + 1), place.top + side)
        beyond[rows, max(0, place.left - side + 1) : place.left + side] = 0
    top, left = (int(index) for index in np.unravel_index(beyond.argmax(), beyond.shape))
    return Place(left, top, side, float(around[top, left])) if beyond[top, left] > _SMALLEST_SPREAD else None


def _spread(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Standard deviation across pictures, averaged over the channels [H, W]."""
    stack = np.stack([np.broadcast_to(np.atleast_3d(image), (*image.shape[:2], 3)) for image in images])
    spread: NDArray[np.float64] = stack.std(axis=0, dtype=np.float32).mean(axis=2, dtype=np.float64)
    return spread


def _window_means(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Means over all square windows, by their upper left corner."""
    sums = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    means: NDArray[np.float64] = (
        sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    ) / side**2
    return means


def framed(picture: Image.Image, places: Sequence[Place], scale: int) -> Image.Image:
    """A copy of the picture, enlarged by ``scale`` before, with a numbered frame around each place."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    for number, place in enumerate(places, start=1):
        left, top = place.left * scale, place.top * scale
        right, bottom = left + place.side * scale - 1, top + place.side * scale - 1
        box = (
            max(0, left - _FRAME),
            max(0, top - _FRAME),
            min(picture.width - 1, right + _FRAME),
            min(picture.height - 1, bottom + _FRAME),
        )
        draw.rectangle(box, outline=_frame_colour(number), width=_FRAME)
        above = box[1] - _TAG_SIDE
        _tag(draw, (box[0], above if above >= 0 else min(box[3], picture.height - _TAG_SIDE)), number)
    return picture


def _places(images: Sequence[NDArray[np.uint8]], side: int, count: int) -> list[Place]:
    # A mean over a window hardly sees a small target: where there is room for several windows one is for these.
    places = most_different(images, side, max(1, count - 1) if count else 0)
    target = smallest_different(images, side, places) if count > len(places) else None
    return places if target is None else [*places, target]


def _common_size(panels: Sequence[Panel]) -> tuple[int, int]:
    for panel in panels:
        image = panel.image
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not image.size:
            raise ValueError(f"{panel.label} must be uint8 [H, W] or [H, W, 3], got {image.dtype} {list(image.shape)}")
    sizes = {panel.label: panel.image.shape[:2] for panel in panels}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"the panels of a sheet must have one size, got {sizes}")
    height, width = panels[0].image.shape[:2]
    return height, width


def _columns(count: int, most: int) -> int:
    """At most ``most`` cells in a row, and as even rows as that allows."""
    return math.ceil(count / math.ceil(count / most))


def _close_up(height: int, width: int, columns: int) -> tuple[int, int]:
    """Side of the windows in pixels of the picture, some quarter of its shorter side at most, and their enlargement."""
    room = min(_CLOSE_UP_SIDE, (_PAGE_WIDTH + GAP) // columns - GAP - 2 * _FRAME)
    shorter = min(height, width)
    side = min(room // (3 if shorter >= _LARGE_PICTURE else 4), max(shorter // 4, _SMALLEST_WINDOW), shorter)
    return side, room // side


def _window(image: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    return image[place.top : place.top + place.side, place.left : place.left + place.side]


def _labelled(label: str, picture: Image.Image, colour: Colour) -> Image.Image:
    return stacked([line(label, max(picture.width, _SMALLEST_LABEL), _LABEL_SIZE, colour), picture], gap=0)


def _bordered(picture: Image.Image, colour: Colour) -> Image.Image:
    bordered = Image.new("RGB", (picture.width + 2 * _FRAME, picture.height + 2 * _FRAME), colour)
    bordered.paste(picture, (_FRAME, _FRAME))
    return bordered


def _heading(number: int, text: str) -> Image.Image:
    height = line_height(_LABEL_SIZE)
    tag = Image.new("RGB", (_TAG_SIDE, height), BACKGROUND)
    _tag(ImageDraw.Draw(tag), (0, (height - _TAG_SIDE) // 2), number)
    return beside([tag, line(text, _PAGE_WIDTH - _TAG_SIDE - GAP, _LABEL_SIZE, QUIET_TEXT)])


def _tag(draw: ImageDraw.ImageDraw, corner: tuple[int, int], number: int) -> None:
    left, top = corner
    draw.rectangle((left, top, left + _TAG_SIDE - 1, top + _TAG_SIDE - 1), fill=_frame_colour(number))
    middle = (left + _TAG_SIDE / 2, top + _TAG_SIDE / 2)
    draw.text(middle, str(number), _INK, font(_TAG_SIDE - 4), anchor="mm")


def _frame_colour(number: int) -> Colour:
    return FRAME_COLOURS[(number - 1) % len(FRAME_COLOURS)]

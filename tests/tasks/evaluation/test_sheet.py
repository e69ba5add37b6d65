"""Contact sheets: full-size pictures, close-ups where the methods differ, random letters."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.evaluation.page import shortened, text_width
from tasks.evaluation.sheet import (
    FRAME_COLOURS,
    Panel,
    blind,
    contact_sheet,
    framed,
    most_different,
    smallest_different,
)


def noise(height: int, width: int, seed: int, colour: bool = False) -> NDArray[np.uint8]:
    shape = (height, width, 3) if colour else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def with_patch(image: NDArray[np.uint8], top: int, left: int, side: int, level: int) -> NDArray[np.uint8]:
    changed = image.copy()
    changed[top : top + side, left : left + side] = level
    return changed


def flat_panels(height: int, width: int, patches: list[tuple[int, int, int, int]]) -> list[Panel]:
    """Two sources that differ everywhere, and three methods that differ only in patches."""
    grey = np.full((height, width), 128, np.uint8)
    methods = [grey, grey.copy(), grey.copy()]
    for number, patch in enumerate(patches):
        methods[number % 3] = with_patch(methods[number % 3], *patch)
    sources = [Panel("ir", np.zeros_like(grey)), Panel("vi", np.full_like(grey, 255))]
    return [*sources, *(Panel(f"method {number}", method) for number, method in enumerate(methods))]


def holds(sheet: Image.Image, image: NDArray[np.uint8]) -> bool:
    """Whether the picture stands somewhere on the sheet, equal in every pixel."""
    rgb = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
    page = np.asarray(sheet)
    squared_difference = cv2.matchTemplate(page.astype(np.float32), rgb.astype(np.float32), cv2.TM_SQDIFF)
    top, left = np.unravel_index(squared_difference.argmin(), squared_difference.shape)
    return bool(np.array_equal(page[top : top + len(rgb), left : left + rgb.shape[1]], rgb))


def of_colour(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == colour).all(axis=2).sum())


def test_a_planted_difference_is_found() -> None:
    images = [panel.image for panel in flat_panels(120, 160, [(70, 100, 20, 200)])[2:]]

    [place] = most_different(images, side=20, count=3)[:1]

    assert (place.left, place.top, place.side) == (100, 70, 20)
    assert place.spread == pytest.approx(np.std([200, 128, 128]), rel=1e-5)


def test_places_come_in_the_order_of_their_difference_and_apart_from_each_other() -> None:
    patches = [(10, 10, 24, 180), (10, 120, 24, 230), (80, 60, 24, 20)]
    images = [panel.image for panel in flat_panels(120, 160, patches)[2:]]

    places = most_different(images, side=24, count=3)

    assert [(place.top, place.left) for place in places] == [(80, 60), (10, 120), (10, 10)]
    assert places[0].spread > places[1].spread > places[2].spread


def test_windows_do_not_overlap() -> None:
    places = most_different([noise(64, 64, seed) for seed in range(4)], side=12, count=20)

    assert len(places) > 3
    for index, one in enumerate(places):
        for other in places[index + 1 :]:
            assert max(abs(one.top - other.top), abs(one.left - other.left)) >= 18


def test_a_difference_of_colour_counts_though_the_other_pictures_are_grey() -> None:
    grey = np.full((60, 60), 100, np.uint8)
    coloured = np.repeat(grey[..., None], 3, axis=2)
    coloured[30:40, 20:30, 2] = 250

    [place] = most_different([grey, coloured], side=10, count=5)[:1]

    assert (place.top, place.left) == (30, 20)


def test_equal_pictures_have_no_places() -> None:
    image = noise(100, 100, 0)
    assert most_different([image, image, image], side=10, count=3) == []


def test_a_small_target_is_found_beside_a_large_difference() -> None:
    images = [panel.image for panel in flat_panels(120, 160, [(0, 0, 60, 200), (90, 120, 4, 250)])[2:]]
    places = most_different(images, side=32, count=2)
    assert not any(90 - 32 < place.top <= 90 and 120 - 32 < place.left <= 120 for place in places)

    target = smallest_different(images, 32, places)

    assert target is not None
    assert (target.top, target.left) == (90 - 14, 120 - 14)


def test_where_nothing_is_left_there_is_no_small_target() -> None:
    images = [panel.image for panel in flat_panels(64, 64, [(20, 20, 4, 250)])[2:]]
    assert smallest_different(images, 16, most_different(images, 16, 1)) is None


def test_pictures_stand_in_full_size_with_their_frames() -> None:
    panels = [Panel(str(seed), noise(300, 700, seed, colour=seed == 1)) for seed in range(4)]

    plain = contact_sheet("title", panels, zooms=0)

    assert all(holds(plain, panel.image) for panel in panels)
    assert 2 * 700 < plain.width < 1700
    assert not any(of_colour(plain, colour) for colour in FRAME_COLOURS)


def test_small_pictures_are_enlarged_to_squares_of_pixels() -> None:
    panels = [Panel(str(seed), noise(40, 32, seed)) for seed in range(3)]

    sheet = contact_sheet("title", panels, zooms=0)

    assert all(holds(sheet, np.kron(panel.image, np.ones((12, 12), np.uint8))) for panel in panels)


def test_large_pictures_stand_two_in_a_row_and_are_not_reduced() -> None:
    panels = [Panel(str(seed), noise(200, 1100, seed)) for seed in range(3)]

    sheet = contact_sheet("title", panels, zooms=0)

    assert sheet.width > 2200
    assert all(holds(sheet, panel.image) for panel in panels)


@pytest.mark.parametrize(("sources", "zoom"), [(2, 6), (5, 4)])
def test_close_ups_show_the_place_of_the_planted_difference_in_every_panel(sources: int, zoom: int) -> None:
    panels = [
        *(Panel(f"source {seed}", noise(200, 240, seed)) for seed in range(1, sources + 1)),
        *(Panel(str(level), with_patch(noise(200, 240, 0), 60, 90, 50, level)) for level in (0, 255)),
    ]

    sheet = contact_sheet("title", panels, zooms=1, sources=sources)

    [place] = most_different([panels[-2].image, panels[-1].image], side=50, count=1)
    assert (place.top, place.left) == (60, 90)
    for panel in [panels[0], panels[-2], panels[-1]]:
        assert holds(sheet, np.kron(panel.image[60:110, 90:140], np.ones((zoom, zoom), np.uint8)))


def test_every_panel_is_framed_and_every_close_up_bordered() -> None:
    panels = flat_panels(300, 400, [(20, 20, 60, 180), (20, 300, 60, 230), (200, 150, 60, 20)])

    three, two = (contact_sheet("title", panels, zooms=zooms) for zooms in (3, 2))

    for colour in FRAME_COLOURS[:3]:
        # A frame of two pixels around 60 x 60 takes 496, the border around its close-up of 240 x 240 takes 1,936.
        assert of_colour(three, colour) > 5 * (450 + 1800)
    assert not of_colour(two, FRAME_COLOURS[2])
    assert of_colour(two, FRAME_COLOURS[1])


def test_a_frame_lies_around_its_window_and_covers_nothing_of_it() -> None:
    images = [panel.image for panel in flat_panels(100, 100, [(40, 50, 20, 255)])[2:]]
    places = most_different(images, side=20, count=1)

    picture = np.asarray(framed(Image.new("RGB", (200, 200)), places, scale=2))

    ys, xs = np.nonzero((picture == FRAME_COLOURS[0]).all(axis=2))
    assert (xs.min(), xs.max(), ys.max()) == (98, 141, 121)
    assert ys.min() == 78 - 20  # the number stands above
    assert not picture[80:120, 100:140].any()


@pytest.mark.parametrize("corner", [(0, 0), (0, 80), (80, 0), (80, 80)])
def test_a_frame_at_the_border_of_the_picture_stays_visible(corner: tuple[int, int]) -> None:
    images = [panel.image for panel in flat_panels(100, 100, [(*corner, 20, 255)])[2:]]

    picture = np.asarray(framed(Image.new("RGB", (100, 100)), most_different(images, 20, 1), scale=1))

    on_frame = (picture == FRAME_COLOURS[0]).all(axis=2)
    top, left = corner
    edges = (max(0, top - 1), min(99, top + 20)), (max(0, left - 1), min(99, left + 20))
    for row in edges[0]:
        assert on_frame[row, edges[1][0] : edges[1][1] + 1].all()
    for column in edges[1]:
        assert on_frame[edges[0][0] : edges[0][1] + 1, column].all()


def test_one_method_is_compared_with_its_sources() -> None:
    base = noise(120, 120, 0)
    panels = [Panel("ir", base), Panel("vi", base), Panel("only", with_patch(base, 10, 70, 30, 0))]

    assert of_colour(contact_sheet("title", panels, zooms=1), FRAME_COLOURS[0])


@pytest.mark.parametrize("shape", [(16, 16), (16, 300), (300, 16)])
def test_the_smallest_pictures_have_a_sheet(shape: tuple[int, int]) -> None:
    panels = [Panel("a name far too long for so small a picture" * 3, noise(*shape, seed)) for seed in range(9)]

    sheet = contact_sheet("a title " * 60, panels)

    assert sheet.width < 1700


def test_panels_that_do_not_fit_are_named() -> None:
    small, large = Panel("small", noise(20, 20, 0)), Panel("large", noise(30, 20, 0))
    with pytest.raises(ValueError, match="large"):
        contact_sheet("title", [small, small, large])
    with pytest.raises(ValueError, match="odd must be uint8"):
        contact_sheet("title", [small, Panel("odd", np.zeros((20, 20, 4), np.uint8))])
    with pytest.raises(ValueError, match="sources"):
        contact_sheet("title", [small], sources=2)
    with pytest.raises(ValueError, match="one size"):
        contact_sheet("title", [], sources=0)


def test_blind_shuffles_the_methods_and_keeps_the_sources() -> None:
    panels = [Panel(f"panel {index}", np.full((16, 16), index, np.uint8)) for index in range(9)]

    hidden, key = blind(panels, 2, seed=3)

    assert hidden[:2] == panels[:2]
    assert [panel.label for panel in hidden[2:]] == list("ABCDEFG") == list(key)
    assert sorted(key.values()) == [panel.label for panel in panels[2:]]
    for panel in hidden[2:]:
        assert f"panel {panel.image[0, 0]}" == key[panel.label]


def test_blind_is_reproducible_and_differs_between_seeds() -> None:
    panels = [Panel(f"panel {index}", np.zeros((16, 16), np.uint8)) for index in range(9)]
    keys = [blind(panels, 2, seed)[1] for seed in (0, 0, 1, 2)]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2] != keys[3] != keys[0]


def test_blind_needs_labels_that_can_be_told_apart() -> None:
    panel = Panel("same", np.zeros((16, 16), np.uint8))
    with pytest.raises(ValueError, match="labels of their own"):
        blind([panel, panel, panel, panel], 2, seed=0)


def test_long_text_keeps_its_beginning_and_end() -> None:
    text = "paper_tv_weight_0.5_penalty_0.1_steps_100"
    short = shortened(text, 150, 17)
    assert text_width(short, 17) <= 150
    beginning, end = short.split("...")
    assert beginning
    assert end
    assert text.startswith(beginning)
    assert text.endswith(end)
    assert shortened("paper", 150, 17) == "paper"

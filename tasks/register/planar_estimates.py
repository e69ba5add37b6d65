"""Two independent ways to align two pictures of different kinds: edges that correlate, and values that predict values.

An infrared picture shows the contours of the visible one, with contrasts that differ and often swap sign. Gradient
magnitudes therefore correlate where grey values do not (the enhanced correlation coefficient, G. Evangelidis and E.
Psarakis, IEEE PAMI 30, 2008), and mutual information asks for no order of values at all. Both go from coarse to fine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.register.ascent import climb
from tasks.register.information import BINS, Information, binned, information
from tasks.register.planar_map import Matrix, Size, scaling, use_one_opencv_thread, warp

Motion = Literal["translation", "affine"]
Picture = NDArray[np.float32]
"""Grey, [H, W]."""

_FIND_TRANSFORM_ECC: Final[Any] = cv2.findTransformECC
"""Its stub forbids the mask to be None."""

_COARSEST_SIDE: Final = 40
_COARSE_SIDE: Final = 96
_MEDIUM_SIDE: Final = 192
_ITERATIONS: Final = 100
_EPSILON: Final = 1e-5
LEAST_SHARE: Final = 0.6
"""Of the second picture that must be on the first one: fewer pixels can be made to say anything."""

MOST_STRETCH: Final = 1.35
MOST_SHEAR: Final = 0.25
"""Cameras side by side see nearly one scale; beyond lies what a search makes of pictures that do not match."""

_TRIED_SHIFTS: Final = (-0.1, 0.0, 0.1)
"""Of the sides, from where the coarsest search by mutual information begins."""


def shrunk(picture: Picture, size: Size) -> Picture:
    """Averaged over the pixels that one of the smaller picture covers."""
    if picture.shape == size:
        return picture
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA), np.float32)


def smaller(size: Size, side: int) -> Size:
    """The size whose shorter side is ``side``; the size itself where that is no larger."""
    factor = min(1.0, side / min(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def at_sizes(matrix: Matrix, first: tuple[Size, Size], second: tuple[Size, Size]) -> Matrix:
    """A map between two pictures as one between the same two at other sizes, each given as (now, then)."""
    return scaling(*first) @ matrix @ scaling(second[1], second[0])


def edges(picture: Picture) -> Picture:
    """Gradient magnitudes, compressed, since the strongest edges of two kinds of picture are seldom the same."""
    smooth: Any = cv2.GaussianBlur(picture, (0, 0), 1.2)
    across: Any = cv2.Sobel(smooth, cv2.CV_32F, 1, 0)
    down: Any = cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    magnitude: Picture = np.hypot(across, down)
    mean = float(magnitude.mean())
    compressed: Picture = np.log1p(magnitude / mean).astype(np.float32) if mean > 0 else magnitude
    return compressed


def by_edges(first: Picture, second: Picture, start: Matrix, motion: Motion) -> Matrix | None:
    """The map from ``second`` to ``first`` whose edges correlate best, near ``start``; None where there is none."""
    use_one_opencv_thread()
    matrix = start
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _EPSILON)
    first_size, second_size = _size(first), _size(second)
    levels = list(_levels(second_size))
    # An affine map is first looked for among translations, where the coarsest level has little to go by.
    motions: list[tuple[Size, Motion]] = [(levels[0], "translation"), *((level, motion) for level in levels)]
    for second_level, kind in motions:
        factor = second_level[0] / second_size[0]
        first_level = (max(1, round(first_size[0] * factor)), max(1, round(first_size[1] * factor)))
        here = at_sizes(matrix, (first_size, first_level), (second_size, second_level))
        template, source = edges(shrunk(second, second_level)), edges(shrunk(first, first_level))
        # ECC's own translation has no scale beside it: the picture is brought to the start's scale beforehand.
        linear = np.eye(3)
        if kind == "translation":
            linear[:2, :2] = here[:2, :2]
            source = _under(source, linear)
        relative = (np.linalg.inv(linear) @ here)[:2].astype(np.float32)
        ecc = cv2.MOTION_TRANSLATION if kind == "translation" else cv2.MOTION_AFFINE
        try:
            _, found = _FIND_TRANSFORM_ECC(template, source, relative, ecc, criteria, None, 5)
        except cv2.error:
            return None
        here = linear @ np.vstack([found.astype(np.float64), [0, 0, 1]])
        matrix = at_sizes(here, (first_level, first_size), (second_level, second_size))
        if not np.isfinite(matrix).all():
            return None
    return matrix


def _under(picture: Picture, linear: Matrix) -> Picture:
    if np.allclose(linear, np.eye(3)):
        return picture
    height, width = (max(1, round(picture.shape[axis] / linear[1 - axis, 1 - axis])) for axis in (0, 1))
    under: Picture = np.nan_to_num(warp(picture[None], linear, (height, width))[0])
    return under


def _levels(size: Size) -> Iterator[Size]:
    """From the coarsest to the size itself, each about twice the one before."""
    sides = [min(size)]
    while sides[-1] / 2 >= _COARSEST_SIDE:
        sides.append(sides[-1] // 2)
    for side in reversed(sides):
        yield smaller(size, side)


class PlanarInformation:
    """Mutual information of two pictures under maps.

    Args:
        first, second: the pictures.
        side: of the second picture's shorter side, to which both are scaled down.
    """

    def __init__(self, first: Picture, second: Picture, side: int) -> None:
        use_one_opencv_thread()
        self.full = (_size(first), _size(second))
        self.size = smaller(_size(second), side)
        factor = self.size[0] / second.shape[0]
        self._first_size = smaller(_size(first), max(1, round(min(first.shape) * factor)))
        self._first = binned(shrunk(first, self._first_size).ravel()).reshape(self._first_size)
        bins = np.rint(binned(shrunk(second, self.size).ravel())).astype(np.int64)
        self._second = bins * BINS
        self._selected: NDArray[np.bool_] | None = None

    def restricted_to(self, where: NDArray[np.bool_]) -> PlanarInformation:
        """The same on a part of the second picture's pixels, bool of ``size``."""
        part = object.__new__(PlanarInformation)
        part.__dict__.update(self.__dict__)
        part._selected = where.ravel()
        return part

    @property
    def pixel(self) -> float:
        """Of the second picture's own, how many one pixel here is wide."""
        return self.full[1][0] / self.size[0]

    def __call__(self, matrix: Matrix) -> Information:
        """Under a map between the whole pictures."""
        here = at_sizes(matrix, (self.full[0], self._first_size), (self.full[1], self.size))
        moving = warp(self._first[None], here, self.size)[0].ravel()
        if self._selected is None:
            return information(self._second, moving)
        return information(self._second[self._selected], moving[self._selected])

    def score(self, matrix: Matrix) -> float:
        """Normalised mutual information less one; negative where too few pixels meet or the map is implausible."""
        if not plausible(matrix, *self.full):
            return -1.0
        found = self(matrix)
        return found.normalised - 1 if found.share >= LEAST_SHARE else found.share - 1


def stretches(matrix: Matrix, first: Size, second: Size) -> tuple[float, float]:
    """The largest and the least factor by which lengths change, against two fields of view laid over each other."""
    linear = (matrix @ scaling(first, second))[:2, :2]
    largest, least = np.linalg.svd(linear)[1].tolist()
    return largest, least


def plausible(matrix: Matrix, first: Size, second: Size) -> bool:
    """Whether two cameras side by side may differ so much in scale, and no mirror is between them."""
    largest, least = stretches(matrix, first, second)
    within = largest <= MOST_STRETCH and least >= 1 / MOST_STRETCH and largest - least <= MOST_SHEAR
    return within and float(np.linalg.det(matrix[:2, :2])) > 0


def moved(start: Matrix, parameters: NDArray[np.float64], size: Size) -> Matrix:
    """``start`` after a motion of the second picture, in its pixels at its sides: 2 of translation, 4 of the matrix."""
    centre = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    motion = np.eye(3)
    if len(parameters) > 2:
        motion[:2, :2] += parameters[2:].reshape(2, 2) / (max(size) / 2)
    motion[:2, 2] = centre + parameters[:2] - motion[:2, :2] @ centre
    return np.asarray(start @ motion)


def by_information(first: Picture, second: Picture, start: Matrix, motion: Motion, side: int) -> Matrix:
    """The map from ``second`` to ``first`` of the most mutual information, from ``start`` and places around it."""
    size = _size(second)
    coarse = PlanarInformation(first, second, _COARSE_SIDE)
    best, _ = max((_climbed(coarse, shifted, 2) for shifted in _shifted(start, size)), key=lambda found: found[1])
    levels = [
        coarse,
        *(PlanarInformation(first, second, level) for level in (_MEDIUM_SIDE, side) if level / 2 < min(size)),
    ]
    for compared in levels:
        best, _ = _climbed(compared, best, 2 if motion == "translation" else 6)
    return best


def _shifted(start: Matrix, size: Size) -> list[Matrix]:
    """``start``, and the same moved by a tenth of the sides each way."""
    return [moved(start, np.array([x * size[1], y * size[0]]), size) for x in _TRIED_SHIFTS for y in _TRIED_SHIFTS]


def _climbed(compared: PlanarInformation, start: Matrix, numbers: int) -> tuple[Matrix, float]:
    def score(parameters: NDArray[np.float64]) -> float:
        return compared.score(moved(start, parameters, compared.full[1]))

    peak = climb(score, np.zeros(numbers), step=2 * compared.pixel, tolerance=compared.pixel / 25)
    return moved(start, peak.parameters, compared.full[1]), peak.value


def local_shifts(compared: PlanarInformation, matrix: Matrix, tiles: int) -> NDArray[np.float64]:
    """By how many pixels each of ``tiles`` x ``tiles`` parts of the second picture wants to move alone, [n]."""
    rows = np.arange(compared.size[0]) * tiles // compared.size[0]
    columns = np.arange(compared.size[1]) * tiles // compared.size[1]
    tile = rows[:, None] * tiles + columns[None]
    lengths = []
    for index in range(tiles * tiles):
        part = compared.restricted_to(tile == index)
        if part(matrix).share < 0.5:
            continue

        def score(shift: NDArray[np.float64], part: PlanarInformation = part) -> float:
            return part.score(moved(matrix, shift, compared.full[1]))

        peak = climb(score, np.zeros(2), step=2 * compared.pixel, tolerance=compared.pixel / 10, sweeps=5)
        lengths.append(float(np.linalg.norm(peak.parameters)))
    return np.array(lengths)


def _size(picture: NDArray[Any]) -> Size:
    height, width = picture.shape
    return height, width

"""Find the rigid map between two volumes: many coarse starts, the best of them refined at two finer levels.

Every step is deterministic: no random numbers, one thread, sums in one order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.register.affine_map import AffineMap, Box
from tasks.register.ascent import Peak, climb
from tasks.register.foreground import Foreground, field_of_view, foreground_of, overlap_and_dice, reduction
from tasks.register.grid import block_mean
from tasks.register.similarity import Clock, Similarity
from tasks.volume import Volume

_COARSE, _MEDIUM, _FINE = 12_000, 90_000, 400_000
"""Points in the box: for a head some 8, 4 and 2.6 mm apart."""

_CLOSEST: Final = 0.75
"""Of the mean width of a voxel: points nearer to each other tell nothing new."""

_SMALLER: Final = 0.75
"""The share of the fixed field of view below which the moving one's own box is the better place to take points."""

_PLAUSIBLE_OVERLAP: Final = 0.3
_CLIMBED: Final = 16
_REFINED: Final = 4
_DISTINCT: Final = 0.09
"""Of the box's radius; coarse peaks nearer to each other than that, some 8 mm in a head, are refined as one."""

_RIVAL: Final = 0.2
"""Of the box's radius; a refined peak so far from the best one is another alignment, not the same one less exact."""


class Scene:
    """Two volumes to be aligned, seen from the one with the smaller field of view.

    Attributes:
        fixed, moving: the volumes, block-averaged to the finest level; ``fixed`` lends the box.
        swapped: whether they changed roles, so that the map found is to be inverted.
        fixed_foreground, moving_foreground: see :class:`~tasks.register.foreground.Foreground`.
        box: about the fixed foreground.
        clock: of the registration.

    Raises:
        PairError: REGISTRATION_FAILED when one of them holds nothing that stands out.
    """

    def __init__(self, fixed: Volume, moving: Volume, clock: Clock) -> None:
        self.swapped = field_of_view(moving) < _SMALLER * field_of_view(fixed)
        if self.swapped:
            fixed, moving = moving, fixed
        self.clock = clock
        self.fixed_foreground: Foreground = foreground_of(fixed)
        self.moving_foreground: Foreground = foreground_of(moving)
        self.box: Box = self.fixed_foreground.box
        # Points much closer than voxels are would only cost time.
        self._finest = _CLOSEST * math.prod(fixed.spacing) ** (1 / 3)
        finest = self._level(_FINE)
        self.fixed = block_mean(fixed, reduction(fixed, finest))
        self.moving = block_mean(moving, reduction(moving, finest))

    def _level(self, points: int) -> float:
        return max(self._finest, float((np.prod(self.box.high - self.box.low) / points) ** (1 / 3)))

    def _similarity(self, points: int) -> Similarity:
        return Similarity(self.fixed, self.moving, self.box, self._level(points), self.clock)

    def with_moving(self, moving: Volume, like: Similarity) -> Similarity:
        """Another volume in place of the moving one, compared at the points of ``like``."""
        return Similarity(self.fixed, moving, self.box, like.level, self.clock)

    @cached_property
    def coarse(self) -> Similarity:
        """For the search."""
        return self._similarity(_COARSE)

    @cached_property
    def medium(self) -> Similarity:
        """For the choice between peaks, and for the judgement."""
        return self._similarity(_MEDIUM)

    @cached_property
    def fine(self) -> Similarity:
        """For the last steps."""
        return self._similarity(_FINE)

    def direction(self, mapping: AffineMap) -> AffineMap:
        """A map found here as one from the fixed source that the caller named, or the other way round."""
        return mapping.inverse() if self.swapped else mapping

    @cached_property
    def header_is_plausible(self) -> bool:
        """Whether both lie in a scanner's space, and there nearly at one place."""
        if not (self.fixed.in_scanner_space and self.moving.in_scanner_space):
            return False
        overlap, _ = overlap_and_dice(self.fixed_foreground, self.moving_foreground, AffineMap.identity())
        return overlap >= _PLAUSIBLE_OVERLAP

    @cached_property
    def starts(self) -> tuple[AffineMap, ...]:
        """Translations from which the pair may plausibly differ by a small motion; the first is the reference."""
        shifts = [np.zeros(3)] if self.header_is_plausible else []
        shifts.append(self.moving_foreground.box.centre - self.box.centre)
        shifts.append(self.moving_foreground.centre - self.fixed_foreground.centre)
        distinct: list[NDArray[np.float64]] = []
        for shift in shifts:
            if all(np.linalg.norm(shift - other) > _DISTINCT * self.box.radius for other in distinct):
                distinct.append(shift)
        return tuple(AffineMap(np.eye(3), shift) for shift in distinct)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search came to.

    Attributes:
        mapping: the best map, at the medium level.
        score: of it, at that level.
        rival: the score of the best map that is another one; 0 where all starts came to the same.
    """

    mapping: AffineMap
    score: float
    rival: float


def search(
    coarse: Similarity,
    medium: Similarity,
    starts: Sequence[AffineMap],
    span_deg: float,
    climbed: int = _CLIMBED,
    refined: int = _REFINED,
) -> Found:
    """Turn each start in 15 ways by up to ``span_deg``, climb from the best, and refine the best peaks that differ."""
    box = coarse.box
    score = objective(coarse)
    turned = [
        np.concatenate([start(box.centre[None])[0] - box.centre, turn * box.radius])
        for start in starts
        for turn in _turns(np.deg2rad(span_deg))
    ]
    # A sort that keeps the order of equals: the result must not depend on anything else.
    best = sorted(turned, key=lambda parameters: -score(parameters))[:climbed]
    peaks = [climb(score, parameters, step=coarse.level, tolerance=coarse.level / 5) for parameters in best]
    chosen: list[Peak] = []
    for peak in sorted(peaks, key=lambda peak: -peak.value):
        if all(_apart(box, peak, other) > _DISTINCT for other in chosen):
            chosen.append(peak)
        if len(chosen) == refined:
            break
    step, tolerance = medium.level, medium.level / 10
    better = [climb(objective(medium), peak.parameters, step=step, tolerance=tolerance) for peak in chosen]
    better.sort(key=lambda peak: -peak.value)
    others = [peak.value for peak in better[1:] if _apart(box, peak, better[0]) > _RIVAL]
    return Found(box.map_of(better[0].parameters), better[0].value, max(others, default=0.0))


def objective(similarity: Similarity) -> Callable[[NDArray[np.float64]], float]:
    """The score as a function of the parameters of :meth:`~tasks.register.affine_map.Box.map_of`."""
    return lambda parameters: similarity.score(similarity.box.map_of(parameters))


def refine(similarity: Similarity, mapping: AffineMap) -> tuple[AffineMap, Peak]:
    """Climb from a rigid map to the peak beside it."""
    box, level = similarity.box, similarity.level
    peak = climb(objective(similarity), box.parameters_of(mapping), step=level / 2, tolerance=level / 25)
    return box.map_of(peak.parameters), peak


def _apart(box: Box, first: Peak, second: Peak) -> float:
    """The distance of two peaks as a share of the box's radius."""
    return box.distance(box.map_of(first.parameters), box.map_of(second.parameters)) / box.radius


def _turns(span: float) -> list[NDArray[np.float64]]:
    """Rotation vectors: none, ``span`` about each axis, and about the diagonals by somewhat more."""
    turns = [np.zeros(3)]
    turns += [sign * span * axis for axis in np.eye(3) for sign in (1.0, -1.0)]
    signs = (1.0, -1.0)
    turns += [0.7 * span * np.array([x, y, z]) for x in signs for y in signs for z in signs]
    return turns

"""Climb to a local maximum of a function of some numbers without its derivatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_GOLDEN: Final = 1.6


@dataclass(frozen=True, eq=False)
class Peak:
    """Where an ascent ended.

    Attributes:
        parameters: float64 [n].
        value: of the function there.
        settled: whether it ended because steps became small, not because the number of sweeps ran out.
    """

    parameters: NDArray[np.float64]
    value: float
    settled: bool


def climb(
    function: Callable[[NDArray[np.float64]], float],
    start: NDArray[np.float64],
    *,
    step: float,
    tolerance: float,
    sweeps: int = 12,
) -> Peak:
    """Sweeps of line searches along each parameter, then along the sweep's own direction.

    Powell's method (Computer Journal 7, 1964) without the exchange of directions, each line search ending in one
    parabola: some ten evaluations per parameter, no random numbers.

    Args:
        function: to be maximised; its parameters are of like scale.
        start: where to begin, [n].
        step: of the first line searches; they halve where nothing is gained.
        tolerance: a sweep that moves by less is the last.
        sweeps: at most.
    """
    point, value = start.astype(np.float64), function(start)
    axes = np.eye(len(point))
    steps = np.full(len(point), step)
    for _ in range(sweeps):
        before = point
        for index, axis in enumerate(axes):
            point, value, moved = _along(function, point, value, axis, float(steps[index]))
            wanted = min(float(steps[index]), 2 * abs(moved)) if moved else float(steps[index]) / 2
            steps[index] = max(wanted, tolerance)
        length = float(np.linalg.norm(point - before))
        if length > tolerance / 2:
            direction = (point - before) / length
            point, value, _ = _along(function, point, value, direction, max(length / 2, tolerance))
        if length < tolerance and steps.max() <= 2 * tolerance:
            return Peak(point, value, True)
    return Peak(point, value, False)


def _along(
    function: Callable[[NDArray[np.float64]], float],
    point: NDArray[np.float64],
    value: float,
    direction: NDArray[np.float64],
    step: float,
) -> tuple[NDArray[np.float64], float, float]:
    """The best point found along a line, its value, and how far it lies from ``point``."""

    def at(distance: float) -> float:
        return function(point + distance * direction)

    def take(distance: float, otherwise: float, otherwise_value: float) -> tuple[NDArray[np.float64], float, float]:
        found = at(distance)
        if found > otherwise_value:
            return point + distance * direction, found, distance
        return point + otherwise * direction, otherwise_value, otherwise

    behind, behind_value = 0.0, value
    ahead, ahead_value = step, at(step)
    if ahead_value <= value:
        backward_value = at(-step)
        if backward_value <= value:
            curvature = ahead_value - 2 * value + backward_value
            if curvature >= 0:
                return point, value, 0.0
            top = step / 2 * (backward_value - ahead_value) / curvature
            return (point, value, 0.0) if abs(top) < step / 20 else take(top, 0.0, value)
        ahead, ahead_value = -step, backward_value
    for _ in range(6):
        beyond = ahead + _GOLDEN * (ahead - behind)
        beyond_value = at(beyond)
        if beyond_value <= ahead_value:
            break
        behind, behind_value, ahead, ahead_value = ahead, ahead_value, beyond, beyond_value
    else:
        return point + ahead * direction, ahead_value, ahead
    left, right = (ahead - behind) * (ahead_value - beyond_value), (ahead - beyond) * (ahead_value - behind_value)
    if left == right:
        return point + ahead * direction, ahead_value, ahead
    top = ahead - ((ahead - behind) * left - (ahead - beyond) * right) / (2 * (left - right))
    if not min(behind, beyond) < top < max(behind, beyond):
        return point + ahead * direction, ahead_value, ahead
    return take(top, ahead, ahead_value)

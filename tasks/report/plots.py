"""The plots of a report, as small SVG pictures that need nothing else."""

from __future__ import annotations

import io
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from tasks.report.figures import Distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INCHES: Final = (4.0, 1.75)
_WIDE_INCHES: Final = (8.6, 1.9)
_MOST_BINS: Final = 40
_TAIL: Final = 0.005
_NOW: Final = "#0b6fa4"
_BEFORE: Final = "#8a8a8a"
_SMALL: Final = 8
_LEAST_PACED: Final = 20
_LEAST_SECONDS: Final = 10


def distribution_plot(now: Distribution, before: Distribution | None) -> bytes:
    """The shares of the pairs by value; that of the earlier run as a line, where there is one. An SVG file.

    A tail that would squeeze everything else is gathered in the outermost bin.
    """
    figure, axis = _figure(_INCHES)
    edges = _edges(now if before is None else Distribution(np.sort(np.concatenate([now.values, before.values]))))
    axis.stairs(_shares(now, edges), edges, fill=True, color=_NOW, alpha=0.75)
    axis.axvline(float(np.clip(now.median, edges[0], edges[-1])), color=_NOW, linewidth=1.4)
    if before is not None:
        axis.stairs(_shares(before, edges), edges, color=_BEFORE, linewidth=1.2)
        axis.axvline(float(np.clip(before.median, edges[0], edges[-1])), color=_BEFORE, linewidth=1.2, linestyle="--")
    axis.set_xlim(edges[0], edges[-1])
    axis.set_yticks([])
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(labelsize=_SMALL)
    return _svg(figure)


def pace_plot(finished: NDArray[np.float64], stride: int) -> bytes | None:
    """Pairs per minute over the time of a run, as an SVG file; None for a run of few pairs or seconds.

    Args:
        finished: seconds since 1970, ascending.
        stride: each stands for so many pairs.
    """
    if len(finished) < _LEAST_PACED or finished[-1] - finished[0] < _LEAST_SECONDS:
        return None
    figure, axis = _figure(_WIDE_INCHES)
    bins = max(1, min(_MOST_BINS, len(finished) // 4))
    counts, edges = np.histogram(finished, bins)
    minutes = (edges[1] - edges[0]) / 60
    axis.stairs(stride * counts / minutes, (edges - edges[0]) / 60, fill=True, color=_NOW, alpha=0.75)
    began = datetime.fromtimestamp(float(edges[0]), UTC)
    axis.set_xlabel(f"minutes after {began:%Y-%m-%d %H:%M} UTC", fontsize=_SMALL)
    axis.set_ylabel("pairs per minute", fontsize=_SMALL)
    axis.set_xlim(0, (edges[-1] - edges[0]) / 60)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=_SMALL)
    axis.grid(axis="y", alpha=0.3)
    return _svg(figure)


def _edges(both: Distribution) -> NDArray[np.float64]:
    low, high = float(both.values[0]), float(both.values[-1])
    inner_low, inner_high = both.quantile(_TAIL), both.quantile(1 - _TAIL)
    margin = (inner_high - inner_low) / 4
    if inner_high > inner_low:
        low, high = max(low, inner_low - margin), min(high, inner_high + margin)
    if high <= low:
        room = max(abs(low) * 0.01, 1e-6)
        low, high = low - room, high + room
    return np.linspace(low, high, max(5, min(_MOST_BINS, math.isqrt(len(both.values)) + 1)) + 1)


def _shares(one: Distribution, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    counts, _ = np.histogram(np.clip(one.values, edges[0], edges[-1]), edges)
    return counts / len(one.values)


def _figure(inches: tuple[float, float]) -> tuple[Figure, Axes]:
    # Without pyplot, as in tasks.evaluation.plots.
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    figure.patch.set_alpha(0)
    axis = figure.subplots()
    axis.patch.set_alpha(0)
    return figure, axis


def _svg(figure: Figure) -> bytes:
    encoded = io.BytesIO()
    # Without a date or a name of the program, so that the same figures give much the same file.
    figure.savefig(encoded, format="svg", metadata={"Date": None, "Creator": None})
    return encoded.getvalue()

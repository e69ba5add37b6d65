"""Metrics against the number of steps, one line for each setting, as small plots side by side."""

from __future__ import annotations

import io
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The six metrics of the paper's tables, in their order.
PAPER_METRICS: Final = ("EN", "SD", "MI", "VIF", "Qabf", "SSIM")

_DOTS_PER_INCH: Final = 110
_PLOT_INCHES: Final = (4.2, 2.9)
_LONE_PLOT_INCHES: Final = (6.4, 4.2)
_PLOTS_IN_ROW: Final = 3
_LETTERS_PER_INCH: Final = 11
_LEGEND_MARK_LETTERS: Final = 8
_LEGEND_LINE_INCHES: Final = 0.22
# Settings beyond the first 10 repeat the colours with another marker and dash.
_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_DASHES: Final = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class GridPoint:
    """One configuration of a grid and what it came to.

    Attributes:
        setting: everything about the configuration but its steps, such as `tv_weight=0.5 penalty=0.1`; a line's name.
        steps: 1 or more.
        figures: metric -> mean over the pairs; a figure that does not exist is NaN or missing.
    """

    setting: str
    steps: int
    figures: Mapping[str, float]


def grid_plot(title: str, points: Sequence[GridPoint], metrics: Sequence[str] = PAPER_METRICS) -> Image.Image:
    """The page of a grid: a small plot for each metric, steps along x on a logarithmic axis, a line per setting.

    Args:
        title: above all plots.
        points: of one or more settings, in any order; lines are named and coloured in the order of first appearance.
        metrics: which to show.

    Raises:
        ValueError: no points, no metrics, steps below 1, two points of one setting and number of steps, or a metric
            of which no point has a figure.
    """
    _check(points, metrics)
    # pyplot would keep every figure in a list of its own and choose a backend by the screen; a Figure alone does not.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_PLOTS_IN_ROW, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    lines: defaultdict[str, list[GridPoint]] = defaultdict(list)
    for point in sorted(points, key=lambda point: point.steps):
        lines[point.setting].append(point)
    settings = list(dict.fromkeys(point.setting for point in points))

    plot_width, plot_height = _PLOT_INCHES if len(metrics) > 1 else _LONE_PLOT_INCHES
    letters = int(columns * plot_width * _LETTERS_PER_INCH)
    names = {setting: textwrap.fill(setting, letters - _LEGEND_MARK_LETTERS) for setting in settings}
    longest = min(letters, max(len(setting) for setting in settings) + _LEGEND_MARK_LETTERS)
    legend_columns = min(len(settings), letters // longest)
    legend_lines = math.ceil(sum(name.count("\n") + 1 for name in names.values()) / legend_columns) + 1

    height = rows * plot_height + legend_lines * _LEGEND_LINE_INCHES
    figure = Figure(figsize=(columns * plot_width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, metric in zip(axes, metrics, strict=False):
        for index, setting in enumerate(settings):
            _draw_line(axis, index, names[setting], lines[setting], metric)
        _finish(axis, metric, sorted({point.steps for point in points}))
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=legend_columns, frameon=False)
    figure.suptitle(title, parse_math=False)

    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=_DOTS_PER_INCH)
    return Image.open(encoded).convert("RGB")


def _check(points: Sequence[GridPoint], metrics: Sequence[str]) -> None:
    if not points or not metrics:
        raise ValueError(f"a plot needs points and metrics, got {len(points)} points and metrics {list(metrics)}")
    seen: set[tuple[str, int]] = set()
    for point in points:
        if point.steps < 1:
            raise ValueError(f"steps must be 1 or more, got {point.steps} of {point.setting!r}")
        if (point.setting, point.steps) in seen:
            raise ValueError(f"{point.setting!r} has two points of {point.steps} steps")
        seen.add((point.setting, point.steps))
    for metric in metrics:
        if not any(math.isfinite(point.figures.get(metric, math.nan)) for point in points):
            raise ValueError(f"no point has a figure of {metric!r}")


def _draw_line(axis: Axes, index: int, name: str, points: Sequence[GridPoint], metric: str) -> None:
    axis.plot(
        [point.steps for point in points],
        [point.figures.get(metric, math.nan) for point in points],
        label=name,
        color=f"C{index % 10}",
        marker=_MARKERS[index // 10 % len(_MARKERS)],
        linestyle=_DASHES[index // 10 % len(_DASHES)],
        markersize=4,
        linewidth=1.3,
    )


def _finish(axis: Axes, metric: str, steps: Sequence[int]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(steps, [str(number) for number in steps])
    axis.set_xticks([], minor=True)
    axis.set_title(metric, fontsize=11)
    axis.set_xlabel("steps")
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)

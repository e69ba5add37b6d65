"""Plots of a grid of configurations."""

import math
import subprocess
import sys

import numpy as np
import pytest

from tasks.evaluation.plots import PAPER_METRICS, GridPoint, grid_plot

BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def point(setting: str, steps: int, **figures: float) -> GridPoint:
    return GridPoint(setting, steps, {**dict.fromkeys(PAPER_METRICS, 1.0), **figures})


def rows_of_colour(plot: np.ndarray, colour: tuple[int, int, int], left: float, right: float) -> float:
    """Mean row in which a line's colour stands, between two shares of the width, above the legend."""
    height, width = plot.shape[:2]
    window = plot[: height * 4 // 5, int(left * width) : int(right * width)]
    return float(np.nonzero((window == colour).all(axis=2))[0].mean())


def test_each_setting_has_its_line() -> None:
    points = [
        *(point("rising", steps, VIF=0.1 * steps) for steps in (5, 10, 100)),
        *(point("falling", steps, VIF=10 - 0.1 * steps) for steps in (100, 5, 10)),
    ]

    plot = np.asarray(grid_plot("steps against VIF", points, ("VIF",)))

    # Rows count from the top: the first setting begins below the second and ends above it.
    assert rows_of_colour(plot, BLUE, 0.05, 0.3) > rows_of_colour(plot, ORANGE, 0.05, 0.3)
    assert rows_of_colour(plot, BLUE, 0.8, 1.0) < rows_of_colour(plot, ORANGE, 0.8, 1.0)


def test_a_grid_shows_all_six_metrics_and_grows_with_its_legend() -> None:
    few = grid_plot("few", [point("one", 5), point("one", 10)])
    many = grid_plot("many", [point(f"tv_weight={index} penalty=0.1", 5) for index in range(40)])

    assert few.width == many.width > 1000
    assert many.height > few.height + 100


def test_figures_that_do_not_exist_leave_a_gap() -> None:
    def drawn(points: list[GridPoint]) -> int:
        plot = np.asarray(grid_plot("title", points, ("VIF",)))
        window = plot[plot.shape[0] // 10 : plot.shape[0] * 3 // 4]
        return int((window == BLUE).all(axis=2).sum())

    whole = [point("a", steps, VIF=steps) for steps in (5, 10, 25, 100)]
    gappy = [*whole[:2], point("a", 25, VIF=math.nan), whole[3]]
    lost = [*whole[:2], GridPoint("a", 25, {}), whole[3]]
    # Only the line between the first two is left, and the marks.
    assert 0 < drawn(gappy) == drawn(lost) < drawn(whole) / 2


def test_long_names_and_signs_of_formulas_are_taken_as_they_are() -> None:
    points = [point("a very long name " * 20, 5), point("unbroken" * 40, 5)]
    plot = grid_plot("a $5 _set_ of $6", points, ("VIF",))
    assert plot.width < 800


def test_what_cannot_be_plotted_is_refused() -> None:
    with pytest.raises(ValueError, match="needs points"):
        grid_plot("title", [])
    with pytest.raises(ValueError, match="steps must be 1"):
        grid_plot("title", [point("a", 0)])
    with pytest.raises(ValueError, match="two points of 5 steps"):
        grid_plot("title", [point("a", 5), point("a", 5)])
    with pytest.raises(ValueError, match="'VIF'"):
        grid_plot("title", [point("a", 5, VIF=math.nan)], ("VIF",))


def test_matplotlib_is_loaded_only_for_a_plot() -> None:
    program = "import sys, tasks.evaluation.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

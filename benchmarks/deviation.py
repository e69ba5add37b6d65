"""Where posterior samples of one pair differ, beside where its sources do.

    python -m benchmarks.deviation DATA --pair roadscene/FLIR_04269 --picture deviation.png
    python -m benchmarks.deviation DATA --pair tno/07 --modes adaptive --samples 16 --steps 25

Local disagreement is the mean of |i - v| over a small window. The table has, per mode, the mean standard deviation of
the samples in grey levels of 255 over the tenth of the pixels where the sources disagree most, over the half
where they agree best, the ratio of the two, and the rank correlation of deviation and disagreement; then the same
ratio for disagreement of the gradients, |grad i - grad v|, since some rules go by these. Pixels that are black in both
sources are left out: there is nothing to disagree about.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, get_args

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.public_pairs import (
    GREY_LEVELS_PER_UNIT,
    Pair,
    add_fusion_options,
    described,
    fused,
    open_prior,
    read_pairs,
)
from ddfm_core.baselines import is_baseline
from ddfm_core.colour import luma
from ddfm_core.fusion import FusionConfig, Mode
from ddfm_core.gradient_domain import gaussian_mean, inner_gradient
from tasks.evaluation.datasets import find_data_sets
from tasks.evaluation.pictures import picture_of

Map = NDArray[np.float32]

WINDOW: Final = 2.0
"""Standard deviation in pixels of the Gaussian window of local disagreement and local deviation."""
MOST: Final = 0.9
LEAST: Final = 0.5
_INCHES: Final = 3.2


@dataclass(frozen=True)
class Comparison:
    """Deviation where sources disagree most, and where they agree; grey levels of 255 but the last."""

    most: float
    least: float
    rank_correlation: float

    @property
    def ratio(self) -> float:
        """How many times as large the deviation is where the sources disagree."""
        return self.most / self.least


def compare(deviation: Map, disagreement: Map, shown: NDArray[np.bool_]) -> Comparison:
    """Compare two maps [H, W] over the pixels ``shown``."""
    values, order = deviation[shown], disagreement[shown]
    low, high = np.quantile(order, (LEAST, MOST))
    correlation = spearmanr(values, order).statistic
    return Comparison(float(values[order >= high].mean()), float(values[order <= low].mean()), float(correlation))


def find_pair(data: str, name: str) -> Pair:
    """The pair SET/KEY."""
    wanted, _, key = name.partition("/")
    for data_set in find_data_sets(data):
        if data_set.name == wanted:
            for pair in read_pairs(data_set, [key]):
                return pair
    raise SystemExit(f"there is no pair {name!r} below {data}; write SET/KEY, such as tno/07")


def disagreements(pair: Pair) -> tuple[Map, Map]:
    """Local disagreement of the values and of the gradients [H, W], in grey levels of 255."""
    first, second = luma(pair.first), luma(pair.second)
    gradients = (inner_gradient(first) - inner_gradient(second)).square().sum(dim=1, keepdim=True).sqrt()
    return _map(gaussian_mean((first - second).abs(), WINDOW)), _map(gaussian_mean(gradients, WINDOW))


def _map(values: Tensor) -> Map:
    levels: Map = (values[0, 0] * GREY_LEVELS_PER_UNIT).cpu().numpy()
    return levels


def page(pair: Pair, maps: dict[str, tuple[NDArray[np.uint8], Map]], disagreement: Map) -> Figure:
    """Sources and their disagreement above; per mode picture and deviation below."""
    height, width = pair.first.shape[2:]
    rows = 1 + len(maps)
    figure = Figure(figsize=(3 * _INCHES * 1.15, rows * (_INCHES * height / width + 0.4)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 3, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    sources = (picture_of(pair.first[0].numpy()), picture_of(pair.second[0].numpy()))
    for axis, source, title in zip(axes[0], sources, ("first source", "second source"), strict=False):
        axis.imshow(source, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title)
    figure.colorbar(axes[0][2].imshow(disagreement, cmap="magma", vmin=0), ax=axes[0][2], fraction=0.046)
    axes[0][2].set_title("|i - v|, local")
    for row, (mode, (picture, deviation)) in zip(axes[1:], maps.items(), strict=True):
        row[0].imshow(picture, cmap="gray", vmin=0, vmax=255)
        row[0].set_title(f"{mode}, mean of the samples")
        top = float(np.quantile(deviation, 0.995))
        figure.colorbar(row[1].imshow(deviation, cmap="magma", vmin=0, vmax=top), ax=row[1], fraction=0.046)
        row[1].set_title("standard deviation")
        row[2].hexbin(disagreement.ravel(), deviation.ravel(), gridsize=40, bins="log", cmap="magma")
        row[2].set_axis_on()
        row[2].set_xlabel("|i - v|, local")
        row[2].set_ylabel("standard deviation")
    figure.suptitle(f"{pair.name}, grey levels of 255", parse_math=False)
    return figure


def main() -> None:
    """Sample, print and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("data", help="folder of data sets, as `ddfm evaluate` takes it")
    parser.add_argument("--pair", default="roadscene/FLIR_04269", metavar="SET/KEY", help="(default %(default)s)")
    drawing = [mode for mode in get_args(Mode) if not is_baseline(mode)]
    parser.add_argument("--modes", nargs="+", choices=drawing, default=["adaptive", "paper"])
    parser.add_argument("--samples", type=int, default=8, help="(default 8)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="write sources, pictures and maps")
    add_fusion_options(parser, with_mode=False)
    arguments = parser.parse_args()
    prior = open_prior(arguments)
    pair = find_pair(arguments.data, arguments.pair)
    disagreement, of_gradients = disagreements(pair)
    shown = pair.shown[0, 0].numpy()
    print(f"{pair.name}, {arguments.samples} samples, {100 * shown.mean():.0f} % of the pixels shown", flush=True)
    print("| rule | disagree most | agree | ratio | rank correlation | ratio by gradients |\n|---|---|---|---|---|---|")
    maps = {}
    for mode in arguments.modes:
        config = FusionConfig(
            mode=mode, steps=arguments.steps, start=arguments.start, samples=arguments.samples, seed=arguments.seed
        )
        result = fused(pair, prior, config)
        assert result.std is not None
        deviation = _map(result.std)
        figures, by_gradients = (compare(deviation, one, shown) for one in (disagreement, of_gradients))
        print(
            f"| {described(config, prior)} | {figures.most:.2f} | {figures.least:.2f} | {figures.ratio:.2f} "
            f"| {figures.rank_correlation:.2f} | {by_gradients.ratio:.2f} |",
            flush=True,
        )
        maps[mode] = (picture_of(result.image[0].cpu().numpy()), deviation)
    if arguments.picture:
        page(pair, maps, disagreement).savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()

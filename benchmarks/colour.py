"""What fusion does to the colours of a source: hue, hottest spot, and the share that does not fit the gamut.

    python -m benchmarks.colour DATA --figures colour.jsonl
    python -m benchmarks.colour DATA --sets harvard_mri_pet harvard_mri_spect --every 10 --steps 25

All figures are those of the 8-bit picture as it is published, beside the source that gives the colour: the visible
image, else PET or SPECT. Pairs without colour are counted and left out.

hue: the change of the CIELAB hue in degrees where the source's chroma is above 10; the median of each picture, and once
    more for those of these pixels that did not fit: new luma under the source's chroma lay outside of what RGB can
    show, and one of both had to give way. Allowed: 2 degrees over all pixels.
hottest spot: of PET and SPECT, how far it moves in pixels. Heat is the place on the palette, which is recovered from
    the source: the shortest way from black to each colour in steps between like colours. A pixel's heat is that of the
    palette's colour with the nearest chroma, for luma is what fusion changes. Hottest are all pixels within 1 % of the
    picture's own maximum; the distance is that between the centroids of the source's and of the result's. Allowed: 3.
    Apart from that, which share of the result's hottest pixels lies farther than 3 pixels from any of the source's:
    where a colour loses chroma, other places may come to look as hot. (Had mode max clipped each channel instead, the
    spot would have moved by 18 pixels in the mean of 15 pairs of SPECT, and 46 % of it would have been elsewhere.)
did not fit: share of all pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import KDTree
from skimage.color import rgb2lab
from torch import Tensor

from benchmarks.public_pairs import (
    KeptFigures,
    Pair,
    add_data_options,
    add_fusion_options,
    chosen_data_sets,
    described,
    fused,
    open_prior,
    read_pairs,
)
from ddfm_core.colour import is_grey, recolour, to_ycbcr
from ddfm_core.fusion import GAMUT_TOLERANCE, FusionConfig
from ddfm_core.priors import Prior
from tasks.evaluation.datasets import DataSet
from tasks.evaluation.pictures import picture_of

Levels = NDArray[np.uint8]
Map = NDArray[np.float64]

SMALLEST_CHROMA: Final = 10.0
"""In CIELAB, below which hue means little."""
SAME_HEAT: Final = 0.01
LARGEST_MOVE: Final = 3.0
COLOUR_BIN: Final = 12
"""Levels per channel that count as one colour of a palette; a colour of a single pixel counts for nothing."""
NEIGHBOURS: Final = 6
COLUMNS: Final = 9
WITHOUT_HEAT: Final = 4.0
"""Chroma in levels of 255 below which a pixel has no colour."""


@dataclass(frozen=True)
class ColourFigures:
    """Of one picture; None where a figure does not exist.

    Attributes:
        hue: median change in degrees.
        hue_unfitted: the same where the colour did not fit.
        coloured: share of the pixels whose hue counts.
        unfitted: share of these that did not fit.
        moved: distance of the centroids of the hottest pixels.
        elsewhere: share of the result's hottest pixels that are far from the source's.
        out_of_gamut: share of all pixels that did not fit.
    """

    hue: float | None
    hue_unfitted: float | None
    coloured: float
    unfitted: float
    moved: float | None
    elsewhere: float | None
    out_of_gamut: float


def colour_source(pair: Pair) -> Tensor | None:
    """The source that gives the colour [1, 3, H, W]; None for a grey pair."""
    return next((source for source in (pair.second, pair.first) if not is_grey(source).all()), None)


def colour_figures(pair: Pair, source: Tensor, functional: bool, prior: Prior, config: FusionConfig) -> ColourFigures:
    """Fuse a coloured pair and look at its colours."""
    result = fused(pair, prior, config)
    picture, wanted = (picture_of(one[0].cpu().numpy()) for one in (result.image, source))
    recoloured = recolour(result.luma.cpu(), pair.first, pair.second)
    unfitted = (recoloured.abs() > 1 + GAMUT_TOLERANCE).any(dim=1)[0].numpy()
    change, coloured = hue_change(picture, wanted)
    moved, elsewhere = hottest_spots(picture, wanted) if functional else (None, None)
    return ColourFigures(
        hue=_median(change[coloured]),
        hue_unfitted=_median(change[coloured & unfitted]),
        coloured=float(coloured.mean()),
        unfitted=float(unfitted[coloured].mean()) if coloured.any() else 0.0,
        moved=moved,
        elsewhere=elsewhere,
        out_of_gamut=float(result.out_of_gamut[0]),
    )


def hue_change(picture: Levels, wanted: Levels) -> tuple[Map, NDArray[np.bool_]]:
    """Degrees of CIELAB hue between two pictures [H, W, 3], and where the second's chroma is large enough."""
    ours, theirs = rgb2lab(picture), rgb2lab(wanted)
    hues = [np.degrees(np.arctan2(one[..., 2], one[..., 1])) for one in (ours, theirs)]
    return abs((hues[0] - hues[1] + 180) % 360 - 180), np.hypot(theirs[..., 1], theirs[..., 2]) > SMALLEST_CHROMA


def hottest_spots(picture: Levels, wanted: Levels) -> tuple[float, float]:
    """How far the hottest spot of a functional source [H, W, 3] has moved, in pixels, and what share is elsewhere."""
    colours, heats = palette_of(wanted)
    ours, theirs = (
        np.argwhere(heat >= (1 - SAME_HEAT) * heat.max())
        for heat in (heat_of(one, colours, heats) for one in (picture, wanted))
    )
    distances, _ = KDTree(theirs).query(ours)
    moved = np.hypot(*(ours.mean(axis=0) - theirs.mean(axis=0)))
    return float(moved), float((distances > LARGEST_MOVE).mean())


def palette_of(picture: Levels) -> tuple[Map, Map]:
    """Colours [N, 3] of a pseudo-coloured picture and the heat of each, the length of the way to it from black."""
    pixels = picture.reshape(-1, 3).astype(np.float64)
    _, places, counts = np.unique((pixels / COLOUR_BIN).round(), axis=0, return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(places.ravel(), channel) / counts for channel in pixels.T], axis=1)
    colours = means[counts > 1]
    steps, neighbours = KDTree(colours).query(colours, k=min(NEIGHBOURS + 1, len(colours)))
    begin = np.repeat(np.arange(len(colours)), steps.shape[1] - 1)
    # Long steps cost more than their length, so that the way keeps to the palette and cuts no corner.
    ways = coo_matrix((steps[:, 1:].ravel() ** 1.5, (begin, neighbours[:, 1:].ravel())), shape=(len(colours),) * 2)
    heats = dijkstra(ways.tocsr(), directed=False, indices=int(colours.sum(axis=1).argmin()))
    reached = np.isfinite(heats)
    return colours[reached], heats[reached]


def heat_of(picture: Levels, colours: Map, heats: Map) -> Map:
    """The heat of each pixel [H, W], by the chroma alone; grey has none."""
    chroma = _chroma(picture.reshape(-1, 3).astype(np.float64))
    _, nearest = KDTree(_chroma(colours)).query(chroma)
    heat: Map = np.where(np.hypot(*chroma.T) < WITHOUT_HEAT, 0.0, heats[nearest]).reshape(picture.shape[:2])
    return heat


def _chroma(colours: Map) -> Map:
    """Cb and Cr [N, 2] of colours [N, 3], in levels of 255."""
    values = torch.from_numpy(colours / 127.5 - 1).T[None, :, :, None]
    chroma: Map = to_ycbcr(values)[0, 1:, :, 0].T.numpy() * 127.5
    return chroma


def _median(values: Map) -> float | None:
    return float(np.median(values)) if len(values) else None


def print_row(data_set: DataSet, figures: Sequence[ColourFigures], grey: int) -> None:
    """One line of the table."""
    cells = [data_set.name, f"{len(figures)} ({grey})"]
    if figures:
        cells += [
            _mean_and_worst([one.hue for one in figures]),
            _mean_and_worst([one.hue_unfitted for one in figures]),
            f"{100 * np.mean([one.coloured for one in figures]):.1f}",
            f"{100 * np.mean([one.unfitted for one in figures]):.1f}",
            _mean_and_worst([one.moved for one in figures]),
            _mean_and_worst([None if one.elsewhere is None else 100 * one.elsewhere for one in figures]),
            f"{100 * np.mean([one.out_of_gamut for one in figures]):.2f}",
        ]
    print(f"| {' | '.join([*cells, *['-'] * (COLUMNS - len(cells))])} |", flush=True)


def _mean_and_worst(values: Sequence[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{np.mean(found):.2f}, {max(found):.2f}" if found else "-"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_data_options(parser, every=5)
    add_fusion_options(parser)
    arguments = parser.parse_args()
    config = FusionConfig(mode=arguments.mode, steps=arguments.steps, start=arguments.start)
    prior = open_prior(arguments)
    kept = KeptFigures(ColourFigures, arguments.figures, config, prior.sha256)
    print(f"{described(config, prior)}; mean, worst over the pictures\n", flush=True)
    print(
        "| set | pairs (grey ones aside) | hue, degrees | hue where it did not fit | coloured, % "
        "| of these did not fit, % | hottest spot moved, px | hottest elsewhere, % | did not fit, % "
        f"|\n{'|---' * COLUMNS}|"
    )
    for data_set in (one.every(arguments.every) for one in chosen_data_sets(arguments)):
        figures, grey = [], 0
        for pair in read_pairs(data_set):
            source = colour_source(pair)
            if source is None:
                grey += 1
                continue
            functional = source is pair.first and data_set.modality_first in ("PET", "SPECT")
            measure = partial(colour_figures, pair, source, functional, prior, config)
            figures.append(kept.of(pair.name, measure))
        print_row(data_set, figures, grey)


if __name__ == "__main__":
    main()

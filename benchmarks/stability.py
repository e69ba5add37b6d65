"""How much a fused picture depends on chance: on the seed, on its batch, and from slice to slice.

    python -m benchmarks.stability DATA --figures stability.jsonl
    python -m benchmarks.stability DATA --parts slices --steps 25

Three tables:

seeds: per pixel the standard deviation of luma over five seeds, in grey levels of 255; of it the median of each
    picture. Per data set the mean and the largest of these medians (allowed: 1.5), and the mean of the same over the
    pixels that are not black in both sources, since most of a medical picture is black.
batch: eight pairs of a data set, cut to a common size, alone and as one batch: the largest difference of the 8-bit
    pictures in levels (allowed: 1), and that of the values before rounding.
slices: consecutive slices of one scan from one field of noise, as a volume is fused. The mean absolute difference of
    neighbours, each sequence divided by its own standard deviation over all its pixels; the ratio is that of the fused
    sequence over that of the source that changes more (allowed: 1.1).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.public_pairs import (
    GREY_LEVELS_PER_UNIT,
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
from ddfm_core.colour import luma
from ddfm_core.fusion import FusionConfig, fuse
from ddfm_core.moments import RunningMoments
from ddfm_core.priors import Prior
from tasks.evaluation.datasets import DataSet
from tasks.evaluation.pictures import spread_keys
from tasks.publish.png import to_grey_levels

SEEDS: Final = 5
BATCH: Final = 8
LARGEST_SIDE: Final = 256
"""Of the pictures of a batch."""
RUNS: Final = (
    ("harvard_mri_ct", 11, 20),
    ("harvard_mri_ct", 21, 31),
    ("harvard_mri_spect", 15, 43),
    ("harvard_mri_spect", 44, 70),
    ("harvard_mri_spect", 71, 81),
)
"""Slices that lie beside each other in one scan: data set, first and last key."""
PARTS: Final = ("seeds", "batch", "slices")


@dataclass(frozen=True)
class SeedFigures:
    """Of the standard deviation over seeds per pixel, in grey levels of 255."""

    median: float
    median_shown: float
    mean: float
    percentile_99: float


@dataclass(frozen=True)
class BatchFigures:
    """Largest differences between a pair alone and in a batch: published levels, and values as such levels."""

    levels: int
    values: float


@dataclass(frozen=True)
class SliceFigures:
    """Mean absolute differences of neighbouring slices, in units of each sequence's standard deviation."""

    fused: float
    first: float
    second: float

    @property
    def ratio(self) -> float:
        """Of the fused sequence to the source that changes more."""
        return self.fused / max(self.first, self.second)


def over_seeds(pair: Pair, prior: Prior, config: FusionConfig) -> SeedFigures:
    """One pair from the noise of each seed."""
    moments = RunningMoments(fused(pair, prior, replace(config, seed=0)).luma)
    for seed in range(1, SEEDS):
        moments.add(fused(pair, prior, replace(config, seed=seed)).luma)
    std = (moments.std() * GREY_LEVELS_PER_UNIT).cpu().numpy()
    of_shown = std[pair.shown.numpy()]
    return SeedFigures(
        median=float(np.median(std)),
        median_shown=float(np.median(of_shown)) if len(of_shown) else 0.0,
        mean=float(std.mean()),
        percentile_99=float(np.quantile(std, 0.99)),
    )


def alone_and_together(pairs: Sequence[Pair], prior: Prior, config: FusionConfig) -> BatchFigures:
    """Pairs of a common size, alone and as a batch."""
    height, width = (min(LARGEST_SIDE, *(pair.first.shape[axis] for pair in pairs)) for axis in (2, 3))
    channels = max(source.shape[1] for pair in pairs for source in (pair.first, pair.second))
    first, second = (
        torch.cat([_centre(source, height, width).expand(-1, channels, -1, -1) for source in side])
        for side in ([pair.first for pair in pairs], [pair.second for pair in pairs])
    )
    keys = [pair.noise_key for pair in pairs]
    together = fuse(first, second, prior, config, keys=keys).image
    alone = torch.cat([
        fuse(first[[place]], second[[place]], prior, config, keys=[key]).image for place, key in enumerate(keys)
    ])  # fmt: skip
    levels = [
        np.abs(to_grey_levels(one.cpu().numpy()).astype(int) - to_grey_levels(other.cpu().numpy()))
        for one, other in zip(together, alone, strict=True)
    ]
    values = float((together - alone).abs().max()) * GREY_LEVELS_PER_UNIT
    return BatchFigures(max(int(one.max()) for one in levels), values)


def _centre(image: Tensor, height: int, width: int) -> Tensor:
    top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape[2:], (height, width), strict=True))
    return image[..., top : top + height, left : left + width]


def from_slice_to_slice(pairs: Sequence[Pair], prior: Prior, config: FusionConfig) -> SliceFigures:
    """Neighbouring slices that share their noise."""
    shared = [replace(pair, noise_key=b"one volume") for pair in pairs]
    sequences = (
        torch.cat([fused(pair, prior, config).luma.cpu() for pair in shared]),
        torch.cat([luma(pair.first) for pair in pairs]),
        torch.cat([luma(pair.second) for pair in pairs]),
    )
    return SliceFigures(*(float((one[1:] - one[:-1]).abs().mean() / one.std()) for one in sequences))


def seeds_table(
    data_sets: Sequence[DataSet], prior: Prior, config: FusionConfig, kept: KeptFigures[SeedFigures]
) -> None:
    """Measure and print."""
    print(
        f"\n| standard deviation over {SEEDS} seeds | pairs | median | largest median | median where not black "
        "| mean | 99 % below |"
    )
    print("|---|---|---|---|---|---|---|")
    for data_set in data_sets:
        found = {
            pair.key: kept.of(pair.name, partial(over_seeds, pair, prior, config)) for pair in read_pairs(data_set)
        }
        worst = max(found, key=lambda key: found[key].median)
        median, median_shown, mean, highest = (
            np.mean([getattr(one, name) for one in found.values()])
            for name in ("median", "median_shown", "mean", "percentile_99")
        )
        print(
            f"| {data_set.name} | {len(found)} | {median:.2f} | {found[worst].median:.2f} ({worst}) "
            f"| {median_shown:.2f} | {mean:.2f} | {highest:.2f} |",
            flush=True,
        )


def batch_table(
    data_sets: Sequence[DataSet], prior: Prior, config: FusionConfig, kept: KeptFigures[BatchFigures]
) -> None:
    """Measure and print."""
    print(f"\n| batch of {BATCH} against 1 | largest difference in levels | before rounding |\n|---|---|---|")
    for data_set in data_sets:
        keys = spread_keys([pair.key for pair in data_set.pairs], BATCH)
        pairs = list(read_pairs(data_set, keys))
        name = f"{data_set.name}/{','.join(keys)}"
        figures = kept.of(name, partial(alone_and_together, pairs, prior, config))
        print(f"| {data_set.name}, {len(pairs)} pairs | {figures.levels} | {figures.values:.4f} |", flush=True)


def slices_table(
    data_sets: Sequence[DataSet], prior: Prior, config: FusionConfig, kept: KeptFigures[SliceFigures]
) -> None:
    """Measure and print."""
    print("\n| neighbouring slices | fused | first source | second source | ratio |\n|---|---|---|---|---|")
    by_name = {data_set.name: data_set for data_set in data_sets}
    for name, begin, end in RUNS:
        if name not in by_name:
            continue
        keys = [str(number) for number in range(begin, end + 1)]
        pairs = list(read_pairs(by_name[name], keys))
        if len(pairs) < len(keys):
            raise SystemExit(f"{name}: {len(pairs)} of the slices {begin} to {end} are there; all are needed")
        figures = kept.of(f"{name}/{begin}-{end}", partial(from_slice_to_slice, pairs, prior, config))
        print(
            f"| {name} {begin}-{end} | {figures.fused:.4f} | {figures.first:.4f} | {figures.second:.4f} "
            f"| {figures.ratio:.3f} |",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_data_options(parser, every=5)
    add_fusion_options(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default all; --every is for seeds")
    arguments = parser.parse_args()
    config = FusionConfig(mode=arguments.mode, steps=arguments.steps, start=arguments.start)
    prior = open_prior(arguments)
    data_sets = chosen_data_sets(arguments)
    print(described(config, prior), flush=True)
    settings = (arguments.figures, config, prior.sha256)
    if "seeds" in arguments.parts:
        some = [data_set.every(arguments.every) for data_set in data_sets]
        seeds_table(some, prior, config, KeptFigures(SeedFigures, *settings))
    if "batch" in arguments.parts:
        batch_table(data_sets, prior, config, KeptFigures(BatchFigures, *settings))
    if "slices" in arguments.parts:
        slices_table(data_sets, prior, config, KeptFigures(SliceFigures, *settings))


if __name__ == "__main__":
    main()

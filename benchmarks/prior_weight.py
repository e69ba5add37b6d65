"""What the prior gives and costs in mode `adaptive`, by its weight: metrics, and noise that the sources were given.

    python -m benchmarks.prior_weight DATA --figures prior_weight.jsonl

The weight of the prior beside a gradient is (s / sigma)^2 (A10 of :mod:`ddfm_core.adaptive`), s = DETAIL_NOISE. Prints
a row for the rule alone, for s as shipped and for larger ones, from the timestep of the mode and from quieter ones:
means of the six metrics of the luma saved by clipping, and how far the picture of sources with white noise of eight
grey levels lies from that of the clean ones by the rule alone, root mean square in grey levels. What it gave is kept
in benchmarks/rectification_ideas.md.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass
from functools import cache, partial
from typing import Final

import numpy as np
import torch
from torch import Tensor

from benchmarks.public_pairs import (
    GREY_LEVELS_PER_UNIT,
    KeptFigures,
    Pair,
    add_data_options,
    chosen_data_sets,
    read_pairs,
)
from benchmarks.rectification_ideas import GROUPS, HARVARD, group_means, six_figures
from ddfm_core import adaptive
from ddfm_core.colour import luma
from ddfm_core.fusion import FusionConfig, fuse
from ddfm_core.priors import Prior, load_prior

NOISE: Final = 8.0
"""Standard deviation in grey levels."""
ALONE: Final = FusionConfig(use_prior=False)


@dataclass(frozen=True)
class Weight:
    """s, and the timestep to begin with; None is that of the mode."""

    detail_noise: float
    start: int | None = None

    @property
    def name(self) -> str:
        """For the table."""
        start = "" if self.start is None else f" from timestep {self.start}"
        return f"s = {self.detail_noise:g}{start}"


SHIPPED: Final = adaptive.DETAIL_NOISE
WEIGHTS: Final = (
    Weight(SHIPPED), Weight(0.03), Weight(0.1), Weight(0.03, 100), Weight(0.1, 100), Weight(0.03, 50),
)  # fmt: skip


@dataclass(frozen=True)
class WeightFigures:
    """Of one pair: the metrics of its picture, and how far noise of the sources leads it away."""

    metrics: tuple[float, ...]
    noise: float


def fused_luma(first: Tensor, second: Tensor, prior: Prior, config: FusionConfig, detail_noise: float) -> Tensor:
    """Fuse two grey sources with another weight of the prior."""
    adaptive.DETAIL_NOISE = detail_noise  # type: ignore[misc] - nothing else in this process fuses
    return fuse(first, second, prior, config).luma


@cache
def alone(pair: Pair, prior: Prior) -> Tensor:
    """What the rule makes of a pair without a prior, whatever the prior's weight."""
    return fuse(luma(pair.first), luma(pair.second), prior, ALONE).luma


def measure(pair: Pair, prior: Prior, config: FusionConfig, detail_noise: float) -> WeightFigures:
    """Fuse a pair as it is and with noise."""
    sources = luma(pair.first), luma(pair.second)
    figures = six_figures(fused_luma(*sources, prior, config, detail_noise), *sources)
    generator = torch.Generator().manual_seed(0)
    noisy = [
        (one + NOISE / GREY_LEVELS_PER_UNIT * torch.randn(one.shape, generator=generator)).clamp(-1, 1)
        for one in sources
    ]
    change = fused_luma(noisy[0], noisy[1], prior, config, detail_noise) - alone(pair, prior)
    return WeightFigures(astuple(figures), float(change.square().mean().sqrt()) * GREY_LEVELS_PER_UNIT)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_data_options(parser, every=15)
    arguments = parser.parse_args()
    prior = load_prior("bundled")
    kept = KeptFigures(WeightFigures, arguments.figures, prior.sha256)
    pairs = {one.name: list(read_pairs(one.every(arguments.every))) for one in chosen_data_sets(arguments)}
    columns = ["prior", "noise", *dict.fromkeys(GROUPS.get(name, HARVARD) for name in pairs)]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    rows = [("none", ALONE, SHIPPED), *((one.name, FusionConfig(start=one.start), one.detail_noise) for one in WEIGHTS)]
    for name, config, detail_noise in rows:
        found = {
            data_set: [
                kept.of(f"{name}: {pair.name}", partial(measure, pair, prior, config, detail_noise)) for pair in ones
            ]
            for data_set, ones in pairs.items()
        }
        means = group_means({data_set: [one.metrics for one in ones] for data_set, ones in found.items()})
        cells = [" / ".join(f"{value:.3f}" for value in values) for values in means.values()]
        noise = np.mean([one.noise for ones in found.values() for one in ones])
        print(f"| {name} | {noise:.2f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

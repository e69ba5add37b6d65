"""Ideas for the adaptive rectification, each fused without a prior and measured on the public pairs.

    python -m benchmarks.rectification_ideas DATA --figures ideas.jsonl   every idea on every fifth pair
    python -m benchmarks.rectification_ideas DATA --ideas shipped "two E-steps" --pictures ideas

Prints a row per idea and group of data sets: means of the six metrics of the 8-bit picture saved by clipping. What
they gave, and why one was shipped and the others not, is kept in benchmarks/rectification_ideas.md.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.public_pairs import KeptFigures, add_data_options, chosen_data_sets, read_pairs
from ddfm_core import adaptive
from ddfm_core.adaptive import SMALLEST_ENERGY, AdaptiveRectifier
from ddfm_core.colour import luma
from ddfm_core.gradient_domain import gaussian_mean, inner_gradient, inner_gradient_adjoint, solve_screened
from ddfm_core.metrics import fusion_metrics

Rule = Callable[[Tensor, Tensor], Tensor]
GROUPS: Final = {"roadscene": "RoadScene", "tno": "TNO"}
HARVARD: Final = "Harvard"


@dataclass(frozen=True)
class SixFigures:
    """Of one picture, the metrics of the paper's tables."""

    EN: float
    SD: float
    MI: float
    VIF: float
    Qabf: float
    SSIM: float


METRICS: Final = tuple(one.name for one in fields(SixFigures))


@dataclass(frozen=True)
class Idea:
    """The adaptive rule with something else in it; the defaults are what is shipped.

    Attributes:
        power: p of the evidence.
        doubt: DOUBT; None believes a source for its gradients alone.
        doubt_power: exponent of the likelihood's denominator.
        robustness: ROBUSTNESS; 2 tells strengths by mean squares.
        e_steps: how often the shares are found, from the picture before.
        window: standard deviation in pixels.
        level, spread: LEVEL and SPREAD.
        base: the brighter picture with more contrast within the sources, the same with no bounds but black and white,
            the brighter picture, the source that deviates more from its mean, or the sum of both deviations.
        largest_gain: LARGEST_GAIN.
        energy: that of the stronger source, or that of both together without what they share.
        takes_over: where the base takes over: at slopes, at edges that it has anyway, at contradictions.
        chance: CHANCE and CERTAIN.
        sharpening: a factor on the pooled gradient.
        reach: of the bounds, in pixels; None is without bounds.
    """

    power: float = adaptive.EVIDENCE_POWER
    doubt: float | None = adaptive.DOUBT
    doubt_power: float = 1.0
    robustness: float = adaptive.ROBUSTNESS
    e_steps: int = 1
    window: float = adaptive.WINDOW
    level: float = adaptive.LEVEL
    spread: float = adaptive.SPREAD
    base: Literal["within", "beyond", "brighter", "deviating", "both"] = "within"
    largest_gain: float = adaptive.LARGEST_GAIN
    energy: Literal["stronger", "joint"] = "stronger"
    takes_over: frozenset[Literal["slope", "edge", "contradiction"]] = frozenset(("slope", "edge", "contradiction"))
    chance: tuple[float, float] = (adaptive.CHANCE, adaptive.CERTAIN)
    sharpening: float = 1.0
    reach: int | None = 1

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The picture [B, 1, H, W] of two sources."""
        gradients = inner_gradient(first), inner_gradient(second)
        energies = [self._mean_product(one, one) + SMALLEST_ENERGY for one in gradients]
        product = self._mean_product(*gradients)
        brighter, darker = torch.maximum(first, second), torch.minimum(first, second)
        lower, upper = self._bounds(darker, brighter)
        base = self._base(first, second, brighter, darker)
        picture = base
        for _ in range(self.e_steps):
            share = self._share(gradients, picture)
            pooled = share**2 * energies[0] + (1 - share) ** 2 * energies[1] + 2 * share * (1 - share) * product
            aim = torch.maximum(*energies)
            if self.energy == "joint":
                aim = torch.maximum(aim, energies[0] + energies[1] - product.abs())
            gain = torch.sqrt(aim / pooled.clamp_min(SMALLEST_ENERGY / 10)).clamp(1, self.largest_gain)
            gradient = self.sharpening * gain * (share * gradients[0] + (1 - share) * gradients[1])
            contradiction = product.clamp_max(0).square() / (energies[0] * energies[1])
            gradient = self._without_halos(gradient, inner_gradient(base), contradiction)
            right = self.level * base + inner_gradient_adjoint(gradient)
            picture = self._solve(right, base, lower, upper)
        return picture

    def _mean_product(self, one: Tensor, other: Tensor) -> Tensor:
        return gaussian_mean((one * other).sum(dim=1, keepdim=True), self.window)

    def _strength(self, gradient: Tensor) -> Tensor:
        squared = gradient.square().sum(dim=1, keepdim=True) + SMALLEST_ENERGY * 1e-7
        return gaussian_mean(squared ** (self.robustness / 2), self.window) ** (2 / self.robustness)

    def _share(self, gradients: tuple[Tensor, Tensor], picture: Tensor) -> Tensor:
        strengths = [self._strength(one) + SMALLEST_ENERGY for one in gradients]
        belief_first, belief_second = (strength**self.power for strength in strengths)
        if self.doubt is not None:
            doubt = self.doubt * (strengths[0] + strengths[1])
            own = inner_gradient(picture)
            far_first, far_second = (self._strength(one - own) + doubt for one in gradients)
            belief_first = belief_first / far_first**self.doubt_power
            belief_second = belief_second / far_second**self.doubt_power
        return belief_first / (belief_first + belief_second)

    def _without_halos(self, gradient: Tensor, base: Tensor, contradiction: Tensor) -> Tensor:
        difference = gradient - base
        energy = self._mean_product(difference, difference) + SMALLEST_ENERGY / 10
        taken_over = torch.zeros_like(energy)
        if "slope" in self.takes_over:
            mean = torch.cat([gaussian_mean(difference[:, [axis]], self.window) for axis in range(2)], dim=1)
            taken_over = self._beyond_chance(mean.square().sum(dim=1, keepdim=True) / energy)
        if "edge" in self.takes_over:
            energy_base = self._mean_product(base, base) + SMALLEST_ENERGY
            deeper = self._mean_product(difference, base).clamp_min(0).square() / (energy * energy_base)
            squared = base.square().sum(dim=1, keepdim=True)
            on_edge = squared / (squared + adaptive.EDGE_PIXEL * energy_base)
            taken_over = torch.maximum(taken_over, self._beyond_chance(deeper) * on_edge)
        if "contradiction" in self.takes_over:
            taken_over = torch.maximum(taken_over, self._beyond_chance(contradiction))
        return gradient - taken_over * difference

    def _beyond_chance(self, statistic: Tensor) -> Tensor:
        chance, certain = self.chance
        return ((statistic - chance) / (certain - chance)).clamp(0, 1).sqrt()

    def _base(self, first: Tensor, second: Tensor, brighter: Tensor, darker: Tensor) -> Tensor:
        mean = brighter.mean(dim=(-2, -1), keepdim=True)
        away_first, away_second = (one - one.mean(dim=(-2, -1), keepdim=True) for one in (first, second))
        wider = brighter + self.spread * (brighter - mean)
        match self.base:
            case "within":
                return torch.minimum(torch.maximum(wider, darker), brighter)
            case "beyond":
                return wider.clamp(-1, 1)
            case "brighter":
                return brighter
            case "deviating":
                return torch.where(away_first.abs() > away_second.abs(), first, second)
            case "both":
                return mean + away_first + away_second

    def _bounds(self, darker: Tensor, brighter: Tensor) -> tuple[Tensor, Tensor]:
        if self.reach is None:
            return torch.full_like(darker, -math.inf), torch.full_like(brighter, math.inf)
        side = 2 * self.reach + 1
        return -F.max_pool2d(-darker, side, 1, self.reach), F.max_pool2d(brighter, side, 1, self.reach)

    def _solve(self, wanted: Tensor, picture: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        penalty, dual = AdaptiveRectifier.penalty, torch.zeros_like(picture)
        for _ in range(adaptive.FIRST_ITERATIONS):
            k = solve_screened(wanted + penalty * (picture - dual), self.level + penalty)
            picture = torch.minimum(torch.maximum(k + dual, lower), upper)
            dual = dual + k - picture
        return picture


@dataclass(frozen=True)
class Bands:
    """Differences of Gaussian means, merged band by band, on the maximum of the coarsest: no model, no equation.

    Attributes:
        power: how decidedly the source with more energy leads.
        merged: the mean with those shares, the same brought to the stronger source's energy, or what one source
            shows and the other does not added to it.
    """

    power: float
    merged: Literal["mean", "matched", "union"]
    sigmas: tuple[float, ...] = (1, 2, 4, 8, 16)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The picture [B, 1, H, W] of two sources."""
        picture = torch.zeros_like(first)
        for sigma in self.sigmas:
            base_first, base_second = _wide_mean(first, sigma), _wide_mean(second, sigma)
            picture = picture + self._band(first - base_first, second - base_second, sigma)
            first, second = base_first, base_second
        return picture + torch.maximum(first, second)

    def _band(self, first: Tensor, second: Tensor, sigma: float) -> Tensor:
        energy_first = _wide_mean(first * first, sigma) + 1e-6
        energy_second = _wide_mean(second * second, sigma) + 1e-6
        product = _wide_mean(first * second, sigma)
        share = energy_first**self.power / (energy_first**self.power + energy_second**self.power)
        if self.merged == "union":
            both_first = first + second - product / energy_first * first
            both_second = second + first - product / energy_second * second
            return share * both_first + (1 - share) * both_second
        pooled = share * first + (1 - share) * second
        if self.merged == "mean":
            return pooled
        energy = share**2 * energy_first + (1 - share) ** 2 * energy_second + 2 * share * (1 - share) * product
        return pooled * torch.sqrt(torch.maximum(energy_first, energy_second) / energy.clamp_min(1e-9)).clamp(1, 1.5)


def _wide_mean(image: Tensor, sigma: float) -> Tensor:
    """Gaussian mean whose window may be wider than the picture, mirrored with the outermost pixel."""
    for axis in (-1, -2):
        radius, side = math.ceil(3 * sigma), image.shape[axis]
        places = torch.from_numpy(np.pad(np.arange(side), radius, mode="symmetric"))
        offsets = torch.arange(-radius, radius + 1)
        taps = torch.exp(-((offsets / sigma) ** 2) / 2)
        kernel = (taps / taps.sum()).view((1, 1, 1, -1) if axis == -1 else (1, 1, -1, 1))
        image = F.conv2d(image.index_select(axis, places), kernel)
    return image


IDEAS: Final[dict[str, Rule]] = {
    "shipped": Idea(),
    "evidence to the power of 1": Idea(power=1),
    "evidence to the power of 2": Idea(power=2),
    "evidence to the power of 3": Idea(power=3),
    "strengths by mean squares": Idea(robustness=2),
    "strengths by mean lengths": Idea(robustness=1),
    "no doubt": Idea(doubt=None),
    "no doubt, power of 1": Idea(doubt=None, power=1),
    "doubt 0.02": Idea(doubt=0.02),
    "doubt 0.1": Idea(doubt=0.1),
    "doubt 0.3": Idea(doubt=0.3),
    "doubt squared, power of 1": Idea(power=1, doubt_power=2),
    "two E-steps": Idea(e_steps=2),
    "base without spread": Idea(base="brighter"),
    "base spread by 0.5": Idea(spread=0.5),
    "base spread by 2": Idea(spread=2),
    "base spread by 2, beyond the sources": Idea(spread=2, base="beyond"),
    "base of the source that deviates more": Idea(base="deviating"),
    "base of both deviations": Idea(base="both"),
    "level a third as strong": Idea(level=adaptive.LEVEL / 3),
    "level three times as strong": Idea(level=3 * adaptive.LEVEL),
    "window 1.5": Idea(window=1.5),
    "window 3.5": Idea(window=3.5),
    "gain at most 1": Idea(largest_gain=1),
    "joint energy, gain at most 2": Idea(energy="joint", largest_gain=2),
    "nothing is taken over": Idea(takes_over=frozenset()),
    "slopes are not taken over": Idea(takes_over=frozenset(("edge", "contradiction"))),
    "edges are not taken over": Idea(takes_over=frozenset(("slope", "contradiction"))),
    "contradictions are not taken over": Idea(takes_over=frozenset(("slope", "edge"))),
    "taken over beyond 0.2": Idea(chance=(0.2, 0.5)),
    "taken over beyond 0.5": Idea(chance=(0.5, 0.8)),
    "gradients times 1.15": Idea(sharpening=1.15),
    "bounds of 5 x 5 pixels": Idea(reach=2),
    "no bounds": Idea(reach=None),
    "bands, the stronger leads": Bands(4, "mean"),
    "bands, matched energy": Bands(1, "matched"),
    "bands, union": Bands(2, "union"),
}


def published(values: Tensor) -> Tensor:
    """Grey levels 0 to 255 of luma, as an 8-bit file holds them [B, H, W]."""
    return ((values.clamp(-1, 1) + 1) * 127.5).round()[:, 0].double()


def six_figures(picture: Tensor, first: Tensor, second: Tensor) -> SixFigures:
    """Of one picture and its sources, luma [1, 1, H, W] each, as files of 8 bits hold them."""
    figures = fusion_metrics(published(picture), published(first), published(second), METRICS)
    return SixFigures(*(float(figures[name][0]) for name in METRICS))


def group_means(of_sets: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, list[float]]:
    """Means by group of data sets: of a group with several, the mean of the sets' means.

    Args:
        of_sets: by the name of a set, for each of its pairs the six figures.
    """
    groups: dict[str, list[NDArray[np.float64]]] = {}
    for name, rows in of_sets.items():
        groups.setdefault(GROUPS.get(name, HARVARD), []).append(np.mean(rows, axis=0))
    return {group: np.mean(means, axis=0).tolist() for group, means in groups.items()}


def _measured(picture: Callable[[], Tensor], first: Tensor, second: Tensor) -> SixFigures:
    return six_figures(picture(), first, second)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add_data_options(parser, every=5)
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=list(IDEAS), metavar="IDEA", help="by their names")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="also write each fused picture there")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)
    sources = {
        one.name: [(pair.key, luma(pair.first), luma(pair.second)) for pair in read_pairs(one)]
        for one in (data_set.every(arguments.every) for data_set in chosen_data_sets(arguments))
    }
    kept = KeptFigures(SixFigures, arguments.figures)
    print(f"| idea | pairs | of | {' | '.join(METRICS)} |\n|{'---|' * (3 + len(METRICS))}", flush=True)
    for name in arguments.ideas:
        of_sets: dict[str, list[tuple[float, ...]]] = {}
        counts: Counter[str] = Counter()
        for data_set, pairs in sources.items():
            counts[GROUPS.get(data_set, HARVARD)] += len(pairs)
            for key, first, second in pairs:
                # For the figures, for the file, or not at all where the figures were kept.
                picture = cache(partial(IDEAS[name], first, second))
                figures = kept.of(f"{name}: {data_set}/{key}", partial(_measured, picture, first, second))
                of_sets.setdefault(data_set, []).append(astuple(figures))
                if arguments.pictures is not None:
                    folder = arguments.pictures / name.replace(" ", "_").replace(",", "") / data_set
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(published(picture())[0].numpy().astype(np.uint8)).save(folder / f"{key}.png")
        for group, means in group_means(of_sets).items():
            figures_of_group = " | ".join(f"{value:.3f}" for value in means)
            print(f"| {name} | {counts[group]} | {group} | {figures_of_group} |", flush=True)


if __name__ == "__main__":
    main()

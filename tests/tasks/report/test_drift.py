"""When a metric counts as drifted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.report.drift import LEAST_PAIRS, shift_of, shifts
from tasks.report.figures import Distribution


def normal(mean: float, pairs: int, seed: int, deviation: float = 1.0) -> Distribution:
    return Distribution(np.sort(np.random.default_rng(seed).normal(mean, deviation, pairs)))


@pytest.mark.parametrize(
    ("pairs_before", "pairs", "mean", "drifted"),
    [
        (1000, 1000, 0.0, False),
        (1000, 1000, 1.0, True),
        (1000, 1000, -1.0, True),
        (100_000, 100_000, 0.1, False),
        (100_000, 20, 3.0, True),
        (20, 20, 0.5, False),
    ],
)
def test_a_metric_drifts_when_it_moves_far_and_beyond_chance(pairs_before, pairs, mean, drifted):
    found = shift_of(normal(0, pairs_before, seed=1), normal(mean, pairs, seed=2))
    assert found.drifted is drifted
    assert found.shift == pytest.approx(mean, abs=4 / math.sqrt(min(pairs, pairs_before)))


def test_z_is_in_standard_errors():
    seeds = range(2, 402)
    before = normal(0, 400, seed=1)
    found = [shift_of(before, normal(before.median, 400, seed)) for seed in seeds]
    # The error of the earlier median is a part of z, and the same in all of them here.
    assert np.std([one.z for one in found]) == pytest.approx(math.sqrt(1 / 2), rel=0.15)


def test_equal_runs_never_drift():
    counts = [shift_of(normal(0, 20, seed), normal(0, 20, 10_000 + seed)).drifted for seed in range(3000)]
    assert sum(counts) <= 3


def test_a_metric_without_any_spread():
    before = Distribution(np.full(50, 2.0))
    assert shift_of(before, Distribution(np.full(50, 2.0))).drifted is False
    moved = shift_of(before, Distribution(np.full(50, 1.0)))
    assert moved.drifted
    assert moved.shift == -math.inf


def test_few_pairs_are_not_compared():
    enough, few = normal(0, LEAST_PAIRS, seed=1), normal(9, LEAST_PAIRS - 1, seed=2)
    assert shifts({"EN": enough}, {"EN": few}) == {}
    assert shifts({"EN": few}, {"EN": enough}) == {}
    assert shifts({"SD": enough}, {"EN": enough}) == {}
    assert list(shifts({"EN": enough}, {"EN": enough})) == ["EN"]

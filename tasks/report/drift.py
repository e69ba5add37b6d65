"""Whether a run's metrics moved against the run before it.

The shift of a metric is the difference of the two medians in units of the earlier run's spread (its median absolute
deviation as a standard deviation), and z is the same difference in units of its own standard error. A metric drifted
when both are large: among a million pairs any change is beyond chance, and among a few any change looks large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.compute as pc

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import ConfigurationError, Status
from tasks.current import history_batches
from tasks.report.figures import Distribution
from tasks.report.sample import RowSample
from tasks.run_folder import RunFolder, list_runs, run_method
from tasks.settings import read_settings
from tasks.storage import exists

LEAST_PAIRS: Final = 20
"""Pairs with a value that either run needs to be compared."""
LEAST_SHIFT: Final = 0.5
LEAST_Z: Final = 5.0
_LOOKED_AT: Final = 20
_MEDIAN_ERROR: Final = math.sqrt(math.pi / 2)
"""Standard error of the median of normal values, times the root of their number, over their standard deviation."""


@dataclass(frozen=True, eq=False)
class EarlierRun:
    """The run that another one is compared with.

    Attributes:
        config_hash: of its settings, None where they cannot be read.
        metrics: by name, as in :class:`~tasks.report.figures.RunFigures`.
    """

    run: RunFolder
    config_hash: str | None
    metrics: Mapping[str, Distribution]


@dataclass(frozen=True)
class Shift:
    """How far one metric moved.

    Attributes:
        median_before, median: of the earlier run and of this one.
        shift: in standard deviations of the earlier run's pairs; infinite where that run had no spread.
        z: in standard errors of the difference.
    """

    median_before: float
    median: float
    shift: float
    z: float

    @property
    def drifted(self) -> bool:
        """Whether it moved by more than chance, and by enough to matter."""
        return abs(self.shift) >= LEAST_SHIFT and abs(self.z) >= LEAST_Z


def earlier_run(run: RunFolder, method: str, scratch: Path) -> EarlierRun | None:
    """The newest finished run of the method before this one that fused ``LEAST_PAIRS`` or more; None without one.

    Args:
        run: looked at are the 20 runs before it.
        method: of both runs.
        scratch: a local folder for files that lie elsewhere.

    Raises:
        StorageError: a run cannot be read.
    """
    before = [one for one in list_runs(run.dest) if one.run_id < run.run_id]
    for one in before[: -_LOOKED_AT - 1 : -1]:
        if run_method(one) != method or not exists(one.summary_uri) or not exists(one.metrics_uri):
            continue
        sample = RowSample(METRIC_NAMES)
        for table in history_batches(one, scratch, ["pair_key", "status", *METRIC_NAMES]):
            sample.take(table.filter(pc.equal(table["status"], Status.OK)))
        if sample.seen >= LEAST_PAIRS:
            distributions = {name: Distribution(sample.values(name)) for name in METRIC_NAMES}
            return EarlierRun(one, _config_hash(one), {k: v for k, v in distributions.items() if len(v.values)})
    return None


def _config_hash(run: RunFolder) -> str | None:
    try:
        return read_settings(run).config_hash
    except ConfigurationError:
        return None


def shifts(before: Mapping[str, Distribution], now: Mapping[str, Distribution]) -> dict[str, Shift]:
    """How far each metric moved of which both runs have ``LEAST_PAIRS`` values."""
    return {
        name: shift_of(before[name], one)
        for name, one in now.items()
        if name in before and min(len(before[name].values), len(one.values)) >= LEAST_PAIRS
    }


def shift_of(before: Distribution, now: Distribution) -> Shift:
    """How far the median moved."""
    difference = now.median - before.median
    variance = before.spread**2 / len(before.values) + now.spread**2 / len(now.values)
    return Shift(
        before.median,
        now.median,
        shift=_in_units(difference, before.spread),
        z=_in_units(difference, _MEDIAN_ERROR * math.sqrt(variance)),
    )


def _in_units(difference: float, unit: float) -> float:
    if difference == 0:
        return 0.0
    return difference / unit if unit > 0 else math.copysign(math.inf, difference)

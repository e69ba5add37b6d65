"""What the rows of a run come to, read once and in bounded memory: counts, distributions, times, and the extremes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Status
from tasks.overview import PROBLEM_COLUMNS, Overview, overview
from tasks.report.sample import RowSample, column_values

STAGES: Final = ("read", "register", "normalise", "fuse", "measure", "publish")
"""Stages that a row has the seconds of, in their order."""
SHOWN_PROBLEMS: Final = 5
"""Pairs to name of each code."""

_SECONDS: Final = tuple(f"seconds_{stage}" for stage in STAGES)
_FINISHED: Final = "finished_at"
_NUMBERS: Final = (*METRIC_NAMES, *_SECONDS, _FINISHED)

FIGURE_COLUMNS: Final = (*PROBLEM_COLUMNS, "device", "steps", *_NUMBERS)
"""What :func:`run_figures` reads of the rows."""

NORMAL_MAD: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """The values of one metric.

    Attributes:
        values: finite ones, ascending; of a large run every n-th pair's.
    """

    values: NDArray[np.float64]

    def quantile(self, share: float) -> float:
        """The value below which a share (0 to 1) of them lies; NaN where there are none."""
        return float(np.quantile(self.values, share)) if len(self.values) else float("nan")

    @property
    def median(self) -> float:
        """The middle value."""
        return self.quantile(0.5)

    @property
    def spread(self) -> float:
        """The median absolute deviation as a standard deviation, which single outliers do not move."""
        if not len(self.values):
            return float("nan")
        return NORMAL_MAD * float(np.median(np.abs(self.values - self.median)))


@dataclass(frozen=True, order=True)
class Extreme:
    """A pair at one end of a metric."""

    value: float
    pair_key: str


@dataclass(frozen=True)
class Ends:
    """The pairs at both ends of one metric, the outermost first; no pair is at both."""

    lowest: tuple[Extreme, ...]
    highest: tuple[Extreme, ...]


@dataclass(frozen=True, eq=False)
class RunFigures:
    """What a run came to.

    Attributes:
        overview: rows by status and code, with the first pairs of each code.
        metrics: by name, over the pairs that are ok; those of which no pair has a value are left out.
        ends: by the same names, of all pairs.
        stride: 1, or n when the distributions and times are those of every n-th pair.
        seconds: by stage, of the pairs of the sample that have them, ascending.
        stage_seconds: by stage, summed over all pairs.
        devices: pairs by the device that they were fused on.
        finished: seconds since 1970 at which the pairs of the sample were finished, ascending.
    """

    overview: Overview
    metrics: Mapping[str, Distribution]
    ends: Mapping[str, Ends]
    stride: int
    seconds: Mapping[str, NDArray[np.float64]]
    stage_seconds: Mapping[str, float]
    devices: Mapping[str, int]
    finished: NDArray[np.float64]

    @property
    def ok(self) -> int:
        """Pairs that were fused."""
        return self.overview.statuses.get(Status.OK, 0)

    @property
    def last_finished(self) -> datetime | None:
        """About when the last pair was finished, UTC."""
        return datetime.fromtimestamp(float(self.finished[-1]), UTC) if len(self.finished) else None


def run_figures(tables: Iterable[pa.Table], ends: int) -> RunFigures:
    """Look through the rows of a run once.

    Args:
        tables: rows with ``FIGURE_COLUMNS``.
        ends: pairs to find at either end of each metric; fewer where there are not twice as many.
    """
    sample = RowSample(_NUMBERS)
    extremes = {name: _Extremes(ends) for name in METRIC_NAMES}
    sums: defaultdict[str, float] = defaultdict(float)
    devices: Counter[str] = Counter()

    def watched() -> Iterator[pa.Table]:
        for table in tables:
            fused = table.filter(pc.equal(table["status"], Status.OK))
            seconds = pc.divide(pc.cast(fused[_FINISHED], pa.int64()).cast(pa.float64()), 1e6)
            fused = fused.set_column(fused.schema.get_field_index(_FINISHED), _FINISHED, seconds)
            sample.take(fused)
            for name, found in extremes.items():
                found.take(column_values(fused, name), fused["pair_key"])
            for name in _SECONDS:
                sums[name] += pc.sum(fused[name]).as_py() or 0.0
            devices.update({item["values"]: item["counts"] for item in pc.value_counts(fused["device"]).to_pylist()})
            yield table

    seen = overview(watched(), problems_per_code=SHOWN_PROBLEMS)
    distributions = {name: Distribution(sample.values(name)) for name in METRIC_NAMES}
    metrics = {name: one for name, one in distributions.items() if len(one.values)}
    return RunFigures(
        overview=seen,
        metrics=metrics,
        ends={name: extremes[name].ends() for name in metrics},
        stride=sample.stride,
        seconds={stage: sample.values(column) for stage, column in zip(STAGES, _SECONDS, strict=True)},
        stage_seconds={stage: sums[column] for stage, column in zip(STAGES, _SECONDS, strict=True)},
        devices=dict(devices),
        finished=sample.values(_FINISHED),
    )


class _Extremes:
    """The pairs at both ends of one metric, found table by table; of equal values the first key wins."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._found = 0
        self._low: list[Extreme] = []
        self._high: list[Extreme] = []

    def take(self, values: NDArray[np.float64], keys: pa.ChunkedArray) -> None:
        places = np.flatnonzero(np.isfinite(values))
        self._found += len(places)
        if not self._wanted or not len(places):
            return
        order = places[np.argsort(values[places], kind="stable")]
        low = [Extreme(float(values[place]), keys[int(place)].as_py()) for place in order[: self._wanted]]
        falling = places[np.argsort(-values[places], kind="stable")]
        high = [Extreme(float(values[place]), keys[int(place)].as_py()) for place in falling[: self._wanted]]
        self._low = sorted([*self._low, *low])[: self._wanted]
        self._high = sorted([*self._high, *high], key=lambda one: (-one.value, one.pair_key))[: self._wanted]

    def ends(self) -> Ends:
        count = min(self._wanted, -(-self._found // 2))
        lowest = tuple(self._low[:count])
        taken = {one.pair_key for one in lowest}
        return Ends(lowest, tuple(one for one in self._high if one.pair_key not in taken)[:count])

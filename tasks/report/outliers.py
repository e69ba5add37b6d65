"""The pairs at the ends of the metrics: each once, with all its reasons, and what its pictures are found by."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from tasks.current import history_batches
from tasks.report.figures import Distribution, Ends
from tasks.run_folder import RunFolder

End = Literal["lowest", "highest"]


@dataclass(frozen=True)
class Reason:
    """Why a pair is shown.

    Attributes:
        rank: 1 for the outermost pair of this end.
        deviation: from the median, in standard deviations as the median absolute deviation tells them.
    """

    metric: str
    end: End
    rank: int
    value: float
    deviation: float


@dataclass(frozen=True)
class OutlierRow:
    """Columns of a result row that its pictures are found by; see :class:`~tasks.rows.ResultRow`."""

    pair_key: str
    shard_id: str
    chunk_id: str
    first_uri: str | None
    second_uri: str | None
    output_uri: str
    output_sha256: str
    n_slices: int
    height: int
    width: int
    fixed: str | None
    normalisation_first_lo: float | None
    normalisation_first_hi: float | None
    normalisation_second_lo: float | None
    normalisation_second_hi: float | None


@dataclass(frozen=True)
class Outlier:
    """A pair with its reasons, the furthest from the median first."""

    row: OutlierRow
    reasons: tuple[Reason, ...]


def find_outliers(
    run: RunFolder, metrics: Mapping[str, Distribution], ends: Mapping[str, Ends], scratch: Path
) -> list[Outlier]:
    """The pairs at the ends of the metrics, the one furthest from a median first.

    Raises:
        StorageError: the rows cannot be read.
    """
    reasons = reasons_by_key(metrics, ends)
    if not reasons:
        return []
    names = [item.name for item in fields(OutlierRow)]
    keys = pa.array(sorted(reasons), pa.string())
    found: list[Outlier] = []
    for table in history_batches(run, scratch, names):
        chosen = table.filter(pc.is_in(table["pair_key"], value_set=keys))
        found += [Outlier(OutlierRow(**row), reasons[row["pair_key"]]) for row in chosen.to_pylist()]
    return sorted(found, key=lambda one: (-abs(one.reasons[0].deviation), one.row.pair_key))


def reasons_by_key(metrics: Mapping[str, Distribution], ends: Mapping[str, Ends]) -> dict[str, tuple[Reason, ...]]:
    """Why each pair is shown, the furthest from the median first."""
    reasons: defaultdict[str, list[Reason]] = defaultdict(list)
    for metric, both in ends.items():
        median, spread = metrics[metric].median, metrics[metric].spread
        sides: Sequence[tuple[End, Sequence[tuple[float, str]]]] = (
            ("lowest", [(one.value, one.pair_key) for one in both.lowest]),
            ("highest", [(one.value, one.pair_key) for one in both.highest]),
        )
        for end, pairs in sides:
            for rank, (value, key) in enumerate(pairs, start=1):
                deviation = (value - median) / spread if spread > 0 else math.copysign(math.inf, value - median)
                reasons[key].append(Reason(metric, end, rank, value, deviation if value != median else 0.0))

    def furthest_first(one: Reason) -> tuple[float, str]:
        return -abs(one.deviation), one.metric

    return {key: tuple(sorted(found, key=furthest_first)) for key, found in reasons.items()}

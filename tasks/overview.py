"""What rows come to, for people: counts, means, and the first few pairs that were not fused."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import Status

PROBLEM_COLUMNS: Final = ("status", "code", "pair_key", "message")


@dataclass(frozen=True)
class Overview:
    """Figures of many rows.

    Attributes:
        rows: all of them.
        statuses: rows by status, as far as they occur.
        codes: rows by code of those that are not ok.
        problems: the first rows of each code, with ``PROBLEM_COLUMNS``.
        means: of the metrics over rows that are ok, where they are finite; without those that never are.
    """

    rows: int
    statuses: Mapping[str, int]
    codes: Mapping[str, int]
    problems: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    means: Mapping[str, float] = field(default_factory=dict)

    def sentence(self) -> str:
        """The statuses in one line."""
        return ", ".join(f"{count} {status}" for status, count in sorted(self.statuses.items()))


def overview(tables: Iterable[pa.Table], metrics: Sequence[str] = (), problems_per_code: int = 10) -> Overview:
    """Look through rows once, in the memory of one table.

    Args:
        tables: rows with ``PROBLEM_COLUMNS`` and the metrics.
        metrics: names of those to take the mean of.
        problems_per_code: rows to keep of each code.
    """
    rows = 0
    statuses: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    problems: list[Mapping[str, str]] = []
    sums: defaultdict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    for table in tables:
        rows += len(table)
        statuses.update(_counts(table["status"]))
        is_ok = pc.equal(table["status"], Status.OK)
        fused, others = table.filter(is_ok), table.filter(pc.invert(is_ok))
        for code in pc.unique(others["code"]).to_pylist():
            of_code = others.filter(pc.equal(others["code"], code))
            room = max(0, problems_per_code - codes[code])
            problems += of_code.slice(0, room).select(list(PROBLEM_COLUMNS)).to_pylist()
            codes[code] += len(of_code)
        for name in metrics:
            finite = fused[name].filter(pc.is_finite(fused[name]))
            sums[name] += pc.sum(finite).as_py() or 0.0
            counts[name] += len(finite)
    means = {name: sums[name] / counts[name] for name in metrics if counts[name]}
    return Overview(rows, dict(statuses), dict(codes), problems, means)


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return {item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()}

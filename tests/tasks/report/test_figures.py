"""What the rows of a run come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code
from tasks.report.figures import FIGURE_COLUMNS, Distribution, RunFigures, run_figures
from tasks.report.outliers import reasons_by_key
from tasks.report.sample import RowSample
from tasks.rows import ManifestRow
from tasks.run_folder import RunFolder
from tasks.schemas import result_table
from tests.runs import failed, result

BEGAN = datetime(2026, 11, 22, 3, tzinfo=UTC)


def rows_of(values: list[float | Code], first: int = 0) -> pa.Table:
    """A row per value: of a pair with this EN, all other metrics 1, or of a pair that was not fused."""
    rows = []
    for number, value in enumerate(values, start=first):
        manifest = ManifestRow("0000", "0000", f"p{number:03}", "a", "b", "1", "1", 1, 1, None, "", 1)
        changes: dict[str, Any] = (
            failed(value)
            if isinstance(value, Code)
            else {
                "metrics": dict.fromkeys(METRIC_NAMES, 1.0) | {"EN": value},
                "seconds_fuse": 2.0,
                "finished_at": BEGAN + timedelta(seconds=number),
            }
        )
        rows.append(result(RunFolder("memory://d", "r"), manifest, **changes))
    return result_table(rows).select(list(FIGURE_COLUMNS))


def figures_of(*values: list[float | Code], ends: int = 2) -> RunFigures:
    starts = np.cumsum([0, *map(len, values)])
    return run_figures([rows_of(part, int(start)) for part, start in zip(values, starts, strict=False)], ends)


def test_counts_distributions_and_times_over_tables():
    found = figures_of([3.0, 1.0, Code.TRUNCATED], [2.0, float("nan"), Code.WRITE_FAILED, 7.0])
    assert found.overview.statuses == {"ok": 5, "rejected": 1, "failed": 1}
    assert found.overview.codes == {"truncated": 1, "write_failed": 1}
    assert found.ok == 5
    assert found.metrics["EN"].values.tolist() == [1.0, 2.0, 3.0, 7.0]
    assert found.metrics["EN"].median == 2.5
    assert found.stage_seconds["fuse"] == 10.0
    assert found.seconds["fuse"].tolist() == [2.0] * 5
    assert found.stage_seconds["register"] == 0
    assert not len(found.seconds["register"])
    assert found.devices == {"cpu": 5}
    assert found.last_finished == BEGAN + timedelta(seconds=6)
    assert found.stride == 1


def test_the_ends_of_a_metric_are_those_of_all_tables():
    found = figures_of([5.0, 1.0, float("nan")], [9.0, 2.0], [8.0, float("inf")])
    ends = found.ends["EN"]
    assert [(one.pair_key, one.value) for one in ends.lowest] == [("p001", 1.0), ("p004", 2.0)]
    assert [(one.pair_key, one.value) for one in ends.highest] == [("p003", 9.0), ("p005", 8.0)]
    # Of equal values the first key.
    assert [one.pair_key for one in found.ends["VIF"].lowest] == ["p000", "p001"]


@pytest.mark.parametrize(
    ("pairs", "lowest", "highest"), [(0, [], []), (1, ["p000"], []), (3, ["p000", "p001"], ["p002"])]
)
def test_of_few_pairs_none_is_at_both_ends(pairs, lowest, highest):
    found = figures_of([float(number) for number in range(pairs)])
    if not pairs:
        assert not found.metrics
        assert found.last_finished is None
        return
    assert [one.pair_key for one in found.ends["EN"].lowest] == lowest
    assert [one.pair_key for one in found.ends["EN"].highest] == highest


def test_a_pair_is_shown_once_with_all_its_reasons():
    found = figures_of([1.0, 2.0, 3.0, 4.0, 100.0], ends=1)
    reasons = reasons_by_key(found.metrics, found.ends)
    assert [(one.metric, one.end, one.rank) for one in reasons["p004"]] == [("EN", "highest", 1)]
    assert reasons["p004"][0].deviation == pytest.approx(97 / 1.4826)
    assert reasons["p000"][0].metric == "EN"
    assert len(reasons["p000"]) == len(METRIC_NAMES)
    assert {one.deviation for one in reasons["p000"][1:]} == {0.0}


def test_a_sample_is_bounded_and_evenly_spread():
    sample = RowSample(["x"], most=10)
    numbers = list(range(100))
    for start, end in ((0, 7), (7, 7), (7, 50), (50, 51), (51, 100)):
        sample.take(pa.table({"x": pa.array(numbers[start:end], pa.int64())}))
    assert sample.seen == 100
    assert sample.stride == 16
    assert sample.values("x").tolist() == list(range(0, 100, 16))


def test_a_sample_within_its_bound_is_everything_that_is_finite():
    sample = RowSample(["x"], most=10)
    sample.take(pa.table({"x": pa.array([3.0, None, float("nan"), 1.0])}))
    assert sample.values("x").tolist() == [1.0, 3.0]


def test_the_spread_is_a_standard_deviation_that_outliers_do_not_move():
    normal = np.random.default_rng(0).normal(5, 2, 20_000)
    normal[:100] = 1e6
    found = Distribution(np.sort(normal))
    assert found.spread == pytest.approx(2, rel=0.03)
    assert found.median == pytest.approx(5, abs=0.05)
    assert np.isnan(Distribution(np.empty(0)).spread)

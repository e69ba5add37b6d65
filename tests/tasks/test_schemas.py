from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code, Status
from tasks.manifest import manifest_rows
from tasks.results import commit_chunk, read_results
from tasks.rows import ManifestRow, ResultRow
from tasks.schemas import MANIFEST_SCHEMA, PLAN_COLUMNS, RESULT_SCHEMA, result_table, table_of
from tests.runs import begin, chunks, failed, found_pairs, result, whole_manifest


def test_the_columns_of_the_result_table() -> None:
    names = [item.name for item in fields(ResultRow) if item.name != "metrics"]
    assert RESULT_SCHEMA.names == [*names, *METRIC_NAMES]
    assert {item.name for item in fields(ManifestRow)} == set(MANIFEST_SCHEMA.names)
    assert MANIFEST_SCHEMA.metadata == {b"ddfm_schema": b"manifest", b"ddfm_schema_version": b"4"}
    assert RESULT_SCHEMA.metadata == {b"ddfm_schema": b"result", b"ddfm_schema_version": b"4"}
    assert set(PLAN_COLUMNS) < set(RESULT_SCHEMA.names)
    assert RESULT_SCHEMA.field("finished_at").type == pa.timestamp("us", "UTC")
    assert all(RESULT_SCHEMA.field(name).type == pa.float64() for name in METRIC_NAMES)


def test_a_row_comes_back_as_it_was(dest: str) -> None:
    run = begin(dest, found_pairs(1))
    ((place, (member,)),) = [item for item in chunks(run).items() if item[1][0].code is None]
    row = result(
        run,
        member,
        n_slices=3,
        height=480,
        width=640,
        output_uri="/fused/p000.png",
        output_sha256="f" * 64,
        normalisation_first_rule="percentile",
        normalisation_first_lo=0.25,
        normalisation_first_hi=4095.0,
        registration_method="none",
        affine=tuple(float(n) for n in range(16)),
        first_shape=(3, 480, 640),
        flags=("first: single_slice",),
        seconds_fuse=1.5,
        finished_at=datetime(2026, 11, 22, 4, 15, 0, 123456, tzinfo=timezone(timedelta(hours=1))),
        metrics={name: float(index) for index, name in enumerate(METRIC_NAMES)} | {"CC": float("nan")},
    )
    commit_chunk(run, *place, [row])
    (found,) = read_results(run).to_pylist()
    expected = {item.name: getattr(row, item.name) for item in fields(ResultRow) if item.name != "metrics"}
    expected |= dict(row.metrics)
    expected |= {name: list(value) for name, value in expected.items() if isinstance(value, tuple)}
    assert found.pop("CC") != expected.pop("CC")  # NaN stays NaN and does not become null
    assert found == expected
    assert found["finished_at"].utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": Status.FAILED}, "the status of code None is ok, not failed"),
        ({"code": Code.TRUNCATED}, "the status of code truncated is rejected, not ok"),
        ({"metrics": {"EN": 1.0}}, "metrics missing or unknown for a row that is ok: AG, CC"),
        ({"metrics": dict.fromkeys([*METRIC_NAMES, "ENN"], 1.0)}, "for a row that is ok: ENN"),
        (failed(Code.TRUNCATED) | {"metrics": {"EN": 1.0}}, "for a row that is rejected: EN"),
        ({"finished_at": datetime(2026, 1, 1)}, "finished_at has no time zone"),
    ],
)
def test_rows_that_do_not_fit_together(dest: str, changes: dict[str, Any], message: str) -> None:
    run = begin(dest, found_pairs(1))
    row = next(row for row in manifest_rows(whole_manifest(run)) if row.code is None)
    with pytest.raises(ValueError, match=message):
        result(run, row, **changes)


def test_tables_have_all_columns_and_no_others() -> None:
    columns: dict[str, Any] = {name: [] for name in MANIFEST_SCHEMA.names}
    assert table_of(columns, MANIFEST_SCHEMA).schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    with pytest.raises(ValueError, match="missing or unknown columns: colour"):
        table_of(columns | {"colour": []}, MANIFEST_SCHEMA)
    with pytest.raises(ValueError, match="missing or unknown columns: attempt"):
        table_of({name: [] for name in MANIFEST_SCHEMA.names if name != "attempt"}, MANIFEST_SCHEMA)
    one: dict[str, Any] = {name: [1] if "size" in name else ["x"] for name in MANIFEST_SCHEMA.names}
    with pytest.raises(ValueError, match="column pair_key: 1 rows have no value"):
        table_of(one | {"attempt": [1], "pair_key": [None]}, MANIFEST_SCHEMA)
    with pytest.raises((ValueError, TypeError)):
        table_of(one | {"attempt": ["many"]}, MANIFEST_SCHEMA)
    assert result_table([]).schema.equals(RESULT_SCHEMA, check_metadata=True)

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code, Status
from tasks.index import IndexedPair, plan
from tasks.manifest import (
    MANIFEST_SCHEMA,
    PLAN_COLUMNS,
    RESULT_SCHEMA,
    ManifestRow,
    ReconcileError,
    ResultRow,
    RunFolder,
    commit_chunk,
    committed_chunks,
    compact,
    current_rows,
    finish_run,
    list_runs,
    manifest_rows,
    new_run,
    read_manifest,
    read_results,
    reconcile,
    result_table,
    table_of,
    unfinished_run,
    write_manifest,
)
from tasks.storage import StorageError, exists, join, list_names, read_bytes, remove, write_atomic


@pytest.fixture(params=["path", "memory"])
def dest(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "path":
        yield str(tmp_path / "dest")
    else:
        uri = f"memory://{uuid.uuid4().hex}/dest"
        yield uri
        if fsspec.filesystem("memory").exists(uri):
            fsspec.filesystem("memory").rm(uri, recursive=True)


def pairs(count: int, prefix: str = "p") -> list[IndexedPair]:
    found = [IndexedPair(f"{prefix}{n:03d}", f"/a/{n}", f"/b/{n}", f"1-{n}", "1-0", 1, 1) for n in range(count)]
    lone = IndexedPair(f"{prefix}-lone", "/a/x", None, "1-x", None, 1, None, Code.NO_PARTNER, "no second")
    return [lone, *found]


def result(run: RunFolder, row: ManifestRow, **changes: Any) -> ResultRow:
    base = ResultRow(
        run_id=run.run_id,
        shard_id=row.shard_id,
        chunk_id=row.chunk_id,
        pair_key=row.pair_key,
        method="paper",
        dataset="",
        modality_first="infrared",
        modality_second="visible",
        first_uri=row.first_uri,
        second_uri=row.second_uri,
        first_fingerprint=row.first_fingerprint,
        second_fingerprint=row.second_fingerprint,
        status=row.code.status if row.code else Status.OK,
        code=row.code,
        message=row.message,
        attempt=row.attempt,
        seed=2**40,
        steps=100,
        mode="paper",
        prior_sha256="0" * 64,
        config_hash="h",
        algorithm_version="1",
        package_version="0.1.0",
        device="cpu",
        finished_at=datetime(2026, 11, 22, 3, 15, tzinfo=UTC),
        metrics={} if row.code else dict.fromkeys(METRIC_NAMES, 0.5),
    )
    return replace(base, **changes)


def failed(code: Code) -> dict[str, Any]:
    return {"status": code.status, "code": code, "message": code.sentence, "metrics": {}}


def begin(dest: str, found: Sequence[IndexedPair], done: pa.Table | None = None) -> RunFolder:
    run = new_run(dest)
    write_atomic(run.config_uri, b"{}")
    write_manifest(run, plan(found, done, "h", 2, 4).manifest)
    return run


def chunks(run: RunFolder) -> dict[tuple[str, str], list[ManifestRow]]:
    members: dict[tuple[str, str], list[ManifestRow]] = {}
    for row in manifest_rows(read_manifest(run)):
        members.setdefault((row.shard_id, row.chunk_id), []).append(row)
    return members


def commit_all(run: RunFolder, **changes: Any) -> None:
    for (shard_id, chunk_id), rows in chunks(run).items():
        if (shard_id, chunk_id) not in committed_chunks(run):
            commit_chunk(run, shard_id, chunk_id, [result(run, row, **changes if not row.code else {}) for row in rows])


def finish(run: RunFolder) -> None:
    reconcile(run)
    compact(run)
    finish_run(run, {"state": "completed"})


# Schemas and rows


def test_the_columns_of_the_result_table() -> None:
    names = [item.name for item in fields(ResultRow) if item.name != "metrics"]
    assert RESULT_SCHEMA.names == [*names, *METRIC_NAMES]
    assert {item.name for item in fields(ManifestRow)} == set(MANIFEST_SCHEMA.names)
    assert MANIFEST_SCHEMA.metadata == {b"ddfm_schema": b"manifest", b"ddfm_schema_version": b"1"}
    assert RESULT_SCHEMA.metadata == {b"ddfm_schema": b"result", b"ddfm_schema_version": b"1"}
    assert set(PLAN_COLUMNS) < set(RESULT_SCHEMA.names)
    assert RESULT_SCHEMA.field("finished_at").type == pa.timestamp("us", "UTC")
    assert all(RESULT_SCHEMA.field(name).type == pa.float64() for name in METRIC_NAMES)


def test_a_row_comes_back_as_it_was(dest: str) -> None:
    run = begin(dest, pairs(1))
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
        seconds_fuse=1.5,
        finished_at=datetime(2026, 11, 22, 4, 15, 0, 123456, tzinfo=timezone(timedelta(hours=1))),
        metrics={name: float(index) for index, name in enumerate(METRIC_NAMES)} | {"CC": float("nan")},
    )
    commit_chunk(run, *place, [row])
    (found,) = read_results(run).to_pylist()
    expected = {item.name: getattr(row, item.name) for item in fields(ResultRow) if item.name != "metrics"}
    expected |= dict(row.metrics)
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
    run = begin(dest, pairs(1))
    row = next(row for row in manifest_rows(read_manifest(run)) if row.code is None)
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


# Runs


def test_run_ids_sort_by_time() -> None:
    early = datetime(2026, 11, 22, 23, 59, 59, 999999, tzinfo=UTC)
    runs = [new_run("/d", early + timedelta(microseconds=n)) for n in range(5)]
    assert [run.run_id for run in runs] == sorted(run.run_id for run in runs)
    assert runs[0].run_id.startswith("20261122T235959-999999-")
    assert runs[1].run_id.startswith("20261123T000000-000000-")
    local = early.astimezone(timezone(timedelta(hours=-8)))
    assert new_run("/d", local).run_id[:22] == runs[0].run_id[:22]
    assert new_run("/d", early).run_id != new_run("/d", early).run_id


def test_where_a_run_lies() -> None:
    run = RunFolder("s3://bucket/out/", "id")
    assert run.config_uri == "s3://bucket/out/_ddfm/runs/id/config.json"
    assert run.manifest_uri == "s3://bucket/out/_ddfm/runs/id/manifest.parquet"
    assert run.chunk_uri("0001", "0002") == "s3://bucket/out/_ddfm/runs/id/results/0001-0002.parquet"
    assert run.summary_uri == "s3://bucket/out/_ddfm/runs/id/summary.json"
    assert run.report_uri == "s3://bucket/out/_ddfm/runs/id/report"
    assert run.metrics_uri == "s3://bucket/out/_ddfm/metrics/id.parquet"


def test_manifest_is_written_once_and_read_by_shard(dest: str) -> None:
    run = begin(dest, pairs(9))
    whole = read_manifest(run)
    assert whole.schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    assert len(whole) == 10
    shard = list(manifest_rows(read_manifest(run, "0001")))
    assert [row.pair_key for row in shard] == ["p004", "p005", "p006", "p007"]
    assert shard[0] == ManifestRow("0001", "0000", "p004", "/a/4", "/b/4", "1-4", "1-0", 1, 1, None, "", 1)
    (lone,) = manifest_rows(read_manifest(run, "0003"))
    assert (lone.code, lone.second_uri) == (Code.NO_PARTNER, None)
    assert len(read_manifest(run, "9999")) == 0
    with pytest.raises(StorageError, match="has its plan already"):
        write_manifest(run, whole)
    with pytest.raises(ValueError, match="columns differ: attempt: int32 not null"):
        write_manifest(new_run(dest), whole.drop_columns("attempt"))


def test_the_life_of_a_run(dest: str) -> None:
    assert list_runs(dest) == []
    assert unfinished_run(dest) is None
    run = begin(dest, pairs(5))
    assert list_runs(dest) == [run]
    assert unfinished_run(dest) == run
    assert committed_chunks(run) == set()
    assert len(read_results(run)) == 0
    with pytest.raises(ReconcileError, match=r"6 pairs planned: 6 have no row: p000, p001, p002, p003, p004 …"):
        reconcile(run)

    members = chunks(run)
    commit_chunk(run, "0000", "0001", [result(run, row) for row in reversed(members["0000", "0001"])])
    assert committed_chunks(run) == {("0000", "0001")}
    assert read_results(run)["pair_key"].to_pylist() == ["p002", "p003"]
    with pytest.raises(ReconcileError, match=r"4 have no row: p000, p001, p004, p-lone$"):
        reconcile(run)
    commit_all(run)
    report = reconcile(run)
    assert report.pairs == 6
    assert report.statuses == {Status.OK: 5, Status.SKIPPED: 0, Status.REJECTED: 1, Status.FAILED: 0}
    assert report.codes == {Code.NO_PARTNER: 1}

    assert unfinished_run(dest) == run
    assert compact(run) == run.metrics_uri
    assert unfinished_run(dest) == run
    finish_run(run, {"statuses": dict(report.statuses)})
    assert unfinished_run(dest) is None
    assert json.loads(read_bytes(run.summary_uri)) == {"statuses": {"ok": 5, "skipped": 0, "rejected": 1, "failed": 0}}


def test_the_newest_run_with_a_plan_decides(dest: str) -> None:
    old = begin(dest, pairs(1))
    without_plan = new_run(dest)
    write_atomic(without_plan.config_uri, b"{}")
    assert unfinished_run(dest) == old
    new = begin(dest, pairs(1))
    assert unfinished_run(dest) == new
    commit_all(new)
    finish(new)
    assert unfinished_run(dest) is None
    assert list_runs(dest) == [old, without_plan, new]


# Chunks


def test_only_the_rows_of_the_plan_can_be_committed(dest: str) -> None:
    run = begin(dest, pairs(4))
    one, two = (result(run, row) for row in chunks(run)["0000", "0000"])
    for rows, message in [
        ([one], r"chunk 0000-0000 has 2 pairs, got 1 rows; missing, strange or double: p001"),
        ([one, two, one], "got 3 rows; missing, strange or double: p000"),
        ([one, replace(two, pair_key="other")], "missing, strange or double: other, p001"),
        ([], "got 0 rows; missing, strange or double: p000, p001"),
        ([one, replace(two, chunk_id="0001")], "cannot be committed as"),
        ([one, replace(two, run_id="other")], "cannot be committed as"),
    ]:
        with pytest.raises(ValueError, match=message):
            commit_chunk(run, "0000", "0000", rows)
    with pytest.raises(ValueError, match="cannot be committed as"):
        commit_chunk(run, "0000", "0001", [one, two])
    assert committed_chunks(run) == set()
    commit_chunk(run, "0000", "0000", [one, two])
    # A chunk that two workers did counts once.
    commit_chunk(run, "0000", "0000", [one, two])
    assert len(read_results(run)) == 2


def test_reconcile_finds_double_and_strange_rows(dest: str) -> None:
    run = begin(dest, pairs(4))
    commit_all(run)
    reconcile(run)
    copy = read_bytes(run.chunk_uri("0000", "0000"))
    write_atomic(run.chunk_uri("0000", "0009"), copy)
    with pytest.raises(ReconcileError, match=r"5 pairs planned: 2 have several rows: p000, p001$"):
        reconcile(run)
    other = begin(dest, pairs(2, "q"))
    commit_all(other)
    write_atomic(run.chunk_uri("0000", "0009"), read_bytes(other.chunk_uri("0000", "0000")))
    remove(run.chunk_uri("0000", "0001"))
    with pytest.raises(ReconcileError, match=r"2 have no row: p002, p003; 2 were never planned: q000, q001$"):
        reconcile(run)


def test_a_writer_killed_in_a_commit_commits_nothing(tmp_path: Path) -> None:
    run = begin(str(tmp_path), pairs(4))
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.getcwd()!r})
from tasks.manifest import RunFolder, commit_chunk
from tests.tasks.test_manifest import chunks, result
run = RunFolder(sys.argv[1], sys.argv[2])
commit_chunk(run, "0000", "0000", [result(run, row) for row in chunks(run)["0000", "0000"]])
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
commit_chunk(run, "0000", "0001", [result(run, row) for row in chunks(run)["0000", "0001"]])
"""  # noqa: PTH109
    done = subprocess.run([sys.executable, "-c", code, run.dest, run.run_id], timeout=200)
    assert done.returncode == -signal.SIGKILL
    assert len(list(Path(run.results_uri).iterdir())) == 2
    assert list_names(run.results_uri) == ["0000-0000.parquet"]
    assert committed_chunks(run) == {("0000", "0000")}
    assert len(current_rows(run.dest)) == 2
    commit_all(run)
    assert reconcile(run).pairs == 5


# Damage


def test_a_flipped_bit_is_found_or_does_no_harm(dest: str) -> None:
    run = begin(dest, pairs(4))
    commit_all(run)
    finish(run)
    generator = random.Random(0)
    for uri, read in [
        (run.chunk_uri("0000", "0001"), lambda: read_results(run)),
        (run.metrics_uri, lambda: current_rows(dest, columns=None)),
        (run.manifest_uri, lambda: read_manifest(run)),
    ]:
        good, expected = read_bytes(uri), read()
        found = 0
        for place in generator.sample(range(len(good)), 40):
            bad = bytearray(good)
            bad[place] ^= 1 << generator.randrange(8)
            write_atomic(uri, bytes(bad))
            try:
                assert read().equals(expected)
            except StorageError as error:
                assert f"{uri}: is damaged or not a table of this program" in str(error)  # noqa: PT017
                found += 1
        assert found > 10
        write_atomic(uri, good)


def test_cut_and_foreign_tables_are_refused(dest: str) -> None:
    run = begin(dest, pairs(2))
    commit_all(run)
    uri = run.chunk_uri("0000", "0000")
    good = read_bytes(uri)
    table = pq.read_table(pa.BufferReader(good))
    newer = table.replace_schema_metadata({**RESULT_SCHEMA.metadata, b"ddfm_schema_version": b"2"})
    narrower = table.drop_columns("EN")
    wider = table.append_column("ENN", pa.array([0.0, 0.0]))
    other_type = table.set_column(table.schema.get_field_index("steps"), "steps", pa.array([1, 2], pa.int64()))
    for content, message in [
        (good[: len(good) // 2], "is damaged"),
        (b"", "is damaged"),
        (as_parquet(newer), "ddfm_schema_version is 2, expected 1"),
        (as_parquet(table.replace_schema_metadata(None)), "ddfm_schema is none, expected result"),
        (as_parquet(narrower), "columns differ: .*EN: double"),
        (as_parquet(wider), "columns differ: .*ENN: double"),
        (as_parquet(other_type), "columns differ: .*steps: int32"),
        (read_bytes(run.manifest_uri), "ddfm_schema is manifest, expected result"),
    ]:
        write_atomic(uri, content)
        with pytest.raises(StorageError, match=message):
            read_results(run, ["pair_key"])
    remove(run.manifest_uri)
    with pytest.raises(StorageError, match=r"manifest\.parquet: does not exist"):
        read_manifest(run)


def as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())


# All runs


def test_the_newest_row_of_each_pair(dest: str) -> None:
    assert len(current_rows(dest)) == 0
    assert current_rows(dest).column_names == list(PLAN_COLUMNS)
    found = pairs(5)
    first = begin(dest, found)
    commit_all(first, **failed(Code.READ_FAILED))
    finish(first)
    second = begin(dest, found, current_rows(dest))
    assert {row.attempt for row in manifest_rows(read_manifest(second))} == {2}
    rows = chunks(second)["0000", "0000"]
    commit_chunk(second, "0000", "0000", [result(second, row) for row in rows])

    current = current_rows(dest, "paper", ["pair_key", "run_id", "status", "attempt"]).to_pylist()
    # By key: "-" sorts before digits.
    assert [(row["pair_key"], row["status"], row["attempt"]) for row in current] == [
        ("p-lone", "rejected", 1),
        ("p000", "ok", 2),
        ("p001", "ok", 2),
        ("p002", "failed", 1),
        ("p003", "failed", 1),
        ("p004", "failed", 1),
    ]
    assert [row["run_id"] == second.run_id for row in current] == [False, True, True, False, False, False]
    commit_all(second)
    finish(second)
    assert plan(found, current_rows(dest, "paper"), "h", 2, 4).settled == 6
    # The table of all runs is enough, and a run that it lacks is read from its chunks.
    remove(first.chunk_uri("0000", "0000"))
    remove(second.metrics_uri)
    assert current_rows(dest)["status"].to_pylist() == ["rejected", *["ok"] * 5]


def test_methods_are_kept_apart(dest: str) -> None:
    found = pairs(2)
    first = begin(dest, found)
    commit_all(first)
    finish(first)
    second = begin(dest, found)
    commit_all(second, method="released", mode="released", config_hash="r")
    finish(second)
    everything = current_rows(dest, columns=["pair_key", "method", "config_hash"]).to_pylist()
    assert [(row["pair_key"], row["method"]) for row in everything] == [
        ("p-lone", "paper"),
        ("p000", "paper"),
        ("p000", "released"),
        ("p001", "paper"),
        ("p001", "released"),
    ]
    assert current_rows(dest, "released")["config_hash"].to_pylist() == ["r", "r"]
    assert plan(found, current_rows(dest, "paper"), "h", 2, 4).settled == 3
    assert plan(found, current_rows(dest, "released"), "r", 2, 4).to_fuse == 0
    assert current_rows(dest, "none").column_names == list(PLAN_COLUMNS)
    assert current_rows(dest, columns=None).schema.names == RESULT_SCHEMA.names


def test_a_large_archive_is_current_in_a_second(tmp_path: Path) -> None:
    dest = str(tmp_path)
    count = 100_000
    for n in range(2):
        run = new_run(dest)
        columns: dict[str, Any] = {item.name: pa.nulls(count, item.type) for item in RESULT_SCHEMA}
        for item in RESULT_SCHEMA:
            if not item.nullable:
                columns[item.name] = pa.array(["x"] * count) if item.type == pa.string() else [0] * count
        columns["run_id"] = [run.run_id] * count
        columns["pair_key"] = [f"folder/pair_{(k * 7919) % count + n * 1000:06d}" for k in range(count)]
        write_atomic(run.metrics_uri, as_parquet(table_of(columns, RESULT_SCHEMA)))
    began = time.process_time()
    current = current_rows(dest)
    assert time.process_time() - began < 2
    keys = current["pair_key"].to_pylist()
    assert len(keys) == count + 1000
    assert keys == sorted(keys)


def test_nothing_is_left_beside_what_a_run_writes(tmp_path: Path) -> None:
    run = begin(str(tmp_path), pairs(3))
    commit_all(run)
    finish(run)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    folder = f"_ddfm/runs/{run.run_id}"
    assert files == [
        f"_ddfm/metrics/{run.run_id}.parquet",
        f"{folder}/config.json",
        f"{folder}/manifest.parquet",
        f"{folder}/results/0000-0000.parquet",
        f"{folder}/results/0000-0001.parquet",
        f"{folder}/results/0001-0000.parquet",
        f"{folder}/summary.json",
    ]
    assert not exists(join(run.dest, "fused"))

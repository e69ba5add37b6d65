from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.codes import Code
from tasks.current import compact, current_batches, current_rows
from tasks.index import IndexedPair
from tasks.manifest import manifest_rows
from tasks.results import commit_chunk, committed_chunks
from tasks.run_folder import current_uri, list_runs, new_run
from tasks.schemas import PLAN_COLUMNS, RESULT_SCHEMA, table_of
from tasks.storage import exists, join, list_names, read_bytes, remove, write_atomic
from tests.runs import (
    all_rows,
    begin,
    chunks,
    commit_all,
    failed,
    finish,
    found_pairs,
    plan_pairs,
    result,
    whole_manifest,
)


def test_the_newest_row_of_each_pair(dest: str) -> None:
    assert len(current_rows(dest)) == 0
    assert current_rows(dest).column_names == list(PLAN_COLUMNS)
    found = found_pairs(5)
    first = begin(dest, found)
    commit_all(first, **failed(Code.READ_FAILED))
    finish(first)
    second = begin(dest, found, current_rows(dest))
    assert {row.attempt for row in manifest_rows(whole_manifest(second))} == {2}
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
    assert plan_pairs(found, current_rows(dest, "paper"), "h", 2, 4).counts.settled == 6
    # The current rows are enough; without them all runs are read, from their chunks where their table is gone, too.
    remove(first.chunk_uri("0000", "0000"))
    assert current_rows(dest)["status"].to_pylist() == ["rejected", *["ok"] * 5]
    remove(current_uri(dest, "paper"))
    remove(second.metrics_uri)
    assert current_rows(dest, "paper")["status"].to_pylist() == ["rejected", *["ok"] * 5]


def test_methods_are_kept_apart(dest: str) -> None:
    found = found_pairs(2)
    first = begin(dest, found)
    commit_all(first)
    finish(first)
    second = begin(dest, found, method="released")
    commit_all(second, method="released", mode="released", config_hash="r")
    finish(second, "released")
    everything = current_rows(dest, columns=["pair_key", "method", "config_hash"]).to_pylist()
    assert [(row["pair_key"], row["method"]) for row in everything] == [
        ("p-lone", "paper"),
        ("p000", "paper"),
        ("p000", "released"),
        ("p001", "paper"),
        ("p001", "released"),
    ]
    assert current_rows(dest, "released")["config_hash"].to_pylist() == ["r", "r"]
    assert plan_pairs(found, current_rows(dest, "paper"), "h", 2, 4).counts.settled == 3
    assert plan_pairs(found, current_rows(dest, "released"), "r", 2, 4).to_fuse == 0
    assert current_rows(dest, "none").column_names == list(PLAN_COLUMNS)
    assert current_rows(dest, columns=None).schema.names == RESULT_SCHEMA.names


def test_a_large_archive_is_current_in_seconds(tmp_path: Path) -> None:
    dest = str(tmp_path)
    count = 100_000
    for n in range(2):
        run = new_run(dest)
        columns: dict[str, Any] = {item.name: pa.nulls(count, item.type) for item in RESULT_SCHEMA}
        for item in RESULT_SCHEMA:
            if not item.nullable:
                columns[item.name] = pa.array(["x"] * count) if item.type == pa.string() else [0] * count
        columns["run_id"] = [run.run_id] * count
        columns["method"] = ["paper"] * count
        columns["pair_key"] = [f"folder/pair_{k + n * 1000:06d}" for k in range(count)]
        write_atomic(run.metrics_uri, as_parquet(table_of(columns, RESULT_SCHEMA)))
    began = time.process_time()
    current = current_rows(dest, "paper")
    assert time.process_time() - began < 2
    keys = current["pair_key"].to_pylist()
    assert len(keys) == count + 1000
    assert keys == sorted(keys)
    assert current["run_id"].to_pylist() == [sorted(list_run_ids(dest))[0]] * 1000 + [run.run_id] * count


def list_run_ids(dest: str) -> list[str]:
    return [name.removesuffix(".parquet") for name in list_names(join(dest, "_ddfm/metrics/history"))]


def test_a_crash_between_the_two_tables_is_made_good(dest: str) -> None:
    found = found_pairs(5)
    first = begin(dest, found)
    commit_all(first)
    finish(first)
    before = read_bytes(current_uri(dest, "paper"))
    second = begin(dest, found)
    commit_all(second, seed=7)
    compact(second, "paper")
    # As if the process had ended before the current rows were replaced.
    write_atomic(current_uri(dest, "paper"), before)
    assert seeds(dest) == {7}
    compact(second, "paper")
    assert seeds(dest) == {7}
    third = begin(dest, found)
    commit_all(third, seed=8)
    write_atomic(current_uri(dest, "paper"), before)
    finish(third)
    assert seeds(dest) == {8}


def seeds(dest: str) -> set[int]:
    rows = current_rows(dest, "paper", ["status", "seed"]).to_pylist()
    return {row["seed"] for row in rows if row["status"] == "ok"}


def test_a_run_that_was_killed_and_superseded_is_folded_once(dest: str) -> None:
    found = found_pairs(5)
    killed = begin(dest, found)
    rows = chunks(killed)["0000", "0001"]
    commit_chunk(killed, "0000", "0001", [result(killed, row, seed=1) for row in rows])
    later = begin(dest, found[:3])
    commit_all(later, seed=2)
    finish(later)
    columns = ["pair_key", "run_id"]
    expected = [("p-lone", later), ("p000", later), ("p001", later), ("p002", killed), ("p003", killed)]
    for _ in range(2):
        rows = current_rows(dest, "paper", columns).to_pylist()
        assert [(row["pair_key"], row["run_id"]) for row in rows] == [(key, run.run_id) for key, run in expected]
        # Its rows are in the table now; its chunks are not looked at any more.
        for place in committed_chunks(killed):
            remove(killed.chunk_uri(*place))


def test_earlier_nights_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = str(tmp_path)
    found = found_pairs(3)
    for night in range(3):
        run = begin(dest, found)
        commit_all(run, seed=night)
        finish(run)
    for run in list_runs(dest):
        remove(run.metrics_uri)
        for place in committed_chunks(run):
            remove(run.chunk_uri(*place))
    assert seeds(dest) == {2}
    folded = pq.read_schema(current_uri(dest, "paper")).metadata[b"ddfm_folded_runs"]
    assert json.loads(folded) == [run.run_id for run in list_runs(dest)]


def test_rows_are_read_a_piece_at_a_time(tmp_path: Path) -> None:
    dest = str(tmp_path / "dest")
    found = [IndexedPair(f"{n:06d}", "/a", "/b", "1", "1", 1, 1) for n in range(10)]
    run = begin(dest, found)
    commit_all(run)
    rows = list(all_rows(current_batches(dest, "paper", tmp_path, ["pair_key", "status"])))
    assert rows == [{"pair_key": pair.pair_key, "status": "ok"} for pair in found]


def test_nothing_is_left_beside_what_a_run_writes(tmp_path: Path) -> None:
    run = begin(str(tmp_path), found_pairs(3))
    commit_all(run)
    finish(run)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    folder = f"_ddfm/runs/{run.run_id}"
    assert files == [
        "_ddfm/metrics/current/paper.parquet",
        f"_ddfm/metrics/history/{run.run_id}.parquet",
        f"{folder}/config.json",
        f"{folder}/manifest.parquet",
        f"{folder}/plan.json",
        f"{folder}/results/0000-0000.parquet",
        f"{folder}/results/0000-0001.parquet",
        f"{folder}/results/0001-0000.parquet",
        f"{folder}/summary.json",
    ]
    assert not exists(join(run.dest, "fused"))


def as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())

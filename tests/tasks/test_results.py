from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.codes import Code, Status
from tasks.current import compact, current_rows
from tasks.results import ReconcileError, commit_chunk, committed_chunks, committed_of_shard, read_results, reconcile
from tasks.run_folder import current_uri, finish_run, list_runs, unfinished_run
from tasks.schemas import RESULT_SCHEMA
from tasks.storage import StorageError, exists, list_names, read_bytes, remove, write_atomic
from tests.runs import begin, chunks, commit_all, finish, found_pairs, result, whole_manifest


def test_the_life_of_a_run(dest: str) -> None:
    assert list_runs(dest) == []
    assert unfinished_run(dest) is None
    run = begin(dest, found_pairs(5))
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
    assert compact(run, "paper") == current_uri(dest, "paper")
    assert exists(run.metrics_uri)
    assert unfinished_run(dest) == run
    finish_run(run, {"statuses": dict(report.statuses)})
    assert unfinished_run(dest) is None
    assert json.loads(read_bytes(run.summary_uri)) == {"statuses": {"ok": 5, "skipped": 0, "rejected": 1, "failed": 0}}


def test_which_chunks_of_a_shard_are_done(dest: str) -> None:
    run = begin(dest, found_pairs(9))
    members = chunks(run)
    for place in [("0000", "0001"), ("0001", "0000")]:
        commit_chunk(run, *place, [result(run, row) for row in members[place]])
    assert committed_of_shard(run, "0000", {"0000", "0001"}) == {"0001"}
    assert committed_of_shard(run, "0001", {"0000", "0001"}) == {"0000"}
    assert committed_of_shard(run, "0002", {"0000"}) == set()


def test_only_the_rows_of_the_plan_can_be_committed(dest: str) -> None:
    run = begin(dest, found_pairs(4))
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
    run = begin(dest, found_pairs(4))
    commit_all(run)
    reconcile(run)
    copy = read_bytes(run.chunk_uri("0000", "0000"))
    write_atomic(run.chunk_uri("0000", "0009"), copy)
    with pytest.raises(ReconcileError, match=r"5 pairs planned: 2 have several rows: p000, p001$"):
        reconcile(run)
    other = begin(dest, found_pairs(2, "q"))
    commit_all(other)
    write_atomic(run.chunk_uri("0000", "0009"), read_bytes(other.chunk_uri("0000", "0000")))
    remove(run.chunk_uri("0000", "0001"))
    with pytest.raises(ReconcileError, match=r"2 have no row: p002, p003; 2 were never planned: q000, q001$"):
        reconcile(run)


def test_a_writer_killed_in_a_commit_commits_nothing(tmp_path: Path) -> None:
    run = begin(str(tmp_path), found_pairs(4))
    code = f"""
import os, signal, sys
sys.path.insert(0, {os.getcwd()!r})
from tasks.results import commit_chunk
from tasks.run_folder import RunFolder
from tests.runs import chunks, result
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


def test_a_flipped_bit_is_found_or_does_no_harm(dest: str) -> None:
    run = begin(dest, found_pairs(4))
    commit_all(run)
    finish(run)
    generator = random.Random(0)
    for uri, read in [
        (run.chunk_uri("0000", "0001"), lambda: read_results(run)),
        (current_uri(dest, "paper"), lambda: current_rows(dest, columns=None)),
        (run.manifest_uri, lambda: whole_manifest(run)),
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
    run = begin(dest, found_pairs(2))
    commit_all(run)
    uri = run.chunk_uri("0000", "0000")
    good = read_bytes(uri)
    table = pq.read_table(pa.BufferReader(good))
    newer = table.replace_schema_metadata({**RESULT_SCHEMA.metadata, b"ddfm_schema_version": b"999"})
    narrower = table.drop_columns("EN")
    wider = table.append_column("ENN", pa.array([0.0, 0.0]))
    other_type = table.set_column(table.schema.get_field_index("steps"), "steps", pa.array([1, 2], pa.int64()))
    for content, message in [
        (good[: len(good) // 2], "is damaged"),
        (b"", "is damaged"),
        (as_parquet(newer), "ddfm_schema_version is 999, expected 4"),
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
        whole_manifest(run)


def as_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())

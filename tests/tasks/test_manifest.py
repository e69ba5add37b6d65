from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.codes import Code
from tasks.index import IndexedPair
from tasks.manifest import chunk_sizes, manifest_rows, pending_work, read_manifest, write_manifest
from tasks.rows import ManifestRow
from tasks.run_folder import RunFolder, new_run
from tasks.schemas import MANIFEST_SCHEMA
from tasks.storage import StorageError
from tests.runs import begin, found_pairs, plan_pairs, whole_manifest


def test_manifest_is_written_once_and_read_by_shard(dest: str, tmp_path: Path) -> None:
    run = begin(dest, found_pairs(9))
    whole = whole_manifest(run)
    assert whole.schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    assert len(whole) == 10
    shard = list(manifest_rows(read_manifest(run, "0001")))
    assert [row.pair_key for row in shard] == ["p004", "p005", "p006", "p007"]
    assert shard[0] == ManifestRow("0001", "0000", "p004", "/a/4", "/b/4", "1-4", "1-0", 1, 1, None, "", 1)
    (lone,) = manifest_rows(read_manifest(run, "0003"))
    assert (lone.code, lone.second_uri) == (Code.NO_PARTNER, None)
    assert len(read_manifest(run, "9999")) == 0
    with pytest.raises(StorageError, match="has its plan already"):
        begin_again(run, whole, tmp_path)
    with pytest.raises(StorageError, match="columns differ: attempt: int32 not null"):
        begin_again(new_run(dest), whole.drop_columns("attempt"), tmp_path)


def begin_again(run: RunFolder, manifest: pa.Table, folder: Path) -> None:
    pq.write_table(manifest, folder / "manifest.parquet")
    write_manifest(run, folder / "manifest.parquet")


def test_what_is_left_of_a_plan(dest: str) -> None:
    run = begin(dest, found_pairs(9))
    sizes = dict(chunk_sizes(run))
    assert sizes == {("0000", "0000"): 2, ("0000", "0001"): 2, ("0001", "0000"): 2, ("0001", "0001"): 2,
                     ("0002", "0000"): 1, ("0003", "0000"): 1}  # fmt: skip
    left = pending_work(run, set())
    assert (left.shard_ids, left.pairs, left.pending) == (("0000", "0001", "0002", "0003"), 10, 10)
    left = pending_work(run, {("0000", "0000"), ("0001", "0000"), ("0001", "0001"), ("0003", "0000")})
    assert (left.shard_ids, left.pairs, left.pending) == (("0000", "0002"), 10, 3)
    assert pending_work(run, set(sizes)).pending == 0


def test_a_shard_reader_decodes_little_of_a_large_plan(dest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [IndexedPair(f"{n:06d}", "/a", "/b", "1", "1", 1, 1) for n in range(60_000)]
    run = new_run(dest)
    plan_pairs(found, None, "h", 64, 1024, run=run)
    decoded: list[int] = []
    right = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, number: int, **options: Any) -> pa.Table:
        decoded.append(number)
        return right(file, number, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert read_manifest(run, "0040")["pair_key"].to_pylist() == [f"{n:06d}" for n in range(40_960, 41_984)]
    assert decoded == [2]

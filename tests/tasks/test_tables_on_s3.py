"""Index, plan, rows and their current table on a real object store."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.current import current_rows
from tasks.index import IndexedPair
from tasks.manifest import manifest_rows, read_manifest
from tasks.pair_folders import index_folders
from tasks.pair_table import index_table
from tasks.storage import StorageError, join, write_atomic
from tasks.verify import Fault, verify_rows
from tests.runs import begin, commit_all, finish, found_pairs

pytestmark = pytest.mark.server


def test_two_folders_and_a_table(s3_bucket: str, tmp_path: Path) -> None:
    for name in ("ir/a.png", "ir/b.png", "ir/sub/c.png", "vi/a.png", "vi/sub/c.jpg"):
        write_atomic(join(s3_bucket, name), name.encode())
    write_atomic(join(s3_bucket, "pairs.csv"), b"first,second,key\nir/b.png,vi/a.png,crossed\nir/a.png,vi/x.png,gone\n")

    def rows(pairs: list[IndexedPair]) -> list[tuple[str, str | None]]:
        return [(pair.pair_key, pair.code) for pair in pairs]

    folders = list(index_folders(join(s3_bucket, "ir"), join(s3_bucket, "vi"), tmp_path).pairs())
    assert rows(folders) == [("a", None), ("b", "no_partner"), ("sub/c", None)]
    assert all(pair.modified > 1.7e9 for pair in folders)
    (tmp_path / "content").mkdir()
    content = list(index_folders(join(s3_bucket, "ir"), join(s3_bucket, "vi"), tmp_path / "content", "content").pairs())
    assert "-sha256-" in (content[0].first_fingerprint or "")
    table = list(index_table(join(s3_bucket, "pairs.csv"), tmp_path).pairs())
    assert rows(table) == [("crossed", None), ("gone", "missing_source")]
    with pytest.raises(StorageError, match=r"none\.csv: does not exist"):
        index_table(join(s3_bucket, "none.csv"), tmp_path)


def test_two_runs_and_their_current_rows(s3_bucket: str, tmp_path: Path) -> None:
    dest = join(s3_bucket, "out")
    found = found_pairs(20)
    for night in range(2):
        run = begin(dest, found)
        assert [row.pair_key for row in manifest_rows(read_manifest(run, "0001"))] == ["p004", "p005", "p006", "p007"]
        commit_all(run, seed=night, output_uri=join(dest, "fused/paper/none.png"), output_sha256="0" * 64)
        if night == 0:
            finish(run)
    assert {
        row["seed"] for row in current_rows(dest, "paper", ["seed", "status"]).to_pylist() if row["status"] == "ok"
    } == {1}
    finish(run)
    rows = current_rows(dest, "paper", ["pair_key", "run_id"]).to_pylist()
    assert [row["pair_key"] for row in rows] == sorted(pair.pair_key for pair in found)
    assert {row["run_id"] for row in rows} == {run.run_id}
    checked = verify_rows(dest, tmp_path)
    assert (checked.runs, checked.faults[Fault.MISSING_OUTPUT], checked.faults[Fault.MISSING_ROW]) == (2, 20, 0)

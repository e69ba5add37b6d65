from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.fuse_archive import run_archive
from tasks.codes import ConfigurationError
from tasks.current import current_rows
from tasks.job_file import make_job
from tasks.repair import write_repair_run
from tasks.results import commit_chunk
from tasks.run_folder import RunFolder, current_uri, list_runs, unfinished_run
from tasks.storage import join, read_bytes, remove, write_atomic
from tasks.verify import Fault, Verification, verify_rows
from tests.archives import job_settings, make_archive, pictures
from tests.runs import SilentWatcher, begin, chunks, commit_all, finish, found_pairs, result


def publish(run: RunFolder) -> None:
    """A run over six pairs, with a few bytes for each picture."""
    for place, rows in chunks(run).items():
        made = []
        for row in rows:
            changes: dict[str, Any] = {}
            if row.code is None:
                uri, content = join(run.dest, "fused/paper", f"{row.pair_key}.png"), row.pair_key.encode()
                write_atomic(uri, content)
                changes = {"output_uri": uri, "output_sha256": hashlib.sha256(content).hexdigest()}
            made.append(result(run, row, **changes))
        commit_chunk(run, *place, made)


def faults(found: Verification) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for row in pq.read_table(found.broken).to_pylist():
        named.setdefault(row["fault"], []).append(row["pair_key"])
    assert {fault: len(named.get(fault, [])) for fault in Fault} == found.faults
    return {fault: sorted(keys) for fault, keys in named.items()}


def test_a_sound_destination(dest: str, tmp_path: Path) -> None:
    assert verify_rows(dest, tmp_path).sound
    run = begin(dest, found_pairs(5))
    publish(run)
    finish(run)
    found = verify_rows(dest, tmp_path, deep=True)
    assert (found.runs, found.outputs, found.hashed, found.sound) == (1, 5, 5, True)
    assert verify_rows(dest, tmp_path).hashed == 0


def test_every_fault_of_a_picture_is_found(dest: str, tmp_path: Path) -> None:
    run = begin(dest, found_pairs(5))
    publish(run)
    finish(run)
    remove(join(dest, "fused/paper/p001.png"))
    write_atomic(join(dest, "fused/paper/p002.png"), b"other bytes")
    write_atomic(join(dest, "fused/paper/sub/unknown.png"), b"whose?")
    assert faults(verify_rows(dest, tmp_path)) == {
        Fault.MISSING_OUTPUT: ["p001"], Fault.STRANGE_OUTPUT: ["sub/unknown.png"]
    }  # fmt: skip
    found = verify_rows(dest, tmp_path, deep=True)
    assert found.hashed == 4
    assert faults(found)[Fault.DIFFERENT_OUTPUT] == ["p002"]


def test_rows_that_are_not_those_of_their_plan(dest: str, tmp_path: Path) -> None:
    run = begin(dest, found_pairs(5))
    publish(run)
    finish(run)
    other = begin(dest, found_pairs(2, "q"))
    publish(other)
    finish(other)
    # Without its table a run's chunks are looked at.
    remove(run.metrics_uri)
    remove(run.chunk_uri("0000", "0001"))
    write_atomic(run.chunk_uri("0002", "0009"), read_bytes(other.chunk_uri("0000", "0000")))
    assert faults(verify_rows(dest, tmp_path)) == {
        Fault.MISSING_ROW: ["p002", "p003"], Fault.STRANGE_ROW: ["q000", "q001"]
    }  # fmt: skip


def test_a_run_that_goes_on_may_lack_rows(dest: str, tmp_path: Path) -> None:
    begin(dest, found_pairs(5))
    found = verify_rows(dest, tmp_path)
    assert (found.runs, found.sound) == (1, True)


def test_a_destination_that_was_moved_is_sound(tmp_path: Path) -> None:
    run = begin(str(tmp_path / "one"), found_pairs(3))
    publish(run)
    finish(run)
    (tmp_path / "one").rename(tmp_path / "two")
    found = verify_rows(str(tmp_path / "two"), tmp_path, deep=True)
    assert (found.hashed, found.sound) == (3, True)


def test_broken_pairs_are_fused_again_with_the_same_bytes(tmp_path: Path) -> None:
    root = make_archive(tmp_path / "archive", 5)
    job = make_job(job_settings(root))
    run_archive(job, SilentWatcher())
    dest = f"{root}/out"
    before = pictures(root / "out/fused/adaptive")
    (root / "out/fused/adaptive/001.png").unlink()
    (root / "out/fused/adaptive/003.png").write_bytes(b"damaged")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = verify_rows(dest, scratch, deep=True)
    assert faults(found) == {Fault.MISSING_OUTPUT: ["001"], Fault.DIFFERENT_OUTPUT: ["003"]}

    repair = write_repair_run(dest, "adaptive", found.broken, scratch)
    assert repair is not None
    assert (repair.pairs, repair.left) == (2, 0)
    assert unfinished_run(dest) == repair.run
    with pytest.raises(ConfigurationError, match="is not finished"):
        write_repair_run(dest, "adaptive", found.broken, scratch)

    watcher = SilentWatcher()
    run_archive(job, watcher)
    (summary,) = watcher.summaries
    assert (summary.settings.run, summary.resumed, summary.reconciliation.pairs) == (repair.run, True, 2)
    assert pictures(root / "out/fused/adaptive") == before
    assert verify_rows(dest, scratch, deep=True).sound
    rows = {row["pair_key"]: row["run_id"] for row in current_rows(dest, "adaptive").to_pylist()}
    assert [key for key, run_id in rows.items() if run_id == repair.run.run_id] == ["001", "003"]
    run_archive(job, watcher)
    assert len(watcher.summaries) == 1


def test_nothing_to_repair(dest: str, tmp_path: Path) -> None:
    run = begin(dest, found_pairs(2))
    publish(run)
    finish(run)
    found = verify_rows(dest, tmp_path, deep=True)
    assert write_repair_run(dest, "paper", found.broken, tmp_path) is None
    assert list_runs(dest) == [run]


def test_a_lost_table_of_current_rows_does_not_hide_what_is_broken(dest: str, tmp_path: Path) -> None:
    run = begin(dest, found_pairs(2))
    commit_all(run, output_uri=join(dest, "fused/paper/x.png"), output_sha256="0" * 64)
    finish(run)
    remove(current_uri(dest, "paper"))
    remove(run.metrics_uri)
    assert set(faults(verify_rows(dest, tmp_path))) == {Fault.MISSING_OUTPUT}

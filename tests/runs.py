"""Indexes, plans and runs made of rows by hand."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddfm_core.metrics import METRIC_NAMES
from flows.fuse_archive import RunSummary, run_archive
from tasks import chunk
from tasks.chunk import Progress
from tasks.codes import Code, Status
from tasks.current import compact
from tasks.index import Index, IndexedPair, index_table_of
from tasks.job_file import make_job
from tasks.manifest import manifest_batches, manifest_rows, write_manifest
from tasks.plan import EVERYTHING, PlanCounts, Selection, plan, write_plan
from tasks.results import commit_chunk, committed_chunks, reconcile
from tasks.rows import ManifestRow, ResultRow
from tasks.run_folder import RunFolder, finish_run, new_run
from tasks.schemas import INDEX_SCHEMA, MANIFEST_SCHEMA, RESULT_SCHEMA
from tasks.storage import StorageError, write_atomic
from tasks.tables import TableWriter


def make_index(pairs: Sequence[IndexedPair], folder: Path) -> Index:
    """The index of an archive that holds ``pairs``, which come by key."""
    path = folder / "given-index.parquet"
    with TableWriter(path, INDEX_SCHEMA) as writer:
        writer.write(index_table_of(pairs))
    return Index(path, len(pairs))


@dataclass(frozen=True)
class Planned:
    """A plan, with its rows in memory."""

    manifest: pa.Table
    counts: PlanCounts
    fuse_shards: tuple[str, ...]
    code_shards: tuple[str, ...]
    vanished: list[dict[str, Any]]

    @property
    def to_fuse(self) -> int:
        """Pairs of the plan."""
        return self.counts.new + self.counts.changed + self.counts.outdated + self.counts.retried


def plan_pairs(
    pairs: Sequence[IndexedPair],
    done: pa.Table | None,
    config_hash: str,
    chunk_pairs: int,
    shard_pairs: int,
    selection: Selection = EVERYTHING,
    run: RunFolder | None = None,
) -> Planned:
    """Plan an archive that holds ``pairs``, and write the plan into ``run``."""
    with tempfile.TemporaryDirectory() as folder:
        found = plan(
            make_index(pairs, Path(folder)),
            [RESULT_SCHEMA.empty_table() if done is None else done],
            config_hash,
            chunk_pairs=chunk_pairs,
            shard_pairs=shard_pairs,
            scratch=Path(folder),
            selection=selection,
        )
        if run is not None:
            write_plan(run, found)
            write_manifest(run, found.manifest.path)
        manifest = pq.read_table(found.manifest.path)
        assert len(manifest) == found.manifest.rows
        vanished = pq.read_table(found.vanished).to_pylist()
        return Planned(manifest, found.counts, found.manifest.fuse_shards, found.manifest.code_shards, vanished)


def found_pairs(count: int, prefix: str = "p") -> list[IndexedPair]:
    """So many pairs, and one source without a partner before them."""
    found = [IndexedPair(f"{prefix}{n:03d}", f"/a/{n}", f"/b/{n}", f"1-{n}", "1-0", 1, 1) for n in range(count)]
    lone = IndexedPair(f"{prefix}-lone", "/a/x", None, "1-x", None, 1, None, Code.NO_PARTNER, "no second")
    return [lone, *found]


def result(run: RunFolder, row: ManifestRow, **changes: Any) -> ResultRow:
    """The row of a pair that went well, or the row of its code."""
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
        lock_token=1,
        seed=2**40,
        steps=100,
        samples=1,
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
    """The changes of a row that was not ok."""
    return {"status": code.status, "code": code, "message": code.sentence, "metrics": {}}


def begin(dest: str, found: Sequence[IndexedPair], done: pa.Table | None = None, method: str = "paper") -> RunFolder:
    """A run over an archive that holds ``found``."""
    run = new_run(dest)
    write_atomic(run.config_uri, json.dumps({"job": {"method": method, "mode": "paper"}}).encode())
    plan_pairs(found, done, "h", 2, 4, run=run)
    return run


def whole_manifest(run: RunFolder) -> pa.Table:
    """The plan of a run."""
    return pa.concat_tables([MANIFEST_SCHEMA.empty_table(), *manifest_batches(run)]).combine_chunks()


def chunks(run: RunFolder) -> dict[tuple[str, str], list[ManifestRow]]:
    """The plan of a run by chunk."""
    members: dict[tuple[str, str], list[ManifestRow]] = {}
    for row in manifest_rows(whole_manifest(run)):
        members.setdefault((row.shard_id, row.chunk_id), []).append(row)
    return members


def commit_all(run: RunFolder, **changes: Any) -> None:
    """Commit the chunks that are left."""
    for (shard_id, chunk_id), rows in chunks(run).items():
        if (shard_id, chunk_id) not in committed_chunks(run):
            commit_chunk(run, shard_id, chunk_id, [result(run, row, **changes if not row.code else {}) for row in rows])


def finish(run: RunFolder, method: str = "paper") -> None:
    """Close a run whose rows are all there."""
    reconcile(run)
    compact(run, method)
    finish_run(run, {"state": "completed"})


def all_rows(tables: Iterable[pa.Table]) -> Iterator[dict[str, Any]]:
    """The rows of a stream, one by one."""
    for table in tables:
        yield from table.to_pylist()


class SilentProgress:
    """Progress that nobody follows."""

    def fused(self, pairs: int) -> None:
        """Not told."""

    def committed(self, rows: Sequence[ResultRow]) -> None:
        """Not told."""

    def waiting(self, read: int, publish: int) -> None:
        """Not told."""


class SilentWatcher:
    """Keeps the summaries of a job's runs."""

    def __init__(self) -> None:
        self.summaries: list[RunSummary] = []

    def indexed(self, counts: PlanCounts) -> None:
        """Nothing to show."""

    def begin(self, *_: object) -> AbstractContextManager[Progress]:
        """Nothing to show."""
        return nullcontext(SilentProgress())

    def finish(self, summary: RunSummary) -> None:
        """Keep it."""
        self.summaries.append(summary)


def cut_run(monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, Any], chunks: int) -> None:
    """Run until the destination refuses the rows of the chunk after so many, when its pictures are written."""
    right = chunk.commit_chunk
    calls: list[str] = []

    def refusing(run: RunFolder, shard_id: str, chunk_id: str, rows: Sequence[ResultRow]) -> None:
        calls.append(chunk_id)
        if len(calls) > chunks:
            raise StorageError(run.uri, "the disk is full", "make room")
        right(run, shard_id, chunk_id, rows)

    with monkeypatch.context() as patch:
        patch.setattr(chunk, "commit_chunk", refusing)
        with pytest.raises(StorageError, match="the disk is full"):
            run_archive(make_job(settings), SilentWatcher())

"""The plan of a run: which pairs it holds, dealt into shards and chunks; written once, read by shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.codes import Code
from tasks.local_copy import local_copy
from tasks.rows import ManifestRow
from tasks.run_folder import RunFolder
from tasks.schemas import MANIFEST_SCHEMA
from tasks.storage import StorageError, exists, write_file
from tasks.tables import TableWriter, open_table, table_batches

DRAFT_SCHEMA: Final = pa.schema(
    [item for item in MANIFEST_SCHEMA if item.name not in ("shard_id", "chunk_id")], metadata=MANIFEST_SCHEMA.metadata
)
"""Rows of a plan before they are dealt."""


@dataclass(frozen=True)
class Manifest:
    """A plan on local scratch.

    Attributes:
        path: a file of ``MANIFEST_SCHEMA``, by shard, chunk and key.
        to_fuse: pairs to be fused; the other rows only have a code.
        coded: the other rows.
        fuse_shards: ids of the shards that hold the pairs to fuse, and nothing else.
        code_shards: ids of the shards, of one chunk each, that hold the rest.
    """

    path: Path
    to_fuse: int
    coded: int
    fuse_shards: tuple[str, ...]
    code_shards: tuple[str, ...]

    @property
    def rows(self) -> int:
        """All of them."""
        return self.to_fuse + self.coded


class ManifestDraft:
    """Gathers the rows of a plan on scratch; a context manager.

    Args:
        scratch: a local folder.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._to_fuse = TableWriter(scratch / "to-fuse.parquet", DRAFT_SCHEMA)
        self._coded = TableWriter(scratch / "coded.parquet", DRAFT_SCHEMA)

    def __enter__(self) -> ManifestDraft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._to_fuse.__exit__(kind, error, traceback)
        self._coded.__exit__(kind, error, traceback)

    @property
    def to_fuse(self) -> int:
        """Pairs to be fused so far."""
        return self._to_fuse.rows

    def add(self, rows: pa.Table) -> None:
        """Add rows of ``DRAFT_SCHEMA``; over all calls their keys ascend."""
        self._to_fuse.write(rows.filter(pc.is_null(rows["code"])))
        self._coded.write(rows.filter(pc.is_valid(rows["code"])))

    def deal(self, chunk_pairs: int, shard_pairs: int) -> Manifest:
        """The plan, with ``chunk_pairs`` a chunk and ``shard_pairs`` a shard; to be called after the block.

        Rows that need no work come last, in shards of their own: they would leave gaps in the batches of the others.
        """
        path = self._scratch / "manifest.parquet"
        to_fuse, coded = self._to_fuse.rows, self._coded.rows
        fuse_shards, code_shards = -(-to_fuse // shard_pairs), -(-coded // shard_pairs)
        shards = _labels(fuse_shards + code_shards)
        chunks = _labels(-(-min(shard_pairs, to_fuse) // chunk_pairs))
        with TableWriter(path, MANIFEST_SCHEMA) as writer:
            done = 0
            for rows in table_batches(self._to_fuse.path, DRAFT_SCHEMA):
                number = np.arange(done, done + len(rows))
                done += len(rows)
                shard, chunk = number // shard_pairs, number % shard_pairs // chunk_pairs
                writer.write(_dealt(rows, shards.take(pa.array(shard)), chunks.take(pa.array(chunk))))
            done = 0
            for rows in table_batches(self._coded.path, DRAFT_SCHEMA):
                shard = fuse_shards + np.arange(done, done + len(rows)) // shard_pairs
                done += len(rows)
                writer.write(_dealt(rows, shards.take(pa.array(shard)), pa.repeat(_label(0, chunks), len(rows))))
        ids = shards.to_pylist()
        return Manifest(path, to_fuse, coded, tuple(ids[:fuse_shards]), tuple(ids[fuse_shards:]))


def draft_rows(rows: pa.Table, code: Code | None = None) -> pa.Table:
    """Rows of ``DRAFT_SCHEMA`` from those of a result, with the sources as they were and their sizes unknown.

    Args:
        rows: with ``pair_key``, URIs and fingerprints.
        code: why the pairs are not to be fused, None when they are.
    """
    count = len(rows)
    columns = {
        "first_size": pa.nulls(count, pa.int64()),
        "second_size": pa.nulls(count, pa.int64()),
        "code": pa.nulls(count, pa.string()) if code is None else pa.repeat(str(code), count),
        "message": pa.repeat("" if code is None else code.sentence, count),
        "attempt": pa.repeat(pa.scalar(1, pa.int32()), count),
    }
    return pa.table([columns[name] if name in columns else rows[name] for name in DRAFT_SCHEMA.names],
                    schema=DRAFT_SCHEMA)  # fmt: skip


def _dealt(rows: pa.Table, shards: pa.Array, chunks: pa.Array) -> pa.Table:
    return pa.table([shards, chunks, *rows.select(DRAFT_SCHEMA.names).columns], schema=MANIFEST_SCHEMA)


def _labels(count: int) -> pa.Array:
    """Numbers as texts of one width that sort as they do."""
    width = max(4, len(str(count - 1)))
    return pa.array([f"{number:0{width}d}" for number in range(count)], pa.string())


def _label(number: int, like: pa.Array) -> str:
    width = len(like[0].as_py()) if len(like) else 4
    return f"{number:0{width}d}"


# A run's plan


def write_manifest(run: RunFolder, path: Path) -> None:
    """Write the plan that lies in a local file.

    Raises:
        StorageError: it cannot be written, is not of ``MANIFEST_SCHEMA``, or the run has one already, which never
            changes.
    """
    with open_table(path, MANIFEST_SCHEMA):
        pass
    if exists(run.manifest_uri):
        raise StorageError(run.manifest_uri, "the run has its plan already", "resume the run, or begin a new one")
    write_file(run.manifest_uri, path)


def manifest_batches(run: RunFolder, columns: Iterable[str] | None = None) -> Iterator[pa.Table]:
    """The plan by shard, chunk and key, some thousands of rows at a time.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    names = None if columns is None else list(columns)
    return table_batches(_local_copy(run), MANIFEST_SCHEMA, names, run.manifest_uri)


def read_manifest(run: RunFolder, shard_id: str) -> pa.Table:
    """The rows of one shard by chunk and key; of a large plan little else is decoded.

    Raises:
        StorageError: the plan does not exist or cannot be read.
    """
    parts = [MANIFEST_SCHEMA.empty_table()]
    with open_table(_local_copy(run), MANIFEST_SCHEMA, run.manifest_uri) as file:
        for number in range(file.num_row_groups):
            bounds = file.metadata.row_group(number).column(0).statistics
            if bounds is None or not bounds.has_min_max or bounds.min <= shard_id <= bounds.max:
                rows = file.read_row_group(number, use_threads=False)
                parts.append(rows.filter(pc.equal(rows["shard_id"], shard_id)))
    return pa.concat_tables(parts).combine_chunks()


def _local_copy(run: RunFolder) -> Path:
    return local_copy(run.manifest_uri, "the run has no plan; begin a new one")


def manifest_rows(manifest: pa.Table) -> Iterator[ManifestRow]:
    """The rows of a plan, a few thousand in memory at a time."""
    for batch in manifest.select(MANIFEST_SCHEMA.names).to_batches(max_chunksize=4096):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            row = dict(zip(MANIFEST_SCHEMA.names, values, strict=True))
            yield ManifestRow(**row | {"code": row["code"] and Code(row["code"])})


# What is left of it


@dataclass(frozen=True)
class Pending:
    """How much of a plan has no rows yet.

    Attributes:
        shard_ids: shards with such chunks, in order.
        pairs: rows of the whole plan; ``pending`` of them have no row of a result.
    """

    shard_ids: tuple[str, ...]
    pairs: int
    pending: int


def pending_work(run: RunFolder, committed: Set[tuple[str, str]]) -> Pending:
    """Compare the plan with the chunks that are done.

    Raises:
        StorageError: the plan cannot be read.
    """
    shards: list[str] = []
    pairs = pending = 0
    for (shard_id, chunk_id), count in chunk_sizes(run):
        pairs += count
        if (shard_id, chunk_id) not in committed:
            pending += count
            if shards[-1:] != [shard_id]:
                shards.append(shard_id)
    return Pending(tuple(shards), pairs, pending)


def chunk_sizes(run: RunFolder) -> Iterator[tuple[tuple[str, str], int]]:
    """((shard_id, chunk_id), pairs) of each chunk of the plan, in order.

    Raises:
        StorageError: the plan cannot be read.
    """
    for place, parts in groupby(_stretches(run), key=lambda part: part[0]):
        yield place, sum(count for _, count in parts)


def _stretches(run: RunFolder) -> Iterator[tuple[tuple[str, str], int]]:
    for table in manifest_batches(run, ["shard_id", "chunk_id"]):
        shard, chunk = (table[name].combine_chunks() for name in ("shard_id", "chunk_id"))
        starts = np.flatnonzero(np.append(True, _changes(shard) | _changes(chunk)))
        sizes = np.diff(np.append(starts, len(table)))
        places = zip(shard.take(starts).to_pylist(), chunk.take(starts).to_pylist(), strict=True)
        yield from zip(places, sizes.tolist(), strict=True)


def _changes(column: pa.Array) -> NDArray[np.bool_]:
    changed: NDArray[np.bool_] = pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return changed


def first_code_shard(run: RunFolder) -> str | None:
    """The first shard of rows that only have a code, None when there is none.

    Raises:
        StorageError: the plan cannot be read.
    """
    for table in manifest_batches(run, ["shard_id", "code"]):
        coded = table.filter(pc.is_valid(table["code"]))
        if len(coded):
            shard_id: str = coded["shard_id"][0].as_py()
            return shard_id
    return None

"""The three stages of a chunk: read its pairs, fuse them, publish and commit them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from ddfm_core.priors import Prior
from tasks.codes import Code, PairError
from tasks.fuse import Fused, SourcePair, batches_of_one_size, fuse_pairs
from tasks.image_pair import PreparedImages, encode_images, read_images
from tasks.outputs import remove_others
from tasks.pair import (
    EncodedPair,
    FusedPair,
    PreparedPair,
    PublishedPair,
    RefusedPair,
    explanation,
    refused_row,
    unexpected,
)
from tasks.private_sources import locate
from tasks.results import commit_chunk, write_slices
from tasks.rows import ManifestRow, ResultRow, SourceRow
from tasks.settings import RunSettings
from tasks.storage import ReadBudget, StorageError, remove, write_atomic


@dataclass(frozen=True)
class Chunk:
    """Pairs that are committed together, as the plan fixed them."""

    shard_id: str
    chunk_id: str
    rows: tuple[ManifestRow, ...]


class Progress(Protocol):
    """Who wants to know how far a run is; called from several threads."""

    def fused(self, pairs: float) -> None:
        """``pairs`` more pairs left the network; of a volume a part, as its slices do."""

    def committed(self, rows: Sequence[ResultRow]) -> None:
        """These rows are on disk."""

    def waiting(self, read: int, publish: int) -> None:
        """So many chunks are read ahead of the network, so many wait to be published."""


def read_chunk(chunk: Chunk, settings: RunSettings) -> list[PreparedPair | RefusedPair]:
    """Read, check, register and normalise the pairs of a chunk, several at a time; in the chunk's order."""
    budget = ReadBudget(settings.job.read_megabytes << 20)
    sources = locate(settings, chunk.rows)

    def read(row: ManifestRow) -> PreparedPair | RefusedPair:
        with budget.reserve((row.first_size or 0) + (row.second_size or 0)):
            return read_pair(row, sources[row.pair_key], settings)

    with ThreadPoolExecutor(settings.job.readers) as pool:
        return list(pool.map(read, chunk.rows))


def fuse_chunk(
    pairs: Sequence[PreparedPair | RefusedPair], settings: RunSettings, prior: Prior, progress: Progress
) -> list[FusedPair | RefusedPair]:
    """Fuse what could be read; the refused ones pass through in their place."""
    prepared = [pair for pair in pairs if isinstance(pair, PreparedPair)]
    if len(pairs) > len(prepared):
        progress.fused(len(pairs) - len(prepared))
    fused = iter(fuse_prepared(prepared, settings, prior, progress.fused))
    return [pair if isinstance(pair, RefusedPair) else next(fused) for pair in pairs]


def fuse_prepared(
    pairs: Sequence[PreparedPair], settings: RunSettings, prior: Prior, on_fused: Callable[[float], None]
) -> list[FusedPair | RefusedPair]:
    """Fuse these pairs; ``on_fused`` is told after each batch how many pairs, or which part of one, it was.

    Pictures of one size go together; the slices of a volume stay among themselves, so that no pair beside it has a
    say in its bytes.
    """
    if not settings.job.of_volumes:
        pictures = [pair.slices[0] for pair in pairs]
        return [
            _fused_pair(pair, [outcome])
            for pair, outcome in zip(pairs, _fuse(pictures, settings, prior, on_fused), strict=True)
        ]
    fused: list[FusedPair | RefusedPair] = []
    for pair in pairs:
        count = len(pair.slices)
        outcomes = _fuse(pair.slices, settings, prior, partial(_told_as_share, on_fused, count))
        fused.append(_fused_pair(pair, outcomes))
    return fused


def _told_as_share(on_fused: Callable[[float], None], count: int, done: float) -> None:
    on_fused(done / count)


def _fuse(
    slices: Sequence[SourcePair], settings: RunSettings, prior: Prior, on_fused: Callable[[float], None]
) -> list[Fused | PairError]:
    job = settings.job
    return fuse_pairs(slices, prior, job.core_config(), job.batch, time.perf_counter, on_fused, explanation(settings))


def _fused_pair(pair: PreparedPair, outcomes: Sequence[Fused | PairError]) -> FusedPair | RefusedPair:
    slices = []
    for outcome in outcomes:
        if isinstance(outcome, PairError):
            return RefusedPair(pair.row, outcome.code, str(outcome))
        slices.append(outcome)
    return FusedPair(pair, tuple(slices))


def batches_of_pairs(pairs: Sequence[PreparedPair], settings: RunSettings) -> list[list[int]]:
    """Which pairs :func:`fuse_prepared` puts into one batch, by their index in ``pairs``, in the order of the work."""
    if settings.job.of_volumes:
        return [[index] for index in range(len(pairs))]
    return batches_of_one_size([pair.slices[0] for pair in pairs], settings.job.batch)


def publish_chunk(
    chunk: Chunk,
    pairs: Sequence[FusedPair | RefusedPair],
    settings: RunSettings,
    device: str,
    progress: Progress,
    confirm: Callable[[], None],
) -> None:
    """Measure and write the pictures, several at a time, then commit the chunk's rows.

    ``confirm`` is called right before the commit; nothing is committed when it raises.

    Raises:
        StorageError: the destination refuses a write; nothing of the chunk is committed then.
    """
    with ThreadPoolExecutor(settings.job.readers) as pool:
        # What computes stays in this thread; the pool waits for the store.
        published = [_published(_encode(pair, settings, device), settings, device, pool) for pair in pairs]
        written = [one() for one in published]
        confirm()
        commit(chunk, written, settings, progress)


def commit(chunk: Chunk, pairs: Sequence[PublishedPair], settings: RunSettings, progress: Progress) -> None:
    """Write the rows of a chunk, those of the slices first; from then on its pairs are done.

    Raises:
        StorageError: they cannot be written; nothing is committed then.
    """
    rows = [pair.row for pair in pairs]
    write_slices(settings.run, chunk.shard_id, chunk.chunk_id, [one for pair in pairs for one in pair.slices])
    commit_chunk(settings.run, chunk.shard_id, chunk.chunk_id, rows)
    progress.committed(rows)


def read_pair(row: ManifestRow, sources: SourceRow, settings: RunSettings) -> PreparedPair | RefusedPair:
    """Read, check, register and normalise one pair; whatever is wrong with it comes back as a refusal.

    Raises:
        StorageError: the store of a source is out of reach, and no pair could be read.
    """
    if row.code is not None:
        return RefusedPair(row, row.code, row.message)
    if not sources.first_uris or not sources.second_uris:
        return RefusedPair(row, Code.NO_PARTNER, Code.NO_PARTNER.sentence)
    try:
        if settings.job.of_volumes:
            # Medical libraries take a second to import, which pictures should not pay.
            from tasks.volume_pair import read_volumes

            return read_volumes(row, sources, settings.job)
        return read_images(row, sources, settings.job)
    except PairError as error:
        return RefusedPair(row, error.code, str(error))
    except MemoryError as error:
        return RefusedPair(row, Code.OUT_OF_MEMORY, f"{Code.OUT_OF_MEMORY.sentence} ({explanation(settings)(error)})")
    except StorageError as error:
        if not settings.job.strict:
            raise
        out_of_reach = error.about(settings.run.dest)
    except Exception as error:  # noqa: BLE001 - a fault of ours in one pair must not cost the others
        return unexpected(row, error, settings)
    # Out here, so that not even its context has the error that names a file.
    raise out_of_reach


def publish_pair(pair: FusedPair | RefusedPair, settings: RunSettings, device: str) -> PublishedPair:
    """Measure one fused pair and write its files; a refused pair only has its row.

    Raises:
        StorageError: the destination refuses a file.
    """
    with ThreadPoolExecutor(settings.job.readers) as pool:
        return _published(_encode(pair, settings, device), settings, device, pool)()


def _encode(pair: FusedPair | RefusedPair, settings: RunSettings, device: str) -> EncodedPair | RefusedPair:
    if isinstance(pair, RefusedPair):
        return pair
    prepared = pair.prepared
    try:
        if isinstance(prepared, PreparedImages):
            return encode_images(pair, prepared, settings, device)
        from tasks.volume_output import encode_volumes
        from tasks.volume_pair import PreparedVolumes

        assert isinstance(prepared, PreparedVolumes)  # noqa: S101
        return encode_volumes(pair, prepared, settings, device)
    except PairError as error:
        return RefusedPair(prepared.row, error.code, str(error))
    except Exception as error:  # noqa: BLE001 - as above
        return unexpected(prepared.row, error, settings)


def _published(
    pair: EncodedPair | RefusedPair, settings: RunSettings, device: str, pool: ThreadPoolExecutor
) -> Callable[[], PublishedPair]:
    """Hand the files of a pair to the pool; the answer waits for them."""
    if isinstance(pair, RefusedPair):
        row = refused_row(pair, settings, device)
        return lambda: PublishedPair(row)
    began = time.perf_counter()
    writing = [pool.submit(write_atomic, file.uri, file.content) for file in pair.files]
    writing += [pool.submit(remove, uri) for uri in pair.obsolete]

    def wait() -> PublishedPair:
        for file in writing:
            file.result()
        # Of an earlier result with more slices or formats: beside the new ones they would make a mixed volume.
        remove_others(pair.folders, {file.uri for file in pair.files})
        seconds = (pair.row.seconds_publish or 0) + time.perf_counter() - began
        return PublishedPair(replace(pair.row, seconds_publish=seconds, finished_at=datetime.now(UTC)), pair.slices)

    return wait

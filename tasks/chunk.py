"""The three stages of a chunk: read its pairs, fuse them, publish and commit them."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ddfm_core.fusion import ALGORITHM_VERSION
from ddfm_core.priors import Prior
from tasks.codes import Code, PairError, Status
from tasks.fuse import Fused, SourcePair, fuse_pairs
from tasks.job import Job
from tasks.measure import measure
from tasks.normalise import Normalisation, normalise
from tasks.publish.png import encode_png
from tasks.read.raster import Image, read_raster
from tasks.register.same_size import on_same_grid
from tasks.results import commit_chunk
from tasks.schemas import ManifestRow, ResultRow
from tasks.settings import RunSettings, package_version
from tasks.storage import ReadBudget, StorageError, read_bytes, write_atomic

logger = logging.getLogger(__name__)

MOST_BYTES_PER_PIXEL: Final = 16
MOST_OTHER_BYTES: Final = 64 << 20
"""Of a file beside its pixels: profiles, previews, notes."""


@dataclass(frozen=True)
class Chunk:
    """Pairs that are committed together, as the plan fixed them."""

    shard_id: str
    chunk_id: str
    rows: tuple[ManifestRow, ...]


class Progress(Protocol):
    """Who wants to know how far a run is; called from several threads."""

    def fused(self, pairs: int) -> None:
        """``pairs`` more pairs left the network."""

    def committed(self, rows: Sequence[ResultRow]) -> None:
        """These rows are on disk."""

    def waiting(self, read: int, publish: int) -> None:
        """So many chunks are read ahead of the network, so many wait to be published."""


@dataclass(frozen=True, eq=False)
class PreparedPair:
    """A pair in memory, ready for the core."""

    row: ManifestRow
    sources: SourcePair
    normalisation_first: Normalisation
    normalisation_second: Normalisation
    registration_decision: str
    seconds_read: float
    seconds_normalise: float


@dataclass(frozen=True, eq=False)
class RefusedPair:
    """A pair that goes no further, with the reason for its row."""

    row: ManifestRow
    code: Code
    message: str


@dataclass(frozen=True, eq=False)
class FusedPair:
    """A pair that left the core."""

    prepared: PreparedPair
    image: NDArray[np.float32]
    seconds: float


@dataclass(frozen=True, eq=False)
class _EncodedPair:
    """A measured pair whose picture is ready to be written."""

    fused: FusedPair
    figures: dict[str, float]
    content: bytes
    seconds_measure: float
    seconds_encode: float


def read_chunk(chunk: Chunk, settings: RunSettings) -> list[PreparedPair | RefusedPair]:
    """Read, check and normalise the pairs of a chunk, several at a time; in the chunk's order."""
    budget = ReadBudget(settings.job.read_megabytes << 20)

    def read(row: ManifestRow) -> PreparedPair | RefusedPair:
        with budget.reserve((row.first_size or 0) + (row.second_size or 0)):
            return read_pair(row, settings.job)

    with ThreadPoolExecutor(settings.job.readers) as pool:
        return list(pool.map(read, chunk.rows))


def fuse_chunk(
    pairs: Sequence[PreparedPair | RefusedPair], settings: RunSettings, prior: Prior, progress: Progress
) -> list[FusedPair | RefusedPair]:
    """Fuse what could be read; the refused ones pass through in their place."""
    prepared = [pair for pair in pairs if isinstance(pair, PreparedPair)]
    progress.fused(len(pairs) - len(prepared))
    fused = iter(fuse_prepared(prepared, settings, prior, progress.fused))
    return [pair if isinstance(pair, RefusedPair) else next(fused) for pair in pairs]


def fuse_prepared(
    pairs: Sequence[PreparedPair], settings: RunSettings, prior: Prior, on_fused: Callable[[int], None]
) -> list[FusedPair | RefusedPair]:
    """Fuse these pairs; ``on_fused`` is told the size of each batch when it is done."""
    sources = [pair.sources for pair in pairs]
    job = settings.job
    outcomes = fuse_pairs(sources, prior, job.fusion_config(), job.batch, time.perf_counter, on_fused)
    return [
        FusedPair(pair, outcome.image, outcome.seconds)
        if isinstance(outcome, Fused)
        else RefusedPair(pair.row, outcome.code, str(outcome))
        for pair, outcome in zip(pairs, outcomes, strict=True)
    ]


def publish_chunk(
    chunk: Chunk, pairs: Sequence[FusedPair | RefusedPair], settings: RunSettings, device: str, progress: Progress
) -> None:
    """Measure and write the pictures, several at a time, then commit the chunk's rows.

    Raises:
        StorageError: the destination refuses a write; nothing of the chunk is committed then.
    """
    with ThreadPoolExecutor(settings.job.readers) as pool:
        # What computes stays in this thread; the pool waits for the store.
        writing = [pool.submit(_write, _encode(pair, settings.job), settings, device) for pair in pairs]
        rows = [written.result() for written in writing]
    commit_chunk(settings.run, chunk.shard_id, chunk.chunk_id, rows)
    progress.committed(rows)


def read_pair(row: ManifestRow, job: Job) -> PreparedPair | RefusedPair:
    """Read, check and normalise one pair; whatever is wrong with it comes back as a refusal.

    Raises:
        StorageError: the store of a source is out of reach, and no pair could be read.
    """
    if row.code is not None:
        return RefusedPair(row, row.code, row.message)
    if row.first_uri is None or row.second_uri is None:
        return RefusedPair(row, Code.NO_PARTNER, Code.NO_PARTNER.sentence)
    side = "first"
    try:
        began = time.perf_counter()
        _check_size(row.first_size, job.max_pixels)
        first_bytes, second_bytes = read_bytes(row.first_uri), b""
        first = read_raster(first_bytes, max_pixels=job.max_pixels)
        side = "second"
        _check_size(row.second_size, job.max_pixels)
        second_bytes = read_bytes(row.second_uri)
        second = read_raster(second_bytes, max_pixels=job.max_pixels)
        read = time.perf_counter()
        side = ""
        return _prepare(row, job, (first, second), (first_bytes, second_bytes), read - began)
    except PairError as error:
        return RefusedPair(row, error.code, f"{side} source: {error}" if side else str(error))
    except MemoryError as error:
        return RefusedPair(row, Code.OUT_OF_MEMORY, f"{Code.OUT_OF_MEMORY.sentence} ({error})")
    except StorageError:
        raise
    except Exception as error:  # noqa: BLE001 - a fault of ours in one pair must not cost the others
        return _unexpected(row, error)


def _check_size(size: int | None, max_pixels: int) -> None:
    """No picture within the limit needs a file so large, and a larger one must not fill the memory first."""
    limit = MOST_BYTES_PER_PIXEL * max_pixels + MOST_OTHER_BYTES
    if size is not None and size > limit:
        raise PairError(Code.TOO_LARGE, f"{size} bytes; at most {limit} are read")


def _unexpected(row: ManifestRow, error: Exception) -> RefusedPair:
    logger.error("pair %s", row.pair_key, exc_info=error)
    return RefusedPair(row, Code.INTERNAL_ERROR, f"{Code.INTERNAL_ERROR.sentence} ({type(error).__name__}: {error})")


def _prepare(
    row: ManifestRow, job: Job, images: tuple[Image, Image], contents: tuple[bytes, bytes], seconds_read: float
) -> PreparedPair:
    began = time.perf_counter()
    first, normalisation_first = normalise(images[0], job.first_range)
    second, normalisation_second = normalise(images[1], job.second_range)
    same_size = first.shape[1:] == second.shape[1:]
    first = on_same_grid(first, second, job.register_method)
    # Keyed by content: where a file lies and what it is called never choose its noise.
    key = b"".join(hashlib.sha256(content).digest() for content in contents)
    return PreparedPair(
        row,
        SourcePair(first, second, key),
        normalisation_first,
        normalisation_second,
        "same_size" if same_size else "resized",
        seconds_read,
        time.perf_counter() - began,
    )


def publish_pair(pair: FusedPair | RefusedPair, settings: RunSettings, device: str) -> ResultRow:
    """Measure one fused pair, write its picture, and make its row; a refused pair only has its row.

    Raises:
        StorageError: the destination refuses the picture.
    """
    return _write(_encode(pair, settings.job), settings, device)


def _encode(pair: FusedPair | RefusedPair, job: Job) -> _EncodedPair | RefusedPair:
    if isinstance(pair, RefusedPair):
        return pair
    sources = pair.prepared.sources
    began = time.perf_counter()
    try:
        figures = measure(pair.image, sources.first, sources.second)
        measured = time.perf_counter()
        content = encode_png(pair.image, job.bit_depth)
    except PairError as error:
        return RefusedPair(pair.prepared.row, error.code, str(error))
    except Exception as error:  # noqa: BLE001 - as above
        return _unexpected(pair.prepared.row, error)
    return _EncodedPair(pair, figures, content, measured - began, time.perf_counter() - measured)


def _write(pair: _EncodedPair | RefusedPair, settings: RunSettings, device: str) -> ResultRow:
    if isinstance(pair, RefusedPair):
        return ResultRow(
            **_common_columns(pair.row, settings, device), status=pair.code.status, code=pair.code, message=pair.message
        )
    prepared, image = pair.fused.prepared, pair.fused.image
    uri = settings.output_uri(prepared.row.pair_key)
    began = time.perf_counter()
    write_atomic(uri, pair.content)
    return ResultRow(
        **_common_columns(prepared.row, settings, device),
        n_slices=1,
        height=image.shape[1],
        width=image.shape[2],
        status=Status.OK,
        output_uri=uri,
        output_sha256=hashlib.sha256(pair.content).hexdigest(),
        normalisation_first_rule=prepared.normalisation_first.rule,
        normalisation_first_lo=prepared.normalisation_first.lo,
        normalisation_first_hi=prepared.normalisation_first.hi,
        normalisation_second_rule=prepared.normalisation_second.rule,
        normalisation_second_lo=prepared.normalisation_second.lo,
        normalisation_second_hi=prepared.normalisation_second.hi,
        registration_method=settings.job.register_method,
        registration_decision=prepared.registration_decision,
        seconds_read=prepared.seconds_read,
        seconds_normalise=prepared.seconds_normalise,
        seconds_fuse=pair.fused.seconds,
        seconds_measure=pair.seconds_measure,
        seconds_publish=pair.seconds_encode + time.perf_counter() - began,
        metrics=pair.figures,
    )


def _common_columns(row: ManifestRow, settings: RunSettings, device: str) -> dict[str, Any]:
    job = settings.job
    return {
        "run_id": settings.run.run_id,
        "shard_id": row.shard_id,
        "chunk_id": row.chunk_id,
        "pair_key": row.pair_key,
        "method": job.method_name,
        "dataset": job.dataset,
        "modality_first": job.modality_first,
        "modality_second": job.modality_second,
        "first_uri": row.first_uri,
        "second_uri": row.second_uri,
        "first_fingerprint": row.first_fingerprint,
        "second_fingerprint": row.second_fingerprint,
        "attempt": row.attempt,
        "lock_token": settings.token,
        "seed": job.seed,
        "steps": job.steps,
        "mode": job.mode,
        "prior_sha256": settings.prior_sha256,
        "config_hash": settings.config_hash,
        "algorithm_version": str(ALGORITHM_VERSION),
        "package_version": package_version(),
        "device": device,
        "finished_at": datetime.now(UTC),
    }

"""Fuse one shard of a run: its chunks in order, with reading and publishing beside the fusion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from ddfm_core.priors import Prior
from flows.stop import CheckedProgress
from tasks.attempts import Deaths, Marks, read_deaths
from tasks.chunk import Chunk, Progress, fuse_chunk, publish_chunk, read_chunk
from tasks.isolate import fuse_isolated
from tasks.lock import LockLostError
from tasks.manifest import manifest_rows, read_manifest
from tasks.overlap import overlapped
from tasks.pair import FusedPair, PreparedPair, RefusedPair
from tasks.results import committed_of_shard
from tasks.settings import RunSettings
from tasks.storage import StorageError


@dataclass(frozen=True)
class Stages:
    """The three stages of a chunk, plain or as Prefect tasks."""

    read: Callable[[Chunk, RunSettings], list[PreparedPair | RefusedPair]] = read_chunk
    fuse: Callable[
        [Sequence[PreparedPair | RefusedPair], RunSettings, Prior, Progress], list[FusedPair | RefusedPair]
    ] = fuse_chunk
    publish: Callable[
        [Chunk, Sequence[FusedPair | RefusedPair], RunSettings, str, Progress, Callable[[], None]], None
    ] = publish_chunk
    isolated: Callable[[Chunk, Deaths, Marks, RunSettings, Prior, Progress, Callable[[], None]], None] = fuse_isolated


PLAIN = Stages()

PREDECESSOR_S: Final = 30.0
"""Seconds in which a process that another one took a shard from notices that: it looks every ten, between batches."""

_LOOK_S: Final = 1.0


@dataclass(frozen=True)
class Suspect:
    """A chunk that may kill its process, with what is known of earlier deaths."""

    chunk: Chunk
    deaths: Deaths


def shrunk(settings: RunSettings, times: int) -> RunSettings:
    """The same run with less in memory at a time: batch, readers and bytes read ahead are halved so many times.

    Pictures stay the same but for the last bits of their floats, which the size of a batch decides.
    """
    job = settings.job
    less = {name: max(1, getattr(job, name) >> times) for name in ("batch", "readers", "read_megabytes")}
    return replace(settings, job=job.model_copy(update=less))


def shard_chunks(settings: RunSettings, shard_id: str) -> list[Chunk]:
    """The chunks of a shard that have no rows yet, in order."""
    rows = read_manifest(settings.run, shard_id)
    done = committed_of_shard(settings.run, shard_id, set(rows["chunk_id"].unique().to_pylist()))
    groups = groupby(manifest_rows(rows), key=lambda row: row.chunk_id)
    return [Chunk(shard_id, chunk_id, tuple(members)) for chunk_id, members in groups if chunk_id not in done]


def outlast(settings: RunSettings, shard_id: str, check: Callable[[], None], wait_s: float = PREDECESSOR_S) -> None:
    """Wait until the marks of an earlier process that may still be at work on a shard tell whether it is dead.

    One that lives ends by the fence, and takes its marks away; those that are left are of a dead one, and are deaths.
    Only a process that nobody saw end is waited for, such as one that a server called crashed which had been away, and
    only where it has marks: of one that was killed its worker tells, and its shard goes on at once. A batch that takes
    longer than ``wait_s`` makes a living process look dead, which costs its pairs a more careful try, no more.

    Raises:
        StorageError: the run's marks cannot be read.
    """
    deadline = time.monotonic() + wait_s
    while any(deaths.most for deaths in read_deaths(settings.run, shard_id).values()) and time.monotonic() < deadline:
        check()
        time.sleep(_LOOK_S)


def divide(settings: RunSettings, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[Suspect]]:
    """The chunks of one shard that can run as usual, and those in which a process died or an attempt failed before.

    Raises:
        StorageError: the run's marks cannot be read.
    """
    deaths = read_deaths(settings.run, chunks[0].shard_id) if chunks else {}
    calm, suspects = [], []
    for chunk in chunks:
        if chunk.chunk_id in deaths or any(row.attempt > 1 for row in chunk.rows):
            suspects.append(Suspect(chunk, deaths.get(chunk.chunk_id, Deaths())))
        else:
            calm.append(chunk)
    return calm, suspects


def run_chunks(
    chunks: Sequence[Chunk],
    settings: RunSettings,
    prior: Prior,
    progress: Progress,
    stages: Stages,
    check: Callable[[], None],
    confirm: Callable[[], None],
) -> None:
    """Read, fuse and publish each chunk, with a start mark for the time that it takes.

    Args:
        check: called after each batch and before pictures are written; what it raises ends the work in an orderly way.
        confirm: the same right before each commit, where an answer of some seconds ago will not do.

    Raises:
        LockLostError: ``check`` or ``confirm`` says that the work is another process's now.
        StorageError: the destination refuses a write; chunks committed before stay committed.
    """
    marks = Marks(settings.run)
    mark_of: dict[tuple[str, str], str] = {}
    checked = CheckedProgress(progress, check)
    device = str(prior.device)

    def read(chunk: Chunk) -> list[PreparedPair | RefusedPair]:
        mark_of[chunk.shard_id, chunk.chunk_id] = marks.set(chunk.shard_id, chunk.chunk_id, range(len(chunk.rows)))
        return stages.read(chunk, settings)

    def publish(chunk: Chunk, pairs: Sequence[FusedPair | RefusedPair]) -> None:
        check()
        mark = mark_of.pop((chunk.shard_id, chunk.chunk_id))
        marks.keep(mark)
        try:
            stages.publish(chunk, pairs, settings, device, progress, confirm)
        except LockLostError:
            # The pictures are written, so the mark stays; the process that has the work now must not take it for a
            # death.
            marks.absolve(mark)
            raise
        marks.clear(mark)

    with _clearing(marks):
        overlapped(
            chunks,
            read=read,
            work=lambda _, pairs: stages.fuse(pairs, settings, prior, checked),
            write=publish,
            waiting=progress.waiting,
        )


def run_suspects(
    suspects: Sequence[Suspect],
    settings: RunSettings,
    prior: Prior,
    progress: Progress,
    stages: Stages,
    check: Callable[[], None],
    confirm: Callable[[], None],
) -> None:
    """Fuse chunks with a mark around each step on each pair; for after all others, which they may not hold up.

    Those with the fewest deaths come first, for the same reason.

    Raises:
        StorageError: as :func:`run_chunks`.
    """
    marks = Marks(settings.run)
    with _clearing(marks):
        for suspect in sorted(suspects, key=lambda suspect: suspect.deaths.most):
            stages.isolated(
                suspect.chunk, suspect.deaths, marks, settings, prior, CheckedProgress(progress, check), confirm
            )


@contextmanager
def _clearing(marks: Marks) -> Iterator[None]:
    try:
        yield
    finally:
        # What ended the work is what matters; a mark that stays makes the next run careful, no more.
        with suppress(StorageError):
            marks.clear_all()

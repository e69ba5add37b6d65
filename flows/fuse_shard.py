"""Fuse one shard of a run: its chunks in order, with reading and publishing beside the fusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

from ddfm_core.priors import Prior, PriorError, load_prior
from tasks.chunk import Chunk, FusedPair, PreparedPair, Progress, RefusedPair, fuse_chunk, publish_chunk, read_chunk
from tasks.codes import ConfigurationError
from tasks.job import Job
from tasks.manifest import committed_chunks, manifest_rows, read_manifest
from tasks.overlap import overlapped
from tasks.settings import RunSettings


@dataclass(frozen=True)
class Stages:
    """The three stages of a chunk, plain or as Prefect tasks."""

    read: Callable[[Chunk, RunSettings], list[PreparedPair | RefusedPair]] = read_chunk
    fuse: Callable[
        [Sequence[PreparedPair | RefusedPair], RunSettings, Prior, Progress], list[FusedPair | RefusedPair]
    ] = fuse_chunk
    publish: Callable[[Chunk, Sequence[FusedPair | RefusedPair], RunSettings, str, Progress], None] = publish_chunk


PLAIN = Stages()


def open_prior(job: Job) -> Prior:
    """Load the job's prior on its device.

    Raises:
        ConfigurationError: no such prior, weights that do not fit, or a device that this machine lacks.
    """
    device = job.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"device: {job.device} was asked for, but this machine has no CUDA GPU; use cpu")
    try:
        return load_prior(job.prior, device=device, dtype=getattr(torch, job.precision))
    except PriorError as error:
        raise ConfigurationError(f"prior: {error}") from error


def shard_chunks(settings: RunSettings, shard_id: str) -> list[Chunk]:
    """The chunks of a shard that have no rows yet, in order."""
    done = committed_chunks(settings.run)
    rows = manifest_rows(read_manifest(settings.run, shard_id))
    groups = groupby(rows, key=lambda row: row.chunk_id)
    return [
        Chunk(shard_id, chunk_id, tuple(members)) for chunk_id, members in groups if (shard_id, chunk_id) not in done
    ]


def run_shard(chunks: Sequence[Chunk], settings: RunSettings, prior: Prior, progress: Progress, stages: Stages) -> None:
    """Read, fuse and publish each chunk.

    Raises:
        StorageError: the destination refuses a write; chunks committed before stay committed.
    """
    device = str(prior.device)
    overlapped(
        chunks,
        read=lambda chunk: stages.read(chunk, settings),
        work=lambda _, pairs: stages.fuse(pairs, settings, prior, progress),
        write=lambda chunk, pairs: stages.publish(chunk, pairs, settings, device, progress),
    )

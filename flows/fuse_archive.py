"""Fuse an archive: resume what was left, index, plan, fuse, reconcile, compact.

:func:`run_archive` is the plain sequence; ``flows.prefect_flows`` runs the same steps as a Prefect flow.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow.compute as pc

from ddfm_core.priors import Prior, PriorError, prior_sha256
from flows.fuse_shard import PLAIN, Stages, open_prior, run_shard, shard_chunks
from tasks.chunk import Progress
from tasks.codes import ConfigurationError, Status
from tasks.index import Plan, index_folders, index_table, plan
from tasks.job import Job
from tasks.manifest import (
    Reconciliation,
    committed_chunks,
    compact,
    current_rows,
    finish_run,
    new_run,
    read_manifest,
    reconcile,
    unfinished_run,
    write_manifest,
)
from tasks.settings import RunSettings, read_settings, write_settings
from tasks.storage import absolute


@dataclass(frozen=True)
class PlannedRun:
    """A run with work in it.

    Attributes:
        shard_ids: shards with chunks that have no rows yet, in order.
        pairs: pairs of the whole run; ``pending`` of them are still to do.
        resumed: whether an earlier process began it.
        began: ``time.monotonic()`` when this process took it up.
    """

    settings: RunSettings
    shard_ids: tuple[str, ...]
    pairs: int
    pending: int
    resumed: bool
    began: float


@dataclass(frozen=True)
class RunSummary:
    """What one run came to."""

    settings: RunSettings
    reconciliation: Reconciliation
    resumed: bool
    seconds: float

    def count(self, status: Status) -> int:
        """Pairs with this status."""
        return self.reconciliation.statuses[status]

    @property
    def failed(self) -> bool:
        """Whether a larger share of the pairs failed than the job allows."""
        return self.count(Status.FAILED) > self.settings.job.failed_share * self.reconciliation.pairs

    @property
    def clean(self) -> bool:
        """Whether every pair is ok, or was skipped on purpose."""
        return not self.count(Status.FAILED) and not self.count(Status.REJECTED)

    def sentence(self) -> str:
        """The outcome in one line."""
        counts = ", ".join(f"{self.count(status)} {status}" for status in Status if self.count(status))
        codes = ", ".join(f"{code} {count}" for code, count in self.reconciliation.codes.items())
        return f"{self.reconciliation.pairs} pairs: {counts}{f' ({codes})' if codes else ''}"


class Watcher(Protocol):
    """Who follows the runs of a job."""

    def begin(self, planned: PlannedRun) -> AbstractContextManager[Progress]:
        """A run is about to fuse; its progress goes to what this returns."""

    def finish(self, summary: RunSummary) -> None:
        """A run is complete."""


def run_archive(job: Job, watcher: Watcher) -> None:
    """Do all that a job needs, in this process, without Prefect.

    Raises:
        ConfigurationError: before any work.
        StorageError: a place cannot be read or written; what is committed stays, the next run goes on from there.
        ReconcileError: rows are missing or double.
    """
    prior: Prior | None = None
    for planned in plan_runs(job):
        prior = prior or open_prior(job)
        fuse_here(planned, prior, watcher, PLAIN)
        watcher.finish(finish(planned))


def plan_runs(job: Job) -> Iterator[PlannedRun]:
    """First the run that was left unfinished under these settings, if any, then a new one for what else needs work.

    The second is planned when the caller asks for it, after the first is finished, so that it sees its rows.

    Raises:
        ConfigurationError: the prior or the sources cannot be used as the job names them.
        StorageError: a source or the destination cannot be reached.
    """
    try:
        identity = prior_sha256(job.prior)
    except PriorError as error:
        raise ConfigurationError(f"prior: {error}") from error
    config_hash = job.config_hash(identity)
    dest = absolute(job.out)
    left = unfinished_run(dest)
    if left is not None:
        settings = read_settings(left)
        # Under other settings, what it committed counts, and what it had left is planned anew.
        if (settings.config_hash, settings.job.method_name, settings.job.sources) == (
            config_hash, job.method_name, job.sources
        ):  # fmt: skip
            yield _pending(replace(settings, job=job), resumed=True)
    planned = plan_new(job, config_hash)
    if len(planned.manifest):
        settings = RunSettings(new_run(dest), job, config_hash, identity)
        write_settings(settings)
        write_manifest(settings.run, planned.manifest)
        yield _pending(settings, resumed=False)


def plan_new(job: Job, config_hash: str) -> Plan:
    """Index the archive and plan what has no valid row.

    Raises:
        ConfigurationError: a source holds no images, or the table of pairs is not one.
        StorageError: a place cannot be reached.
    """
    if job.first is not None and job.second is not None:
        pairs = index_folders(job.first, job.second)
    else:
        pairs = index_table(job.pairs or "")
    return plan(
        pairs,
        current_rows(job.out, job.method_name),
        config_hash,
        chunk_pairs=job.chunk_pairs,
        shard_pairs=job.shard_pairs,
        retry_rejected=job.retry_rejected,
    )


def _pending(settings: RunSettings, resumed: bool) -> PlannedRun:
    manifest = read_manifest(settings.run)
    committed = {f"{shard_id}-{chunk_id}" for shard_id, chunk_id in committed_chunks(settings.run)}
    names = pc.binary_join_element_wise(manifest["shard_id"], manifest["chunk_id"], "-").to_pylist()
    left = manifest.filter([name not in committed for name in names])
    return PlannedRun(
        settings,
        tuple(sorted(left["shard_id"].unique().to_pylist())),
        pairs=len(manifest),
        pending=len(left),
        resumed=resumed,
        began=time.monotonic(),
    )


def fuse_here(planned: PlannedRun, prior: Prior, watcher: Watcher, stages: Stages) -> None:
    """Fuse all shards of a run in this process, one after the other."""
    with watcher.begin(planned) as progress:
        for shard_id in planned.shard_ids:
            run_shard(shard_chunks(planned.settings, shard_id), planned.settings, prior, progress, stages)


def finish(planned: PlannedRun) -> RunSummary:
    """Prove that every pair has its row, add the rows to the table of all runs, close the run.

    Raises:
        ReconcileError: rows are missing or double; the run stays open.
        StorageError: the destination cannot be read or written.
    """
    run = planned.settings.run
    reconciliation = reconcile(run)
    compact(run)
    summary = RunSummary(planned.settings, reconciliation, planned.resumed, time.monotonic() - planned.began)
    finish_run(
        run,
        {
            "run_id": run.run_id,
            "state": "failed" if summary.failed else "completed",
            "pairs": reconciliation.pairs,
            "statuses": dict(reconciliation.statuses),
            "codes": dict(reconciliation.codes),
            "resumed": planned.resumed,
            "seconds": round(summary.seconds, 3),
        },
    )
    return summary

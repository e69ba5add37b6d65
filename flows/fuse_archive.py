"""Fuse an archive: resume what was left, index, plan, fuse, reconcile, compact.

:func:`run_archive` is the plain sequence; ``flows.prefect_flows`` runs the same steps as a Prefect flow.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ddfm_core.priors import Prior, PriorError, prior_sha256
from flows.fuse_shard import PLAIN, Stages, Suspect, divide, run_chunks, run_suspects, shard_chunks
from flows.open_prior import open_prior
from flows.places import use_places, use_secret
from tasks.abandoned import overwritten_pairs
from tasks.archive import index_archive
from tasks.attempts import clear_marks
from tasks.chunk import Progress
from tasks.codes import ConfigurationError, Status
from tasks.current import compact, current_batches
from tasks.job import Job
from tasks.lock import hold
from tasks.manifest import pending_work, write_manifest
from tasks.plan import Plan, PlanCounts, Selection, plan, write_plan
from tasks.privacy import Pseudonyms
from tasks.private_sources import write_sources
from tasks.pseudonymise import ArchiveIndex
from tasks.results import Reconciliation, committed_chunks, reconcile
from tasks.resume import lacks_private_table
from tasks.run_folder import finish_run, next_run, unfinished_run
from tasks.scratch import scratch_folder
from tasks.secret_check import check_secret
from tasks.settings import RunSettings, read_settings, write_settings
from tasks.shard_fence import clear_fences
from tasks.source_kind import settle_kind
from tasks.storage import StorageError, absolute, retries_made, sweep_temporaries
from tasks.throughput import shard_pairs, shard_rate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """A run with work in it.

    Attributes:
        shard_ids: shards with chunks that have no rows yet, in order.
        pairs: pairs of the whole run; ``pending`` of them are still to do.
        resumed: whether an earlier process began it.
        began: ``time.monotonic()`` when this process took it up.
        retries_before: requests to storage that the process had repeated by then.
    """

    settings: RunSettings
    shard_ids: tuple[str, ...]
    pairs: int
    pending: int
    resumed: bool
    began: float
    retries_before: int


@dataclass(frozen=True)
class RunSummary:
    """What one run came to; ``retries`` counts the requests to storage that this process had to repeat."""

    settings: RunSettings
    reconciliation: Reconciliation
    resumed: bool
    seconds: float
    retries: int

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

    def indexed(self, counts: PlanCounts) -> None:
        """The archive was compared with the rows of earlier runs."""

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
    use_places(job.places)
    checked = check_inputs(job)
    pseudonyms = use_secret(checked.job)
    prior: Prior | None = None
    with hold(absolute(job.out), job.wait) as lock:
        for planned in plan_runs(checked, pseudonyms, lock.token, watcher):
            prior = prior or open_prior(job, checked.identity)
            fuse_here(planned, prior, watcher, PLAIN, lock.check)
            lock.check()
            watcher.finish(finish(planned))


@dataclass(frozen=True)
class CheckedJob:
    """A job that can be run.

    Attributes:
        job: with its kind settled.
        identity: SHA-256 of its prior, empty where its mode asks none.
    """

    job: Job
    identity: str


def check_inputs(job: Job) -> CheckedJob:
    """Stop what cannot work before the destination is touched.

    Raises:
        ConfigurationError: the prior cannot be used as the job names it, or a source is empty.
        StorageError: a source cannot be reached.
    """
    identity = identify_prior(job)
    return CheckedJob(settle_kind(job), identity)


def plan_runs(
    checked: CheckedJob,
    pseudonyms: Pseudonyms | None,
    token: int,
    watcher: Watcher,
    serve: Callable[[str], None] = lambda _: None,
) -> Iterator[PlannedRun]:
    """First the run that was left unfinished under these settings, if any, then a new one for what else needs work.

    The second is planned when the caller asks for it, after the first is finished, so that it sees its rows.

    Args:
        checked: what to fuse.
        pseudonyms: needed where the job's ``needs_pseudonyms``.
        token: of the lock that the caller holds on the destination.
        watcher: told what the index came to.
        serve: called with the id of each run before anything of it is read, planned or written.

    Raises:
        ConfigurationError: the sources cannot be used as the job names them.
        StorageError: a source or the destination cannot be reached.
    """
    job = checked.job
    if pseudonyms is not None:
        check_secret(absolute(job.out), pseudonyms)
    settings = new_settings(checked, token)
    left = run_to_resume(settings)
    if left is not None:
        serve(left.run.run_id)
        _sweep(left.run.dest)
        # Workers on other machines read the job there.
        write_settings(left)
        yield _pending(left, resumed=True)
        # What was just tried again is not tried once more, and the next run comes after the one that was resumed.
        settings = replace(new_settings(checked, token), job=job.model_copy(update={"retry": ()}))
    serve(settings.run.run_id)
    with scratch_folder() as scratch:
        archive = index_archive(job, scratch, pseudonyms, keep_headers=True)
        planned = plan_new(settings, archive, scratch, just_ended=left.run.run_id if left is not None else "")
        watcher.indexed(planned.counts)
        if planned.manifest.rows:
            write_settings(settings)
            write_plan(settings.run, planned)
            if archive.sources is not None:
                write_sources(settings, archive.sources, planned.manifest.path, scratch)
            write_manifest(settings.run, planned.manifest.path)
    if planned.manifest.rows:
        yield _pending(settings, resumed=False)


def run_to_resume(settings: RunSettings) -> RunSettings | None:
    """The unfinished run that the job goes on with, under the job as it is now, or None.

    It has the same method, settings that choose pixels, and scope; under others, or when its private table is gone,
    what it committed counts, and what it had left is planned anew.

    Raises:
        StorageError: the destination or the place of the private table cannot be read.
    """
    job = settings.job
    left = unfinished_run(settings.run.dest, job.method_name)
    if left is None:
        return None
    try:
        old = read_settings(left)
    except ConfigurationError as error:
        logger.warning("%s; the run is not resumed, and its pairs are planned anew", error)
        return None
    if (old.config_hash, old.job.scope) != (settings.config_hash, job.scope):
        return None
    if lacks_private_table(old):
        logger.warning(
            "run %s is not resumed, because its private table is gone; what it had left is planned anew, and pairs "
            "that it was to repair are found by `ddfm verify --repair`",
            left.run_id,
        )
        return None
    return replace(old, job=job, token=settings.token)


def _sweep(dest: str) -> None:
    try:
        sweep_temporaries(dest)
    except StorageError as error:
        # Only room is lost: a key may have no right to look for unfinished uploads.
        logger.warning("what killed writers left was not removed: %s", error)


def identify_prior(job: Job) -> str:
    """The SHA-256 of the job's prior, empty where its mode asks none. It takes seconds for a large one: ask once.

    Raises:
        ConfigurationError: the prior cannot be used as the job names it.
    """
    if not job.fusion_config().draws:
        return ""
    try:
        return prior_sha256(job.prior)
    except PriorError as error:
        raise ConfigurationError(f"prior: {error}") from error


def new_settings(checked: CheckedJob, token: int = 0) -> RunSettings:
    """The settings of a run that begins now; nothing is written.

    Raises:
        StorageError: the destination cannot be read.
    """
    job, identity = checked.job, checked.identity
    return RunSettings(next_run(absolute(job.out)), job, job.config_hash(identity), identity, token)


def plan_new(settings: RunSettings, archive: ArchiveIndex, scratch: Path, just_ended: str = "") -> Plan:
    """Plan what has no valid row.

    Args:
        settings: of the job and the run that it would have.
        archive: what its sources hold.
        scratch: a local folder that the plan lies in.
        just_ended: see :func:`tasks.plan.plan`.

    Raises:
        StorageError: the destination cannot be read.
    """
    job, dest = settings.job, settings.run.dest
    return plan(
        archive.index,
        current_batches(dest, job.method_name, scratch),
        settings.config_hash,
        chunk_pairs=settings.chunk_pairs,
        shard_pairs=shard_pairs(settings),
        scratch=scratch,
        selection=Selection(frozenset(job.retry), job.only, job.limit, job.since),
        overwritten=overwritten_pairs(dest, job.method_name, scratch),
        just_ended=just_ended,
    )


def _pending(settings: RunSettings, resumed: bool) -> PlannedRun:
    left = pending_work(settings.run, committed_chunks(settings.run))
    return PlannedRun(
        settings,
        left.shard_ids,
        pairs=left.pairs,
        pending=left.pending,
        resumed=resumed,
        began=time.monotonic(),
        retries_before=retries_made(),
    )


def fuse_here(planned: PlannedRun, prior: Prior, watcher: Watcher, stages: Stages, check: Callable[[], None]) -> None:
    """Fuse all shards of a run in this process, one after the other, chunks that may kill it last.

    Args:
        check: see :func:`flows.fuse_shard.run_chunks`; the lock of this process is always up to date.
    """
    settings = planned.settings
    suspects: list[Suspect] = []
    with watcher.begin(planned) as progress:
        for shard_id in planned.shard_ids:
            calm, more = divide(settings, shard_chunks(settings, shard_id))
            suspects += more
            run_chunks(calm, settings, prior, progress, stages, check, check)
        run_suspects(suspects, settings, prior, progress, stages, check, check)


def finish(planned: PlannedRun, pairs_per_second: float | None = None) -> RunSummary:
    """Prove that every pair has its row, add the rows to the table of all runs, close the run.

    The caller has just looked whether it still holds the lock: what is written here is written for all runs.

    Args:
        planned: the run.
        pairs_per_second: of one flow run of a shard, where there were any that say; a run of this process says itself.

    Raises:
        ReconcileError: rows are missing or double; the run stays open.
        StorageError: the destination cannot be read or written.
    """
    run = planned.settings.run
    reconciliation = reconcile(run)
    compact(run, planned.settings.job.method_name)
    clear_marks(run)
    clear_fences(run)
    summary = RunSummary(
        planned.settings,
        reconciliation,
        planned.resumed,
        time.monotonic() - planned.began,
        retries_made() - planned.retries_before,
    )
    if planned.settings.job.deployment is None and not planned.resumed and summary.count(Status.OK):
        pairs_per_second = summary.count(Status.OK) / summary.seconds
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
            "retries": summary.retries,
        }
        | ({} if pairs_per_second is None else {"shard_rate": shard_rate(planned.settings, pairs_per_second)}),
    )
    return summary

"""The Prefect flows: ``fuse-archive`` is the whole job, ``fuse-shard`` one shard of it on a work pool, ``evaluate`` an
evaluation.

They run the very functions of the plain sequence. Each stage of each chunk is a task run; single pairs never are,
and pictures pass between the stages in memory, not through Prefect. The blocking work happens in a thread, so that
the event loop stays free for Prefect's heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun
from prefect.states import Completed, Failed

from ddfm_core.priors import Prior
from flows.dispatch import dispatch_shards
from flows.evaluate import Evaluated, EvaluationWatcher, run_evaluation
from flows.fuse_archive import PlannedRun, RunSummary, Watcher, check_inputs, finish, fuse_here, plan_runs
from flows.fuse_shard import Stages, divide, open_prior, run_chunks, run_suspects, shard_chunks
from flows.heartbeat import Heartbeat
from flows.places import load_places, load_secret
from flows.stop import StopSignal, in_thread
from tasks.chunk import Chunk, Progress, fuse_chunk, publish_chunk, read_chunk
from tasks.codes import ConfigurationError
from tasks.evaluation.datasets import DataSet
from tasks.evaluation.evaluation import Evaluation
from tasks.evaluation.methods import Method
from tasks.evaluation.stretched import Twin
from tasks.evaluation.tables import tables_text
from tasks.isolate import fuse_isolated
from tasks.job import Job, Place
from tasks.lock import BorrowedLock, hold
from tasks.overview import overview
from tasks.plan import PlanCounts
from tasks.rows import ResultRow
from tasks.run_folder import RunFolder
from tasks.settings import RunSettings, read_settings
from tasks.storage import absolute

logger = logging.getLogger(__name__)


def _stage(function: Any, name: str) -> Any:
    # Arrays are neither hashed for a cache nor kept as results; a stage that fails fails the run, which resumes.
    return task(function, name=name, cache_policy=NO_CACHE, persist_result=False, cache_result_in_memory=False)


PREFECT_STAGES = Stages(
    read=_stage(read_chunk, "read-chunk"),
    fuse=_stage(fuse_chunk, "fuse-chunk"),
    publish=_stage(publish_chunk, "publish-chunk"),
    isolated=_stage(fuse_isolated, "fuse-isolated"),
)


class LogProgress:
    """Progress of a run that nobody watches at a terminal: a log line every half minute. Thread-safe."""

    def __init__(self, pairs: int) -> None:
        self.heartbeat = Heartbeat(pairs)
        self.lock = threading.Lock()

    def fused(self, pairs: float) -> None:
        """``pairs`` more pairs left the network."""
        with self.lock:
            self.heartbeat.done += pairs
            if self.heartbeat.is_due():
                logger.info("%s", self.heartbeat.line())

    def committed(self, rows: Sequence[ResultRow]) -> None:
        """These rows are on disk."""
        with self.lock:
            self.heartbeat.count(rows)

    def waiting(self, read: int, publish: int) -> None:
        """So many chunks wait before and behind the network."""
        with self.lock:
            self.heartbeat.queues = (read, publish)


@dataclass(frozen=True)
class LogWatcher:
    """The watcher of scheduled runs."""

    def indexed(self, counts: PlanCounts) -> None:
        """Log what was found."""
        logger.info("archive: %s", counts.sentence())

    def begin(self, planned: PlannedRun) -> AbstractContextManager[Progress]:
        """Log what is about to happen."""
        logger.info("run %s: %d of %d pairs to do", planned.settings.run.run_id, planned.pending, planned.pairs)
        return nullcontext(LogProgress(planned.pending))

    def finish(self, summary: RunSummary) -> None:
        """Log the outcome."""
        logger.info("run %s: %s", summary.settings.run.run_id, summary.sentence())


@dataclass(frozen=True)
class LogEvaluationWatcher(LogWatcher):
    """The watcher of scheduled evaluations."""

    def evaluating(self, data_set: DataSet, method: Method) -> None:
        """Log which run comes next."""
        logger.info("%s, %s: %d pairs", data_set.name, method.name, len(data_set.pairs))

    def measuring(self, twin: Twin) -> AbstractContextManager[Callable[[float], None]]:
        """Log how many pictures are to measure."""
        pending = len(twin.pending)
        logger.info("%s, %s: %d of %d pictures to measure", twin.data_set.name, twin.name, pending, len(twin.pictures))
        return nullcontext(LogProgress(pending).fused)

    def measured(self, rows: pa.Table) -> None:
        """Log the outcome."""
        logger.info("%d pictures: %s", len(rows), overview([rows]).sentence())

    def evaluated(self, outcome: Evaluated) -> None:
        """Log the outcome."""
        logger.info("%s", outcome.sentence())


LOG_WATCHER = LogWatcher()
watcher: ContextVar[Watcher] = ContextVar("watcher", default=LOG_WATCHER)
"""Who follows the flow in this process; the command line puts its own here."""
evaluation_watcher: ContextVar[EvaluationWatcher] = ContextVar("evaluation_watcher", default=LogEvaluationWatcher())  # noqa: B039
"""The same for an evaluation."""


@flow(name="fuse-archive", persist_result=False)
async def fuse_archive(job: Job) -> State[None]:
    """Fuse an archive, here or on a work pool.

    The state is Completed when every pair is ok or skipped; Completed, with the counts in its message, when some
    were rejected or a few failed; Failed above the job's ``failed_share``, or by an exception when a place cannot
    be reached or a row is missing.
    """
    await load_places(job.places)
    checked = await asyncio.to_thread(check_inputs, job)
    pseudonyms = await load_secret(checked.job)
    summaries: list[RunSummary] = []
    prior: Prior | None = None
    stop = StopSignal()
    with ExitStack() as stack:
        holding = hold(absolute(job.out), job.wait, check=stop.check)
        lock = await in_thread(stop, stack.enter_context, holding)

        def check() -> None:
            stop.check()
            lock.check()

        plans = plan_runs(checked, pseudonyms, lock.token, watcher.get())
        while (planned := await in_thread(stop, next, plans, None)) is not None:
            if job.deployment:
                with watcher.get().begin(planned) as progress:
                    await dispatch_shards(planned, progress, check)
            else:
                if prior is None:
                    prior = await asyncio.to_thread(open_prior, job)
                await in_thread(stop, fuse_here, planned, prior, watcher.get(), PREFECT_STAGES, check)
            summaries.append(await in_thread(stop, finish, planned))
            watcher.get().finish(summaries[-1])
    return await _final_state(job, summaries)


async def _final_state(job: Job, summaries: Sequence[RunSummary]) -> State[None]:
    if not summaries:
        return Completed(message="Nothing to do: every pair of the archive has its row.")
    sentences = [summary.sentence() for summary in summaries]
    await acreate_markdown_artifact(
        key="fuse-archive", markdown="\n".join(f"- {sentence}" for sentence in sentences), description=job.method_name
    )
    message = "; ".join(sentences)
    return Failed(message=message) if any(summary.failed for summary in summaries) else Completed(message=message)


@flow(name="fuse-shard", persist_result=False)
async def fuse_shard(dest: str, run_id: str, shard_id: str, token: int, places: dict[str, Place]) -> State[None]:
    """Fuse what is left of one shard of a planned run.

    Args:
        dest: destination of the run, as this machine reaches it.
        run_id: its folder below DEST/_ddfm/runs.
        shard_id: as in its manifest.
        token: of the lock that the parent holds on the destination.
        places: of the job, by which the destination is reached.

    Raises:
        ConfigurationError: this machine's prior is not the one that the run was planned with.
        StorageError: the run cannot be read, or its destination not be written.
    """
    await load_places(places)
    settings = replace(await asyncio.to_thread(read_settings, RunFolder(dest, run_id)), token=token)
    chunks = await asyncio.to_thread(shard_chunks, settings, shard_id)
    pairs = sum(len(chunk.rows) for chunk in chunks)
    if chunks:
        prior = await asyncio.to_thread(open_prior, settings.job)
        if prior.sha256 != settings.prior_sha256:
            raise ConfigurationError(
                f"prior: {settings.job.prior} on this machine is not the file that run {run_id} was planned with "
                f"({prior.sha256[:12]} instead of {settings.prior_sha256[:12]}); install the same one everywhere"
            )
        stop, lock = StopSignal(), BorrowedLock(dest, token)

        def check() -> None:
            stop.check()
            lock.check()

        await in_thread(stop, _fuse_chunks, settings, chunks, prior, check)
    return Completed(message=f"{pairs} pairs done")


def _fuse_chunks(settings: RunSettings, chunks: Sequence[Chunk], prior: Prior, check: Callable[[], None]) -> None:
    progress = LogProgress(sum(len(chunk.rows) for chunk in chunks))
    calm, suspects = divide(settings, chunks)
    run_chunks(calm, settings, prior, progress, PREFECT_STAGES, check)
    run_suspects(suspects, settings, prior, progress, PREFECT_STAGES, check)


def run_as_flow(job: Job, follower: Watcher) -> None:
    """Run the flow in this process, followed by ``follower``, who hears of every run, failed ones too.

    Raises:
        Exception: whatever ended the flow, as :func:`flows.fuse_archive.run_archive` raises it.
    """
    watcher.set(follower)
    # FailedRun is the flow's own Failed state, whose counts the follower has; errors of ours come as themselves.
    with suppress(FailedRun):
        asyncio.run(fuse_archive(job))


@flow(name="evaluate", persist_result=False)
async def evaluate(evaluation: Evaluation) -> State[None]:
    """Evaluate methods over data sets, in this process.

    The state is Completed when every pair of every method has its row, with the counts in its message; Failed when a
    larger share of the pairs of one run failed than its job allows, or by an exception. The tables are an artifact.
    """
    stop = StopSignal()
    outcome = await in_thread(stop, run_evaluation, evaluation, evaluation_watcher.get(), PREFECT_STAGES, stop.check)
    await acreate_markdown_artifact(
        key="evaluate", markdown=tables_text(outcome.tables), description=f"{evaluation.data} in {evaluation.out}"
    )
    return Failed(message=outcome.sentence()) if outcome.failed else Completed(message=outcome.sentence())


def evaluate_as_flow(evaluation: Evaluation, follower: EvaluationWatcher) -> None:
    """Run the flow in this process, followed by ``follower``, who hears of its outcome.

    Raises:
        Exception: whatever ended the flow, as :func:`flows.evaluate.run_evaluation` raises it.
    """
    evaluation_watcher.set(follower)
    with suppress(FailedRun):
        asyncio.run(evaluate(evaluation))

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
from uuid import UUID

import httpx
import pyarrow as pa
from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.exceptions import FailedRun
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from ddfm_core.priors import Prior
from flows.device_use import DeviceUse
from flows.dispatch import dispatch_shards
from flows.evaluate import Evaluated, EvaluationWatcher, run_evaluation
from flows.fuse_archive import PlannedRun, RunSummary, Watcher, check_inputs, finish, fuse_here, plan_runs
from flows.fuse_shard import Stages, divide, outlast, run_chunks, run_suspects, shard_chunks, shrunk
from flows.heartbeat import Heartbeat
from flows.open_prior import open_prior
from flows.places import load_places, load_secret
from flows.report import Alarm, tell_once, write_report
from flows.run_artifact import runs_markdown
from flows.run_log import run_log
from flows.shard_runs import check_deployment, patiently
from flows.stop import StopSignal, in_thread
from flows.storage_pause import Outage
from tasks.borrowed_lock import BorrowedLock
from tasks.chunk import Chunk, Progress, fuse_chunk, publish_chunk, read_chunk
from tasks.evaluation.datasets import DataSet
from tasks.evaluation.evaluation import Evaluation
from tasks.evaluation.methods import Method
from tasks.evaluation.stretched import Twin
from tasks.evaluation.tables import tables_text
from tasks.isolate import fuse_isolated
from tasks.job import Job, Place
from tasks.lock import hold
from tasks.overview import overview
from tasks.plan import PlanCounts
from tasks.report.page import summary_markdown
from tasks.report.request import ReportRequest
from tasks.rows import ResultRow
from tasks.run_folder import RunFolder
from tasks.settings import RunSettings, read_settings
from tasks.shard_fence import Sending, ShardFence
from tasks.storage import StorageError, absolute

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
    """Progress of a run that nobody watches at a terminal: a log line every half minute. Thread-safe.

    Args:
        pairs: to do in all.
        device: of this process, where it has one.
    """

    def __init__(self, pairs: int, device: DeviceUse | None = None) -> None:
        self.heartbeat = Heartbeat(pairs, device=device)
        self.device = device
        self.lock = threading.Lock()

    def fused(self, pairs: float) -> None:
        """``pairs`` more pairs left the network."""
        with self.lock:
            if self.device is not None:
                # Now, and not at the end: then the last chunk is being published, and the device has nothing to do.
                self.device.sample()
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

    def finish(self) -> None:
        """Log what it came to."""
        with self.lock:
            logger.info("%s", self.heartbeat.summary())


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
        """Log the outcome, and which sheets could not be made."""
        for sentence in outcome.left_out:
            logger.warning("left out: %s", sentence)
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
    summaries: list[RunSummary] = []
    outage = Outage()
    wait = job.wait or _was_started_again()
    with _log_of_run(watcher.get()):
        await patiently(lambda: load_places(job.places))
        deployment_id = await check_deployment(job) if job.deployment else None
        while True:
            try:
                await _fuse_all(job, deployment_id, summaries, wait, outage)
                break
            except StorageError as error:
                # On a terminal somebody reads the sentence, and can give the command again.
                if deployment.id is None or not outage.may_pass(error):
                    raise
                passing = error
            await outage.wait(passing)
            # Its own lock may not have been given back.
            wait = True
        return await _final_state(job, summaries)


def _was_started_again() -> bool:
    """Whether this run crashed before: it may find the lock of the process that is gone, and must not refuse it."""
    return (flow_run.run_count or 1) > 1


def _log_of_run(follower: Watcher) -> AbstractContextManager[None]:
    """A terminal shows what is to be shown by itself."""
    return run_log() if isinstance(follower, LogWatcher) else nullcontext()


async def _fuse_all(
    job: Job, deployment_id: UUID | None, summaries: list[RunSummary], wait: bool, outage: Outage
) -> None:
    """Plan and fuse, here or by flow runs of a deployment; ``summaries`` gets that of each run that is finished.

    ``outage`` is that of the caller, who asks it whether to begin again: a store is waited for once.
    """
    checked = await asyncio.to_thread(check_inputs, job)
    pseudonyms = await patiently(lambda: load_secret(checked.job))
    stop = StopSignal()
    with ExitStack() as stack:
        # Shards that a dead parent had sent out go on under this one, when it goes on with their run.
        holding = hold(absolute(job.out), wait, check=stop.check, takes_over_work=deployment_id is not None)
        lock = await in_thread(stop, stack.enter_context, holding)

        def check() -> None:
            stop.check()
            lock.check()

        def serve(run_id: str) -> None:
            if deployment_id is not None:
                lock.serve(run_id, str(deployment_id))

        plans = plan_runs(checked, pseudonyms, lock.token, watcher.get(), serve)
        while (planned := await in_thread(stop, next, plans, None)) is not None:
            outage.end()
            rate: float | None = None
            if deployment_id is not None:
                with watcher.get().begin(planned) as progress:
                    rate = (await dispatch_shards(planned, progress, check, outage)).pairs_per_second
            else:
                prior = await asyncio.to_thread(open_prior, job, checked.identity)
                await in_thread(stop, fuse_here, planned, prior, watcher.get(), PREFECT_STAGES, check)
            await in_thread(stop, check)
            summaries.append(await in_thread(stop, finish, planned, rate))
            watcher.get().finish(summaries[-1])


async def _final_state(job: Job, summaries: Sequence[RunSummary]) -> State[None]:
    if not summaries:
        return Completed(message="Nothing to do: every pair of the archive has its row.")
    await _leave_page("fuse-archive", runs_markdown(summaries), job.method_name)
    message = "; ".join(summary.sentence() for summary in summaries)
    return Failed(message=message) if any(summary.failed for summary in summaries) else Completed(message=message)


async def _leave_page(key: str, markdown: str, description: str) -> None:
    """What the UI shows of a run that is done; a server that does not take it must not make the run look failed."""
    try:
        await patiently(lambda: acreate_markdown_artifact(key=key, markdown=markdown, description=description))
    except httpx.HTTPError as error:
        logger.warning(
            "the run is complete, but the Prefect server did not take its page (%s: %s); what it would have shown lies "
            "in the destination",
            type(error).__name__,
            error,
        )


@flow(name="fuse-shard", persist_result=False)
async def fuse_shard(
    dest: str,
    run_id: str,
    shard_id: str,
    token: int,
    number: int,
    places: dict[str, Place],
    shrink: int = 0,
    predecessor_may_live: bool = False,
) -> State[None]:
    """Fuse what is left of one shard of a planned run.

    Args:
        dest: destination of the run, as this machine reaches it.
        run_id: its folder below DEST/_ddfm/runs.
        shard_id: as in its manifest.
        token: of the lock that the parent held on the destination when it sent this.
        number: counts the flow runs of this shard; one that was sent later takes the shard from those before.
        places: of the job, by which the destination is reached.
        shrink: earlier flow runs of this shard that ended for want of memory.
        predecessor_may_live: whether nobody saw the process of the flow run before end.

    Raises:
        LockLostError: the parent gave its lock back, or a flow run that was sent later has the shard.
        ConfigurationError: this machine's prior is not the one that the run was planned with.
        StorageError: the run cannot be read, or its destination not be written.
    """
    with run_log():
        await patiently(lambda: load_places(places))
        fence = ShardFence(RunFolder(dest, run_id), shard_id, Sending(token, number))
        # Before it is read what is left: nobody commits any more of it from here on.
        await asyncio.to_thread(fence.enter)
        pairs = await _fuse_shard(RunFolder(dest, run_id), shard_id, token, shrink, predecessor_may_live, fence)
        await asyncio.to_thread(fence.leave)
    return Completed(message=f"{pairs} pairs done")


async def _fuse_shard(
    run: RunFolder, shard_id: str, token: int, shrink: int, predecessor_may_live: bool, fence: ShardFence
) -> int:
    read = await asyncio.to_thread(read_settings, run)
    settings = shrunk(replace(read, token=token), shrink)
    chunks = await asyncio.to_thread(shard_chunks, settings, shard_id)
    if chunks:
        prior = await asyncio.to_thread(open_prior, settings.job, settings.prior_sha256)
        stop, lock = StopSignal(), BorrowedLock(run.dest, token, run.run_id, also=fence.check)

        def check() -> None:
            stop.check()
            lock.check()

        def confirm() -> None:
            stop.check()
            lock.confirm()

        if predecessor_may_live:
            await in_thread(stop, outlast, settings, shard_id, check)
        await in_thread(stop, _fuse_chunks, settings, chunks, prior, check, confirm)
    return sum(len(chunk.rows) for chunk in chunks)


def _fuse_chunks(
    settings: RunSettings,
    chunks: Sequence[Chunk],
    prior: Prior,
    check: Callable[[], None],
    confirm: Callable[[], None],
) -> None:
    progress = LogProgress(sum(len(chunk.rows) for chunk in chunks), DeviceUse(prior.device))
    calm, suspects = divide(settings, chunks)
    run_chunks(calm, settings, prior, progress, PREFECT_STAGES, check, confirm)
    run_suspects(suspects, settings, prior, progress, PREFECT_STAGES, check, confirm)
    progress.finish()


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
    stop, follower = StopSignal(), evaluation_watcher.get()
    asked = evaluation.model_copy(update={"wait": evaluation.wait or _was_started_again()})
    with _log_of_run(follower):
        outcome = await in_thread(stop, run_evaluation, asked, follower, PREFECT_STAGES, stop.check)
        await _leave_page("evaluate", tables_text(outcome.tables), f"{evaluation.data} in {evaluation.out}")
    return Failed(message=outcome.sentence()) if outcome.failed else Completed(message=outcome.sentence())


def evaluate_as_flow(evaluation: Evaluation, follower: EvaluationWatcher) -> None:
    """Run the flow in this process, followed by ``follower``, who hears of its outcome.

    Raises:
        Exception: whatever ended the flow, as :func:`flows.evaluate.run_evaluation` raises it.
    """
    evaluation_watcher.set(follower)
    with suppress(FailedRun):
        asyncio.run(evaluate(evaluation))


def _emit(alarm: Alarm) -> None:
    emit_event(alarm.event, resource=alarm.resource, payload=alarm.payload)


@flow(name="report", persist_result=False)
async def report(request: ReportRequest) -> State[None]:
    """Write the page about a run, with its counts and medians as an artifact.

    The state is Completed once the page is written. What somebody should hear of is an event, once per run and
    whatever the state: see :func:`flows.report.alarms`.
    """
    stop = StopSignal()
    with run_log():
        await patiently(lambda: load_places(request.places))
        written = await in_thread(stop, write_report, request, stop.check)
        await _leave_page("report", summary_markdown(written), f"run {written.run.run_id}")
    await in_thread(stop, tell_once, written, _emit)
    return Completed(message=written.sentence())

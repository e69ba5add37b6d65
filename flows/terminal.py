"""What a person at a terminal, or in a log, sees of a run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import chain

from rich import progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.fuse_archive import PlannedRun, RunSummary, run_archive
from flows.heartbeat import Heartbeat
from tasks.chunk import Progress
from tasks.codes import Status
from tasks.current import current_batches, history_batches, methods
from tasks.job import Job
from tasks.lock import read_lock
from tasks.manifest import chunk_sizes
from tasks.overview import PROBLEM_COLUMNS, Overview, overview
from tasks.plan import PlanCounts
from tasks.results import ReconcileError, result_batches
from tasks.rows import ResultRow
from tasks.run_folder import RunFolder, current_uri, list_runs
from tasks.scratch import scratch_folder
from tasks.storage import StorageError, absolute, exists, join, read_needed

SHOWN_PROBLEMS = 10
PAPER_METRICS = ("EN", "SD", "MI", "VIF", "Qabf", "SSIM")


class TerminalProgress:
    """A bar on a terminal; elsewhere (cron, a container's log) a line every half minute. Thread-safe."""

    def __init__(self, console: Console, pairs: int, work: str = "fusing") -> None:
        self.console = console
        self.heartbeat = Heartbeat(pairs)
        self.lock = threading.Lock()
        self.bar = progress.Progress(
            progress.TextColumn(work),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("pairs"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(work, total=pairs, note="")

    def __enter__(self) -> TerminalProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def fused(self, pairs: float) -> None:
        """``pairs`` more pairs left the network."""
        with self.lock:
            self.heartbeat.done += pairs
            self.bar.update(self.task, completed=round(self.heartbeat.done, 1))
            if not self.console.is_terminal and self.heartbeat.is_due():
                self.console.print(self.heartbeat.line())

    def committed(self, rows: Sequence[ResultRow]) -> None:
        """These rows are on disk."""
        with self.lock:
            self.heartbeat.count(rows)
            self.bar.update(self.task, note=self.heartbeat.problem_note())

    def waiting(self, read: int, publish: int) -> None:
        """So many chunks wait before and behind the network."""
        with self.lock:
            self.heartbeat.queues = (read, publish)


def make_console() -> Console:
    """The console for people; wide enough for tables where there is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 110, highlight=False, soft_wrap=True)


class TerminalWatcher:
    """Follows the runs of a job on a console and keeps their summaries."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.summaries: list[RunSummary] = []

    def indexed(self, counts: PlanCounts) -> None:
        """Say what the archive holds."""
        self.console.print(f"archive: {counts.sentence()}")

    def begin(self, planned: PlannedRun) -> AbstractContextManager[Progress]:
        """Say what is about to happen; the progress is a bar or heartbeat lines."""
        what = "resuming run" if planned.resumed else "run"
        self.console.print(
            f"{what} {planned.settings.run.run_id}: {planned.pending} of {planned.pairs} pairs to do, "
            f"mode {planned.settings.job.algorithm}"
        )
        return TerminalProgress(self.console, planned.pending)

    def finish(self, summary: RunSummary) -> None:
        """Print the outcome, the means of the metrics, what was not fused, and where things lie."""
        self.summaries.append(summary)
        run = summary.settings.run
        with scratch_folder() as scratch:
            rows = history_batches(run, scratch, [*PROBLEM_COLUMNS, *PAPER_METRICS])
            seen = overview(rows, PAPER_METRICS, SHOWN_PROBLEMS)
        retries = f"; {summary.retries} requests to storage were repeated" if summary.retries else ""
        self.console.print(f"\n{summary.sentence()}; {summary.seconds:.0f} s{retries}")
        if seen.statuses.get(Status.OK):
            means = (f"{name} {_figure(seen.means.get(name))}" for name in PAPER_METRICS)
            self.console.print("means: " + "  ".join(means))
        print_problems(self.console, seen)
        self.console.print(f"pictures  {escape(join(run.dest, 'fused', summary.settings.job.method_name))}")
        self.console.print(f"table     {escape(current_uri(run.dest, summary.settings.job.method_name))}")


def print_problems(console: Console, seen: Overview, title: str = "not fused") -> None:
    """A table of the pairs that did not become ok, the first few of each code, with what to do."""
    if not seen.problems:
        return
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("status", "code", "pair", "message"):
        table.add_column(column, overflow="fold")
    for row in seen.problems:
        table.add_row(row["status"], row["code"], escape(row["pair_key"]), escape(row["message"]))
    for code, count in seen.codes.items():
        if count > SHOWN_PROBLEMS:
            table.add_row("", code, f"... {count - SHOWN_PROBLEMS} more", "")
    console.print(table)


def tell_stop(what: str, error: BaseException) -> int:
    """Say what stopped a run or an evaluation, and how to go on; the exit code for it."""
    print(f"ddfm: the {what} stopped: {error}", file=sys.stderr)
    print("ddfm: what is committed stays; run the same command again to go on", file=sys.stderr)
    return 3


def fuse_on_terminal(job: Job, prefect: bool) -> int:
    """Run a job and tell how it went; returns the exit code of ``ddfm fuse``.

    Raises:
        ConfigurationError: before any work.
    """
    console = make_console()
    watcher = TerminalWatcher(console)
    began = time.monotonic()
    try:
        if prefect:
            from flows.prefect_flows import run_as_flow

            run_as_flow(job, watcher)
        else:
            run_archive(job, watcher)
    except (StorageError, ReconcileError, RuntimeError) as error:
        return tell_stop("run", error)
    if not watcher.summaries:
        with scratch_folder() as scratch:
            seen = overview(current_batches(absolute(job.out), job.method_name, scratch, PROBLEM_COLUMNS))
        told = f"{seen.rows} are settled ({seen.sentence()})"
        console.print(f"nothing to do: 0 pairs planned, {told}; {_since(began)}")
        return 0
    if any(summary.failed for summary in watcher.summaries):
        return 3
    return 0 if all(summary.clean for summary in watcher.summaries) else 1


def print_status(destination: str) -> int:
    """What the runs of a destination did; returns the exit code of ``ddfm status``."""
    console = make_console()
    dest = absolute(destination)
    try:
        runs = list_runs(dest)
        if not runs:
            console.print(f"no runs below {escape(dest)}")
            return 2
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("run", "state", "pairs", *Status, "seconds"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        for run in runs:
            table.add_row(*_status_line(run))
        console.print(table)
        with scratch_folder() as scratch:
            tables = (current_batches(dest, method, scratch, PROBLEM_COLUMNS) for method in methods(dest))
            seen = overview(chain.from_iterable(tables), (), SHOWN_PROBLEMS)
        holder = read_lock(dest)
    except StorageError as error:
        print(f"ddfm: {error}", file=sys.stderr)
        return 3
    console.print(f"\n{seen.rows} pairs have a current row")
    if holder is not None and not holder.released:
        console.print(
            f"process {holder.owner.pid} on {holder.owner.host} works here since {holder.since}, "
            f"last heard of at {holder.heartbeat_at}"
        )
    print_problems(console, seen)
    return 0


def _status_line(run: RunFolder) -> list[str]:
    if exists(run.summary_uri):
        summary = json.loads(read_needed(run.summary_uri))
        counts = [str(summary["statuses"][status]) for status in Status]
        return [run.run_id, summary["state"], str(summary["pairs"]), *counts, f"{summary['seconds']:.0f}"]
    if not exists(run.manifest_uri):
        return [run.run_id, "never planned", "", *("" for _ in Status), ""]
    counted = overview(result_batches(run, PROBLEM_COLUMNS)).statuses
    pairs = sum(count for _, count in chunk_sizes(run))
    return [run.run_id, "unfinished", str(pairs), *(str(counted.get(status, 0)) for status in Status), ""]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"

"""What a person at a terminal, or in a log, sees of a run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager

import pyarrow as pa
import pyarrow.compute as pc
from rich import progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.fuse_archive import PlannedRun, RunSummary, run_archive
from tasks.chunk import Progress
from tasks.codes import Status
from tasks.job import Job
from tasks.manifest import (
    ReconcileError,
    ResultRow,
    RunFolder,
    current_rows,
    list_runs,
    read_manifest,
    read_results,
)
from tasks.storage import StorageError, absolute, exists, join, read_needed

HEARTBEAT_SECONDS = 30.0
SHOWN_PROBLEMS = 10
PAPER_METRICS = ("EN", "SD", "MI", "VIF", "Qabf", "SSIM")


class TerminalProgress:
    """A bar on a terminal; elsewhere (cron, a container's log) a line every half minute. Thread-safe."""

    def __init__(self, console: Console, pairs: int) -> None:
        self.console = console
        self.pairs = pairs
        self.done = 0
        self.problems: Counter[str] = Counter()
        self.began = self.spoke = time.monotonic()
        self.lock = threading.Lock()
        self.bar = progress.Progress(
            progress.TextColumn("fusing"),
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
        self.task = self.bar.add_task("fusing", total=pairs, note="")

    def __enter__(self) -> TerminalProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def fused(self, pairs: int) -> None:
        """``pairs`` more pairs left the network."""
        with self.lock:
            self.done += pairs
            self.bar.update(self.task, completed=self.done)
            now = time.monotonic()
            if not self.console.is_terminal and now - self.spoke > HEARTBEAT_SECONDS:
                self.spoke = now
                rate = self.done / (now - self.began)
                left = (self.pairs - self.done) / rate
                self.console.print(
                    f"{self.done} of {self.pairs} pairs, {rate:.2f} pairs/s, {left:.0f} s left{self._note()}"
                )

    def committed(self, rows: Sequence[ResultRow]) -> None:
        """These rows are on disk."""
        with self.lock:
            self.problems.update(row.status for row in rows if row.status != Status.OK)
            self.bar.update(self.task, note=self._note())

    def _note(self) -> str:
        return "".join(f", {count} {status}" for status, count in sorted(self.problems.items()))


def make_console() -> Console:
    """The console for people; wide enough for tables where there is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 110, highlight=False, soft_wrap=True)


class TerminalWatcher:
    """Follows the runs of a job on a console and keeps their summaries."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.summaries: list[RunSummary] = []

    def begin(self, planned: PlannedRun) -> AbstractContextManager[Progress]:
        """Say what is about to happen; the progress is a bar or heartbeat lines."""
        what = "resuming run" if planned.resumed else "run"
        self.console.print(
            f"{what} {planned.settings.run.run_id}: {planned.pending} of {planned.pairs} pairs to do, "
            f"mode {planned.settings.job.mode}, {planned.settings.job.steps} steps"
        )
        return TerminalProgress(self.console, planned.pending)

    def finish(self, summary: RunSummary) -> None:
        """Print the outcome, the means of the metrics, what was not fused, and where things lie."""
        self.summaries.append(summary)
        run = summary.settings.run
        rows = read_results(run)
        self.console.print(f"\n{summary.sentence()}; {summary.seconds:.0f} s")
        fused = rows.filter(pc.equal(rows["status"], Status.OK))
        if len(fused):
            means = {name: pc.mean(fused[name].filter(pc.is_finite(fused[name]))).as_py() for name in PAPER_METRICS}
            self.console.print("means: " + "  ".join(f"{name} {_figure(mean)}" for name, mean in means.items()))
        print_problems(self.console, rows)
        self.console.print(f"pictures  {join(run.dest, 'fused', summary.settings.job.method_name)}")
        self.console.print(f"table     {run.metrics_uri}")


def print_problems(console: Console, rows: pa.Table) -> None:
    """A table of the pairs that were not fused, the first few of each code, with what to do."""
    problems = rows.filter(pc.not_equal(rows["status"], Status.OK)).select(["status", "code", "pair_key", "message"])
    if not len(problems):
        return
    table = Table(title="not fused", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("status", "code", "pair", "message"):
        table.add_column(column, overflow="fold")
    shown: Counter[str] = Counter()
    for row in problems.to_pylist():
        shown[row["code"]] += 1
        if shown[row["code"]] <= SHOWN_PROBLEMS:
            table.add_row(row["status"], row["code"], escape(row["pair_key"]), escape(row["message"]))
    for code, count in shown.items():
        if count > SHOWN_PROBLEMS:
            table.add_row("", code, f"... {count - SHOWN_PROBLEMS} more", "")
    console.print(table)


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
        print(f"ddfm: the run stopped: {error}", file=sys.stderr)
        print("ddfm: what is committed stays; run the same command again to go on", file=sys.stderr)
        return 3
    if not watcher.summaries:
        rows = current_rows(absolute(job.out), job.method_name)
        counts = Counter(rows["status"].to_pylist())
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        console.print(f"nothing to do: 0 pairs planned, {len(rows)} are settled ({told}); {_since(began)}")
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
            console.print(f"no runs below {dest}")
            return 2
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("run", "state", "pairs", *Status, "seconds"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        for run in runs:
            table.add_row(*_status_line(run))
        console.print(table)
        rows = current_rows(dest, columns=None)
    except StorageError as error:
        print(f"ddfm: {error}", file=sys.stderr)
        return 3
    console.print(f"\n{len(rows)} pairs have a current row")
    print_problems(console, rows)
    return 0


def _status_line(run: RunFolder) -> list[str]:
    if exists(run.summary_uri):
        summary = json.loads(read_needed(run.summary_uri))
        counts = [str(summary["statuses"][status]) for status in Status]
        return [run.run_id, summary["state"], str(summary["pairs"]), *counts, f"{summary['seconds']:.0f}"]
    if not exists(run.manifest_uri):
        return [run.run_id, "never planned", "", *("" for _ in Status), ""]
    counted = Counter(read_results(run, ["status"])["status"].to_pylist())
    pairs = len(read_manifest(run))
    return [run.run_id, "unfinished", str(pairs), *(str(counted[status]) for status in Status), ""]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"

"""What a person at a terminal sees of an evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pyarrow as pa
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.evaluate import Evaluated, run_evaluation
from flows.fuse_archive import PlannedRun, RunSummary
from flows.terminal import SHOWN_PROBLEMS, TerminalProgress, TerminalWatcher, make_console, print_problems, tell_stop
from tasks.chunk import Progress
from tasks.current import history_batches
from tasks.evaluation.datasets import DataSet
from tasks.evaluation.evaluation import Evaluation
from tasks.evaluation.methods import Method
from tasks.evaluation.stretched import Twin
from tasks.evaluation.tables import ResultTable
from tasks.overview import PROBLEM_COLUMNS, overview
from tasks.plan import PlanCounts
from tasks.results import ReconcileError
from tasks.scratch import scratch_folder
from tasks.storage import StorageError


class TerminalEvaluationWatcher(TerminalWatcher):
    """Follows an evaluation on a console and keeps its outcome."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.outcome: Evaluated | None = None

    def evaluated(self, outcome: Evaluated) -> None:
        """Print the tables and where the files are."""
        self.outcome = outcome
        for table in outcome.tables:
            print_table(self.console, table)
        self.console.print()
        for file in outcome.files:
            self.console.print(escape(file))
        for sentence in outcome.left_out:
            self.console.print(f"left out: {escape(sentence)}")
        self.console.print(outcome.sentence())

    def evaluating(self, data_set: DataSet, method: Method) -> None:
        """Say which run comes next."""
        self.console.print(f"{data_set.name}, {escape(method.name)}")

    @contextmanager
    def measuring(self, twin: Twin) -> Iterator[Callable[[float], None]]:
        """Say which twin comes next and how many of its pictures are to measure, and follow the progress."""
        pending = len(twin.pending)
        self.console.print(f"{twin.data_set.name}, {escape(twin.name)}")
        told = f"{pending} of {len(twin.pictures)} pictures to measure" if pending else "all pictures are measured"
        self.console.print(f"  {told}")
        with TerminalProgress(self.console, pending, "measuring") as progress:
            yield progress.fused

    def measured(self, rows: pa.Table) -> None:
        """Say what became of the pictures, and which could not be measured."""
        seen = overview([rows], (), SHOWN_PROBLEMS)
        self.console.print(f"  {seen.rows} pictures: {seen.sentence()}")
        print_problems(self.console, seen, "not measured")

    def indexed(self, counts: PlanCounts) -> None:
        """Say what is to do; pairs of other evaluations are of no concern here."""
        to_fuse = counts.new + counts.changed + counts.outdated + counts.retried
        self.console.print(f"  {to_fuse} of {counts.found} pairs to fuse" if to_fuse else "  all pairs are settled")

    def begin(self, planned: PlannedRun) -> AbstractContextManager[Progress]:
        """Follow the progress; what is resumed is said."""
        if planned.resumed:
            self.console.print(f"  resumed: {planned.pending} of {planned.pairs} pairs are left")
        return TerminalProgress(self.console, planned.pending)

    def finish(self, summary: RunSummary) -> None:
        """Say what became of the pairs, and which were not fused."""
        self.summaries.append(summary)
        self.console.print(f"  {summary.sentence()}; {summary.seconds:.0f} s")
        with scratch_folder() as scratch:
            rows = history_batches(summary.settings.run, scratch, PROBLEM_COLUMNS)
            print_problems(self.console, overview(rows, (), SHOWN_PROBLEMS))


def evaluate_on_terminal(evaluation: Evaluation, prefect: bool) -> int:
    """Run an evaluation and print its tables; returns the exit code of ``ddfm evaluate``.

    Raises:
        ConfigurationError: before any work.
    """
    console = make_console()
    watcher = TerminalEvaluationWatcher(console)
    began = time.monotonic()
    try:
        if prefect:
            from flows.prefect_flows import evaluate_as_flow

            evaluate_as_flow(evaluation, watcher)
        else:
            run_evaluation(evaluation, watcher)
    except (StorageError, ReconcileError, RuntimeError) as error:
        return tell_stop("evaluation", error)
    console.print(f"{time.monotonic() - began:.0f} s")
    outcome = watcher.outcome
    if outcome is None or outcome.failed:
        return 3
    return 0 if outcome.clean else 1


def print_table(console: Console, table: ResultTable) -> None:
    """One table with the sources of its published rows; its notes are in tables.md."""
    shown = Table(title=table.title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    shown.add_column("")
    for column in table.columns:
        shown.add_column(column, justify="right")
    for row in table.rows:
        cells = [f"[bold]{cell}[/bold]" if place in row.best else cell for place, cell in enumerate(row.cells)]
        label = row.label if row.source is None else f"{row.label} ({row.source})"
        shown.add_row(escape(label), *cells, style=None if row.source is None else "dim")
    console.print()
    console.print(shown)
    for number, source in enumerate(table.sources, start=1):
        console.print(f"({number}) {escape(source)}", style="dim")

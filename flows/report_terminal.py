"""What a person at a terminal sees of a report."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from flows.places import use_places
from flows.report import alarms, write_report
from flows.terminal import make_console
from tasks.report.page import figure, rate_in_words
from tasks.report.request import ReportRequest


def report_on_terminal(request: ReportRequest) -> int:
    """``ddfm report``: 0 when nothing stands out, 1 when the run drifted or too many of its pairs failed.

    Raises:
        ConfigurationError: there is no such run.
        StorageError: it cannot be read, or the page not be written.
    """
    console = make_console()
    use_places(request.places)
    report = write_report(request)
    console.print(report.sentence())
    if report.shifts:
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("metric")
        for column in ("median", "before", "shift, SD", "z"):
            table.add_column(column, justify="right")
        for name, one in report.shifts.items():
            cells = figure(one.median), figure(one.median_before), f"{one.shift:+.1f}", f"{one.z:+.1f}"
            table.add_row(name, *cells, style="bold" if one.drifted else None)
        console.print(table)
    elif report.figures.metrics:
        medians = (f"{name} {figure(one.median)}" for name, one in report.figures.metrics.items())
        console.print("medians: " + "  ".join(medians))
        console.print("there is no run before it to compare with")
    console.print(f"rate      {rate_in_words(report)}")
    console.print(f"page      {escape(report.uri)}")
    return 1 if alarms(report) else 0

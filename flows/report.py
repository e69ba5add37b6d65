"""Report a run: choose it, read its rows once, compare it with the run before, show its outliers, write the page.

:func:`write_report` is the plain sequence; ``flows.prefect_flows`` runs it as a Prefect flow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tasks.current import history_batches
from tasks.report.drift import earlier_run, shifts
from tasks.report.figures import FIGURE_COLUMNS, run_figures
from tasks.report.outliers import find_outliers
from tasks.report.page import render_page
from tasks.report.pictures import show_pairs
from tasks.report.request import ReportRequest
from tasks.report.run_report import RunReport, choose_run, destination_name, run_outcome, run_versions
from tasks.report.told import note_told, told_events
from tasks.scratch import scratch_folder
from tasks.settings import read_settings
from tasks.storage import write_atomic

DRIFTED: Final = "ddfm.run.drifted"
FAILED_SHARE_EXCEEDED: Final = "ddfm.run.failed-share-exceeded"


@dataclass(frozen=True)
class Alarm:
    """Something about a run that somebody should hear of; no path and no key is in it.

    Attributes:
        event: ``DRIFTED`` or ``FAILED_SHARE_EXCEEDED``.
        resource: labels of what it is about: the destination under a name that does not tell where it is.
        payload: the figures.
    """

    event: str
    resource: dict[str, str]
    payload: dict[str, object]


def write_report(request: ReportRequest, check: Callable[[], None] = lambda: None) -> RunReport:
    """Write the page of a run.

    Args:
        request: which run; its places are configured.
        check: called between the steps; what it raises ends the work, and nothing is written.

    Raises:
        ConfigurationError: there is no such run.
        StorageError: it cannot be read, or the page not be written.
    """
    run = choose_run(request)
    settings = read_settings(run)
    package_version, algorithm_version = run_versions(run)
    with scratch_folder() as scratch:
        figures = run_figures(history_batches(run, scratch, FIGURE_COLUMNS), request.pictures)
        check()
        earlier = earlier_run(run, settings.job.method_name, scratch)
        check()
        outliers = find_outliers(run, figures.metrics, figures.ends, scratch)
        report = RunReport(
            settings=settings,
            package_version=package_version,
            algorithm_version=algorithm_version,
            outcome=run_outcome(run),
            figures=figures,
            earlier=earlier,
            shifts=shifts(earlier.metrics, figures.metrics) if earlier is not None else {},
            shown=tuple(show_pairs(outliers, settings, check)),
        )
    check()
    write_atomic(report.uri, render_page(report, datetime.now(UTC)))
    return report


def alarms(report: RunReport) -> list[Alarm]:
    """What somebody should hear of; of a run that is not finished nothing, its figures are not final."""
    if report.outcome.state == "unfinished":
        return []
    run, method = report.run, report.settings.job.method_name
    resource = {
        "prefect.resource.id": destination_name(run.dest),
        "ddfm.run-id": run.run_id,
        "ddfm.method": method,
    }
    about: dict[str, object] = {"run_id": run.run_id, "method": method, "page": report.relative}
    found = []
    if report.drifted:
        moved = {name: round(max(-1e6, min(1e6, report.shifts[name].shift)), 3) for name in report.drifted}
        found.append(Alarm(DRIFTED, resource, about | {"shifts": moved, "settings_changed": report.settings_changed}))
    if report.failed:
        statuses = {str(status): count for status, count in report.figures.overview.statuses.items()}
        found.append(Alarm(FAILED_SHARE_EXCEEDED, resource, about | {"statuses": statuses}))
    return found


def tell_once(report: RunReport, tell: Callable[[Alarm], object]) -> None:
    """Tell those alarms that no report of this run has told before.

    A night without new pairs has no run of its own, and reports the one before it again.

    Raises:
        StorageError: what was told cannot be read or written.
    """
    told = told_events(report.run)
    for alarm in alarms(report):
        if alarm.event not in told:
            tell(alarm)
            note_told(report.run, [alarm.event])

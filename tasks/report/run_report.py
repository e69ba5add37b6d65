"""Everything that a report says of one run, before it is a page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.codes import ConfigurationError, Status
from tasks.manifest import chunk_sizes
from tasks.report.drift import EarlierRun, Shift
from tasks.report.figures import RunFigures
from tasks.report.pictures import ShownPair
from tasks.report.request import ReportRequest
from tasks.run_folder import RunFolder, list_runs, run_method
from tasks.settings import RunSettings
from tasks.storage import OWN_FOLDER, absolute, exists, join, read_needed


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended.

    Attributes:
        state: completed, failed (a larger share of its pairs failed than its job allows) or unfinished.
        planned: pairs of its plan.
        seconds: of the process that finished it, None for an unfinished run.
        resumed: whether that process went on with what another had begun.
    """

    state: str
    planned: int
    seconds: float | None
    resumed: bool


@dataclass(frozen=True, eq=False)
class RunReport:
    """What a report says.

    Attributes:
        package_version: of the program that made the run, like ``algorithm_version``.
        earlier: the run that this one is compared with, None without one.
        shifts: by metric, against the earlier run; empty without one or where either has too few pairs.
        shown: pairs with pictures, the furthest from a median first.
        uri: of the page.
    """

    settings: RunSettings
    package_version: str
    algorithm_version: str
    outcome: RunOutcome
    figures: RunFigures
    earlier: EarlierRun | None
    shifts: Mapping[str, Shift]
    shown: tuple[ShownPair, ...]

    @property
    def run(self) -> RunFolder:
        """The run that it is about."""
        return self.settings.run

    @property
    def uri(self) -> str:
        """Of the page."""
        return join(self.run.report_uri, "index.html")

    @property
    def relative(self) -> str:
        """The page's path below the destination."""
        return f"{OWN_FOLDER}/runs/{self.run.run_id}/report/index.html"

    @property
    def drifted(self) -> tuple[str, ...]:
        """The metrics that drifted, the one that moved furthest first."""
        moved = {name: abs(one.shift) for name, one in self.shifts.items() if one.drifted}
        return tuple(sorted(moved, key=lambda name: (-moved[name], name)))

    @property
    def failed(self) -> bool:
        """Whether the run failed."""
        return self.outcome.state == "failed"

    @property
    def settings_changed(self) -> bool:
        """Whether the earlier run had settings under which other pictures come out, or none that can be read."""
        return self.earlier is not None and self.earlier.config_hash != self.settings.config_hash

    def sentence(self) -> str:
        """The run in one line."""
        counts = self.figures.overview.statuses
        told = ", ".join(f"{counts[status]} {status}" for status in Status if counts.get(status))
        drift = f"; drifted: {', '.join(self.drifted)}" if self.drifted else ""
        return f"run {self.run.run_id} {self.outcome.state}: {self.figures.overview.rows} rows: {told or 'none'}{drift}"


def choose_run(request: ReportRequest) -> RunFolder:
    """The run that a request is about.

    Raises:
        ConfigurationError: there is none.
        StorageError: the destination cannot be read.
    """
    runs = list_runs(absolute(request.out))
    if request.run_id is not None:
        named = next((run for run in runs if run.run_id == request.run_id and exists(run.manifest_uri)), None)
        if named is None:
            last = f"; the newest is {runs[-1].run_id}" if runs else ""
            raise ConfigurationError(f"run_id: {request.run_id} is no planned run of {request.out}{last}")
        return named
    for run in reversed(runs):
        if exists(run.manifest_uri) and request.method in (None, run_method(run)):
            return run
    of_method = f" of method {request.method}" if request.method else ""
    raise ConfigurationError(f"out: {request.out} has no planned run{of_method}; `ddfm fuse` makes one")


def run_outcome(run: RunFolder) -> RunOutcome:
    """How a run ended, or that it has not.

    Raises:
        StorageError: it cannot be read.
    """
    if not exists(run.summary_uri):
        return RunOutcome("unfinished", sum(count for _, count in chunk_sizes(run)), seconds=None, resumed=False)
    summary = json.loads(read_needed(run.summary_uri))
    return RunOutcome(summary["state"], summary["pairs"], summary["seconds"], summary["resumed"])


def run_versions(run: RunFolder) -> tuple[str, str]:
    """The package's and the algorithm's version of a run.

    Raises:
        StorageError: its configuration cannot be read.
    """
    content: dict[str, Any] = json.loads(read_needed(run.config_uri))
    return str(content["packages"]["ddfm-pipeline"]), str(content["algorithm_version"])


def destination_name(dest: str) -> str:
    """A name of a destination that does not tell where it is: the start of a hash of its path or URL."""
    return f"ddfm.destination.{hashlib.sha256(absolute(dest).encode()).hexdigest()[:16]}"

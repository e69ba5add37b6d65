"""The folder of a run: its names, its life, and where the tables of all runs lie.

``<dest>/_ddfm/runs/<run_id>/`` holds config.json, then manifest.parquet (with it the run exists, and it never
changes), then one results/<shard>-<chunk>.parquet per finished chunk, then summary.json (with it the run is finished).
Each is written whole or not at all, so that these names alone say how far a run is, after any kill.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tasks.storage import OWN_FOLDER, exists, join, list_names, read_needed, write_atomic

_ID_TIME: Final = "%Y%m%dT%H%M%S-%f"


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what it writes down.

    Attributes:
        dest: the destination's path or URL.
        run_id: names sort by the time at which the runs began.
    """

    dest: str
    run_id: str

    @property
    def uri(self) -> str:
        """The run's folder."""
        return join(self.dest, OWN_FOLDER, "runs", self.run_id)

    @property
    def began(self) -> datetime | None:
        """The time in its id, UTC; None for an id that has none."""
        with suppress(ValueError):
            return datetime.strptime(self.run_id[:22], _ID_TIME).replace(tzinfo=UTC)
        return None

    @property
    def config_uri(self) -> str:
        """The effective configuration, written first."""
        return join(self.uri, "config.json")

    @property
    def manifest_uri(self) -> str:
        """The plan; immutable, and with it the run exists."""
        return join(self.uri, "manifest.parquet")

    @property
    def results_uri(self) -> str:
        """The folder of the committed chunks."""
        return join(self.uri, "results")

    @property
    def attempts_uri(self) -> str:
        """The folder of start marks."""
        return join(self.uri, "attempts")

    @property
    def at_work_uri(self) -> str:
        """The folder of what says which process works on a shard. Not among the marks, which each shard lists."""
        return join(self.uri, "at-work")

    def chunk_uri(self, shard_id: str, chunk_id: str) -> str:
        """The rows of one chunk, its commit mark."""
        return join(self.results_uri, f"{shard_id}-{chunk_id}.parquet")

    def slices_uri(self, shard_id: str, chunk_id: str) -> str:
        """The rows of the slices of one chunk's volumes; absent where it has none."""
        return join(self.uri, "slices", f"{shard_id}-{chunk_id}.parquet")

    @property
    def summary_uri(self) -> str:
        """The outcome, written last: with it the run is finished."""
        return join(self.uri, "summary.json")

    @property
    def report_uri(self) -> str:
        """The folder of pages and plots."""
        return join(self.uri, "report")

    @property
    def plan_uri(self) -> str:
        """What the plan counted."""
        return join(self.uri, "plan.json")

    @property
    def vanished_uri(self) -> str:
        """Pairs with a row whose sources were gone when the run was planned; absent when there were none."""
        return join(self.uri, "vanished.parquet")

    @property
    def metrics_uri(self) -> str:
        """All rows of the run in one file, by key, beside those of the other runs."""
        return join(history_folder(self.dest), f"{self.run_id}.parquet")


def history_folder(dest: str) -> str:
    """The folder of the rows of all runs."""
    return join(dest, OWN_FOLDER, "metrics", "history")


def current_folder(dest: str) -> str:
    """The folder of the current rows, a file per method."""
    return join(dest, OWN_FOLDER, "metrics", "current")


def current_uri(dest: str, method: str) -> str:
    """The current row of each pair of a method, by key."""
    return join(current_folder(dest), f"{method}.parquet")


def new_run(dest: str, now: datetime | None = None) -> RunFolder:
    """A folder for a new run; nothing is written yet. Its id is the UTC time in microseconds and a random part."""
    now = (now or datetime.now(UTC)).astimezone(UTC)
    return RunFolder(dest, f"{now:{_ID_TIME}}-{secrets.token_hex(3)}")


def next_run(dest: str) -> RunFolder:
    """A new run whose id comes after those of all others, whatever the clocks of the machines that made them.

    Raises:
        StorageError: the destination cannot be read.
    """
    now = datetime.now(UTC)
    runs = list_runs(dest)
    if runs and runs[-1].run_id >= f"{now:{_ID_TIME}}" and (last := runs[-1].began) is not None:
        now = last + timedelta(microseconds=1)
    return new_run(dest, now)


def list_runs(dest: str) -> list[RunFolder]:
    """All runs of a destination, oldest first, whatever became of them.

    Raises:
        StorageError: the destination cannot be read.
    """
    return [RunFolder(dest, name) for name in list_names(join(dest, OWN_FOLDER, "runs"))]


def unfinished_run(dest: str, method: str | None = None) -> RunFolder | None:
    """The newest run, or the newest one of a method, when it has a plan but no summary.

    Older ones are passed over: a newer plan took account of what they committed, and rows that they gained
    now would look older than they are. A run killed before it had a plan is no run.

    Raises:
        StorageError: the destination cannot be read.
    """
    for run in reversed(list_runs(dest)):
        if exists(run.manifest_uri) and method in (None, run_method(run)):
            return None if exists(run.summary_uri) else run
    return None


def run_method(run: RunFolder) -> str | None:
    """The method of a run by its configuration, None when that does not say.

    Raises:
        StorageError: the configuration cannot be read.
    """
    if not exists(run.config_uri):
        return None
    try:
        job = json.loads(read_needed(run.config_uri))["job"]
        method = job["method"] or job["mode"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(method)


def finish_run(run: RunFolder, summary: Mapping[str, Any]) -> None:
    """Write summary.json; nothing of the run may be written after it.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(run.summary_uri, (json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())

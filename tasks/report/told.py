"""Which events a run was already the reason for, so that its report can be written again without a second alarm."""

from __future__ import annotations

import json
from collections.abc import Iterable

from tasks.run_folder import RunFolder
from tasks.storage import exists, join, read_needed, write_atomic


def told_events(run: RunFolder) -> frozenset[str]:
    """Names of the events that were emitted for a run.

    Raises:
        StorageError: they cannot be read.
    """
    uri = _uri(run)
    return frozenset(json.loads(read_needed(uri))) if exists(uri) else frozenset()


def note_told(run: RunFolder, events: Iterable[str]) -> None:
    """Add to them.

    Raises:
        StorageError: they cannot be read or written.
    """
    write_atomic(_uri(run), (json.dumps(sorted({*told_events(run), *events})) + "\n").encode())


def _uri(run: RunFolder) -> str:
    return join(run.report_uri, "told.json")

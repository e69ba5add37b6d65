"""How long pairs will take, by what the last runs of a destination took."""

from __future__ import annotations

import json
from typing import Final

from tasks.codes import Status
from tasks.run_folder import list_runs
from tasks.storage import exists, read_needed

_RUNS: Final = 3
"""Runs that an estimate is made from; older ones may have had another machine."""
_LOOKED_AT: Final = 20


def estimate_seconds(dest: str, pairs: int) -> float | None:
    """Seconds for fusing so many pairs, None when no finished run says.

    Only runs count that one process did from start to end; they are weighed by their pairs.

    Raises:
        StorageError: the destination cannot be read.
    """
    fused = seconds = runs = 0.0
    for run in list_runs(dest)[: -_LOOKED_AT - 1 : -1]:
        if not exists(run.summary_uri):
            continue
        summary = json.loads(read_needed(run.summary_uri))
        count = summary["statuses"][Status.OK]
        if count and not summary["resumed"]:
            fused += count
            seconds += summary["seconds"]
            runs += 1
        if runs == _RUNS:
            break
    return pairs * seconds / fused if fused else None

"""How long pairs take, by what the last runs of a destination took, and how many make a shard of minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tasks.codes import Status
from tasks.job import Job
from tasks.run_folder import list_runs
from tasks.settings import RunSettings
from tasks.storage import exists, read_needed

SHARD_S: Final = 600.0
"""What a dispatched shard should take: its start costs some ten seconds, its death no more than its last chunks."""

FIRST_PAIRS: Final = 256
FIRST_VOLUMES: Final = 8
"""A shard where nothing was measured yet: minutes at a pair a second, which is between a CPU's rate and a GPU's."""

MOST_PAIRS: Final = 65536

LOCAL_PAIRS: Final = 2048
LOCAL_VOLUMES: Final = 16
"""A shard that is not dispatched: its size only says how much of a plan is read at a time."""

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
    for summary in _summaries(dest):
        count = summary["statuses"][Status.OK]
        if count and not summary["resumed"]:
            fused += count
            seconds += summary["seconds"]
            runs += 1
        if runs == _RUNS:
            break
    return pairs * seconds / fused if fused else None


def shard_pairs(settings: RunSettings) -> int:
    """Pairs, or pairs of volumes, that make a shard of a new run: what the job says, or :data:`SHARD_S` of work.

    The rate is that of single flow runs of the same deployment under the same settings.

    Raises:
        StorageError: the destination cannot be read.
    """
    job = settings.job
    asked = job.volumes.shard_volumes if job.of_volumes else job.shard_pairs
    if asked is not None:
        return asked
    if job.deployment is None:
        return LOCAL_VOLUMES if job.of_volumes else LOCAL_PAIRS
    rates: list[float] = [
        summary["shard_rate"]["pairs_per_second"]
        for summary in _summaries(settings.run.dest)
        if summary.get("shard_rate", {}).get("made_with") == _made_with(job, settings.config_hash)
    ][:_RUNS]
    if not rates:
        return FIRST_VOLUMES if job.of_volumes else FIRST_PAIRS
    pairs = min(sorted(rates)[len(rates) // 2] * SHARD_S, MOST_PAIRS)
    # Whole chunks: a rest would be a chunk with small batches.
    return max(1, round(pairs / settings.chunk_pairs)) * settings.chunk_pairs


def shard_rate(settings: RunSettings, pairs_per_second: float) -> dict[str, object]:
    """What the summary of a run keeps for :func:`shard_pairs` of later ones."""
    return {
        "pairs_per_second": round(pairs_per_second, 4),
        "made_with": _made_with(settings.job, settings.config_hash),
    }


def _made_with(job: Job, config_hash: str) -> str:
    return f"{job.deployment} {config_hash}"


def _summaries(dest: str) -> Iterator[Mapping[str, Any]]:
    """Of the last finished runs, newest first."""
    for run in list_runs(dest)[: -_LOOKED_AT - 1 : -1]:
        if exists(run.summary_uri):
            yield json.loads(read_needed(run.summary_uri))

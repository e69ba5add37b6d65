"""How long pairs take, by what the last runs of a destination took, and how many make a shard of minutes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tasks.codes import Status
from tasks.run_folder import list_runs
from tasks.settings import RunSettings
from tasks.storage import exists, read_needed

SHARD_S: Final = 600.0
"""What a dispatched shard should take: its start costs some ten seconds, its death no more than its last chunks."""

FIRST_PAIRS: Final = 256
FIRST_VOLUMES: Final = 8
"""A shard where nothing was measured yet: minutes at a pair a second, which is between a CPU's rate and a GPU's."""

MOST_PAIRS: Final = 65536

_SURE: Final = 8
"""Times a first shard, which is the largest that the rate of another machine makes."""

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

    The rate is that of single flow runs of the same deployment under the same settings; where there are none yet, that
    of runs under them which no deployment had part in.

    Raises:
        StorageError: the destination cannot be read.
    """
    job = settings.job
    asked = job.volumes.shard_volumes if job.of_volumes else job.shard_pairs
    if asked is not None:
        return asked
    if job.deployment is None:
        return LOCAL_VOLUMES if job.of_volumes else LOCAL_PAIRS
    guess = FIRST_VOLUMES if job.of_volumes else FIRST_PAIRS
    measured = [summary["shard_rate"] for summary in _summaries(settings.run.dest) if "shard_rate" in summary]
    if (rate := _rate(measured, _made_with(job.deployment, settings.config_hash))) is not None:
        pairs = min(rate * SHARD_S, MOST_PAIRS)
    elif (rate := _rate(measured, _made_with(None, settings.config_hash))) is not None:
        # Another machine may be a hundred times slower or faster, but so may pictures, steps and prior make the work,
        # and these are the same. Not without bounds: what is one shard cannot be shared by several workers.
        pairs = min(rate * SHARD_S, _SURE * guess)
    else:
        return guess
    # Whole chunks: a rest would be a chunk with small batches.
    return max(1, round(pairs / settings.chunk_pairs)) * settings.chunk_pairs


def _rate(measured: Sequence[Mapping[str, Any]], made_with: str) -> float | None:
    """Pairs per second: the middle one of the last few."""
    rates = sorted([float(one["pairs_per_second"]) for one in measured if one["made_with"] == made_with][:_RUNS])
    return rates[len(rates) // 2] if rates else None


def shard_rate(settings: RunSettings, pairs_per_second: float) -> dict[str, object]:
    """What the summary of a run keeps for :func:`shard_pairs` of later ones.

    Args:
        settings: of the run.
        pairs_per_second: of one flow run of a shard; of the whole run where there was no deployment.
    """
    return {
        "pairs_per_second": round(pairs_per_second, 4),
        "made_with": _made_with(settings.job.deployment, settings.config_hash),
    }


def _made_with(deployment: str | None, config_hash: str) -> str:
    return f"{deployment} {config_hash}"


def _summaries(dest: str) -> Iterator[Mapping[str, Any]]:
    """Of the last finished runs, newest first."""
    for run in list_runs(dest)[: -_LOOKED_AT - 1 : -1]:
        if exists(run.summary_uri):
            yield json.loads(read_needed(run.summary_uri))

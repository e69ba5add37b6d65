"""Decide which pairs of an archive need work, by comparing its index with the rows of earlier runs.

Both come by key and are read side by side, so that a plan of any size takes the memory of a few thousand pairs.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.codes import Code, PairError, Status
from tasks.index import Index
from tasks.manifest import DRAFT_SCHEMA, Manifest, ManifestDraft
from tasks.ordered import aligned, ascending
from tasks.run_folder import RunFolder
from tasks.schemas import PLAN_COLUMNS, RESULT_SCHEMA, VANISHED_SCHEMA
from tasks.storage import write_atomic, write_file
from tasks.tables import TableWriter

MAX_ATTEMPTS: Final = 3
"""Runs that try a pair whose rows say ``failed``."""

_WITHOUT_FUSION: Final = (
    Code.NOT_IMAGE, Code.NO_PARTNER, Code.AMBIGUOUS_PAIR, Code.MISSING_SOURCE, Code.NAME_UNUSABLE, Code.VANISHED,
    Code.OTHER_MODALITY, Code.PATIENT_MISMATCH,
)  # fmt: skip
"""Found by looking at names and headers; such a row settles nothing about the pair that may stand there now."""

Retry = Literal["rejected", "failed"]


@dataclass(frozen=True)
class Selection:
    """Which pairs a run is to look at. What it leaves out is neither settled nor vanished, only not planned.

    Attributes:
        retry: pairs to be looked at again although nothing changed: ``rejected`` ones, and ``failed`` ones beyond
            ``MAX_ATTEMPTS``, too.
        only: patterns in the style of a shell, of which a key must match one; "*" stands for "/" as well.
        limit: at most so many pairs to fuse, the first by key.
        since: pairs of which one source was modified at this time or later; with its time zone.
    """

    retry: frozenset[Retry] = frozenset()
    only: tuple[str, ...] = ()
    limit: int | None = None
    since: datetime | None = None


EVERYTHING: Final = Selection()


@dataclass(frozen=True)
class PlanCounts:
    """What a plan found; ``new``, ``changed``, ``outdated`` and ``retried`` together are the pairs to fuse.

    Attributes:
        found: rows of the index.
        new: pairs that have no row of a fusion.
        changed: pairs with another fingerprint than their row.
        outdated: pairs whose row is of other settings, another prior or another version of the algorithm.
        retried: pairs that failed before, or were rejected and are wanted again.
        settled: rows of the index that need no work.
        given_up: of the settled ones, how many failed ``MAX_ATTEMPTS`` times.
        unpaired: rows of the index that only have a code, settled or not.
        left_out: rows that need work and that the selection leaves out.
        vanished: pairs with a current row whose key is no longer in the archive.
    """

    found: int = 0
    new: int = 0
    changed: int = 0
    outdated: int = 0
    retried: int = 0
    settled: int = 0
    given_up: int = 0
    unpaired: int = 0
    left_out: int = 0
    vanished: int = 0

    def sentence(self) -> str:
        """What was found, in one line: `8 found: 2 new, 5 settled, 1 unpaired, 1 vanished`."""
        named = [(name.replace("_", " "), count) for name, count in self.as_dict().items() if name != "found" and count]
        return f"{self.found} found" + (": " + ", ".join(f"{count} {name}" for name, count in named) if named else "")

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


@dataclass(frozen=True)
class Plan:
    """Which pairs need work.

    Attributes:
        manifest: the rows to be made.
        counts: how it came to that.
        vanished: a local file of ``VANISHED_SCHEMA``; it has ``counts.vanished`` rows.
    """

    manifest: Manifest
    counts: PlanCounts
    vanished: Path


def plan(
    index: Index,
    current: Iterable[pa.Table],
    config_hash: str,
    *,
    chunk_pairs: int,
    shard_pairs: int,
    scratch: Path,
    selection: Selection = EVERYTHING,
    overwritten: Sequence[str] = (),
    just_ended: str = "",
) -> Plan:
    """Leave out what is settled, and deal the rest into shards and chunks, by key.

    A pair is settled by a row with its fingerprints and this ``config_hash`` that is ok, skipped, rejected or failed
    in its third attempt. A row that only has an index's code is settled by a row of the same code and fingerprints,
    under any configuration.

    Args:
        index: what the archive holds.
        current: the current rows of the destination and the job's method, by key, with ``PLAN_COLUMNS``.
        config_hash: of the job.
        chunk_pairs: pairs per chunk.
        shard_pairs: pairs per shard.
        scratch: a local folder for the plan.
        selection: what the run is to look at.
        overwritten: keys of pairs whose picture is not that of their row, which settles nothing then.
        just_ended: id of a run whose pairs that killed their process are left to a later plan.

    Raises:
        StorageError: the index or the current rows are not in the order of their keys, or one occurs twice.
    """
    counts: Counter[str] = Counter()
    chosen = _Chosen(selection)
    rows_before = ascending((table.select(list(PLAN_COLUMNS)) for table in current), "current rows")
    pairs_now = ascending(index.tables(), "index")
    vanished_path = scratch / "vanished.parquet"
    with ManifestDraft(scratch) as draft, TableWriter(vanished_path, VANISHED_SCHEMA) as vanished:
        for pairs, rows in aligned([pairs_now, rows_before]):
            rows = _NO_ROWS if rows is None else rows.combine_chunks()
            vanished.write(_gone(rows, pairs).select(VANISHED_SCHEMA.names).cast(VANISHED_SCHEMA))
            if pairs is None:
                continue
            keys = rows["pair_key"].combine_chunks()
            previous = rows.take(pc.index_in(pairs["pair_key"], value_set=keys))
            verdict = _judge(pairs, previous, config_hash, selection, overwritten, just_ended)
            wanted = ~verdict.settled & chosen.of(pairs)
            if selection.limit is not None:
                room = selection.limit - draft.to_fuse
                wanted &= verdict.coded | (np.cumsum(wanted & ~verdict.coded) <= room)
            _count(counts, verdict, wanted)
            draft.add(_draft(pairs.filter(pa.array(wanted)), verdict.attempt[wanted]))
    counts["vanished"] = vanished.rows
    return Plan(draft.deal(chunk_pairs, shard_pairs), PlanCounts(**counts), vanished_path)


def write_plan(run: RunFolder, planned: Plan) -> None:
    """Write what the plan counted, and which pairs vanished, beside the manifest; to be called before that is written.

    Raises:
        StorageError: they cannot be written.
    """
    if planned.counts.vanished:
        write_file(run.vanished_uri, planned.vanished)
    write_counts(run, planned.counts)


def write_counts(run: RunFolder, counts: PlanCounts) -> None:
    """Write what a plan counted.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(run.plan_uri, (json.dumps(counts.as_dict(), indent=2) + "\n").encode())


def vanished_rows(index: Index, current: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The current rows whose keys the index has no more, by key, without those that say so already.

    Raises:
        StorageError: as :func:`plan`.
    """
    for pairs, rows in aligned([ascending(index.tables(), "index"), ascending(current, "current rows")]):
        if rows is not None:
            yield _gone(rows, pairs)


_NO_ROWS: Final = RESULT_SCHEMA.empty_table().select(list(PLAN_COLUMNS))


def _gone(rows: pa.Table, pairs: pa.Table | None) -> pa.Table:
    if pairs is not None:
        rows = rows.filter(pc.invert(pc.is_in(rows["pair_key"], value_set=pairs["pair_key"])))
    return rows.filter(pa.array(~_is_any(rows["code"], (Code.VANISHED,))))


class _Chosen:
    """Which pairs a selection is about."""

    def __init__(self, selection: Selection) -> None:
        self._patterns = [re.compile(fnmatch.translate(pattern)) for pattern in selection.only]
        self._since = None if selection.since is None else selection.since.timestamp()

    def of(self, pairs: pa.Table) -> NDArray[np.bool_]:
        """One value per row."""
        chosen = np.ones(len(pairs), dtype=np.bool_)
        if self._since is not None:
            chosen &= pairs["modified"].to_numpy() >= self._since
        if self._patterns:
            keys = pairs["pair_key"].to_pylist()
            chosen &= [any(pattern.match(key) for pattern in self._patterns) for key in keys]
        return chosen


class _Verdict(NamedTuple):
    coded: NDArray[np.bool_]
    settled: NDArray[np.bool_]
    given_up: NDArray[np.bool_]
    new: NDArray[np.bool_]
    changed: NDArray[np.bool_]
    outdated: NDArray[np.bool_]
    attempt: NDArray[np.int32]


def _judge(
    pairs: pa.Table,
    previous: pa.Table,
    config_hash: str,
    selection: Selection,
    overwritten: Sequence[str],
    just_ended: str,
) -> _Verdict:
    """``previous`` has the row that each pair had before, of nulls where there is none."""
    coded = pc.is_valid(pairs["code"]).to_numpy()
    unfused = pc.is_null(previous["status"]).to_numpy() | _is_any(previous["code"], _WITHOUT_FUSION)
    same_files = _equal(pairs["first_fingerprint"], previous["first_fingerprint"])
    same_files &= _equal(pairs["second_fingerprint"], previous["second_fingerprint"])
    same_settings = _equal(previous["config_hash"], config_hash)
    same = same_files & np.where(coded, _equal(pairs["code"], previous["code"]), same_settings & ~unfused)
    attempts = pc.fill_null(previous["attempt"], 0).to_numpy()
    failed = same & _is_any(previous["status"], (Status.FAILED,))
    rejected = same & _is_any(previous["status"], (Status.REJECTED,))
    given_up = failed & (attempts >= MAX_ATTEMPTS) & ("failed" not in selection.retry)
    settled = given_up | (same & _is_any(previous["status"], (Status.OK, Status.SKIPPED)))
    # Tried again at once it would end this process, too, before the outcome is told.
    settled |= failed & _is_any(previous["code"], (Code.PROCESS_DIED,)) & _equal(previous["run_id"], just_ended)
    settled |= rejected & coded if "rejected" in selection.retry else rejected
    settled &= ~_is_any(pairs["pair_key"], overwritten)
    return _Verdict(
        coded,
        settled,
        given_up,
        new=~coded & unfused,
        changed=~coded & ~unfused & ~same_files,
        outdated=~coded & ~unfused & same_files & ~same_settings,
        attempt=np.where(failed, attempts + 1, 1).astype(np.int32),
    )


def _equal(column: Any, other: Any) -> NDArray[np.bool_]:
    """Element by element; nothing equals nothing."""
    if not isinstance(other, str):
        other = pc.fill_null(other, "")
    same: NDArray[np.bool_] = pc.equal(pc.fill_null(column, ""), other).to_numpy()
    return same


def _is_any(column: Any, values: Sequence[str]) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.is_in(
        column, value_set=pa.array([str(value) for value in values], pa.string())
    ).to_numpy()
    return found


def _count(counts: Counter[str], verdict: _Verdict, wanted: NDArray[np.bool_]) -> None:
    counts["found"] += len(wanted)
    counts["settled"] += int(verdict.settled.sum())
    counts["given_up"] += int(verdict.given_up.sum())
    counts["unpaired"] += int(verdict.coded.sum())
    counts["left_out"] += int((~verdict.settled & ~wanted).sum())
    to_fuse = wanted & ~verdict.coded
    for name in ("new", "changed", "outdated"):
        counts[name] += int((to_fuse & getattr(verdict, name)).sum())
    counts["retried"] += int((to_fuse & ~verdict.new & ~verdict.changed & ~verdict.outdated).sum())


def _draft(pairs: pa.Table, attempt: NDArray[np.int32]) -> pa.Table:
    codes, details = pairs["code"].to_pylist(), pairs["detail"].to_pylist()
    # The sentence that the row of a PairError has.
    messages = [
        "" if code is None else str(PairError(Code(code), detail)) for code, detail in zip(codes, details, strict=True)
    ]
    columns = {name: pairs[name] for name in DRAFT_SCHEMA.names if name not in ("message", "attempt")}
    columns |= {"message": pa.array(messages, pa.string()), "attempt": pa.array(attempt)}
    return pa.table([columns[name] for name in DRAFT_SCHEMA.names], schema=DRAFT_SCHEMA)

"""Remove the pictures of pairs whose sources are gone from the archive, and say so in their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import Code, ConfigurationError
from tasks.current import compact, current_batches
from tasks.index import Index
from tasks.job import Job
from tasks.manifest import ManifestDraft, draft_rows, manifest_batches, manifest_rows, write_manifest
from tasks.outputs import output_folder, output_relative, remove_outputs
from tasks.pair import RefusedPair, refused_row
from tasks.plan import PlanCounts, vanished_rows, write_counts
from tasks.results import commit_chunk, reconcile
from tasks.resume import waiting_run
from tasks.rows import ManifestRow, ResultRow
from tasks.run_folder import finish_run
from tasks.schemas import PLAN_COLUMNS, VANISHED_SCHEMA
from tasks.settings import RunSettings, write_settings
from tasks.storage import join
from tasks.tables import TableWriter, table_batches
from tasks.throughput import shard_pairs

_REMOVERS: Final = 16
_COLUMNS: Final = tuple(dict.fromkeys((*PLAN_COLUMNS, *VANISHED_SCHEMA.names, "first_uri", "second_uri")))


@dataclass(frozen=True)
class Pruning:
    """What is to be pruned.

    Attributes:
        path: a local file of ``VANISHED_SCHEMA``, by key; without a picture where a row has none.
        pairs: its rows.
        rows: current rows of the method, these included.
    """

    path: Path
    pairs: int
    rows: int


def vanished_outputs(dest: str, job: Job, index: Index, scratch: Path) -> Pruning:
    """The current rows of the job's method and sources whose keys the archive has no more; nothing is changed.

    Args:
        dest: the destination.
        job: whose method and sources. Rows of other folders under the same destination are not looked at; those of
            a table of pairs are all rows of its method.
        index: the archive, just now.
        scratch: a local folder for the list.

    Raises:
        ConfigurationError: the job selects a part of its archive.
        StorageError: the rows cannot be read.
    """
    if job.selects:
        raise ConfigurationError("only, limit, since: pruning compares a whole archive; leave them out")
    path = scratch / "vanished-outputs.parquet"
    seen = 0
    with TableWriter(path, VANISHED_SCHEMA) as writer:
        for rows in _rows_of_sources(dest, job, scratch):
            seen += len(rows) - pc.sum(pc.fill_null(pc.equal(rows["code"], Code.VANISHED), False)).as_py()
        for rows in vanished_rows(index, _rows_of_sources(dest, job, scratch)):
            writer.write(rows.select(VANISHED_SCHEMA.names).cast(VANISHED_SCHEMA))
    return Pruning(path, writer.rows, seen)


def _rows_of_sources(dest: str, job: Job, scratch: Path) -> Iterator[pa.Table]:
    """Rows without any file are nobody's; such a row never has a picture."""
    first, second = job.roots
    for rows in current_batches(dest, job.method_name, scratch, _COLUMNS):
        if first is None or second is None:
            yield rows
            continue
        is_first = pc.starts_with(rows["first_uri"], f"{first}/")
        is_second = pc.starts_with(rows["second_uri"], f"{second}/")
        yield rows.filter(pc.or_(pc.fill_null(is_first, False), pc.fill_null(is_second, False)))


def prune(settings: RunSettings, index: Index, scratch: Path, most_share: float, check: Callable[[], None]) -> Pruning:
    """Remove the pictures of vanished pairs, and write a run whose rows say so; their current rows are skipped then.

    The pictures go first: a process that is killed before the rows are written leaves pairs that are still vanished,
    and the next pruning begins again.

    Args:
        settings: of the run to write, with a new run folder; it is written only when there is something to prune.
        index: the archive, just now.
        scratch: a local folder.
        most_share: of the current rows, how many may vanish; more looks like an archive that is not mounted.
        check: called before pictures are removed and before each commit; what it raises ends the pruning.

    Raises:
        ConfigurationError: more would vanish, or another run waits to be resumed.
        StorageError: a picture cannot be removed, or the run not be written.
    """
    run, job = settings.run, settings.job
    waiting = waiting_run(run.dest, job.method_name)
    if waiting is not None:
        raise ConfigurationError(f"run {waiting.run_id} is not finished; run `ddfm fuse` to finish it, then prune")
    pruning = vanished_outputs(run.dest, job, index, scratch)
    if pruning.pairs > most_share * pruning.rows:
        raise ConfigurationError(
            f"{pruning.pairs} of {pruning.rows} pairs are gone from the archive, more than a share of {most_share:g}; "
            "check that it is mounted and whole, or allow a larger share"
        )
    if not pruning.pairs:
        return pruning
    check()
    _remove_outputs(run.dest, job.method_name, pruning.path)
    with ManifestDraft(scratch) as draft:
        for rows in vanished_rows(index, _rows_of_sources(run.dest, job, scratch)):
            draft.add(draft_rows(rows, Code.VANISHED))
    manifest = draft.deal(settings.chunk_pairs, shard_pairs(settings))
    write_settings(settings)
    write_counts(run, PlanCounts(found=index.rows, vanished=pruning.pairs))
    write_manifest(run, manifest.path)
    for (shard_id, chunk_id), members in groupby(_plan_rows(settings), key=lambda row: (row.shard_id, row.chunk_id)):
        check()
        commit_chunk(run, shard_id, chunk_id, [_row(member, settings) for member in members])
    reconciliation = reconcile(run)
    compact(run, job.method_name)
    finish_run(
        run,
        {
            "run_id": run.run_id,
            "state": "completed",
            "pairs": reconciliation.pairs,
            "statuses": dict(reconciliation.statuses),
            "codes": dict(reconciliation.codes),
            "resumed": False,
            "seconds": 0.0,
        },
    )
    return pruning


def _remove_outputs(dest: str, method: str, path: Path) -> None:
    folder = output_folder(dest, method)
    with ThreadPoolExecutor(_REMOVERS) as pool:
        for table in table_batches(path, VANISHED_SCHEMA):
            uris = table["output_uri"].drop_null().to_pylist()
            for _ in pool.map(lambda uri: remove_outputs(join(folder, output_relative(dest, method, uri))), uris):
                pass


def _plan_rows(settings: RunSettings) -> Iterator[ManifestRow]:
    for table in manifest_batches(settings.run):
        yield from manifest_rows(table)


def _row(member: ManifestRow, settings: RunSettings) -> ResultRow:
    return refused_row(RefusedPair(member, Code.VANISHED, member.message), settings, device="")

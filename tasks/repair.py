"""Plan anew the pairs of a destination whose pictures are broken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import ConfigurationError
from tasks.current import current_batches
from tasks.manifest import ManifestDraft, draft_rows, write_manifest
from tasks.ordered import aligned
from tasks.plan import PlanCounts, write_counts
from tasks.private_repair import gather_sources, settings_by_run
from tasks.private_sources import write_sources
from tasks.resume import waiting_run
from tasks.run_folder import RunFolder, next_run
from tasks.schemas import BROKEN_SCHEMA, PRIVATE_SCHEMA, RESULT_SCHEMA
from tasks.scratch import insert_rows, open_database
from tasks.settings import RunSettings, read_settings, write_settings
from tasks.tables import ROWS, TableWriter, table_batches
from tasks.throughput import shard_pairs
from tasks.verify import Fault


@dataclass(frozen=True)
class Repair:
    """What a repair came to.

    Attributes:
        run: planned and not begun, there to be resumed; None when no pair can be fused again.
        pairs: those that it will fuse.
        left: broken pairs that were fused with older settings than the newest; a plan finds them by itself.
        lost: broken pairs of the newest settings whose files are not known any more, because the private table of
            their run is gone; no plan finds them, as their rows look settled.
    """

    run: RunFolder | None
    pairs: int
    left: int
    lost: int = 0


def write_repair_run(dest: str, method: str, broken: Path, scratch: Path) -> Repair | None:
    """Plan the pairs whose pictures are missing or different, under the settings that they were fused with.

    The next ``ddfm fuse`` with the same job resumes this run. Missing rows need none: a plan finds their pairs.

    Args:
        dest: the destination.
        method: whose pairs.
        broken: the list that :func:`tasks.verify.verify_rows` wrote.
        scratch: a local folder.

    Returns:
        None when no picture of the method is missing or different.

    Raises:
        ConfigurationError: another run waits to be resumed, or the settings of the pairs cannot be read.
        StorageError: a table cannot be read, or the run not be written.
    """
    waiting = waiting_run(dest, method)
    if waiting is not None:
        raise ConfigurationError(f"run {waiting.run_id} is not finished; run `ddfm fuse` to finish it, then repair")
    newest_run = _newest_run_of(dest, method, broken, scratch)
    if newest_run is None:
        return None
    settings = read_settings(RunFolder(dest, newest_run))
    wanted, sources = scratch / "to-repair.parquet", scratch / "sources-to-repair.parquet"
    left = 0
    with TableWriter(wanted, _REPAIR_SCHEMA) as writer:
        for rows in _broken_rows(dest, method, broken, scratch):
            same = rows.filter(pc.equal(rows["config_hash"], settings.config_hash))
            left += len(rows) - len(same)
            writer.write(same.cast(_REPAIR_SCHEMA))
    runs = settings_by_run(dest, wanted, _REPAIR_SCHEMA)
    private = settings.job.has_private_table
    if private:
        gather_sources(runs, wanted, _REPAIR_SCHEMA, sources)
    with ManifestDraft(scratch) as draft:
        for rows in _with_sources(wanted, sources) if private else _with_clear_uris(wanted, runs):
            draft.add(draft_rows(rows))
    manifest = draft.deal(settings.chunk_pairs, shard_pairs(settings))
    lost = writer.rows - manifest.rows
    if not manifest.rows:
        return Repair(None, 0, left, lost)
    repair = replace(settings, run=next_run(dest))
    write_settings(repair)
    write_counts(repair.run, PlanCounts(found=writer.rows + left, retried=manifest.rows, left_out=left + lost))
    if private:
        write_sources(repair, sources, manifest.path, scratch)
    write_manifest(repair.run, manifest.path)
    return Repair(repair.run, manifest.rows, left, lost)


_REPAIR_COLUMNS: Final = (
    "pair_key",
    "run_id",
    "config_hash",
    "first_uri",
    "second_uri",
    "first_fingerprint",
    "second_fingerprint",
)
_REPAIR_SCHEMA: Final = pa.schema([RESULT_SCHEMA.field(name) for name in _REPAIR_COLUMNS], RESULT_SCHEMA.metadata)


def _with_sources(wanted: Path, sources: Path) -> Iterator[pa.Table]:
    """The rows whose files are known by the sources."""
    keys = table_batches(sources, PRIVATE_SCHEMA, ["pair_key"])
    for rows, known in aligned([table_batches(wanted, _REPAIR_SCHEMA), keys]):
        if rows is not None and known is not None:
            yield rows.filter(pc.is_in(rows["pair_key"], value_set=known["pair_key"].combine_chunks()))


def _with_clear_uris(wanted: Path, runs: Mapping[str, RunSettings | None]) -> Iterator[pa.Table]:
    """The rows whose URIs are no pseudonyms."""
    clear = [run_id for run_id, one in runs.items() if one is None or not one.job.has_private_table]
    for rows in table_batches(wanted, _REPAIR_SCHEMA):
        yield rows.filter(pc.is_in(rows["run_id"], value_set=pa.array(clear, pa.string())))


def _newest_run_of(dest: str, method: str, broken: Path, scratch: Path) -> str | None:
    ids = (pc.max(rows["run_id"]).as_py() for rows in _broken_rows(dest, method, broken, scratch))
    return max(ids, default=None)


def _broken_rows(dest: str, method: str, broken: Path, scratch: Path) -> Iterator[pa.Table]:
    """The current rows of pairs whose picture is to be made again."""
    wanted = pa.array([Fault.MISSING_OUTPUT, Fault.DIFFERENT_OUTPUT], pa.string())
    with open_database(scratch) as database:
        database.execute("CREATE TABLE keys (pair_key VARCHAR)")
        for table in table_batches(broken, BROKEN_SCHEMA):
            is_wanted = pc.and_(pc.equal(table["method"], method), pc.is_in(table["fault"], value_set=wanted))
            insert_rows(database, "keys", table.filter(is_wanted).select(["pair_key"]))
        keys = database.sql("SELECT DISTINCT pair_key FROM keys ORDER BY pair_key").to_arrow_reader(ROWS)
        in_order = (pa.Table.from_batches([batch]) for batch in keys)
        for some, rows in aligned([in_order, current_batches(dest, method, scratch, _REPAIR_COLUMNS)]):
            if some is not None and rows is not None:
                hit = rows.filter(pc.is_in(rows["pair_key"], value_set=some["pair_key"]))
                if len(hit):
                    yield hit

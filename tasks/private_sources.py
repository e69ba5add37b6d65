"""The private table of a run: where the files of its pairs lie. It alone leads from a key to clear names.

``<private>/<run_id>.parquet``, by key, with a row for each of the plan; written before the plan, never changed, and
only where keys or URIs of the plan do not say it themselves: in strict privacy, and for volumes, which may have
hundreds of files. Access to its folder is the owner's to restrict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.local_copy import nameless_copy
from tasks.ordered import KEY, aligned, ascending
from tasks.rows import ManifestRow, SourceRow
from tasks.schemas import MANIFEST_SCHEMA, PRIVATE_SCHEMA
from tasks.scratch import scratch_errors
from tasks.settings import RunSettings
from tasks.storage import StorageError, write_file
from tasks.tables import ROWS, TableWriter, open_table, table_batches

_GROUP_BYTES: Final = 2 * 2**20
"""Of a row group in memory, about: all that is decoded for a chunk of one pair."""
_GROUPS: Final = 4096
"""At most: a reader looks at what the file tells of each."""
_LEAST_ROWS: Final = 16
_ADVICE: Final = "restore the run's private table, or begin a new run"


def write_sources(settings: RunSettings, sources: Path, manifest: Path, scratch: Path) -> None:
    """Write the rows that a plan needs.

    Args:
        settings: of the run.
        sources: a local file of ``PRIVATE_SCHEMA`` for the whole index, by key.
        manifest: a local file of ``MANIFEST_SCHEMA``, a plan of that index.
        scratch: a local folder.

    Raises:
        StorageError: the table or scratch cannot be written, or the sources are not those of the plan.
    """
    path = scratch / "private.parquet"
    with scratch_errors(scratch), TableWriter(path, PRIVATE_SCHEMA, rows=_group_rows(sources)) as writer:
        for rows in _planned(sources, manifest):
            writer.write(rows)
    write_private(settings.private_uri, path)
    path.unlink()


def write_private(uri: str, path: Path) -> None:
    """Write a local file that names persons to the private folder of a destination.

    In a local place nobody but the owner can read it; a folder made for it is closed to others, too.

    Raises:
        StorageError: it cannot be written.
    """
    write_file(uri, path, owner_only=True)


def _planned(sources: Path, manifest: Path) -> Iterator[pa.Table]:
    """The sources of the plan's pairs, by key."""
    found = ascending(table_batches(sources, PRIVATE_SCHEMA), "private sources")
    for rows, *planned in aligned([found, _keys(manifest, coded=False), _keys(manifest, coded=True)]):
        keys = pa.concat_tables([part for part in planned if part is not None] or [_NO_KEYS])[KEY]
        wanted = _NO_SOURCES if rows is None else rows.filter(pc.is_in(rows[KEY], value_set=keys.combine_chunks()))
        if len(wanted) != len(keys):
            problem = f"the index has no sources for {len(keys) - len(wanted)} pairs of the plan"
            raise StorageError("private sources", problem, "please report it")
        yield wanted


_NO_KEYS: Final = pa.table({KEY: pa.array([], pa.string())}, schema=pa.schema([MANIFEST_SCHEMA.field(KEY)]))
_NO_SOURCES: Final = PRIVATE_SCHEMA.empty_table()


def _keys(manifest: Path, *, coded: bool) -> Iterator[pa.Table]:
    """Of the pairs to fuse, or of the rows that only have a code: a plan has both by key, one behind the other."""
    yield from ascending(_halves(manifest, coded), "plan")


def _halves(manifest: Path, coded: bool) -> Iterator[pa.Table]:
    for table in table_batches(manifest, MANIFEST_SCHEMA, [KEY, "code"]):
        is_coded = pc.is_valid(table["code"])
        yield table.filter(is_coded if coded else pc.invert(is_coded)).select([KEY]).cast(_NO_KEYS.schema)


def _group_rows(sources: Path) -> int:
    """Rows of a row group, by how long these are."""
    with open_table(sources, PRIVATE_SCHEMA) as file:
        rows: int = max(1, file.metadata.num_rows)
        size: int = sum(file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
    group_bytes = max(_GROUP_BYTES, size // _GROUPS)
    return min(ROWS, max(_LEAST_ROWS, group_bytes * rows // max(1, size)))


def locate(settings: RunSettings, rows: Sequence[ManifestRow]) -> dict[str, SourceRow]:
    """Where the files of these rows of a plan lie, by key.

    Raises:
        StorageError: the run's private table cannot be read, or lacks one of them.
    """
    if not settings.job.has_private_table:
        return {row.pair_key: _plain(row) for row in rows}
    wanted = sorted({row.pair_key for row in rows})
    keys = pa.array(wanted, pa.string())
    found: dict[str, SourceRow] = {}
    with open_table(nameless_copy(settings.private_uri, _ADVICE), PRIVATE_SCHEMA, settings.private_uri) as file:
        for number in range(file.num_row_groups):
            bounds = file.metadata.row_group(number).column(0).statistics
            if bounds is not None and bounds.has_min_max and not _may_hold(bounds.min, bounds.max, wanted):
                continue
            table = file.read_row_group(number, use_threads=False)
            for row in table.filter(pc.is_in(table["pair_key"], value_set=keys)).to_pylist():
                found[row["pair_key"]] = SourceRow(
                    **row | {name: tuple(row[name] or ()) for name in ("first_uris", "second_uris")}
                )
    if found.keys() != set(wanted):
        raise StorageError(settings.private_uri, f"lacks {len(wanted) - len(found)} pairs of the plan", _ADVICE)
    return found


def _may_hold(low: str, high: str, wanted: Sequence[str]) -> bool:
    return any(low <= key <= high for key in wanted)


def _plain(row: ManifestRow) -> SourceRow:
    first, second = ((uri,) if uri else () for uri in (row.first_uri, row.second_uri))
    return SourceRow(
        pair_key=row.pair_key, first_uris=first, second_uris=second, first_kind="image", second_kind="image"
    )

"""Where the files of pairs lie that are to be fused again: taken from the private tables of the runs that made them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tasks.codes import ConfigurationError
from tasks.local_copy import nameless_copy
from tasks.ordered import KEY, aligned, ascending, newest
from tasks.run_folder import RunFolder
from tasks.schemas import PRIVATE_SCHEMA
from tasks.settings import RunSettings, read_settings
from tasks.storage import exists
from tasks.tables import TableWriter, table_batches

_ROWS: Final = 512
"""Rows gathered in memory: each may name hundreds of files."""


def settings_by_run(dest: str, rows: Path, schema: pa.Schema) -> dict[str, RunSettings | None]:
    """The settings of each run that made one of the rows, None where they are gone or cannot be used.

    Args:
        dest: the destination.
        rows: a local file with the column ``run_id``.
        schema: of this file.

    Raises:
        StorageError: a configuration cannot be read.
    """
    ids: set[str] = set()
    for table in table_batches(rows, schema, ["run_id"]):
        ids.update(table["run_id"].unique().to_pylist())
    return {run_id: _settings(RunFolder(dest, run_id)) for run_id in sorted(ids)}


def _settings(run: RunFolder) -> RunSettings | None:
    if not exists(run.config_uri):
        return None
    try:
        return read_settings(run)
    except ConfigurationError:
        return None


def gather_sources(runs: dict[str, RunSettings | None], rows: Path, schema: pa.Schema, path: Path) -> None:
    """Write the private rows of pairs, each from the private table of its row's run; those of a lost table are absent.

    Args:
        runs: what :func:`settings_by_run` found.
        rows: a local file of the pairs' rows by key, with the columns ``pair_key`` and ``run_id``.
        schema: of this file.
        path: a local file of ``PRIVATE_SCHEMA`` to be made, by key. It names persons.

    Raises:
        StorageError: a private table is there and cannot be read.
    """
    streams = [
        _sources(settings, rows, schema)
        for settings in runs.values()
        if settings is not None and settings.job.has_private_table and exists(settings.private_uri)
    ]
    with TableWriter(path, PRIVATE_SCHEMA, rows=_ROWS) as writer:
        for table in newest(streams):
            writer.write(table)


def _sources(settings: RunSettings, rows: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    """From the private table of one run, the rows of the pairs that this run made."""
    uri = settings.private_uri
    private = ascending(table_batches(nameless_copy(uri, "restore it"), PRIVATE_SCHEMA, uri=uri), uri)
    for wanted, found in aligned([_rows_of(settings.run, rows, schema), private]):
        if wanted is not None and found is not None:
            yield found.filter(pc.is_in(found[KEY], value_set=wanted[KEY].combine_chunks()))


def _rows_of(run: RunFolder, rows: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    for table in table_batches(rows, schema, [KEY, "run_id"]):
        yield table.filter(pc.equal(table["run_id"], run.run_id))

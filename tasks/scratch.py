"""Local scratch space of one job, and a database in it that sorts and joins more than memory holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

_LEAST_BYTES: Final = 96 * 2**20
_SHARE: Final = 6
"""A sort of names fails when memory is less than a tenth of them; measured up to eight million names."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder where the environment's TMPDIR says, gone after the block."""
    with tempfile.TemporaryDirectory(prefix="ddfm-") as folder:
        yield Path(folder)


@contextmanager
def open_database(scratch: Path, sorted_bytes: int = 0) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database of bounded memory below ``scratch``, gone after the block; nothing is ever downloaded.

    Args:
        scratch: a local folder; what memory does not hold is spilled there.
        sorted_bytes: size of what it is to sort. Its memory is 96 MiB, or a sixth of this if that is more.
    """
    with tempfile.TemporaryDirectory(prefix="database-", dir=scratch) as folder:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{max(_LEAST_BYTES, sorted_bytes // _SHARE) // 2**20}MiB",
            # A second thread would need as much memory again, and gains a second or two in a million pairs.
            "threads": 1,
            "temp_directory": f"{folder}/spilled",
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        with duckdb.connect(f"{folder}/scratch.duckdb", config=settings) as database:
            yield database


def view_tables(database: duckdb.DuckDBPyConnection, name: str, *paths: Path) -> None:
    """Give local Parquet files of one schema a name for queries; no path becomes part of a query's text."""
    database.read_parquet([str(path) for path in paths]).create_view(name)


def insert_rows(database: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    """Add rows to a table of the database; ``table`` is a name of the program's own."""
    database.register("rows", rows)
    database.execute(f"INSERT INTO {table} SELECT * FROM rows")  # noqa: S608 - no name from outside
    database.unregister("rows")

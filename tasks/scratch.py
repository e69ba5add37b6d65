"""Local scratch space of one job, and a database in it that sorts and joins more than memory holds."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa

from tasks.lock_owner import LockOwner, is_dead, this_process
from tasks.storage import StorageError

_LEAST_BYTES: Final = 96 * 2**20
_SHARE: Final = 6
"""A sort of names fails when memory is less than a tenth of them; measured up to eight million names."""

_OWNED: Final = re.compile(
    r"ddfm-(?P<machine>[0-9a-f]{8})-(?P<boot>[0-9a-f-]*)-(?P<namespace>\d*)-(?P<pid>\d+)-(?P<started>\d*)-[^-]*"
)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder of the owner's where the environment's TMPDIR says, gone after the block.

    Folders that killed processes left are removed before the first of them: what lies in those may name persons.
    """
    _sweep_once(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=folder_prefix()) as folder:
        yield Path(folder)


def folder_prefix() -> str:
    """How the folders of this process below TMPDIR begin, so that :func:`sweep_scratch` can tell whose they are."""
    owner = this_process()
    namespace = re.sub(r"\D", "", owner.pid_namespace)
    started = str(owner.process_started) if owner.process_started >= 0 else ""
    return f"ddfm-{_machine(owner)}-{owner.boot_id}-{namespace}-{owner.pid}-{started}-"


@cache
def _sweep_once(parent: str) -> None:  # noqa: ARG001 - once per place: a run has dozens of scratch folders
    sweep_scratch()


def sweep_scratch() -> int:
    """Remove folders below TMPDIR that this user's dead processes left on this machine; how many that were."""
    parent = Path(tempfile.gettempdir())
    removed = 0
    with suppress(OSError):  # another sweep may be first, and what cannot be removed harms no job
        for path in parent.iterdir():
            with suppress(OSError):
                if _is_left_behind(path.name) and path.lstat().st_uid == os.getuid() and path.is_dir():
                    shutil.rmtree(path)
                    removed += 1
    return removed


@contextmanager
def scratch_errors(scratch: Path) -> Iterator[None]:
    """What the block cannot write to ``scratch``, or read back, leaves as a StorageError; files there name persons."""
    try:
        yield
    except (OSError, pa.ArrowException, duckdb.Error) as error:
        problem = f"its files cannot be written or read back ({type(error).__name__})"
        raise StorageError(str(scratch), problem, "make room where TMPDIR says, then run again") from None


def _is_left_behind(name: str) -> bool:
    told = _OWNED.fullmatch(name)
    if told is None or not told["started"]:
        return False
    here = this_process()
    # TMPDIR may be shared by machines, which only know their own processes.
    if told["machine"] != _machine(here):
        return False
    return is_dead(
        LockOwner(
            id="",
            host=here.host,
            machine_id=here.machine_id,
            pid=int(told["pid"]),
            boot_id=told["boot"],
            pid_namespace=f"pid:[{told['namespace']}]",
            process_started=int(told["started"]),
        )
    )


def _machine(owner: LockOwner) -> str:
    return hashlib.sha256(f"{owner.host}\0{owner.machine_id}".encode()).hexdigest()[:8]


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

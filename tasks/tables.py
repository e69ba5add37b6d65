"""Parquet tables at any place: read in bounded memory and checked, written row group by row group and put whole.

Checksums find damage that still decodes; the schema's version finds tables of another program.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.codes import Code, PairError
from tasks.schemas import check_schema
from tasks.storage import StorageError, fetch_file, read_needed, write_atomic

ROWS: Final = 16384
"""Rows of a row group and of a piece in memory; small, so that a shard's reader decodes little beside its own."""


def fetch_needed(uri: str, folder: Path) -> Path:
    """A local file with the content of ``uri``: itself for a local place, else a copy in ``folder``.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    try:
        return fetch_file(uri, folder)
    except PairError as error:
        if error.code == Code.MISSING_SOURCE:
            raise StorageError(uri, "does not exist", "check the path, or restore the file") from error
        raise StorageError(uri, f"cannot be read ({error.detail})", "check access, then run again") from error


@contextmanager
def open_table(path: Path | pa.Buffer, schema: pa.Schema, uri: str | None = None) -> Iterator[pq.ParquetFile]:
    """A local table.

    Args:
        path: the file, or its content, which then needs a ``uri``.
        schema: what it must have.
        uri: what errors call it, when it was fetched from elsewhere.

    Raises:
        StorageError: it does not exist, is damaged or of another schema; also for what the block finds on reading.
    """
    name = uri or str(path)
    with _readable(name):
        if isinstance(path, Path) and not path.exists():
            raise StorageError(name, "does not exist", "restore the file, or run again")
        with pq.ParquetFile(
            path if isinstance(path, Path) else pa.BufferReader(path), page_checksum_verification=True
        ) as file:
            check_schema(file.schema_arrow, schema)
            yield file


def table_batches(
    path: Path | pa.Buffer, schema: pa.Schema, columns: Sequence[str] | None = None, uri: str | None = None
) -> Iterator[pa.Table]:
    """The rows of a local table, a row group at a time.

    Raises:
        StorageError: as :func:`open_table`.
    """
    names = None if columns is None else list(columns)
    with open_table(path, schema, uri) as file:
        # One by one: an iterator over the file holds on to what it has read.
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=names, use_threads=False)
            yield table if names is None else table.select(names)


def table_metadata(path: Path, schema: pa.Schema, uri: str) -> dict[bytes, bytes]:
    """The keys and values of a local table's schema.

    Raises:
        StorageError: as :func:`open_table`.
    """
    with open_table(path, schema, uri) as file:
        return dict(file.schema_arrow.metadata or {})


class TableWriter:
    """Writes a local table in row groups; a context manager. Small pieces are gathered first.

    ``rows`` and ``bytes`` count what it was given, in memory's terms.

    Args:
        path: the file to make.
        schema: of every piece.
        metadata: further keys and values for the file.
        rows: of a row group; fewer for rows that are long.
    """

    def __init__(
        self, path: Path, schema: pa.Schema, metadata: Mapping[str, str] | None = None, rows: int = ROWS
    ) -> None:
        self.path = path
        self.rows = 0
        self.bytes = 0
        self._group_rows = rows
        self._schema = schema
        if metadata:
            self._schema = schema.with_metadata({**schema.metadata, **metadata})
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="zstd", compression_level=3, write_page_checksum=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush(self._waiting_rows)
        finally:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        self.rows += len(table)
        self.bytes += table.nbytes
        self._waiting.append(table)
        self._waiting_rows += len(table)
        if self._waiting_rows >= self._group_rows:
            self._flush(self._waiting_rows // self._group_rows * self._group_rows)

    def _flush(self, count: int) -> None:
        if not self._waiting_rows:
            return
        whole = pa.concat_tables(self._waiting).replace_schema_metadata(self._schema.metadata)
        self._writer.write_table(whole.slice(0, count).combine_chunks(), row_group_size=self._group_rows)
        self._waiting, self._waiting_rows = [whole.slice(count)], len(whole) - count


def read_table(uri: str, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """A small table, whole.

    Raises:
        StorageError: it cannot be read, is damaged or of another schema.
    """
    content = pa.py_buffer(read_needed(uri))
    names = None if columns is None else list(columns)
    with _readable(uri), pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
        check_schema(file.schema_arrow, schema)
        return file.read(columns=names, use_threads=False)


def write_table(uri: str, table: pa.Table) -> None:
    """Write a small table at once, such as the rows of a chunk.

    Raises:
        StorageError: it cannot be written.
    """
    sink = pa.BufferOutputStream()
    # Dictionaries and zstd pay for themselves in large tables; in one of a chunk's few rows they double the time.
    pq.write_table(table, sink, compression="snappy", use_dictionary=False, write_page_checksum=True)
    write_atomic(uri, sink.getvalue().to_pybytes())


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = f"is damaged or not a table of this program ({error})"
        raise StorageError(uri, problem, "restore the file, or move it away and run again") from error

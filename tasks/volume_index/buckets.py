"""Rows that belong together, brought together: a large table dealt by the hash of a key into parts that fit memory.

A database sorts long rows of many columns only in a third of their size of memory; dealing them takes a fixed amount.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

BUCKET_BYTES: Final = 32 * 2**20
"""Of a bucket in memory, about; rows of one key are never divided."""

# Not Parquet: buckets are read once, at once, and its columns of few rows cost more than they save.
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


def buckets_for(size: int) -> int:
    """How many buckets a table of so many bytes is dealt into."""
    return max(1, -(-size // BUCKET_BYTES))


def deal(tables: Iterable[pa.Table], schema: pa.Schema, columns: Sequence[str], paths: Sequence[Path]) -> None:
    """Write each row to the path that its key, the texts in ``columns``, stands for, in the order of the rows.

    The same key has the same place among as many paths, whatever the table and the process.
    """
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_stream(str(path), schema, options=_OPTIONS)) for path in paths]
        for table in tables:
            places = _places(table, columns, len(paths))
            order = np.argsort(places, kind="stable")
            bounds = np.searchsorted(places[order], np.arange(len(paths) + 1))
            dealt = table.take(pa.array(order))
            for writer, start, end in zip(writers, bounds[:-1], bounds[1:], strict=True):
                if start < end:
                    writer.write_table(dealt.slice(start, end - start))


def bucket(path: Path) -> pa.Table:
    """The rows of a bucket."""
    with pa.ipc.open_stream(str(path)) as reader:
        return reader.read_all()


def _places(table: pa.Table, columns: Sequence[str], count: int) -> NDArray[np.int64]:
    texts = [table[name].cast(pa.string()) for name in columns]
    keys = pc.binary_join_element_wise(*texts, "\0", null_handling="replace").combine_chunks().dictionary_encode()
    hashes = np.array([zlib.crc32(key.encode()) % count for key in keys.dictionary.to_pylist()], dtype=np.int64)
    places: NDArray[np.int64] = hashes[keys.indices.to_numpy()]
    return places

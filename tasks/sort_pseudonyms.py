"""Rows in the order of their pseudonyms, in bounded memory however long they are.

A database sorts lists of files only in more memory than they have. Pseudonyms are spread evenly, so that their first
digits deal the rows into ranges of one size, each of which is sorted by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.ordered import KEY

RANGES: Final = 96
"""As many files are open at a time: 10 GB are sorted in 100 MB."""
_DIGITS: Final = 4
# Not Parquet: what is dealt is read once, at once, and its columns of few rows cost more than they save.
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


class PseudonymSort:
    """Takes tables of one schema in any order, then gives their rows by key; a context manager.

    Keys are those of :class:`~tasks.privacy.Pseudonyms`: lower-case hexadecimal digits.

    Args:
        scratch: a local folder.
        name: for the files there, which are gone after the block.
        schema: of the tables, with the key.
    """

    def __init__(self, scratch: Path, name: str, schema: pa.Schema) -> None:
        self._paths = [scratch / f"{name}-{number}.arrow" for number in range(RANGES)]
        self._schema = schema
        self._stack = ExitStack()
        self._writers: dict[int, pa.RecordBatchStreamWriter] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()
        for number in self._writers:
            self._paths[number].unlink(missing_ok=True)

    def add(self, table: pa.Table) -> None:
        """Add rows."""
        places = np.array([int(key[:_DIGITS], 16) * RANGES >> 4 * _DIGITS for key in table[KEY].to_pylist()], np.int64)
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(RANGES + 1))
        dealt = table.take(pa.array(order)).combine_chunks()
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            start, end = int(bounds[number]), int(bounds[number + 1])
            self._writer(number).write_table(dealt.slice(start, end - start))

    def _writer(self, number: int) -> pa.RecordBatchStreamWriter:
        if number not in self._writers:
            writer = pa.ipc.new_stream(str(self._paths[number]), self._schema, options=_OPTIONS)
            self._writers[number] = self._stack.enter_context(writer)
        return self._writers[number]

    def tables(self) -> Iterator[pa.Table]:
        """All rows by key, a range at a time; nothing can be added then."""
        self._stack.close()
        for number in sorted(self._writers):
            with pa.ipc.open_stream(str(self._paths[number])) as reader:
                table = reader.read_all().combine_chunks()
            self._paths[number].unlink()
            yield table.take(pc.sort_indices(table[KEY]))

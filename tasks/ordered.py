"""Streams of tables in the order of their pair keys, read side by side in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.storage import StorageError

KEY = "pair_key"


def ascending(tables: Iterable[pa.Table], where: str) -> Iterator[pa.Table]:
    """The tables, with the proof that each key is greater than the one before.

    Raises:
        StorageError: while iterating: it is not, which names the first such key.
    """
    last: str | None = None
    for table in tables:
        if not len(table):
            continue
        keys = table[KEY].combine_chunks()
        falls = np.flatnonzero(~pc.less(keys[:-1], keys[1:]).to_numpy(zero_copy_only=False))
        place = 0 if last is not None and not last < keys[0].as_py() else int(falls[0]) + 1 if len(falls) else None
        if place is not None:
            problem = f"its keys must be unique and in order, but {keys[place].as_py()} is not"
            raise StorageError(where, problem, "restore the file, or move it away and run again")
        last = keys[-1].as_py()
        yield table


def aligned(streams: Sequence[Iterable[pa.Table]]) -> Iterator[tuple[pa.Table | None, ...]]:
    """Cut ascending streams at common keys: each step has the rows of one range of keys, from every stream.

    The ranges follow each other and leave nothing out. A stream without rows in a range has None.
    """
    iterators = [iter(stream) for stream in streams]
    waiting: list[pa.Table | None] = [None] * len(iterators)
    while True:
        for place, iterator in enumerate(iterators):
            if waiting[place] is None:
                waiting[place] = next((table for table in iterator if len(table)), None)
        bound = min((table[KEY][-1].as_py() for table in waiting if table is not None), default=None)
        if bound is None:
            return
        step: list[pa.Table | None] = []
        for place, table in enumerate(waiting):
            count = 0 if table is None else _count_until(table[KEY], bound)
            step.append(table.slice(0, count) if table is not None and count else None)
            waiting[place] = None if table is None or count == len(table) else table.slice(count)
        yield tuple(step)


def _count_until(keys: pa.ChunkedArray, bound: str) -> int:
    """How many keys are at most ``bound``."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle].as_py() <= bound:
            low = middle + 1
        else:
            high = middle
    return low


def newest(streams: Sequence[Iterable[pa.Table]]) -> Iterator[pa.Table]:
    """The rows of ascending streams as one; where several have a key, the row of the last of them."""
    for step in aligned(streams):
        parts = [part for part in step if part is not None]
        if len(parts) == 1:
            yield parts[0]
            continue
        table = pa.concat_tables(parts).combine_chunks()
        keys = table[KEY].combine_chunks()
        # Arrow's sort is stable, so that of equal keys the last stream's comes last.
        order = pc.sort_indices(keys)
        keys = keys.take(order)
        last = np.append(pc.not_equal(keys[:-1], keys[1:]).to_numpy(zero_copy_only=False), True)
        yield table.take(order.filter(pa.array(last)))

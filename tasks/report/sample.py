"""A bounded, evenly spread sample of numeric columns, taken from rows that are read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

MOST_ROWS: Final = 100_000
"""Of so many values drawn at random the median lies within 0.4 % of their standard deviation of the true one."""


class RowSample:
    """Every row up to a number, beyond it every second, fourth and so on; the same rows give the same sample.

    Args:
        columns: of float64; a null counts as NaN.
        most: rows to keep.
    """

    def __init__(self, columns: Sequence[str], most: int = MOST_ROWS) -> None:
        self.columns = tuple(columns)
        self.stride = 1
        self.seen = 0
        self._most = most
        self._parts: list[NDArray[np.float64]] = []
        self._kept = 0

    def take(self, table: pa.Table) -> None:
        """Look at more rows."""
        places = np.arange(-self.seen % self.stride, len(table), self.stride)
        self.seen += len(table)
        if not len(places):
            return
        self._parts.append(np.stack([column_values(table, name)[places] for name in self.columns], axis=1))
        self._kept += len(places)
        while self._kept > self._most:
            whole = np.concatenate(self._parts)[::2].copy()
            self._parts, self._kept = [whole], len(whole)
            self.stride *= 2

    def values(self, column: str) -> NDArray[np.float64]:
        """The finite values of a column, ascending."""
        place = self.columns.index(column)
        found = np.concatenate([np.empty(0), *(part[:, place] for part in self._parts)])
        return np.sort(found[np.isfinite(found)])


def column_values(table: pa.Table, name: str) -> NDArray[np.float64]:
    """A numeric column; NaN where it is null."""
    values: NDArray[np.float64] = table[name].cast(pa.float64()).to_numpy().astype(np.float64, copy=False)
    return values

"""Real values to 16-bit levels and the line that leads back, and numbers as DICOM writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.valuerep import format_number_as_ds

from tasks.codes import Code, PairError

_TOP: Final = 65535


@dataclass(frozen=True)
class Levels:
    """The line of a whole volume: real value = level * slope + intercept (PS3.3 C.11.1.1.2).

    Attributes:
        slope: positive, a number as :func:`decimal` writes it.
        intercept: likewise; level 0.
    """

    slope: float
    intercept: float

    def of(self, values: NDArray[np.float32]) -> NDArray[np.uint16]:
        """The nearest levels."""
        levels = np.rint((values.astype(np.float64) - self.intercept) / self.slope)
        return np.clip(levels, 0, _TOP).astype("<u2")

    @property
    def range(self) -> tuple[float, float]:
        """The values of level 0 and of the highest level."""
        return self.intercept, self.intercept + _TOP * self.slope


def levels_of(voxels: NDArray[np.float32]) -> Levels:
    """The line that gives the lowest value the lowest level and the highest the highest.

    Args:
        voxels: [slice, row, column].

    Raises:
        PairError: FUSION_FAILED when a value is not finite.
    """
    lowest, highest = np.inf, -np.inf
    for index, pixels in enumerate(voxels):
        bad = pixels.size - int(np.count_nonzero(np.isfinite(pixels)))
        if bad:
            raise PairError(Code.FUSION_FAILED, f"{bad} of {pixels.size} values in slice {index} are not finite")
        lowest, highest = min(lowest, float(pixels.min())), max(highest, float(pixels.max()))
    # Levels are found by the numbers as they are written, so rounding them to 16 characters costs nothing.
    slope = float(decimal((highest - lowest) / _TOP)) if highest > lowest else 1.0
    return Levels(slope, float(decimal(lowest)))


def decimal(value: float) -> str:
    """A number of value representation DS: at most 16 characters."""
    return format_number_as_ds(float(value))

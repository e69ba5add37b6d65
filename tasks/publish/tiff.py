"""Maps of numbers to files: TIFF of one float32 channel, without compression, so that any reader opens it.

The same numbers give the same bytes: no time stamp and no name of a program.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import tifffile
from numpy.typing import NDArray

from tasks.codes import Code, PairError


def encode_tiff(values: NDArray[np.float32]) -> bytes:
    """A TIFF file of [H, W], little endian.

    Raises:
        PairError: FUSION_FAILED when a value is not finite.
        ValueError: no two axes, or the type is not float32.
    """
    if values.ndim != 2 or values.dtype != np.float32:
        raise ValueError(f"expected float32 values of two axes, got {values.dtype} of {values.ndim}")
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise PairError(Code.FUSION_FAILED, f"{bad} of {values.size} values are not finite")
    file = BytesIO()
    tifffile.imwrite(file, values, byteorder="<", photometric="minisblack", metadata=None, software=False)
    return file.getvalue()

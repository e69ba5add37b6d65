"""Put the first source on the second one's grid."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tasks.codes import Code, PairError


def on_same_grid(
    first: NDArray[np.float32], second: NDArray[np.float32], method: Literal["none", "resize"]
) -> NDArray[np.float32]:
    """``first`` [C, H', W'] on the grid of ``second`` [C, H, W].

    ``resize`` assumes one field of view: bilinear with antialiasing, pixel centres aligned, values in range kept.

    Raises:
        PairError: SIZE_MISMATCH when the sizes differ and ``method`` is ``none``.
    """
    if first.shape[1:] == second.shape[1:]:
        return first
    if method == "none":
        sizes = f"{first.shape[2]}x{first.shape[1]} and {second.shape[2]}x{second.shape[1]} pixels"
        raise PairError(Code.SIZE_MISMATCH, sizes)
    height, width = second.shape[1:]
    resized = F.interpolate(
        torch.from_numpy(first)[None], (height, width), mode="bilinear", antialias=True, align_corners=False
    )
    return resized[0].numpy().copy()  # owns its values: see tasks.fuse

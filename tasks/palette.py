"""Colours for display copies of functional images: DICOM's well-known palettes (PS3.6 annex B)."""

from __future__ import annotations

from functools import cache
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut

from ddfm_core.colour import into_gamut, recolour
from tasks.publish.png import to_grey_levels

PaletteName = Literal["hot_iron", "hot_metal_blue", "pet", "pet_20_step"]

_UIDS: Final[dict[PaletteName, str]] = {
    "hot_iron": "1.2.840.10008.1.5.1",
    "pet": "1.2.840.10008.1.5.2",
    "hot_metal_blue": "1.2.840.10008.1.5.3",
    "pet_20_step": "1.2.840.10008.1.5.4",
}


@cache
def palette_colours(name: PaletteName) -> NDArray[np.float32]:
    """The palette's RGB [256, 3] in [-1, 1]."""
    colours = apply_color_lut(np.arange(256, dtype=np.uint8), palette=_UIDS[name])
    top = np.iinfo(colours.dtype).max
    return colours.astype(np.float32) / np.float32(top) * 2 - 1


def coloured(fused: NDArray[np.float32], functional: NDArray[np.float32], name: PaletteName) -> NDArray[np.float32]:
    """A fused picture in the colours of its functional source.

    Luma is the fused picture's, chroma that of the source seen through the palette; where both do not fit into the
    gamut luma gives way.

    Args:
        fused: [1, H, W] in [-1, 1].
        functional: likewise.
        name: of the palette.

    Returns:
        RGB [3, H, W] in [-1, 1].
    """
    source = torch.from_numpy(palette_colours(name)[to_grey_levels(functional)[0]].transpose(2, 0, 1).copy())[None]
    picture = torch.from_numpy(np.ascontiguousarray(fused))[None]
    rgb: NDArray[np.float32] = into_gamut(recolour(picture, source, picture), picture)[0].numpy()
    return rgb

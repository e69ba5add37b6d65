"""Real-world values of a volume to [-1, 1], by one straight line for the whole volume, and back.

Never slice by slice, which makes neighbours flicker, and never by the windows in a header, which differ from slice
to slice. By modality:

- CT: a window in Hounsfield units, by name (:mod:`tasks.ct_windows`) or by numbers; "head" when none is given.
- MR, and where the modality is not known: 0.5 and 99.5 percentiles of the foreground. Foreground is what lies above a
  tenth of the way from the 2nd to the 98th percentile of all values, the threshold by which FSL's BET tells head from
  air (Smith, Human Brain Mapping 17:143, 2002).
- PET and SPECT: 0 to the 99.9 percentile of all values.
- Two numbers in the volume's unit go before all of these, such as (0, 10) for SUV.

Percentiles are those of every n-th voxel, at most 4,194,304 of them; they are the same on every run. Only valid
voxels count; the others become -1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.ct_windows import CT_WINDOWS
from tasks.volume import Volume

DEFAULT_CT_WINDOW: Final = "head"
"""-200 to 1000 HU: fat and brain stay apart from air at a tenth and a fifth of the range, spongy and cortical bone from
one another, as in the CT-MR pairs that fusion is published on."""

MR_PERCENTILES: Final = (0.5, 99.5)
FUNCTIONAL_PERCENTILE: Final = 99.9
MOST_SAMPLES: Final = 1 << 22

_ROBUST_RANGE: Final = (2, 98)
_FOREGROUND_SHARE: Final = 0.1

VolumeRule = Literal["ct_window", "foreground_percentile", "percentile_from_zero", "min_max", "constant", "given"]


@dataclass(frozen=True)
class VolumeNormalisation:
    """The line that a volume was mapped by: ``lo`` to -1, ``hi`` to 1; what lies outside was clipped.

    Attributes:
        rule: ``ct_window``: a window in HU. ``foreground_percentile``: of MR. ``percentile_from_zero``: of PET and
            SPECT. ``min_max``: the extremes, where percentiles coincide. ``constant``: all values are equal; lo = hi,
            the volume is -1 everywhere. ``given``: the job's numbers.
        lo: in the volume's unit; above ``hi`` where low values are shown bright (``inverted``).
        hi: in the volume's unit.
    """

    rule: VolumeRule
    lo: float
    hi: float

    @property
    def inverted(self) -> bool:
        """Whether low values are bright, as the source's display was (DICOM's MONOCHROME1)."""
        return self.lo > self.hi


def normalise_volume(
    volume: Volume, window: str | tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], VolumeNormalisation]:
    """Map a volume to [-1, 1].

    Args:
        volume: its ``modality`` chooses the rule, so set it for a NIfTI file whose modality is known otherwise.
        window: a name, for CT or unknown modality in HU; or the two values that become -1 and 1; None: by modality.

    Returns:
        float32 in [-1, 1] of the voxels' shape and order in memory, and the line.

    Raises:
        ValueError: the window is no such name, not finite and ascending, or a name where the volume is no CT.
    """
    line = _line(volume, window)
    if volume.inverted_display:
        line = VolumeNormalisation(line.rule, line.hi, line.lo)
    values = np.empty_like(volume.voxels)
    for part in _parts(volume.voxels):
        values[part] = _mapped(volume.voxels[part], line)
        if volume.valid is not None:
            values[part][~volume.valid[part]] = -1
    return values, line


def denormalise_volume(values: NDArray[np.float32], line: VolumeNormalisation) -> NDArray[np.float32]:
    """Values in [-1, 1] back to the volume's unit, float32 of the same shape; exact but for float32's rounding.

    Args:
        values: of three axes.
        line: what :func:`normalise_volume` returned; of a constant volume every value gives its constant.
    """
    voxels = np.empty_like(values)
    for part in _parts(values):
        voxels[part] = (values[part].astype(np.float64) + 1) / 2 * (line.hi - line.lo) + line.lo
    return voxels


def _mapped(voxels: NDArray[np.float32], line: VolumeNormalisation) -> NDArray[np.floating[Any]] | float:
    if line.lo == line.hi:
        return -1.0
    # In float64: small differences may stand on a large offset.
    return np.clip((voxels.astype(np.float64) - line.lo) * (2 / (line.hi - line.lo)) - 1, -1, 1)


def _line(volume: Volume, window: str | tuple[float, float] | None) -> VolumeNormalisation:
    if isinstance(window, str):
        if window not in CT_WINDOWS:
            raise ValueError(f"window must be one of {', '.join(CT_WINDOWS)} or two numbers, not {window!r}")
        if volume.modality not in ("CT", ""):
            raise ValueError(f"the window {window!r} is one of CT; the volume is {volume.modality}")
        return _window(window)
    if window is not None:
        lo, hi = window
        if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
            raise ValueError(f"window must be two finite numbers in ascending order, not {window}")
        return VolumeNormalisation("given", float(lo), float(hi))
    if volume.modality == "CT":
        return _window(DEFAULT_CT_WINDOW)
    sample = _sample(volume)
    if volume.modality in ("PT", "NM"):
        hi = float(np.percentile(sample, FUNCTIONAL_PERCENTILE)) if sample.size else 0.0
        return VolumeNormalisation("percentile_from_zero", 0.0, hi) if hi > 0 else _extremes(volume)
    if sample.size:
        bottom, top = np.percentile(sample, _ROBUST_RANGE)
        foreground = sample[sample > bottom + _FOREGROUND_SHARE * (top - bottom)]
        if foreground.size:
            lo, hi = (float(value) for value in np.percentile(foreground, MR_PERCENTILES))
            if lo < hi:
                return VolumeNormalisation("foreground_percentile", lo, hi)
    return _extremes(volume)


def _window(name: str) -> VolumeNormalisation:
    lo, hi = CT_WINDOWS[name]
    return VolumeNormalisation("ct_window", lo, hi)


def _extremes(volume: Volume) -> VolumeNormalisation:
    """The line by the smallest and largest valid value; a volume without any is constant 0."""
    lo, hi = math.inf, -math.inf
    for part in _parts(volume.voxels):
        voxels = volume.voxels[part] if volume.valid is None else volume.voxels[part][volume.valid[part]]
        if voxels.size:
            lo, hi = min(lo, float(voxels.min())), max(hi, float(voxels.max()))
    if lo > hi:
        return VolumeNormalisation("constant", 0.0, 0.0)
    return VolumeNormalisation("min_max" if lo < hi else "constant", lo, hi)


def _sample(volume: Volume) -> NDArray[np.float64]:
    """Every n-th valid voxel; n shares no factor with a side, or whole rows would be left out."""
    voxels = volume.voxels
    step = -(-voxels.size // MOST_SAMPLES)
    while any(math.gcd(step, side) > 1 for side in voxels.shape):
        step += 1
    order: Literal["C", "F"] = "F" if voxels.flags.f_contiguous and not voxels.flags.c_contiguous else "C"
    sample = voxels.reshape(-1, order=order)[::step]
    if volume.valid is not None:
        sample = sample[volume.valid.reshape(-1, order=order)[::step]]
    return sample.astype(np.float64)


def _parts(voxels: NDArray[np.float32]) -> Iterator[tuple[slice, slice, slice]]:
    """The volume slab by slab along the axis that is longest in memory, so that no large copy is made."""
    axis = int(np.argmax(voxels.strides))
    for index in range(voxels.shape[axis]):
        part = [slice(None)] * 3
        part[axis] = slice(index, index + 1)
        yield part[0], part[1], part[2]

"""All fusion metrics of a batch of pictures, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ddfm_core.metrics.edges import edge_preservation
from ddfm_core.metrics.fidelity import visual_information_fidelity
from ddfm_core.metrics.information import entropy, mutual_information
from ddfm_core.metrics.statistics import (
    average_gradient,
    correlations,
    differences,
    spatial_frequency,
    standard_deviation,
)
from ddfm_core.metrics.structure import structural_similarity
from ddfm_core.metrics.windows import pixels_at_once

_OF_FUSED: dict[str, Callable[[Tensor], Tensor]] = {
    "EN": entropy,
    "SD": standard_deviation,
    "SF": spatial_frequency,
    "AG": average_gradient,
}
# What is computed together shares its work.
_OF_ALL: dict[tuple[str, ...], Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]] = {
    ("MI",): lambda *pictures: (mutual_information(*pictures),),
    ("MSE", "PSNR"): differences,
    ("CC", "SCD"): correlations,
    ("VIF",): lambda *pictures: (visual_information_fidelity(*pictures),),
    ("Qabf",): lambda *pictures: (edge_preservation(*pictures),),
    ("SSIM", "SSIM_255"): structural_similarity,
}

METRIC_NAMES: tuple[str, ...] = (
    "EN", "SD", "SF", "AG", "MI", "MSE", "CC", "PSNR", "SCD", "VIF", "Qabf", "SSIM", "SSIM_255",
)  # fmt: skip
"""Names of all metrics, in the order of :func:`fusion_metrics`."""

# Each member needs joint histograms of 65,536 bins, a few MiB, however small its picture is.
_MEMBERS_AT_ONCE = 64

_DTYPES = (
    torch.uint8, torch.uint16, torch.uint32, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
)  # fmt: skip


def fusion_metrics(
    fused: Tensor, first: Tensor, second: Tensor, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Metrics of fused pictures against their two sources, as the published evaluator of CDDFuse computes them.

    | name | range | unit | higher is | NaN where |
    | --- | --- | --- | --- | --- |
    | EN | 0..8 | bit | better | a rounded fused value lies outside 0..255 |
    | SD | >= 0 | grey level | better | never |
    | SF | >= 0 | grey level | better | a side has 1 pixel |
    | AG | >= 0 | grey level | better | a side has 1 pixel |
    | MI | >= 0 | nat | better | a rounded value lies outside 0..255 |
    | MSE | >= 0 | grey level^2 | worse | never |
    | CC | -1..1 | none | better | a picture is constant |
    | PSNR | any, inf for MSE 0 | dB | better | the fused picture's maximum is not above 0 |
    | SCD | -2..2 | none | better | a source, or fused minus a source, is constant |
    | VIF | >= 0 | none | better | a side has fewer than 41 pixels |
    | Qabf | 0..1 | none | better | a side has fewer than 3 pixels, or both sources are black |
    | SSIM | -2..2 | none | better | a side has fewer than 7 pixels |
    | SSIM_255 | -2..2 | none | better | a side has fewer than 7 pixels |

    MI, SCD, VIF and both SSIM are sums over the two sources; MSE and CC are means. SSIM uses data range 2, as
    the published tables do, SSIM_255 the range of the values. EN and MI round the values, the others use them as
    they are. The functions behind the names state the formulas. A figure is also NaN where a picture it looks at
    contains a value that is not finite.

    Arithmetic is float64, but for Qabf's gradients (float32). A device without float64 (MPS) leaves the work, and
    the result, to the CPU. Nothing waits for the device. Batches are worked through a few members at a time and the
    local metrics (VIF, Qabf, SSIM) a few rows at a time, so a large batch or picture takes little memory beyond
    float64 copies of its largest member.

    Args:
        fused: grey pictures [B, H, W] with values 0..255, of any integer or floating dtype.
        first: the first sources, of the same shape and device.
        second: the second sources, likewise.
        names: which of ``METRIC_NAMES`` to compute; all of them by default.

    Returns:
        float64 [B] per name, in the order of ``names``, on the pictures' device. The figures of a batch are
        those of its members, up to rounding.

    Raises:
        ValueError: shapes, devices or dtypes are not as described, or a name is unknown.
    """
    wanted = _checked_names(names)
    _check_pictures(fused, first, second)
    if fused.device.type == "mps":
        fused, first, second = fused.cpu(), first.cpu(), second.cpu()
    if len(fused) == 0:
        return {name: torch.empty(0, dtype=torch.float64, device=fused.device) for name in wanted}
    members = min(max(1, pixels_at_once(fused.device) // fused[0].numel()), _MEMBERS_AT_ONCE)
    with torch.no_grad():
        parts = [
            _measure(fused[part].double(), first[part].double(), second[part].double(), wanted)
            for part in (slice(start, start + members) for start in range(0, len(fused), members))
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in wanted}


def evaluator_grey(rgb: Tensor) -> Tensor:
    """Grey = round(0.299 R + 0.587 G + 0.114 B) of ``rgb`` [..., 3, H, W] with values 0..255, as [..., H, W].

    The weights are those of ITU-R BT.601; halves are rounded to even. The result has the dtype of ``rgb``, and
    equal channels of whole values come out unchanged.

    Raises:
        ValueError: the third axis from the end is not 3, or the dtype is no integer or floating one.
    """
    _check_dtype("rgb", rgb)
    if rgb.ndim < 3 or rgb.shape[-3] != 3:
        raise ValueError(f"rgb must have the shape [..., 3, H, W], got {list(rgb.shape)}")
    # Thousandths are whole numbers, exact even in float32, and so is the half that decides the rounding. The
    # divisor is a tensor because devices may turn a division by a number into an inexact product.
    red, green, blue = rgb.to(torch.float32 if rgb.device.type == "mps" else torch.float64).unbind(-3)
    thousandths = red.mul(299).add_(green, alpha=587).add_(blue, alpha=114)
    return thousandths.div_(thousandths.new_full((), 1000)).round_().to(rgb.dtype)


def _measure(fused: Tensor, first: Tensor, second: Tensor, wanted: Sequence[str]) -> dict[str, Tensor]:
    """The ``wanted`` figures [B] of float64 pictures [B, H, W]."""
    figures = {name: function(fused) for name, function in _OF_FUSED.items() if name in wanted}
    for names, function in _OF_ALL.items():
        if any(name in wanted for name in names):
            figures.update(zip(names, function(fused, first, second), strict=True))
    fused_sound = _all_finite(fused)
    all_sound = fused_sound & _all_finite(first) & _all_finite(second)
    return {
        name: figures[name].masked_fill(~(fused_sound if name in _OF_FUSED else all_sound), math.nan) for name in wanted
    }


def _all_finite(picture: Tensor) -> Tensor:
    # x - x is 0 for a finite x and NaN for any other.
    return (picture - picture).sum((1, 2)) == 0


def _checked_names(names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return METRIC_NAMES
    if isinstance(names, str):
        raise ValueError(f"names must be a list of metrics, got the text {names!r}; use [{names!r}]")
    unknown = [name for name in names if name not in METRIC_NAMES]
    if unknown:
        raise ValueError(f"unknown metrics {unknown}; known are {', '.join(METRIC_NAMES)}")
    return tuple(names)


def _check_pictures(fused: Tensor, first: Tensor, second: Tensor) -> None:
    for role, picture in (("fused", fused), ("first", first), ("second", second)):
        _check_dtype(role, picture)
        if picture.ndim != 3 or 0 in picture.shape[1:]:
            raise ValueError(f"{role} must be grey pictures [B, H, W] with pixels, got {list(picture.shape)}")
        if picture.shape != fused.shape or picture.device != fused.device:
            raise ValueError(
                f"all pictures must share one shape and device; fused is {list(fused.shape)} on {fused.device}, "
                f"{role} is {list(picture.shape)} on {picture.device}"
            )


def _check_dtype(role: str, picture: Tensor) -> None:
    if not isinstance(picture, Tensor) or picture.dtype not in _DTYPES:
        found = picture.dtype if isinstance(picture, Tensor) else type(picture).__name__
        raise ValueError(f"{role} must be a tensor of an integer or floating dtype, got {found}")

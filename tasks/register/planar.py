"""Put the first picture on the pixels of the second one, and say what speaks for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.register.planar_estimates import (
    LEAST_SHARE,
    Motion,
    Picture,
    PlanarInformation,
    by_edges,
    by_information,
    local_shifts,
    moved,
    plausible,
    stretches,
)
from tasks.register.planar_map import (
    Matrix,
    Size,
    apply,
    distance,
    inverse,
    reaches,
    scaling,
    use_one_opencv_thread,
    warp,
)
from tasks.register.same_size import on_same_grid

PlanarMethod = Literal["none", "resize", "homography", "translation", "affine"]

OUTSIDE: Final = -1.0
"""Black."""

_AGREEMENT: Final = 2.0
_MOST_MOVED: Final = 0.25
_LEAST_VISIBLE: Final = 0.1
_LEAST_PROMINENCE: Final = 1.25
_LARGEST_LOCAL_SHIFT: Final = 1.5
_PERTURBATIONS: Final = 40
_TILES: Final = 3
_FINE_SIDE: Final = 384
_JUDGED_SIDE: Final = 192
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class PlanarFigures:
    """What was done and what speaks for it; None where it was not looked at.

    Attributes:
        method: what was asked for.
        decision: ``same_size`` or ``resized``; ``homography``, as given; ``edges``: where edges correlate best, as
            mutual information says too; ``information``: by mutual information alone, where edges gave nothing.
        nmi_before, nmi_after: normalised mutual information, 1 to 2, of the fields of view laid over each other and
            as applied.
        overlap: share of the second picture's pixels that the first one shows.
        moved_px: by which the middle moves, in the second picture's pixels.
        stretch: the factor of length that differs most from 1.
        agreement_px: by which two independent ways differ, mean over the corners, in the first picture's pixels.
        prominence: score over the best of those around; for ``information``.
        local_shift_px: by which parts of the picture want to move alone, the median; for ``information``.
    """

    method: str
    decision: str
    nmi_before: float | None = None
    nmi_after: float | None = None
    overlap: float | None = None
    moved_px: float | None = None
    stretch: float | None = None
    agreement_px: float | None = None
    prominence: float | None = None
    local_shift_px: float | None = None


@dataclass(frozen=True, eq=False)
class RegisteredImage:
    """The first picture on the second one's pixels.

    Attributes:
        pixels: float32 [C, H, W]; black where the first picture does not reach.
        valid: bool [H, W], where it does.
        figures: what was done.
        matrix: float64 [3, 3], from the second picture's pixels (x, y, 1) to the first one's; None where nothing or
            only the size was changed.
    """

    pixels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    figures: PlanarFigures
    matrix: Matrix | None = None


def register_images(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    method: PlanarMethod,
    *,
    homography: NDArray[np.float64] | None = None,
) -> RegisteredImage:
    """``first`` [C, H', W'] on the pixels of ``second`` [C, H, W], both float32 in [-1, 1].

    Pictures of different sizes are taken to show one field of view, roughly; centres of pixels are at whole numbers.

    Args:
        method: ``none`` demands one size; ``resize`` scales; ``homography`` applies the one given; ``translation``
            and ``affine`` are found by the pictures.
        homography: for that method, [3, 3], from pixels (x, y, 1) of the second picture to the first one's, as a
            calibration of the two cameras gives it.

    Raises:
        PairError: SIZE_MISMATCH for ``none``; NO_OVERLAP; REGISTRATION_FAILED when two independent ways to the map
            do not agree, with the figures.
        ValueError: ``homography`` without a matrix, or with one that no camera pair has.
    """
    size = (second.shape[1], second.shape[2])
    if method == "none" or method == "resize":
        pixels = on_same_grid(first, second, method)
        decision = "same_size" if first.shape[1:] == second.shape[1:] else "resized"
        return RegisteredImage(pixels, np.ones(size, np.bool_), PlanarFigures(method, decision))
    use_one_opencv_thread()
    if method == "homography":
        return _calibrated(first, size, homography)
    grey_first, grey_second = _grey(first), _grey(second)
    matrix, figures = _estimated(grey_first, grey_second, method)
    return _applied(first, size, matrix, figures)


def _grey(planes: NDArray[np.float32]) -> Picture:
    return planes[0] if len(planes) == 1 else np.tensordot(_LUMA, planes, axes=1)


def _applied(first: NDArray[np.float32], size: Size, matrix: Matrix, figures: PlanarFigures) -> RegisteredImage:
    pixels = warp(first, matrix, size)
    valid: NDArray[np.bool_] = np.asarray(np.isfinite(pixels).all(axis=0))
    pixels[:, ~valid] = OUTSIDE
    # Weights that do not quite sum to one leave the range by rounding.
    return RegisteredImage(np.clip(pixels, -1, 1, out=pixels), valid, figures, matrix)


def _calibrated(first: NDArray[np.float32], size: Size, matrix: NDArray[np.float64] | None) -> RegisteredImage:
    if matrix is None or matrix.shape != (3, 3) or not np.isfinite(matrix).all():
        raise ValueError("homography: nine finite numbers are needed")
    if abs(float(np.linalg.det(matrix))) <= 1e-12 * float(np.abs(matrix).max()) ** 3:
        raise ValueError("homography: the matrix has no inverse")
    overlap = float(reaches(matrix, (first.shape[1], first.shape[2]), size).mean())
    if overlap < _LEAST_VISIBLE:
        raise PairError(Code.NO_OVERLAP, f"the homography leaves {overlap:.2f} of the picture")
    return _applied(first, size, matrix, PlanarFigures("homography", "homography", overlap=overlap))


def _estimated(first: Picture, second: Picture, motion: Motion) -> tuple[Matrix, PlanarFigures]:
    """The map and its figures.

    Raises:
        PairError: REGISTRATION_FAILED or NO_OVERLAP.
    """
    if min(first.shape + second.shape) < 2 or not (np.ptp(first) > 0 and np.ptp(second) > 0):
        raise PairError(Code.REGISTRATION_FAILED, "a picture is constant")
    first_size, second_size = (first.shape[0], first.shape[1]), (second.shape[0], second.shape[1])
    start = scaling(second_size, first_size)
    information = by_information(first, second, start, motion, _FINE_SIDE)
    edges = by_edges(first, second, start, motion)
    compared = PlanarInformation(first, second, _JUDGED_SIDE)
    prominence = local = None
    agreement = distance(edges, information, second_size) if edges is not None else float("inf")
    if edges is not None and agreement <= _AGREEMENT:
        matrix, decision = edges, "edges"
    else:
        matrix, decision = information, "information"
        agreement = min(agreement, _backwards(first, second, information, motion))
        prominence = compared.score(matrix) / max(_best_around(compared, matrix, motion), 1e-9)
        shifts = local_shifts(compared, matrix, _TILES)
        local = float(np.median(shifts)) if len(shifts) >= _TILES**2 // 2 else float("inf")
    before, after = compared(start), compared(matrix)
    overlap = float(reaches(matrix, first_size, second_size).mean())
    middle = np.array([[(second_size[1] - 1) / 2, (second_size[0] - 1) / 2]])
    shift = apply(inverse(start), apply(matrix, middle)) - middle
    largest, least = stretches(matrix, first_size, second_size)
    figures = PlanarFigures(
        motion,
        decision,
        nmi_before=before.normalised,
        nmi_after=after.normalised,
        overlap=overlap,
        moved_px=float(np.linalg.norm(shift)),
        stretch=largest if largest * least >= 1 else least,
        agreement_px=agreement,
        prominence=prominence,
        local_shift_px=local,
    )
    for holds, otherwise in (
        (agreement <= _AGREEMENT, f"independent ways ended {agreement:.1f} pixels apart, at most {_AGREEMENT:g}"),
        (prominence is None or prominence >= _LEAST_PROMINENCE, f"only {prominence or 0:.2f} times as good as others"),
        (local is None or local <= _LARGEST_LOCAL_SHIFT, f"parts want to move by {local or 0:.1f} pixels"),
        (plausible(matrix, first_size, second_size), f"the scale changes by a factor of {figures.stretch:.2f}"),
        (bool((np.abs(shift[0]) <= _MOST_MOVED * np.array(second_size[::-1])).all()), "moved by over a quarter"),
        (after.normalised - 1 >= 0.97 * (before.normalised - 1), "the start was better than what was found"),
    ):
        if not holds:
            raise PairError(
                Code.REGISTRATION_FAILED,
                f"{otherwise}; NMI {before.normalised:.3f} to {after.normalised:.3f}, overlap {overlap:.2f}",
            )
    if overlap < LEAST_SHARE:
        raise PairError(Code.NO_OVERLAP, f"overlap {overlap:.2f}, at least {LEAST_SHARE:g}")
    return matrix, figures


def _backwards(first: Picture, second: Picture, matrix: Matrix, motion: Motion) -> float:
    """By how much the map found with the roles exchanged differs."""
    first_size, second_size = (first.shape[0], first.shape[1]), (second.shape[0], second.shape[1])
    other = by_information(second, first, scaling(first_size, second_size), motion, _FINE_SIDE)
    return distance(matrix, inverse(other), second_size)


def _best_around(compared: PlanarInformation, matrix: Matrix, motion: Motion) -> float:
    """The best score of maps that differ by 3 to 12 per cent of the longer side."""
    random = np.random.default_rng(0)
    size = compared.full[1]
    scores = []
    for _ in range(_PERTURBATIONS):
        step = random.standard_normal(2 if motion == "translation" else 6)
        step *= random.uniform(0.03, 0.12) * max(size) / np.linalg.norm(step)
        scores.append(compared.score(moved(matrix, step, size)))
    return max(scores)

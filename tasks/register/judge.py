"""Whether an alignment can be trusted. Better mutual information is no proof: it rises for wrong maps too.

What counts is that everything independent says the same. The two halves of the data, started from elsewhere, must come
to the same map; no other map may come near its score; the score must fall off around it; each octant alone must
want to stay where it is, which other people's anatomy does not; and the mirror image must fit clearly worse, which it
does not when left and right of one source are exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.register.affine_map import AffineMap
from tasks.register.ascent import climb
from tasks.register.foreground import overlap_and_dice
from tasks.register.rigid import Found, Scene, objective, search
from tasks.register.similarity import Similarity
from tasks.volume import Volume

_HIGHEST_RIVAL: Final = 0.9
_HIGHEST_MIRROR: Final = 0.985
_LEAST_PROMINENCE: Final = 1.2
_LEAST_OF_START: Final = 0.97
"""A pair that was aligned to begin with loses a little where the finest level has its peak."""

_DICE_LOST: Final = 0.05
_RESIDUAL: Final = 0.7
_RESIDUAL_OF_VOXEL: Final = 0.4
"""Of the agreement demanded, and of the longest side of a voxel: by which octants may want to move."""

_LEAST_OCTANTS: Final = 4

_PERTURBATIONS: Final = 60
_CHECKS_PER_HALF: Final = 2
_BLOCK_OF_HALVES: Final = 0.3
"""Of the box's radius: the side of the cubes of which every other one belongs to one half."""


@dataclass(frozen=True)
class Bounds:
    """What an alignment must keep to.

    Attributes:
        max_rotation_deg: against the axes of the scanner, or of the files where they do not know a scanner.
        max_translation_mm: of the middle, against the nearest plausible start.
        min_overlap: share of the smaller foreground that both sources show.
        agreement_mm: by which independent ways to the map may differ.
    """

    max_rotation_deg: float
    max_translation_mm: float
    min_overlap: float
    agreement_mm: float


@dataclass(frozen=True)
class Evidence:
    """What was found out of a map.

    Attributes:
        mi_before, mi_after: mutual information in nats, at the reference start and under the map.
        nmi_before, nmi_after: normalised, 1 to 2.
        overlap, dice_before, dice_after: see :func:`~tasks.register.foreground.overlap_and_dice`.
        rotation_deg: of the map.
        translation_mm: of the middle of the box against the nearest plausible start.
        agreement_mm: the largest distance between the map and what halves of the data came to from elsewhere; mean
            over the corners of the box.
        rival: score of the best other map, as a share of this one's.
        prominence: score of the map over the best of those 8 to 20 degrees and 0.15 to 0.4 radii away.
        residual_mm: by which octants want to move, the median.
        mirror: score of the best map of the moving source's mirror image, as a share of this one's.
    """

    mi_before: float
    mi_after: float
    nmi_before: float
    nmi_after: float
    overlap: float
    dice_before: float
    dice_after: float
    rotation_deg: float
    translation_mm: float
    agreement_mm: float
    rival: float
    prominence: float
    residual_mm: float
    mirror: float


def evidence_for(
    scene: Scene, mapping: AffineMap, settled: bool, found: Found, bounds: Bounds, seed: int, span_deg: float
) -> Evidence:
    """Judge a rigid map; what is cheap to find out comes first.

    Raises:
        PairError: NO_OVERLAP or REGISTRATION_FAILED, with the figures.
    """
    reference = scene.starts[0]
    overlap, dice = overlap_and_dice(scene.fixed_foreground, scene.moving_foreground, mapping)
    _, dice_before = overlap_and_dice(scene.fixed_foreground, scene.moving_foreground, reference)
    before, after = scene.medium.information(reference), scene.medium.information(mapping)
    middle = scene.box.centre[None]
    translation = min(float(np.linalg.norm(mapping(middle) - start(middle))) for start in scene.starts)
    figures = (
        f"MI {before.mutual:.3f} to {after.mutual:.3f}, Dice {dice_before:.2f} to {dice:.2f}, overlap {overlap:.2f}, "
        f"{mapping.rotation_degrees:.1f} degrees, {translation:.1f} mm"
    )

    def require(holds: bool, otherwise: str, code: Code = Code.REGISTRATION_FAILED) -> None:
        if not holds:
            raise PairError(code, f"{otherwise}; {figures}")

    require(overlap >= bounds.min_overlap, f"overlap {overlap:.2f}, at least {bounds.min_overlap:g}", Code.NO_OVERLAP)
    require(
        mapping.rotation_degrees <= bounds.max_rotation_deg,
        f"turned by {mapping.rotation_degrees:.1f} degrees, at most {bounds.max_rotation_deg:g}",
    )
    require(
        translation <= bounds.max_translation_mm,
        f"moved by {translation:.1f} mm, at most {bounds.max_translation_mm:g}",
    )
    require(settled, "the search did not come to rest")
    score = after.normalised - 1
    require(score >= _LEAST_OF_START * (before.normalised - 1), "the start was better than what was found")
    require(dice >= dice_before - _DICE_LOST, "the foregrounds match less than before")
    rival = found.rival / max(score, 1e-9)
    require(rival <= _HIGHEST_RIVAL, f"another alignment is {rival:.2f} times as good")
    random = np.random.default_rng(seed)
    prominence = score / max(_best_around(scene, mapping, random), 1e-9)
    require(prominence >= _LEAST_PROMINENCE, f"only {prominence:.2f} times as good as alignments far from it")
    agreement = _worst_disagreement(scene, mapping, random)
    require(
        agreement <= bounds.agreement_mm,
        f"independent ways ended {agreement:.1f} mm apart, at most {bounds.agreement_mm:g}",
    )
    residual = _residual(scene, mapping)
    coarsest = max(*scene.fixed.spacing, *scene.moving.spacing)
    allowed = max(_RESIDUAL * bounds.agreement_mm, _RESIDUAL_OF_VOXEL * coarsest)
    require(residual <= allowed, f"octants want to move by {residual:.1f} mm, at most {allowed:.1f}")
    mirror = _mirrored(scene, span_deg) / max(score, 1e-9)
    require(mirror <= _HIGHEST_MIRROR, f"the mirror image is {mirror:.2f} times as good")
    return Evidence(
        before.mutual,
        after.mutual,
        before.normalised,
        after.normalised,
        overlap,
        dice_before,
        dice,
        mapping.rotation_degrees,
        translation,
        agreement,
        rival,
        prominence,
        residual,
        mirror,
    )


def _scaled(vector: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    return np.asarray(vector * (length / float(np.linalg.norm(vector))))


def _best_around(scene: Scene, mapping: AffineMap, random: np.random.Generator) -> float:
    box, similarity = scene.box, scene.medium
    centre = box.parameters_of(mapping)
    scores = []
    for _ in range(_PERTURBATIONS):
        shift = _scaled(random.standard_normal(3), random.uniform(0.15, 0.4) * box.radius)
        turn = _scaled(random.standard_normal(3), np.deg2rad(random.uniform(8, 20)) * box.radius)
        scores.append(objective(similarity)(centre + np.concatenate([shift, turn])))
    return max(scores)


def halves(scene: Scene) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """A three-dimensional chess board over the points of the medium level, and its negative."""
    side = _BLOCK_OF_HALVES * scene.box.radius / scene.medium.level
    white = (np.indices(scene.medium.grid.shape) / side).astype(np.int64).sum(axis=0) % 2 == 0
    return white, ~white


def _worst_disagreement(scene: Scene, mapping: AffineMap, random: np.random.Generator) -> float:
    box, level = scene.box, scene.medium.level
    centre = box.parameters_of(mapping)
    worst = 0.0
    for half in halves(scene):
        part = scene.medium.restricted_to(half)
        for _ in range(_CHECKS_PER_HALF):
            shift = _scaled(random.standard_normal(3), 0.13 * box.radius)
            turn = _scaled(random.standard_normal(3), np.deg2rad(10) * box.radius)
            start = centre + np.concatenate([shift, turn])
            peak = climb(objective(part), start, step=1.5 * level, tolerance=level / 10)
            worst = max(worst, box.distance(box.map_of(peak.parameters), mapping))
    return worst


def _residual(scene: Scene, mapping: AffineMap) -> float:
    """The median length of the translation that octants of the box ask for; infinite where too few can say."""
    similarity = scene.medium
    shape = np.array(similarity.grid.shape)
    upper = np.indices(similarity.grid.shape) >= (shape / 2)[:, None, None, None]
    octants = (upper * np.array([4, 2, 1])[:, None, None, None]).sum(axis=0)
    lengths = []
    for octant in range(8):
        part = similarity.restricted_to(octants == octant)
        if part.points < similarity.points / 32 or part.information(mapping).share < 0.5:
            continue

        def shifted(shift: NDArray[np.float64], part: Similarity = part) -> float:
            return part.score(AffineMap(mapping.matrix, mapping.offset + shift))

        peak = climb(shifted, np.zeros(3), step=similarity.level, tolerance=similarity.level / 10, sweeps=4)
        lengths.append(float(np.linalg.norm(peak.parameters)))
    return float(np.median(lengths)) if len(lengths) >= _LEAST_OCTANTS else float("inf")


def _mirrored(scene: Scene, span_deg: float) -> float:
    """The best score when left and right of the moving source are exchanged about the middle of its foreground."""
    middle = float(scene.moving_foreground.box.centre[0])
    reflection = np.diag([-1.0, 1.0, 1.0, 1.0])
    reflection[0, 3] = 2 * middle
    mirrored: Volume = replace(scene.moving, affine=reflection @ scene.moving.affine)
    coarse, medium = scene.with_moving(mirrored, scene.coarse), scene.with_moving(mirrored, scene.medium)
    start = AffineMap(np.eye(3), scene.moving_foreground.box.centre - scene.box.centre)
    return search(coarse, medium, (start,), span_deg, climbed=8, refined=2).score

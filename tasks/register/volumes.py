"""Put the moving volume on the grid of the fixed one, by the headers or by the images, and say what speaks for it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tasks.codes import Code, PairError
from tasks.register.affine_map import AffineMap
from tasks.register.deformable import affine_from, bspline_from
from tasks.register.foreground import foreground_of, overlap_and_dice
from tasks.register.grid import ItkTransform, resample, same_grid
from tasks.register.judge import Bounds, evidence_for
from tasks.register.rigid import Scene, refine, search
from tasks.register.similarity import Clock
from tasks.volume import Volume

Method = Literal["auto", "none", "header", "rigid", "affine", "bspline"]

_SEARCHED: Final = 2 / 3
"""Of the largest rotation allowed: starts are turned so far, and climb the rest."""


@dataclass(frozen=True)
class RegistrationOptions:
    """How volumes are registered, and what is trusted.

    Attributes:
        method: ``none`` demands one grid; ``header`` trusts the scanner's coordinates; ``rigid``; ``affine`` and
            ``bspline`` go on from rigid; ``auto`` is header for a shared frame of reference and rigid otherwise.
        interpolation: of the moving voxels; PET and SPECT are always interpolated linearly.
        seed: of the tests that a map must pass; the search itself has no chance in it.
        max_rotation_deg: more is refused.
        max_translation_mm: more is refused; from the nearest of the scanner's coordinates and centred volumes.
        min_overlap: share of the smaller foreground that both must show.
        agreement_mm: by which independent ways to the map may differ; parts of the head alone, by 0.7 of it.
        max_seconds: after which the pair is refused.
    """

    method: Method = "auto"
    interpolation: Literal["linear", "bspline"] = "linear"
    seed: int = 0
    max_rotation_deg: float = 30.0
    max_translation_mm: float = 60.0
    min_overlap: float = 0.6
    agreement_mm: float = 2.0
    max_seconds: float = 300.0

    @property
    def bounds(self) -> Bounds:
        """What a map must keep to."""
        return Bounds(self.max_rotation_deg, self.max_translation_mm, self.min_overlap, self.agreement_mm)


@dataclass(frozen=True)
class RegistrationFigures:
    """What was done and what speaks for it; None where it was not looked at.

    All but ``seconds`` are the same on every run.

    Attributes:
        method: what was applied: none, header, rigid, affine or bspline.
        decision: ``same_grid``: nothing was to be done. ``header``: the scanner's coordinates, and the nearest peak
            of mutual information is where they say. ``header_unconfirmed``: the scanner's coordinates, although the
            images would rather lie ``agreement_mm`` away. ``registered``: by the images, judged.
        mi_before, mi_after: mutual information in nats, at the reference start and as applied.
        nmi_after: normalised, 1 to 2.
        overlap: share of the smaller foreground that both show.
        dice_before, dice_after: of the foregrounds.
        rotation_deg: of the map from fixed to moving.
        translation_mm: of the middle, from the nearest plausible start.
        jacobian_min: least determinant of the bending, of B-splines only.
        agreement_mm: the largest distance between independent ways to the map, mean over the corners.
        rival, prominence, residual_mm, mirror: see :class:`~tasks.register.judge.Evidence`.
        evaluations: comparisons of the two volumes.
        seconds: spent.
    """

    method: str
    decision: str
    mi_before: float | None = None
    mi_after: float | None = None
    nmi_after: float | None = None
    overlap: float | None = None
    dice_before: float | None = None
    dice_after: float | None = None
    rotation_deg: float | None = None
    translation_mm: float | None = None
    jacobian_min: float | None = None
    agreement_mm: float | None = None
    rival: float | None = None
    prominence: float | None = None
    residual_mm: float | None = None
    mirror: float | None = None
    evaluations: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class RegisteredVolume:
    """The moving volume on the fixed grid.

    Attributes:
        voxels: float32, of the fixed volume's shape; -1000 for CT in HU and 0 otherwise where nothing is known.
        valid: bool, where the moving volume has values; one bool seen everywhere where that is the whole grid.
        figures: what was done.
        transform: ITK's transform file (.tfm) from fixed to moving points, None where the headers align the two.
    """

    voxels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    figures: RegistrationFigures
    transform: str | None


def register_volumes(fixed: Volume, moving: Volume, options: RegistrationOptions) -> RegisteredVolume:
    """``moving`` on the grid of ``fixed``, or an error: an alignment that is in doubt is not given out.

    Byte for byte the same on every run, whatever other threads do.

    Raises:
        PairError: GRID_MISMATCH for ``none`` and different grids; NO_GEOMETRY for ``header`` and a volume without
            an orientation; NO_OVERLAP; REGISTRATION_FAILED, with the figures that speak against the alignment.
    """
    clock = Clock(options.max_seconds)
    one_grid = same_grid(fixed, moving)
    if options.method == "none":
        if not one_grid:
            sizes = " and ".join("x".join(map(str, volume.voxels.shape)) for volume in (fixed, moving))
            raise PairError(Code.GRID_MISMATCH, f"{sizes} voxels" if sizes else "")
        return _as_it_is(moving, RegistrationFigures("none", "same_grid", seconds=clock.seconds))
    located = fixed.in_scanner_space and moving.in_scanner_space
    if options.method == "header" and not located:
        raise PairError(Code.NO_GEOMETRY, "one of the volumes has no orientation, so its header cannot align it")
    one_frame = fixed.frame_of_reference is not None and fixed.frame_of_reference == moving.frame_of_reference
    if options.method == "header" or (options.method == "auto" and located and one_frame):
        figures = _header_figures(fixed, moving, options, clock)
        if one_grid:
            return _as_it_is(moving, figures)
        voxels, valid = resample(moving, fixed, interpolation=options.interpolation)
        return RegisteredVolume(voxels, valid, replace(figures, seconds=clock.seconds), None)
    return _by_images(fixed, moving, options, clock, keep_grid=options.method == "auto" and located and one_grid)


def _as_it_is(moving: Volume, figures: RegistrationFigures) -> RegisteredVolume:
    valid = np.broadcast_to(np.True_, moving.voxels.shape) if moving.valid is None else moving.valid
    return RegisteredVolume(moving.voxels, valid, figures, None)


def _header_figures(fixed: Volume, moving: Volume, options: RegistrationOptions, clock: Clock) -> RegistrationFigures:
    overlap, dice = overlap_and_dice(foreground_of(fixed), foreground_of(moving), AffineMap.identity())
    if overlap < options.min_overlap:
        detail = f"overlap {overlap:.2f} by the headers, at least {options.min_overlap:g}"
        raise PairError(Code.NO_OVERLAP, detail)
    scene = Scene(fixed, moving, clock)
    here = scene.medium.information(AffineMap.identity())
    nearest, _ = refine(scene.medium, AffineMap.identity())
    away = scene.box.distance(nearest, AffineMap.identity())
    return RegistrationFigures(
        method="header",
        # Twice: here the medium level is the last, and patients breathe.
        decision="header" if away <= 2 * options.agreement_mm else "header_unconfirmed",
        mi_before=here.mutual,
        mi_after=here.mutual,
        nmi_after=here.normalised,
        overlap=overlap,
        dice_before=dice,
        dice_after=dice,
        rotation_deg=0.0,
        translation_mm=0.0,
        agreement_mm=away,
        evaluations=clock.evaluations,
        seconds=clock.seconds,
    )


def _by_images(
    fixed: Volume, moving: Volume, options: RegistrationOptions, clock: Clock, *, keep_grid: bool
) -> RegisteredVolume:
    scene = Scene(fixed, moving, clock)
    span = _SEARCHED * options.max_rotation_deg
    found = search(scene.coarse, scene.medium, scene.starts, span)
    mapping, peak = refine(scene.fine, found.mapping)
    evidence = evidence_for(scene, mapping, peak.settled, found, options.bounds, options.seed, span)
    figures = RegistrationFigures(
        method="rigid",
        decision="registered",
        mi_before=evidence.mi_before,
        mi_after=evidence.mi_after,
        nmi_after=evidence.nmi_after,
        overlap=evidence.overlap,
        dice_before=evidence.dice_before,
        dice_after=evidence.dice_after,
        rotation_deg=evidence.rotation_deg,
        translation_mm=evidence.translation_mm,
        agreement_mm=evidence.agreement_mm,
        rival=evidence.rival,
        prominence=evidence.prominence,
        residual_mm=evidence.residual_mm,
        mirror=evidence.mirror,
    )
    if keep_grid and scene.box.distance(mapping, AffineMap.identity()) <= options.agreement_mm:
        # Resampling by less than the error of the registration would only blur.
        done = replace(figures, method="header", decision="same_grid")
        return _as_it_is(moving, replace(done, evaluations=clock.evaluations, seconds=clock.seconds))
    transform: ItkTransform = scene.direction(mapping).to_itk(rigid=True)
    if options.method == "affine":
        mapping = affine_from(scene.fine, mapping)
        transform = scene.direction(mapping).to_itk(rigid=False)
        after = scene.medium.information(mapping)
        overlap, dice = overlap_and_dice(scene.fixed_foreground, scene.moving_foreground, mapping)
        figures = replace(figures, method="affine", mi_after=after.mutual, nmi_after=after.normalised)
        figures = replace(figures, overlap=overlap, dice_after=dice, rotation_deg=mapping.rotation_degrees)
    elif options.method == "bspline":
        transform, least = bspline_from(fixed, moving, scene.direction(mapping), clock)
        figures = replace(figures, method="bspline", jacobian_min=least)
    voxels, valid = resample(moving, fixed, transform, interpolation=options.interpolation)
    figures = replace(figures, evaluations=clock.evaluations, seconds=clock.seconds)
    return RegisteredVolume(voxels, valid, figures, _transform_file(transform))


def _transform_file(transform: ItkTransform) -> str:
    """ITK writes transforms to files only."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fixed_to_moving.tfm"
        sitk.WriteTransform(transform, str(path))
        return path.read_text()

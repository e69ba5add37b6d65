"""A pair of volumes: read, registered, normalised and sliced for the core; restacked and measured behind it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ddfm_core.fusion import SMALLEST_SIDE
from tasks.codes import Code, PairError
from tasks.fuse import SourcePair
from tasks.job import Job, VolumeRegistration
from tasks.modality import CT, PT, Side, fixed_side, modality_of
from tasks.normalise_volume import VolumeNormalisation, normalise_volume
from tasks.pair import PreparedPair, SourceError
from tasks.publish.dicom import can_be_derived
from tasks.read.volume import read_volume
from tasks.register.volumes import RegisteredVolume, RegistrationOptions, register_volumes
from tasks.rows import ManifestRow, SourceRow
from tasks.slices import Slicing, empty_slices, slicing_of
from tasks.volume import Flag, Volume

_Normalised: TypeAlias = tuple[NDArray[np.float32], VolumeNormalisation]


@dataclass(frozen=True, eq=False)
class VolumeFacts:
    """What a row tells of a source beside its voxels."""

    modality: str
    unit: str
    shape: tuple[int, ...]
    transfer_syntaxes: tuple[str, ...]
    rescale_varies: bool
    flags: frozenset[Flag]

    @classmethod
    def of(cls, volume: Volume) -> VolumeFacts:
        """Those of a volume."""
        return cls(
            volume.modality, volume.unit, volume.voxels.shape, volume.transfer_syntaxes, volume.rescale_varies,
            volume.flags,
        )  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedVolumes(PreparedPair):
    """Two volumes on the grid of the fixed one, sliced.

    Attributes:
        source: where they lie, and whose they are.
        fixed: the side that lent its grid; ``fixed_volume`` is that volume, without its voxels.
        first, second: all slices float32 [n, H, W] in [-1, 1]; the moving source shows the fixed one where it has
            no values of its own, and both are -1 where the fixed one has none.
        valid: bool [n, H, W], where both have values; ``fixed_valid`` where the fixed one has.
        fused: bool [n], the slices that go through the core; the others are empty in both.
        content_sha256: of both sources.
        registered: figures and transform; its voxels are not kept.
    """

    source: SourceRow
    fixed: Side
    fixed_volume: Volume
    moving_volume: Volume
    facts_first: VolumeFacts
    facts_second: VolumeFacts
    slicing: Slicing
    first: NDArray[np.float32]
    second: NDArray[np.float32]
    valid: NDArray[np.bool_]
    fixed_valid: NDArray[np.bool_]
    content_sha256: bytes
    fused: NDArray[np.bool_]
    normalisation_first: VolumeNormalisation
    normalisation_second: VolumeNormalisation
    registered: RegisteredVolume

    @property
    def fixed_slices(self) -> NDArray[np.float32]:
        """The slices of the fixed source."""
        return self.first if self.fixed == "first" else self.second

    @property
    def fixed_normalisation(self) -> VolumeNormalisation:
        """How the fixed source was mapped, and with it the result."""
        return self.normalisation_first if self.fixed == "first" else self.normalisation_second


def read_volumes(row: ManifestRow, source: SourceRow, job: Job) -> PreparedVolumes:
    """Read two volumes, put the moving one on the grid of the fixed one, normalise and slice them.

    Raises:
        PairError: they cannot be fused.
        StorageError: the store of a source is out of reach, and no pair could be read.
    """
    began = time.perf_counter()
    first, second = _read("first", row, source, job), _read("second", row, source, job)
    facts_first, facts_second = VolumeFacts.of(first), VolumeFacts.of(second)
    content = first.content_sha256 + second.content_sha256
    side = job.volumes.fixed
    if side == "auto":
        side = fixed_side(first.modality, second.modality)
    fixed, moving = (first, second) if side == "first" else (second, first)
    # Whole sources need not stay in memory once they lie on one grid.
    del first, second
    _check_derivable(fixed, job)
    read = time.perf_counter()
    registered = register_volumes(fixed, moving, _options(job))
    moving = replace(
        moving,
        voxels=registered.voxels,
        valid=_all_or(registered.valid),
        affine=fixed.affine,
        slice_axis=fixed.slice_axis,
    )
    registered = replace(registered, voxels=np.empty(0, np.float32))
    registration_done = time.perf_counter()
    slicing = slicing_of(fixed.affine, fixed.voxels.shape, fixed.slice_axis)
    if min(slicing.sizes[1:]) < SMALLEST_SIDE:
        raise PairError(Code.TOO_SMALL, f"slices of {slicing.sizes[2]} x {slicing.sizes[1]} voxels")
    normalised = _normalised(fixed, moving, side, job)
    (first_values, first_line), (second_values, second_line) = normalised if side == "first" else normalised[::-1]
    first_slices, second_slices = slicing.split(first_values), slicing.split(second_values)
    fused = ~empty_slices(first_slices, second_slices, share=job.volumes.empty_share)
    if not fused.any():
        # Nothing stands out anywhere: then it is not for us to say which slices are empty.
        fused[:] = True
    return PreparedVolumes(
        row=row,
        source=source,
        slices=tuple(
            SourcePair(_picture(first_slices[k]), _picture(second_slices[k]), _noise_key(content, int(k), job))
            for k in np.flatnonzero(fused)
        ),
        fixed=side,
        fixed_volume=_without_voxels(fixed),
        moving_volume=_without_voxels(moving),
        facts_first=facts_first,
        facts_second=facts_second,
        slicing=slicing,
        first=first_slices,
        second=second_slices,
        valid=slicing.split(_both_valid(fixed, moving)),
        fixed_valid=slicing.split(_valid_of(fixed)),
        content_sha256=content,
        fused=fused,
        normalisation_first=first_line,
        normalisation_second=second_line,
        registered=registered,
        seconds_read=read - began,
        seconds_register=registration_done - read,
        seconds_normalise=time.perf_counter() - registration_done,
    )


def _read(side: Side, row: ManifestRow, source: SourceRow, job: Job) -> Volume:
    """A volume whose modality is that of its file, or else what the archive or the job tells of it."""
    if side == "first":
        uris, size, kind = source.first_uris, row.first_size, source.first_kind
        told = source.first_modality or job.modality_first
    else:
        uris, size, kind = source.second_uris, row.second_size, source.second_kind
        told = source.second_modality or job.modality_second
    try:
        limit = job.volumes.max_object_bytes
        if size is not None and size > limit * max(1, len(uris)):
            raise PairError(Code.TOO_LARGE, f"{size} bytes in {len(uris)} files; max_object_bytes is {limit}")
        volume = read_volume(uris, kind, job.volumes, job.readers)
    except PairError as error:
        raise SourceError(side, error) from None
    if volume.modality:
        return volume
    modality = modality_of(told)
    return replace(volume, modality=modality, unit="HU" if modality == CT and not volume.unit else volume.unit)


def _normalised(fixed: Volume, moving: Volume, side: Side, job: Job) -> tuple[_Normalised, _Normalised]:
    """Both volumes in [-1, 1] with their lines, the fixed one first."""
    other: Side = "second" if side == "first" else "first"
    ranges = {"first": job.first_range, "second": job.second_range}
    fixed_values, fixed_line = _normalise(side, fixed, ranges[side])
    moving_values, moving_line = _normalise(other, moving, ranges[other])
    if moving.valid is not None:
        # Where the moving source shows nothing, the result shall be the fixed one.
        np.copyto(moving_values, fixed_values, where=~moving.valid)
    if fixed.valid is not None:
        # Where the fixed source has no values, the result has none: what the moving one shows is in another unit.
        np.copyto(moving_values, np.float32(-1), where=~fixed.valid)
    return (fixed_values, fixed_line), (moving_values, moving_line)


def _check_derivable(fixed: Volume, job: Job) -> None:
    """Before minutes of work are spent on it."""
    if "dicom" not in job.volumes.also_write:
        return
    if not can_be_derived(fixed.dicom):
        kind = "DICOM" if fixed.dicom else "NIfTI"
        raise PairError(Code.NOT_DERIVABLE, f"the fixed source is {kind}, {fixed.modality or 'of unknown modality'}")
    if Flag.GAP_FILLED in fixed.flags:
        raise PairError(Code.NOT_DERIVABLE, "slices of the fixed source were missing and have no original to refer to")


def _options(job: Job) -> RegistrationOptions:
    volumes = job.volumes
    return RegistrationOptions(
        method=cast(VolumeRegistration, job.registration),
        seed=job.seed,
        max_rotation_deg=volumes.max_rotation_deg,
        max_translation_mm=volumes.max_translation_mm,
        min_overlap=volumes.min_overlap,
        max_seconds=volumes.max_registration_seconds,
    )


def _normalise(side: Side, volume: Volume, value_range: tuple[float, float] | str | None) -> _Normalised:
    if isinstance(value_range, str) and volume.modality not in (CT, ""):
        raise PairError(Code.RANGE_MISMATCH, f"{side} source: {value_range} for {volume.modality}")
    if volume.modality == PT and volume.unit not in ("", "SUVbw"):
        # Numbers for PET are SUV; in Bq/ml they would saturate all of it. The row tells by rule and flag.
        value_range = None
    return normalise_volume(volume, value_range)


def _all_or(valid: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return None if valid.all() else valid


def _both_valid(fixed: Volume, moving: Volume) -> NDArray[np.bool_]:
    if fixed.valid is None or moving.valid is None:
        return _valid_of(moving if fixed.valid is None else fixed)
    return fixed.valid & moving.valid


def _valid_of(volume: Volume) -> NDArray[np.bool_]:
    # One value seen everywhere: a mask of a large volume that says nothing need not take its memory.
    return np.broadcast_to(np.True_, volume.voxels.shape) if volume.valid is None else volume.valid


def _without_voxels(volume: Volume) -> Volume:
    return replace(volume, voxels=np.empty((0, 0, 0), np.float32), valid=None)


def _picture(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values)[None]


def _noise_key(content: bytes, index: int, job: Job) -> bytes:
    return content if job.volumes.noise == "shared" else content + index.to_bytes(4, "little")

"""A fused volume: restacked in the fixed source's grid and unit, measured slice by slice, and made into files."""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code, PairError, Status
from tasks.fuse import Fused
from tasks.measure import mean_grey_levels, measure
from tasks.modality import NM, PT
from tasks.normalise_volume import denormalise_volume
from tasks.outputs import DICOM_SUFFIX, FOLDER_SUFFIXES, PNG_SUFFIX, folder_sha256
from tasks.pair import EncodedPair, FusedPair, OutputFile, common_columns, fused_columns
from tasks.palette import coloured
from tasks.publish.derivation import DerivationFacts, PatientPseudonym
from tasks.publish.dicom import derived_series
from tasks.publish.nifti import column_row_slice, encode_nifti
from tasks.publish.png import encode_png
from tasks.rows import ResultRow, SliceRow
from tasks.settings import RunSettings, package_version
from tasks.volume import Flag
from tasks.volume_pair import PreparedVolumes


def encode_volumes(pair: FusedPair, prepared: PreparedVolumes, settings: RunSettings, device: str) -> EncodedPair:
    """Restack and measure a fused volume, and make its files and rows.

    Raises:
        PairError: a slice is missing or not finite.
    """
    began = time.perf_counter()
    fused, gain = _restack(pair.slices, prepared, settings)
    slices = tuple(_measured(fused, prepared, settings))
    measured = time.perf_counter()
    voxels = prepared.slicing.join(denormalise_volume(fused, prepared.fixed_normalisation))
    fixed = prepared.fixed_volume
    key = prepared.row.pair_key
    # A NIfTI source keeps its own order of axes; of a DICOM series the usual one is columns, rows, slices.
    stored, affine = column_row_slice(voxels, fixed.affine) if fixed.dicom else (voxels, fixed.affine)
    content = encode_nifti(stored, affine, in_scanner_space=fixed.in_scanner_space)
    main = OutputFile(settings.output_uri(key), content)
    extras: dict[str, list[OutputFile]] = {}
    deviation = _deviation(pair.slices, prepared, gain)
    deviation_uri = settings.deviation_uri(key)
    if deviation is not None:
        extras[deviation_uri] = [OutputFile(deviation_uri, _deviation_file(deviation, prepared))]
    wanted = settings.job.volumes.also_write
    if "dicom" in wanted:
        uri = settings.beside(key, DICOM_SUFFIX)
        extras[uri] = [OutputFile(f"{uri}/{name}", part) for name, part in _series(voxels, prepared, settings)]
    if "png" in wanted:
        uri = settings.beside(key, PNG_SUFFIX)
        extras[uri] = [
            OutputFile(f"{uri}/{index:04d}.png", encode_png(picture, 8))
            for index, picture in enumerate(_pictures(fused, prepared, settings))
        ]
    row = ResultRow(
        **common_columns(prepared.row, settings, device) | _modalities(prepared),
        n_slices=len(fused),
        height=fused.shape[1],
        width=fused.shape[2],
        status=Status.OK,
        output_uri=main.uri,
        output_sha256=hashlib.sha256(content).hexdigest(),
        extra_uris=tuple(extras) or None,
        extra_sha256=tuple(_digest(uri, files) for uri, files in extras.items()) or None,
        **fused_columns(pair, prepared.normalisation_first, prepared.normalisation_second),
        **_registration(prepared),
        fixed=prepared.fixed,
        affine=tuple(float(value) for value in affine.ravel()),
        spacing=tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0)),
        axcodes="".join(nib.aff2axcodes(affine)),
        obliquity_deg=float(np.degrees(nib.affines.obliquity(fixed.affine).max())),
        first_shape=prepared.facts_first.shape,
        second_shape=prepared.facts_second.shape,
        first_unit=prepared.facts_first.unit,
        second_unit=prepared.facts_second.unit,
        first_transfer_syntaxes=prepared.facts_first.transfer_syntaxes or None,
        second_transfer_syntaxes=prepared.facts_second.transfer_syntaxes or None,
        rescale_varies=prepared.facts_first.rescale_varies or prepared.facts_second.rescale_varies,
        flags=_flags(prepared) or None,
        passthrough_slices=int(np.count_nonzero(~prepared.fused)),
        z_consistency=_z_consistency(fused, prepared),
        valid_share=float(np.mean([one.valid_share for one in slices])),
        noise=settings.job.volumes.noise,
        std_mean=None if deviation is None else mean_grey_levels(deviation[prepared.fused]),
        seconds_measure=measured - began,
        seconds_publish=time.perf_counter() - measured,
        metrics=_means(slices),
    )
    folders = tuple(settings.beside(key, suffix) for suffix in FOLDER_SUFFIXES)
    files = (main, *(file for files in extras.values() for file in files))
    return EncodedPair(row, files, slices, folders, obsolete=() if deviation is not None else (deviation_uri,))


def _restack(
    slices: Sequence[Fused], prepared: PreparedVolumes, settings: RunSettings
) -> tuple[NDArray[np.float32], float]:
    """All slices [n, H, W] in [-1, 1]: fused ones by the job's output rule, empty ones as the fixed source is.

    With them, how much that rule enlarged differences.
    """
    wanted = np.flatnonzero(prepared.fused)
    if len(slices) != len(wanted):
        raise PairError(Code.RESTACK_INCOMPLETE, f"{len(slices)} of {len(wanted)} fused slices")
    fused = np.array(prepared.fixed_slices, np.float32, order="C")
    for place, one in zip(wanted, slices, strict=True):
        fused[place] = one.image[0]
    fused[~prepared.fixed_valid] = -1
    if not np.isfinite(fused).all():
        raise PairError(Code.FUSION_FAILED, "the fused volume is not finite")
    rule = settings.job.fusion_config().output_rule()
    gain = 1.0
    if rule == "stretch":
        # Over the volume: stretched one by one, neighbouring slices would flicker.
        low, high = fused[wanted].min(), fused[wanted].max()
        if high > low:
            gain = float(2 / (high - low))
            fused[wanted] = 2 * (fused[wanted] - low) / (high - low) - 1
    if rule != "none":
        np.clip(fused, -1, 1, out=fused)
    return fused, gain


def _deviation(slices: Sequence[Fused], prepared: PreparedVolumes, gain: float) -> NDArray[np.float32] | None:
    """Of several samples, their standard deviation [n, H, W] in units of [-1, 1]; 0 where nothing was fused."""
    stds = [one.std for one in slices if one.std is not None]
    if not stds:
        return None
    deviation = np.zeros(prepared.first.shape, np.float32)
    deviation[prepared.fused] = gain * np.stack(stds)
    deviation[~prepared.fixed_valid] = 0
    return deviation


def _deviation_file(deviation: NDArray[np.float32], prepared: PreparedVolumes) -> bytes:
    """On the grid and in the unit of the fused volume, as NIfTI without compression, which does little for noise."""
    fixed, line = prepared.fixed_volume, prepared.fixed_normalisation
    voxels = prepared.slicing.join(deviation * np.float32(abs(line.hi - line.lo) / 2))
    stored, affine = column_row_slice(voxels, fixed.affine) if fixed.dicom else (voxels, fixed.affine)
    return gzip.decompress(encode_nifti(stored, affine, in_scanner_space=fixed.in_scanner_space))


def _measured(fused: NDArray[np.float32], prepared: PreparedVolumes, settings: RunSettings) -> Iterator[SliceRow]:
    for index, position in enumerate(prepared.slicing.positions):
        valid = prepared.valid[index]
        is_fused = bool(prepared.fused[index])
        sources = prepared.first[index][None], prepared.second[index][None]
        yield SliceRow(
            run_id=settings.run.run_id,
            pair_key=prepared.row.pair_key,
            method=settings.job.method_name,
            slice_index=index,
            position_mm=position,
            outcome="fused" if is_fused else "passthrough",
            valid_share=float(valid.mean()),
            metrics=measure(fused[index][None], *sources, valid) if is_fused else {},
        )


def _means(slices: Sequence[SliceRow]) -> dict[str, float]:
    """Over the fused slices that have the figure; NaN where none has."""
    means: dict[str, float] = {}
    for name in METRIC_NAMES:
        values = np.array([one.metrics[name] for one in slices if one.metrics])
        finite = values[np.isfinite(values)]
        means[name] = float(finite.mean()) if finite.size else float("nan")
    return means


def _z_consistency(fused: NDArray[np.float32], prepared: PreparedVolumes) -> float | None:
    """How much neighbouring slices differ, next to how much those of the sources' mean do; 1 is as in the sources."""
    sources = changes = 0.0
    for index in range(1, len(fused)):
        if prepared.fused[index] and prepared.fused[index - 1]:
            changes += float(np.abs(fused[index] - fused[index - 1]).mean())
            before, after = (prepared.first[k] + prepared.second[k] for k in (index - 1, index))
            sources += float(np.abs(after - before).mean()) / 2
    return changes / sources if sources else None


def _series(
    voxels: NDArray[np.float32], prepared: PreparedVolumes, settings: RunSettings
) -> Iterator[tuple[str, bytes]]:
    fixed, moving = prepared.fixed_volume, prepared.moving_volume
    assert fixed.dicom is not None  # noqa: S101 - looked at before the fusion
    job = settings.job
    line = prepared.fixed_normalisation
    facts = DerivationFacts(
        # Other sources give other objects: an archive ignores new pixels under a known identifier.
        key=f"{prepared.row.pair_key} {settings.config_hash} {prepared.content_sha256.hex()}",
        method=job.algorithm,
        versions=f"ddfm-pipeline {package_version()}, prior {settings.prior_sha256[:12] or 'none'}",
        seed=job.seed,
        fixed_modality=fixed.modality,
        moving_modality=moving.modality,
        moving=moving.dicom,
        lossy=Flag.LOSSY_SOURCE in fixed.flags | moving.flags,
        display=(min(line.lo, line.hi), max(line.lo, line.hi)),
        inverted_display=fixed.inverted_display,
        # Of the run, so that a run that was killed and resumed writes the same bytes.
        created=settings.run.began,
    )
    kept = job.volumes.identity == "keep"
    identity: Literal["keep"] | PatientPseudonym = (
        "keep" if kept else PatientPseudonym(prepared.source.patient, prepared.source.uid_key)
    )
    return derived_series(voxels, fixed.affine, fixed.dicom, identity=identity, facts=facts)


def _pictures(
    fused: NDArray[np.float32], prepared: PreparedVolumes, settings: RunSettings
) -> Iterator[NDArray[np.float32]]:
    palette = settings.job.volumes.palette
    functional = next(
        (
            values
            for values, facts in ((prepared.first, prepared.facts_first), (prepared.second, prepared.facts_second))
            if facts.modality in (PT, NM)
        ),
        None,
    )
    for index, picture in enumerate(fused):
        if palette == "none" or functional is None:
            yield picture[None]
        else:
            # Where the functional source has no values it shows the other one, which must not look like uptake.
            uptake = np.where(prepared.valid[index], functional[index], np.float32(-1))
            yield coloured(picture[None], uptake[None], palette)


def _digest(uri: str, files: Sequence[OutputFile]) -> str:
    """As :func:`tasks.outputs.output_sha256` will find it: of a folder by its files, of a file by its bytes."""
    if not uri.endswith(FOLDER_SUFFIXES):
        return hashlib.sha256(files[0].content).hexdigest()
    return folder_sha256((file.uri.rpartition("/")[2], hashlib.sha256(file.content).hexdigest()) for file in files)


def _modalities(prepared: PreparedVolumes) -> dict[str, str]:
    """What the files say goes before the job's names."""
    row: dict[str, str] = {}
    if prepared.facts_first.modality:
        row["modality_first"] = prepared.facts_first.modality
    if prepared.facts_second.modality:
        row["modality_second"] = prepared.facts_second.modality
    return row


def _flags(prepared: PreparedVolumes) -> tuple[str, ...]:
    sides = (("first", prepared.facts_first), ("second", prepared.facts_second))
    flags = [f"{side}: {flag}" for side, facts in sides for flag in sorted(facts.flags)]
    if not prepared.fused.all():
        flags.append(str(Flag.PASSTHROUGH_SLICES))
    return tuple(flags)


def _registration(prepared: PreparedVolumes) -> dict[str, Any]:
    figures = prepared.registered.figures
    return {
        "registration_method": figures.method,
        "registration_decision": figures.decision,
        "registration_mi_before": figures.mi_before,
        "registration_mi_after": figures.mi_after,
        "registration_nmi_after": figures.nmi_after,
        "registration_overlap": figures.overlap,
        "registration_dice_before": figures.dice_before,
        "registration_dice_after": figures.dice_after,
        "registration_rotation_deg": figures.rotation_deg,
        "registration_translation": figures.translation_mm,
        "registration_jacobian_min": figures.jacobian_min,
        "registration_agreement": figures.agreement_mm,
        "registration_transform": prepared.registered.transform,
    }

"""The rows that a run writes down: of its plan, of what became of each pair, and of the slices of volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

import pyarrow as pa

from ddfm_core.metrics import METRIC_NAMES
from tasks.codes import Code, Status

Int32 = Annotated[int, pa.int32()]


@dataclass(frozen=True)
class ManifestRow:
    """A pair of the plan; the columns of ``MANIFEST_SCHEMA``.

    Attributes:
        pair_key: unique in the archive, with "/" between its parts; names the result.
        first_uri: None where that side has no file, like its fingerprint and its size in bytes. In strict privacy
            its root and a pseudonym.
        code: why the pair is not to be fused, None for one that is; ``message`` is its sentence.
        attempt: 1, or one more than the row of a failure that is tried again.
    """

    shard_id: str
    chunk_id: str
    pair_key: str
    first_uri: str | None
    second_uri: str | None
    first_fingerprint: str | None
    second_fingerprint: str | None
    first_size: int | None
    second_size: int | None
    code: Code | None
    message: str
    attempt: Int32


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """Where the files of a pair lie; the columns of ``PRIVATE_SCHEMA``. What it shows of itself names none of them.

    Attributes:
        pair_key: as in the plan.
        first_uris: the files of the first source: one, or those of a DICOM series.
        first_kind: image, nifti or dicom.
        first_modality: CT, MR, PT or NM, "" where it is unknown.
        patient: the pseudonym of the patient where the archive tells one, else "".
        uid_key: a secret of this patient by which the UIDs of derived DICOM are made, "" without pseudonyms.
    """

    pair_key: str
    first_uris: tuple[str, ...] = field(repr=False)
    second_uris: tuple[str, ...] = field(repr=False)
    first_kind: str
    second_kind: str
    first_modality: str = ""
    second_modality: str = ""
    patient: str = field(default="", repr=False)
    uid_key: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class SliceRow:
    """One slice of a fused volume; the columns of ``SLICES_SCHEMA``, then one per metric.

    Attributes:
        slice_index: along the stack, from 0.
        position_mm: along the normal of the slices, in scanner coordinates.
        outcome: ``fused``, or ``passthrough`` for a slice that is empty in both sources.
        valid_share: of the slice, where both sources have values.
        metrics: all of ``METRIC_NAMES`` for a slice that was fused, else none.
    """

    run_id: str
    pair_key: str
    method: str
    slice_index: int
    position_mm: float
    outcome: str
    valid_share: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """What became of a pair; the columns of ``RESULT_SCHEMA``, then one per metric.

    Attributes:
        method: the job's name of its configuration; with ``pair_key`` it names the picture.
        lock_token: of the lock of the destination under which the row's process was started; it grows with each holder.
        n_slices: 1 for pictures.
        output_uri: the picture, or the NIfTI file of a volume.
        extra_uris: folders with a derived DICOM series or pictures of slices; ``extra_sha256`` has a hash of each,
            see :func:`tasks.outputs.output_sha256`.
        normalisation_first_lo: stored value that became -1, as ``_hi`` became 1.
        registration_method: what was asked for; ``_decision`` says what came of it.
        registration_translation: millimetres for volumes, pixels for pictures, like ``_agreement``, which is how far
            independent estimates lie apart.
        registration_transform: from the fixed to the moving source: an ITK transform file as text, for pictures the
            rows of a 3 x 3 matrix of pixels (x, y, 1) as JSON.
        fixed: the source whose grid the result has, "first" or "second", for volumes.
        affine: of a fused volume, 16 numbers row by row, from voxel indices to RAS+ millimetres.
        flags: what is worth knowing of the sources of a volume, each with its side.
        passthrough_slices: slices that were empty in both sources and copied.
        out_of_gamut: share of the pixels that chroma would have led out of the range, 0 for grey pairs.
        std_mean: of several samples, the mean of the deviation map in grey levels (0 to 255).
        samples: pictures drawn of the pair, of which the result is the mean.
        z_consistency: mean difference between neighbouring slices over the same of the sources' mean.
        finished_at: with its time zone.
        metrics: all of ``METRIC_NAMES`` for a row that is ok, else none; of a volume their mean over fused slices.

    Raises:
        ValueError: status, code, metrics or time do not fit together.
    """

    run_id: str
    shard_id: str
    chunk_id: str
    pair_key: str
    method: str
    dataset: str
    modality_first: str
    modality_second: str
    first_uri: str | None
    second_uri: str | None
    first_fingerprint: str | None
    second_fingerprint: str | None
    n_slices: Int32 | None = None
    height: Int32 | None = None
    width: Int32 | None = None
    status: Status
    code: Code | None = None
    message: str = ""
    attempt: Int32
    lock_token: int
    output_uri: str | None = None
    output_sha256: str | None = None
    extra_uris: tuple[str, ...] | None = None
    extra_sha256: tuple[str, ...] | None = None
    normalisation_first_rule: str | None = None
    normalisation_first_lo: float | None = None
    normalisation_first_hi: float | None = None
    normalisation_second_rule: str | None = None
    normalisation_second_lo: float | None = None
    normalisation_second_hi: float | None = None
    registration_method: str | None = None
    registration_decision: str | None = None
    registration_mi_before: float | None = None
    registration_mi_after: float | None = None
    registration_nmi_before: float | None = None
    registration_nmi_after: float | None = None
    registration_overlap: float | None = None
    registration_dice_before: float | None = None
    registration_dice_after: float | None = None
    registration_rotation_deg: float | None = None
    registration_translation: float | None = None
    registration_jacobian_min: float | None = None
    registration_agreement: float | None = None
    registration_transform: str | None = None
    fixed: str | None = None
    affine: tuple[float, ...] | None = None
    spacing: tuple[float, ...] | None = None
    axcodes: str | None = None
    obliquity_deg: float | None = None
    first_shape: tuple[int, ...] | None = None
    second_shape: tuple[int, ...] | None = None
    first_unit: str | None = None
    second_unit: str | None = None
    first_transfer_syntaxes: tuple[str, ...] | None = None
    second_transfer_syntaxes: tuple[str, ...] | None = None
    rescale_varies: bool | None = None
    flags: tuple[str, ...] | None = None
    passthrough_slices: Int32 | None = None
    z_consistency: float | None = None
    valid_share: float | None = None
    noise: str | None = None
    out_of_gamut: float | None = None
    std_mean: float | None = None
    seed: int
    steps: Int32
    samples: Int32
    mode: str
    prior_sha256: str
    config_hash: str
    algorithm_version: str
    package_version: str
    device: str
    seconds_read: float | None = None
    seconds_register: float | None = None
    seconds_normalise: float | None = None
    seconds_fuse: float | None = None
    seconds_measure: float | None = None
    seconds_publish: float | None = None
    finished_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        status = Status.OK if self.code is None else self.code.status
        if self.status != status:
            raise ValueError(f"{self.pair_key}: the status of code {self.code} is {status}, not {self.status}")
        expected = set(METRIC_NAMES) if self.status == Status.OK else set()
        if self.metrics.keys() != expected:
            wrong = ", ".join(sorted(self.metrics.keys() ^ expected))
            raise ValueError(f"{self.pair_key}: metrics missing or unknown for a row that is {self.status}: {wrong}")
        if self.finished_at.tzinfo is None:
            raise ValueError(f"{self.pair_key}: finished_at has no time zone")

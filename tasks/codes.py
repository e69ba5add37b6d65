"""What can become of a pair or a job: a status, a code, and a sentence a person can act on."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """The outcome of a pair, as the result table keeps it."""

    OK = "ok"
    SKIPPED = "skipped"
    """Not meant to be fused; nothing is wrong."""
    REJECTED = "rejected"
    """An input that cannot be trusted; looked at again when the source changes."""
    FAILED = "failed"
    """Our side or the infrastructure; tried again."""


class Code(StrEnum):
    """Why a pair is not ``ok``. Each code belongs to one status and carries one sentence."""

    NOT_IMAGE = "not_image"
    NO_PARTNER = "no_partner"
    AMBIGUOUS_PAIR = "ambiguous_pair"
    MISSING_SOURCE = "missing_source"
    NAME_UNUSABLE = "name_unusable"
    VANISHED = "vanished"
    DECODE_FAILED = "decode_failed"
    TRUNCATED = "truncated"
    MULTI_PAGE = "multi_page"
    CMYK = "cmyk"
    PIXELS_UNSUPPORTED = "pixels_unsupported"
    NOT_FINITE = "not_finite"
    CODEC_MISSING = "codec_missing"
    TOO_SMALL = "too_small"
    TOO_LARGE = "too_large"
    SIZE_MISMATCH = "size_mismatch"
    OTHER_MODALITY = "other_modality"
    NON_IMAGE_SOP = "non_image_sop"
    LOCALIZER = "localizer"
    PROJECTION = "projection"
    DICOMDIR = "dicomdir"
    NOT_DICOM = "not_dicom"
    HEADER_INCOMPLETE = "header_incomplete"
    AMBIGUOUS_SERIES = "ambiguous_series"
    MISSING_SLICES = "missing_slices"
    DUPLICATE_CONFLICT = "duplicate_conflict"
    IRREGULAR_SPACING = "irregular_spacing"
    SHEARED = "sheared"
    MOSAIC = "mosaic"
    FOUR_D = "4d"
    NO_GEOMETRY = "no_geometry"
    AFFINE_CONFLICT = "affine_conflict"
    AFFINE_SINGULAR = "affine_singular"
    BURNED_IN = "burned_in"
    COLOUR_UNEXPECTED = "colour_unexpected"
    PATIENT_MISMATCH = "patient_mismatch"
    GRID_MISMATCH = "grid_mismatch"
    RANGE_MISMATCH = "range_mismatch"
    NO_OVERLAP = "no_overlap"
    REGISTRATION_FAILED = "registration_failed"
    NOT_DERIVABLE = "not_derivable"
    RESTACK_INCOMPLETE = "restack_incomplete"
    READ_FAILED = "read_failed"
    PERMISSION_DENIED = "permission_denied"
    WRITE_FAILED = "write_failed"
    OUT_OF_MEMORY = "out_of_memory"
    FUSION_FAILED = "fusion_failed"
    PROCESS_DIED = "process_died"
    INTERNAL_ERROR = "internal_error"

    @property
    def status(self) -> Status:
        """The status that a row with this code has."""
        return _STATUS_AND_SENTENCE[self][0]

    @property
    def sentence(self) -> str:
        """What happened and what to do about it."""
        return _STATUS_AND_SENTENCE[self][1]


_STATUS_AND_SENTENCE: dict[Code, tuple[Status, str]] = {
    Code.NOT_IMAGE: (Status.SKIPPED, "The file's name is not that of an image; it was left alone."),
    Code.NO_PARTNER: (Status.REJECTED, "Nothing on the other side belongs to it; add its partner, or remove this one."),
    Code.AMBIGUOUS_PAIR: (
        Status.REJECTED,
        "Several sources of one side could be meant; keep one, or name the pair in a table.",
    ),
    Code.MISSING_SOURCE: (Status.REJECTED, "The file is listed but does not exist; restore it or correct the table."),
    Code.NAME_UNUSABLE: (Status.REJECTED, "The name cannot be given to a result; rename the file or change its key."),
    Code.VANISHED: (Status.SKIPPED, "Its sources are gone and its picture was pruned; restore them to fuse it again."),
    Code.DECODE_FAILED: (Status.REJECTED, "The bytes are not an image of a known format; replace the file."),
    Code.TRUNCATED: (Status.REJECTED, "The image ends before its data does; copy it again from its origin."),
    Code.MULTI_PAGE: (Status.REJECTED, "The file holds several pages or frames; split it into single images."),
    Code.CMYK: (Status.REJECTED, "CMYK has no agreed way to grey or RGB here; convert the file to RGB."),
    Code.PIXELS_UNSUPPORTED: (Status.REJECTED, "The pixel type is not supported; save as 8 or 16 bit or 32 bit float."),
    Code.NOT_FINITE: (Status.REJECTED, "The image holds NaN or infinite values; repair or mask them."),
    Code.CODEC_MISSING: (Status.REJECTED, "The image's compression needs a codec that is not installed."),
    Code.TOO_SMALL: (Status.REJECTED, "An image needs at least 16 x 16 pixels to be fused."),
    Code.TOO_LARGE: (Status.REJECTED, "Larger than the job allows; raise the limit and --retry rejected, or scale it."),
    Code.SIZE_MISMATCH: (Status.REJECTED, "The two images differ in size; align them, or set register: resize."),
    Code.OTHER_MODALITY: (Status.SKIPPED, "Of a modality that this job does not fuse; it was left alone."),
    Code.NON_IMAGE_SOP: (
        Status.SKIPPED,
        "The DICOM object is not an image of a kind that is fused; it was left alone.",
    ),
    Code.LOCALIZER: (Status.SKIPPED, "A localizer; it was left alone."),
    Code.PROJECTION: (Status.SKIPPED, "A projection of a volume, not one of its slices; it was left alone."),
    Code.DICOMDIR: (Status.SKIPPED, "A DICOMDIR; it was left alone, the files are found by listing."),
    Code.NOT_DICOM: (
        Status.REJECTED,
        "The file does not begin as a DICOM file does; export it again with its preamble.",
    ),
    Code.HEADER_INCOMPLETE: (Status.REJECTED, "The header lacks what a volume needs; export the series again."),
    Code.AMBIGUOUS_SERIES: (Status.REJECTED, "The series holds several volumes; export them as series of their own."),
    Code.MISSING_SLICES: (Status.REJECTED, "Slices are missing inside the series; export it again, whole."),
    Code.DUPLICATE_CONFLICT: (Status.REJECTED, "Different slices lie at one position; export one volume per series."),
    Code.IRREGULAR_SPACING: (Status.REJECTED, "The slices are not equally spaced; resample the series beforehand."),
    Code.SHEARED: (Status.REJECTED, "The slices are tilted against their stack; straighten the volume beforehand."),
    Code.MOSAIC: (Status.REJECTED, "A mosaic of slices in one picture; convert it with dcm2niix."),
    Code.FOUR_D: (Status.REJECTED, "The source holds several volumes (time, echo or direction); name one or split it."),
    Code.NO_GEOMETRY: (
        Status.REJECTED,
        "Position, orientation or spacing is missing or senseless; nothing is guessed.",
    ),
    Code.AFFINE_CONFLICT: (Status.REJECTED, "The header's qform and sform disagree; correct the one that is wrong."),
    Code.AFFINE_SINGULAR: (Status.REJECTED, "The header's affine is not finite or has no inverse; correct it."),
    Code.BURNED_IN: (
        Status.REJECTED,
        "The pixels carry burned-in annotation, which may name a person; remove it first.",
    ),
    Code.COLOUR_UNEXPECTED: (
        Status.REJECTED,
        "Colour where a scalar is expected, such as a screenshot; use the original.",
    ),
    Code.PATIENT_MISMATCH: (Status.REJECTED, "The two sources are of different patients; correct the table of pairs."),
    Code.GRID_MISMATCH: (Status.REJECTED, "The two volumes lie on different grids; choose a registration."),
    Code.RANGE_MISMATCH: (Status.REJECTED, "The job's range is a window of CT, the source is none; give two numbers."),
    Code.NO_OVERLAP: (Status.REJECTED, "The two sources hardly overlap in space; check that they belong together."),
    Code.REGISTRATION_FAILED: (
        Status.REJECTED,
        "No alignment could be trusted; register the pair by hand or leave it out.",
    ),
    Code.NOT_DERIVABLE: (
        Status.REJECTED,
        "Derived DICOM needs a CT or MR series as the fixed source; ask for NIfTI alone.",
    ),
    Code.RESTACK_INCOMPLETE: (
        Status.FAILED,
        "A slice of the fused volume is missing; please report it with the message.",
    ),
    Code.READ_FAILED: (Status.FAILED, "Reading the source failed after retries; the next run tries it again."),
    Code.PERMISSION_DENIED: (Status.FAILED, "Access to the source was refused; grant read access, then run again."),
    Code.WRITE_FAILED: (Status.FAILED, "Writing the result failed; check space and access, then run again."),
    Code.OUT_OF_MEMORY: (Status.FAILED, "Memory ran out on this pair; use a smaller batch or a larger machine."),
    Code.FUSION_FAILED: (Status.FAILED, "The fusion gave values that are not finite; check the prior."),
    Code.PROCESS_DIED: (Status.FAILED, "The process died twice at work on this pair; look at its files and at memory."),
    Code.INTERNAL_ERROR: (Status.FAILED, "An unexpected error; please report it with the message beside this code."),
}


class PairError(Exception):
    """One pair cannot be fused; carries the code for its row.

    Args:
        code: what went wrong.
        detail: what was found, with figures; never a file's content.
    """

    def __init__(self, code: Code, detail: str = "") -> None:
        super().__init__(f"{code.sentence} ({detail})" if detail else code.sentence)
        self.code = code
        self.detail = detail


class ConfigurationError(ValueError):
    """The job cannot be run as it is written; the message names the field, the value and what is allowed."""

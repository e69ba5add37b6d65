"""What the index of an archive keeps of one DICOM file, and which files are no slices of a volume."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pydicom import Dataset
from pydicom.uid import UID

from tasks.codes import Code, PairError
from tasks.read.dicom_file import HeaderCut, ParsedFile, is_dicom, parse_file, tags_of
from tasks.read.dicom_values import integer, number, numbers, text
from tasks.volume import VolumeLimits

__all__ = ["HeaderCut", "HeaderRefused", "InstanceHeader", "header_of", "is_dicom", "parse_header"]

NM_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.20"
PET_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.128"
CT_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
MR_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_STORAGE: Final = {
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
"""Enhanced and legacy converted CT, MR and PET: many frames in one file, each with its own place."""
MULTI_FRAME_STORAGE: Final = frozenset({NM_STORAGE, *ENHANCED_STORAGE})
MODALITIES: Final = {CT_STORAGE: "CT", MR_STORAGE: "MR", PET_STORAGE: "PT", NM_STORAGE: "NM", **ENHANCED_STORAGE}
"""The SOP classes that are read (PS3.4 annex B.5), with the modality that each stands for. The class decides, not the
Modality attribute: a dose distribution has pixels too."""
_DICOMDIR_STORAGE: Final = "1.2.840.10008.1.3.10"

_PROJECTIONS: Final = frozenset(
    {"PROJECTION IMAGE", "PROJECTION", "MIP", "MAX_IP", "MAXIP", "MIN_IP", "MINIP", "MEAN_IP"}
)
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_AFTER_IMAGE_PIXEL_MODULE: Final = 0x00290000
"""Group 0029 is where vendors put 100 kB of their own; nothing that is needed here comes after group 0028."""

HEADER_KEYWORDS: Final = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "PatientID",
    "IssuerOfPatientID",
    "EchoTime",
    "DiffusionBValue",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BurnedInAnnotation",
)
_HEADER_TAGS: Final = tags_of(HEADER_KEYWORDS)


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    r"""One DICOM file as grouping and pairing need it; flat, so that it can be a row of a table.

    Attributes:
        transfer_syntax: its UID.
        patient_id: "" if the file has none; so is the issuer.
        frame_of_reference: None if the file has none.
        modality: CT, MR, PT or NM, by SOP class.
        number_of_frames: 1 for a single slice.
        orientation: direction cosines of a row, then of a column, in LPS+ axes. None if absent, and for files of
            several frames, where each has its own.
        position: of the first voxel's centre, millimetres, LPS+; None likewise.
        pixel_spacing: (between rows, between columns) in millimetres; None likewise.
        image_type: its values joined by ``\``.
        echo_time: milliseconds.
        b_value: s/mm^2.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer_of_patient_id: str
    frame_of_reference: str | None
    modality: str
    rows: int
    columns: int
    number_of_frames: int
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    pixel_spacing: tuple[float, ...] | None
    image_type: str
    echo_time: float | None
    temporal_position: int | None
    acquisition_number: int | None
    b_value: float | None
    instance_number: int | None


class HeaderRefused(PairError):  # noqa: N818  (what it is about, a refused header)
    """A DICOM file that is no usable slice, with the series it belongs to.

    Args:
        code: why.
        detail: as in PairError.
        study_uid: "" where it is not known.
        series_uid: "" where it is not known.
    """

    def __init__(self, code: Code, detail: str, study_uid: str, series_uid: str) -> None:
        super().__init__(code, detail)
        self.study_uid = study_uid
        self.series_uid = series_uid


def parse_header(content: bytes, *, whole: bool, limits: VolumeLimits) -> InstanceHeader:
    """Read what an index keeps of a DICOM file. Holds no state; threads may call it at once.

    Args:
        content: the file, or its first bytes (64 KiB hold nearly every header).
        whole: whether it is the whole file.
        limits: of file and volume sizes.

    Raises:
        HeaderCut: what is needed may lie beyond ``content``; only where it is not the whole file.
        PairError: NOT_DICOM, DICOMDIR, NON_IMAGE_SOP, LOCALIZER, PROJECTION, MOSAIC, BURNED_IN, COLOUR_UNEXPECTED,
            HEADER_INCOMPLETE, NO_GEOMETRY (unreadable; absence is for the series to judge), TOO_LARGE, TRUNCATED,
            DECODE_FAILED. Where the series is known it is a :class:`HeaderRefused`.
    """
    try:
        parsed = parse_file(content, _HEADER_TAGS, limits, until=_AFTER_IMAGE_PIXEL_MODULE, whole=whole)
    except HeaderCut:
        if _class_of_meta(content) == _DICOMDIR_STORAGE:
            raise PairError(Code.DICOMDIR) from None
        raise
    except PairError as error:
        if error.code is Code.DECODE_FAILED:
            # Of other kinds of object the contents need not be understood, only left alone.
            _refuse_other_classes(_class_of_meta(content))
        raise
    return header_of(parsed, limits)


def header_of(parsed: ParsedFile, limits: VolumeLimits) -> InstanceHeader:
    """The header of a parsed file, of which at least the attributes of HEADER_KEYWORDS were asked for.

    Raises:
        PairError: as :func:`parse_header`.
    """
    dataset = parsed.dataset
    study_uid, series_uid = "", ""
    try:
        sop_class = text(dataset, "SOPClassUID") or parsed.media_storage_class
        if sop_class == _DICOMDIR_STORAGE or parsed.media_storage_class == _DICOMDIR_STORAGE:
            raise PairError(Code.DICOMDIR)
        study_uid, series_uid = _uid(dataset, "StudyInstanceUID"), _uid(dataset, "SeriesInstanceUID")
        if sop_class not in MODALITIES:
            raise PairError(Code.NON_IMAGE_SOP, _class_name(sop_class))
        if not (study_uid and series_uid):
            raise PairError(Code.HEADER_INCOMPLETE, "StudyInstanceUID or SeriesInstanceUID")
        return _judged(parsed, sop_class, study_uid, series_uid, limits)
    except HeaderRefused:
        raise
    except PairError as error:
        raise HeaderRefused(error.code, error.detail, study_uid, series_uid) from None


def _judged(
    parsed: ParsedFile, sop_class: str, study_uid: str, series_uid: str, limits: VolumeLimits
) -> InstanceHeader:
    dataset = parsed.dataset
    image_type = text(dataset, "ImageType").upper()
    frames = integer(dataset, "NumberOfFrames")
    many = sop_class in MULTI_FRAME_STORAGE
    _refuse_by_image_type(image_type, sop_class)
    if text(dataset, "BurnedInAnnotation").upper() == "YES":
        raise PairError(Code.BURNED_IN)
    samples, photometric = integer(dataset, "SamplesPerPixel"), text(dataset, "PhotometricInterpretation").upper()
    if samples not in (None, 1) or (photometric and not photometric.startswith("MONOCHROME")):
        raise PairError(Code.COLOUR_UNEXPECTED, f"{samples} samples for each pixel")
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    sop_instance = _uid(dataset, "SOPInstanceUID")
    if not (rows and columns and photometric and sop_instance):
        raise PairError(Code.HEADER_INCOMPLETE, "Rows, Columns, PhotometricInterpretation or SOPInstanceUID")
    if (frames is None) if many else (frames not in (None, 1)):
        raise PairError(Code.HEADER_INCOMPLETE, "NumberOfFrames")
    if frames is not None and not 1 <= frames <= limits.slices:
        code = Code.HEADER_INCOMPLETE if frames < 1 else Code.TOO_LARGE
        raise PairError(code, f"{frames} frames, {limits.slices} are allowed")
    size = rows * columns * (frames or 1) * 4
    if size > limits.volume_bytes:
        raise PairError(Code.TOO_LARGE, f"{size} bytes as 32-bit values, {limits.volume_bytes} are allowed")
    return InstanceHeader(
        sop_class_uid=sop_class,
        sop_instance_uid=sop_instance,
        transfer_syntax=parsed.transfer_syntax,
        study_uid=study_uid,
        series_uid=series_uid,
        patient_id=text(dataset, "PatientID"),
        issuer_of_patient_id=text(dataset, "IssuerOfPatientID"),
        frame_of_reference=_uid(dataset, "FrameOfReferenceUID") or None,
        modality=MODALITIES[sop_class],
        rows=rows,
        columns=columns,
        number_of_frames=frames or 1,
        orientation=None if many else numbers(dataset, "ImageOrientationPatient", 6, Code.NO_GEOMETRY),
        position=None if many else numbers(dataset, "ImagePositionPatient", 3, Code.NO_GEOMETRY),
        pixel_spacing=None if many else numbers(dataset, "PixelSpacing", 2, Code.NO_GEOMETRY),
        image_type=image_type,
        echo_time=None if many else number(dataset, "EchoTime"),
        temporal_position=None if many else integer(dataset, "TemporalPositionIdentifier"),
        acquisition_number=None if many else integer(dataset, "AcquisitionNumber"),
        b_value=None if many else number(dataset, "DiffusionBValue"),
        instance_number=_instance_number(dataset),
    )


def _instance_number(dataset: Dataset) -> int | None:
    """None where it cannot be read, too: it orders nothing but what lies at one place."""
    try:
        return integer(dataset, "InstanceNumber")
    except PairError:
        return None


def _refuse_by_image_type(image_type: str, sop_class: str) -> None:
    kinds = [kind.strip() for kind in image_type.split("\\")]
    if "MOSAIC" in kinds:
        raise PairError(Code.MOSAIC)
    if "LOCALIZER" in kinds:
        raise PairError(Code.LOCALIZER)
    if not _PROJECTIONS.isdisjoint(kinds):
        raise PairError(Code.PROJECTION)
    # The projections that a gamma camera takes round the patient are frames too; only what was reconstructed from
    # them is a volume (PS3.3 section C.8.4.9, value 3).
    if sop_class == NM_STORAGE and not any(kind.startswith("RECON") for kind in kinds):
        raise PairError(Code.PROJECTION, "a nuclear medicine image that is no reconstruction")


def _uid(dataset: Dataset, keyword: str) -> str:
    """A UID, "" if it is absent; what is none is an error (PS3.5 section 9.1)."""
    uid = text(dataset, keyword)
    if uid and not (len(uid) <= 64 and _UID.fullmatch(uid)):
        raise PairError(Code.HEADER_INCOMPLETE, f"{keyword} is no UID")
    return uid


def _class_name(sop_class: str) -> str:
    """The standard's name of a class. Others are not named: what stands there could be any text."""
    uid = UID(sop_class) if _UID.fullmatch(sop_class) else None
    return uid.name if uid is not None and uid.name != sop_class else "a class that the standard does not name"


def _class_of_meta(content: bytes) -> str:
    try:
        return parse_file(content, (), VolumeLimits(object_bytes=len(content)), until=0).media_storage_class
    except (PairError, HeaderCut):
        return ""


def _refuse_other_classes(sop_class: str) -> None:
    if sop_class == _DICOMDIR_STORAGE:
        raise PairError(Code.DICOMDIR)
    if _UID.fullmatch(sop_class) and sop_class not in MODALITIES:
        raise PairError(Code.NON_IMAGE_SOP, _class_name(sop_class))

"""The attributes of a derived series by their modules (PS3.3 A.3 CT Image IOD, A.4 MR Image IOD)."""

from __future__ import annotations

import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.uid import CTImageStorage
from pydicom.valuerep import PersonName

from tasks.publish.derivation import DerivationFacts, Identity, Uids
from tasks.publish.dicom_levels import Levels, decimal
from tasks.read.dicom_values import values
from tasks.volume import DicomOrigin

MANUFACTURER: Final = "DDFM Pipeline"

# Copied only together with the identity.
_IDENTITY: Final = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod", "StudyDate", "StudyTime", "StudyID",
    "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
_EMPTY_AT_LEAST: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "PatientPosition",
)  # fmt: skip
# Copied in any case, but only as one of these words: a file can write anything into a code string.
_CODES: Final = {
    "BodyPartExamined": re.compile(
        "HEAD|BRAIN|SKULL|HEADNECK|NECK|FACE|ORBIT|CHEST|BREAST|HEART|ABDOMEN|LIVER|KIDNEY|PELVIS|PROSTATE|SPINE|"
        "[CTL]SPINE|EXTREMITY|KNEE|SHOULDER|HIP|WHOLEBODY"
    ),
    "Laterality": re.compile("[RL]"),
    "PatientPosition": re.compile("[HF]F(P|S|DR|DL)|(L|R|A|P)F(P|S|DR|DL)|SITTING"),
}
_LOSSY_METHOD: Final = re.compile(r"ISO_[0-9]{4,5}_[0-9]{1,2}")
_SOURCE_IMAGE: Final = ("121322", "DCM", "Source image for image processing operation")
_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def set_patient_and_study(instance: Dataset, header: Dataset, identity: Identity, uids: Uids) -> None:
    """Patient, General Study and Frame of Reference (C.7.1.1, C.7.2.1, C.7.4.1)."""
    for keyword in _EMPTY_AT_LEAST:
        setattr(instance, keyword, "")
    for keyword, word in _CODES.items():
        value = header.get(keyword)
        if isinstance(value, str) and word.fullmatch(value):
            setattr(instance, keyword, value)
    _put(instance, "StudyInstanceUID", uids.of_source(header.StudyInstanceUID))
    frame = header.get("FrameOfReferenceUID")
    _put(instance, "FrameOfReferenceUID", uids.of_source(frame) if frame else uids.new("frame of reference"))
    if identity == "keep":
        for keyword in _IDENTITY:
            value = header.get(keyword)
            if value:
                # As text, to be written in the character set of this file, whatever that of the source was.
                _put(instance, keyword, str(value) if isinstance(value, PersonName) else value)
        return
    instance.PatientName = identity.patient
    instance.PatientID = identity.patient
    instance.PatientIdentityRemoved = "YES"
    instance.DeidentificationMethod = "Allow-list of attributes; keyed identifier and UIDs"
    instance.LongitudinalTemporalInformationModified = "REMOVED"


def set_series(instance: Dataset, identity: Identity, facts: DerivationFacts, uids: Uids) -> None:
    """General Series, Equipment and Image, and what the image of a modality must have (C.7.3.1 to C.8.3.1)."""
    instance.SeriesInstanceUID = uids.new("series")
    instance.SeriesNumber = facts.series_number
    instance.SeriesDescription = f"DDFM fused {facts.fixed_modality}-{facts.moving_modality}, research only"
    instance.Manufacturer = MANUFACTURER
    instance.ManufacturerModelName = "DDFM"
    instance.SoftwareVersions = facts.versions[:64]
    created = facts.created if identity == "keep" else None
    instance.ContentDate = "" if created is None else created.strftime("%Y%m%d")
    instance.ContentTime = "" if created is None else created.strftime("%H%M%S")
    instance.BurnedInAnnotation = "NO"
    instance.DerivationDescription = (
        f"Image fusion by DDFM of {facts.fixed_modality} (this grid) and {facts.moving_modality}; {facts.method}; "
        f"{facts.versions}; seed {facts.seed}. For research only."
    )
    if instance.SOPClassUID == CTImageStorage:
        instance.Modality = "CT"
        instance.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        missing: tuple[str, ...] = ("KVP", "AcquisitionNumber")
    else:
        instance.Modality = "MR"
        instance.ImageType = ["DERIVED", "SECONDARY"]
        instance.ScanningSequence = "RM"
        instance.SequenceVariant = "NONE"
        missing = ("ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime", "EchoTrainLength")
    for keyword in missing:
        setattr(instance, keyword, None)


def set_lossy(instance: Dataset, origin: DicomOrigin, facts: DerivationFacts) -> None:
    """What compression took from a source is missing in what is derived of it, too (C.7.6.1.1.5)."""
    headers = [one.header for one in (origin, facts.moving) if one is not None]
    lossy = [header for header in headers if header.get("LossyImageCompression") == "01"]
    instance.LossyImageCompression = "01" if lossy or facts.lossy else "00"
    names = [str(value) for header in lossy for value in values(header, "LossyImageCompressionMethod")]
    methods = [name for name in names if _LOSSY_METHOD.fullmatch(name)]
    ratios = [ratio for header in lossy for ratio in _numbers(header, "LossyImageCompressionRatio")]
    if methods and len(methods) == len(ratios):
        instance.LossyImageCompressionMethod = methods
        instance.LossyImageCompressionRatio = [decimal(ratio) for ratio in ratios]


def set_grid(instance: Dataset, shape: tuple[int, ...], affine: NDArray[np.float64], header: Dataset) -> None:
    """Image Plane (C.7.6.2) without the position, and the sizes.

    Args:
        shape: (slices, rows, columns).
        affine: [4, 4] from (slice, row, column) to millimetres in RAS+ axes.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = (_TO_LPS @ affine)[:3, :3] / spacing
    between = abs(float(np.cross(directions[:, 1], directions[:, 2]) @ directions[:, 0])) * spacing[0]
    instance.Rows, instance.Columns = shape[1], shape[2]
    instance.ImageOrientationPatient = [decimal(part) for part in (*directions[:, 2], *directions[:, 1])]
    instance.PixelSpacing = [decimal(spacing[1]), decimal(spacing[2])]
    if shape[0] == 1:
        # Nothing else says how thick a lone slice is.
        instance.SliceThickness = decimal(between)
        return
    thickness = _numbers(header, "SliceThickness")
    instance.SliceThickness = decimal(thickness[0]) if thickness else None
    instance.SpacingBetweenSlices = decimal(between)


def set_pixel_description(instance: Dataset, facts: DerivationFacts, levels: Levels) -> None:
    """Image Pixel, Modality LUT and VOI LUT (C.7.6.3, C.11.1, C.11.2)."""
    instance.SamplesPerPixel = 1
    instance.PhotometricInterpretation = "MONOCHROME1" if facts.inverted_display else "MONOCHROME2"
    instance.BitsAllocated = instance.BitsStored = 16
    instance.HighBit = 15
    instance.PixelRepresentation = 0
    instance.RescaleSlope = decimal(levels.slope)
    instance.RescaleIntercept = decimal(levels.intercept)
    instance.RescaleType = "HU" if instance.SOPClassUID == CTImageStorage else "US"
    low, high = facts.display or levels.range
    instance.WindowCenter = decimal((low + high) / 2)
    instance.WindowWidth = decimal(abs(high - low))
    instance.VOILUTFunction = "LINEAR_EXACT"


def set_series_references(instance: Dataset, origin: DicomOrigin, facts: DerivationFacts, uids: Uids) -> None:
    """Common Instance Reference (C.12.2): both series whole, as the other one may contribute to any slice."""
    same_study, other_studies = [_series(origin, uids)], []
    if facts.moving is not None:
        study = facts.moving.header.get("StudyInstanceUID")
        if study and study != origin.header.StudyInstanceUID:
            other = Dataset()
            _put(other, "StudyInstanceUID", uids.of_source(study))
            other.ReferencedSeriesSequence = [_series(facts.moving, uids)]
            other_studies.append(other)
        else:
            same_study.append(_series(facts.moving, uids))
    instance.ReferencedSeriesSequence = same_study
    if other_studies:
        instance.StudiesContainingOtherReferencedInstancesSequence = other_studies


def set_slice(instance: Dataset, index: int, affine: NDArray[np.float64], origin: DicomOrigin, uids: Uids) -> None:
    """What differs from slice to slice: identifier, number, position (C.7.6.2.1.1) and source (C.12.4)."""
    instance.SOPInstanceUID = uids.new("slice", str(index))
    instance.InstanceNumber = index + 1
    position = (_TO_LPS @ affine @ (index, 0, 0, 1))[:3]
    instance.ImagePositionPatient = [decimal(part) for part in position]
    source = origin.slices[index]
    item = _reference(source.sop_instance_uid, source.sop_class_uid, uids)
    item.SpatialLocationsPreserved = "YES"
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = _SOURCE_IMAGE
    item.PurposeOfReferenceCodeSequence = [purpose]
    instance.SourceImageSequence = [item]


def _series(origin: DicomOrigin, uids: Uids) -> Dataset:
    # Of a multi-frame file all slices name the same instance.
    instances = {one.sop_instance_uid: one.sop_class_uid for one in origin.slices}
    series = Dataset()
    _put(series, "SeriesInstanceUID", uids.of_source(origin.series_instance_uid))
    series.ReferencedInstanceSequence = [_reference(uid, kind, uids) for uid, kind in instances.items()]
    return series


def _reference(uid: str, kind: str, uids: Uids) -> Dataset:
    item = Dataset()
    _put(item, "ReferencedSOPClassUID", kind)
    _put(item, "ReferencedSOPInstanceUID", uids.of_source(uid))
    return item


def _put(instance: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute to what a source says, unchecked: pydicom's warnings would quote it."""
    instance.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE))


def _numbers(header: Dataset, keyword: str) -> list[float]:
    """The numbers of an attribute; none where it holds something else, which pydicom gives as text."""
    try:
        return [float(value) for value in values(header, keyword)]
    except ValueError:
        return []

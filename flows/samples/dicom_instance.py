"""One slice as a DICOM data set.

The attributes are those that PS3.3 asks of the CT, MR and PET Image IODs (A.3, A.4, A.21), as far as a reader looks
at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_is_retired, dictionary_VM, dictionary_VR, keyword_dict
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    RLELossless,
)
from pydicom.valuerep import format_number_as_ds

from flows.samples.dicom_scan import DicomScan

_SOP_CLASSES: Final = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
}
_NATIVE: Final = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_ACQUISITION: Final[dict[str, dict[str, Any]]] = {
    "CT": {"KVP": "120"},
    "MR": {
        "ScanningSequence": "GR",
        "SequenceVariant": "SP",
        "ScanOptions": "",
        "MRAcquisitionType": "3D",
        "RepetitionTime": "8",
        "EchoTime": "3",
        "EchoTrainLength": 1,
    },
    "PT": {},
}
_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])
_TEXT: Final = ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE")

PET_DOSE: Final = 370e6
"""Injected activity in Bq."""
PET_HALF_LIFE: Final = 6586.2
"""Of fluorine-18, in seconds."""
PET_UPTAKE_TIME: Final = 3600.0
"""Seconds from the injection to the start of the series, to which the voxels' decay is corrected."""


def bqml_per_suv(weight_kg: float = 70.0) -> float:
    """Bq/ml in a written PET series at SUVbw 1 (the dose at the start of the series, per gram of the patient)."""
    return float(PET_DOSE * 0.5 ** (PET_UPTAKE_TIME / PET_HALF_LIFE) / (weight_kg * 1000))


def make_instance(
    voxels: NDArray[np.float32], affine: NDArray[np.float64], scan: DicomScan, index: int, again: str = ""
) -> Dataset:
    """The instance of slice ``index``; ``again`` tells one written a second time apart from the first."""
    instance = study_level(scan)
    instance.SOPClassUID = _SOP_CLASSES[scan.modality]
    instance.SOPInstanceUID = scan.uid("instance", scan.study, scan.series, scan.part, str(index), again)
    instance.SeriesInstanceUID = scan.series_uid
    instance.Modality = scan.modality
    instance.SeriesNumber = 1
    instance.AcquisitionNumber = 1
    if scan.numbers != "none":
        instance.InstanceNumber = counting(scan.numbers, len(voxels))[index] + 1
    instance.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if scan.modality == "CT" else ["ORIGINAL", "PRIMARY"]
    instance.BurnedInAnnotation = "NO"
    _set_plane(instance, affine, scan, index)
    set_attributes(instance, _ACQUISITION[scan.modality])
    if scan.modality == "PT":
        _set_pet(instance, len(voxels), index)
    _set_pixels(instance, voxels, scan, index)
    if scan.patient.text:
        _set_text(instance, scan.patient.text)
    set_attributes(instance, scan.attributes)
    return instance


def study_level(scan: DicomScan) -> Dataset:
    """What all objects of the scan's study share: patient, study, dates."""
    patient = scan.patient
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = patient.name
    dataset.PatientID = patient.identifier
    if patient.issuer:
        dataset.IssuerOfPatientID = patient.issuer
    dataset.PatientBirthDate = patient.birth_date
    dataset.PatientSex = "O"
    dataset.PatientWeight = patient.weight_kg
    dataset.StudyInstanceUID = scan.study_uid
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, patient.study_date)
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, "120000")
    for keyword in ("StudyID", "AccessionNumber", "ReferringPhysicianName"):
        setattr(dataset, keyword, "")
    dataset.Manufacturer = "DDFM Pipeline samples"
    return dataset


def _set_plane(instance: Dataset, affine: NDArray[np.float64], scan: DicomScan, index: int) -> None:
    """Image Plane and Frame of Reference (PS3.3 C.7.6.2, C.7.4.1)."""
    matrix = _TO_LPS @ affine
    across, down = matrix[:3, 2], matrix[:3, 1]
    row_spacing, column_spacing = float(np.linalg.norm(down)), float(np.linalg.norm(across))
    row, column = across / column_spacing, down / row_spacing
    normal = np.cross(row, column)
    position = matrix @ np.array([index, 0, 0, 1])
    position = position[:3] + scan.troubles.shifted.get(index, 0.0) * normal
    if scan.troubles.turned and index % 2:
        row = row + scan.troubles.turned * normal
    instance.ImageOrientationPatient = _numbers([*row, *column])
    instance.ImagePositionPatient = _numbers(position)
    instance.PixelSpacing = _numbers([row_spacing, column_spacing])
    instance.SliceThickness = _numbers([abs(float(normal @ matrix[:3, 0]))])[0]
    instance.PatientPosition = "HFS"
    if scan.frame_of_reference != "":
        instance.FrameOfReferenceUID = scan.frame_uid
        instance.PositionReferenceIndicator = ""


def _set_pixels(instance: Dataset, voxels: NDArray[np.float32], scan: DicomScan, index: int) -> None:
    """Image Pixel and Modality LUT (PS3.3 C.7.6.3, C.11.1); 16 bits, signed where the padding value is."""
    plane = voxels[index]
    signed = scan.padding is not None and scan.padding < 0
    slope, intercept = _rescale(voxels, scan, index)
    stored = np.rint((plane.astype(np.float64) - intercept) / slope)
    kind = np.int16 if signed else np.uint16
    stored = np.clip(stored, np.iinfo(kind).min, np.iinfo(kind).max)
    if scan.padding is not None:
        stored = np.where(np.isnan(plane), scan.padding, stored)
        instance.add_new("PixelPaddingValue", "SS" if signed else "US", scan.padding)
    pixels = stored.astype(kind)
    instance.Rows, instance.Columns = plane.shape
    instance.SamplesPerPixel = 1
    instance.PhotometricInterpretation = "MONOCHROME1" if scan.monochrome1 else "MONOCHROME2"
    instance.BitsAllocated = instance.BitsStored = 16
    instance.HighBit = 15
    instance.PixelRepresentation = int(signed)
    if scan.modality != "MR":
        instance.RescaleSlope = format_number_as_ds(slope)
        instance.RescaleIntercept = format_number_as_ds(float(intercept))
        if scan.modality == "CT":
            instance.RescaleType = "HU"
    # As scanners do, a window that suits this one slice; a reader must not normalise by it.
    instance.WindowCenter, instance.WindowWidth = _numbers([float(np.nanmean(plane)), float(np.nanstd(plane)) * 4 + 1])
    instance.file_meta = FileMetaDataset()
    instance.file_meta.TransferSyntaxUID = scan.transfer_syntax
    _encode(instance, pixels, scan.transfer_syntax)


def _rescale(voxels: NDArray[np.float32], scan: DicomScan, index: int) -> tuple[float, float]:
    """(slope, intercept) of a slice, exactly as a header of at most 16 characters states them."""
    if scan.modality == "MR":
        return 1.0, 0.0
    intercept = -1024.0 if scan.modality == "CT" else 0.0
    if scan.slopes == "integer_first" and index == 0:
        return max(1.0, float(np.ceil((np.nanmax(voxels[0]) - intercept) / 32767))), intercept
    if scan.modality == "CT" and scan.slopes == "one":
        return 1.0, intercept
    highest = float(np.nanmax(voxels if scan.slopes == "one" else voxels[index]))
    return float(format_number_as_ds(max(highest - intercept, 1.0) / 32767)), intercept


def _encode(instance: Dataset, pixels: NDArray[np.int16] | NDArray[np.uint16], transfer_syntax: UID) -> None:
    if transfer_syntax in _NATIVE:
        instance.PixelData = (pixels.byteswap() if transfer_syntax == ExplicitVRBigEndian else pixels).tobytes()
        instance["PixelData"].VR = "OW"
        return
    if transfer_syntax == RLELossless:
        instance.PixelData = pixels.tobytes()
        instance.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        instance.compress(RLELossless, generate_instance_uid=False)
        return
    if transfer_syntax == JPEGLosslessSV1:
        frame = imagecodecs.ljpeg_encode(pixels)
    elif transfer_syntax == JPEGLSLossless:
        frame = imagecodecs.jpegls_encode(pixels)
    elif transfer_syntax == JPEG2000Lossless:
        frame = imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True)
    elif transfer_syntax == HTJ2KLossless:
        frame = imagecodecs.htj2k_encode(pixels, reversible=True)
    else:
        raise ValueError(f"transfer_syntax: {transfer_syntax.name} cannot be written here")
    instance.PixelData = encapsulate([bytes(frame)])
    instance["PixelData"].VR = "OB"


def _set_pet(instance: Dataset, count: int, index: int) -> None:
    """PET Series, Isotope and Image (PS3.3 C.8.9.1, C.8.9.2, C.8.9.4)."""
    instance.Units = "BQML"
    instance.CountsSource = "EMISSION"
    instance.SeriesType = ["STATIC", "IMAGE"]
    instance.CorrectedImage = ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"]
    instance.DecayCorrection = "START"
    instance.CollimatorType = "NONE"
    instance.NumberOfSlices = count
    instance.ImageIndex = index + 1
    instance.FrameReferenceTime = "0"
    instance.ActualFrameDuration = "600000"
    instance.DecayFactor = "1"
    isotope = Dataset()
    isotope.RadionuclideTotalDose = format_number_as_ds(PET_DOSE)
    isotope.RadionuclideHalfLife = format_number_as_ds(PET_HALF_LIFE)
    isotope.RadionuclidePositronFraction = "0.97"
    isotope.RadiopharmaceuticalStartTime = "110000"
    isotope.Radiopharmaceutical = "FDG"
    instance.RadiopharmaceuticalInformationSequence = [isotope]


@cache
def _text_attributes() -> list[tuple[str, str, int]]:
    """(keyword, VR, least number of values) of the attributes of the standard that hold text."""
    found = []
    for keyword, tag in keyword_dict.items():
        if tag >> 16 >= 0x0008 and not dictionary_is_retired(tag) and dictionary_VR(tag) in _TEXT:
            found.append((keyword, dictionary_VR(tag), int(dictionary_VM(tag).split("-")[0])))
    return found


def _set_text(instance: Dataset, text: str) -> None:
    """Put ``text`` where a foreign file may carry a name: everywhere that text can stand."""
    for keyword, vr, count in _text_attributes():
        if keyword not in instance:
            instance.add_new(keyword, vr, text if count == 1 else [text] * count)
    for keyword in ("StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator"):
        setattr(instance, keyword, text)
    block = instance.private_block(0x0009, text, create=True)
    block.add_new(0x01, "LO", text)
    block.add_new(0x02, "UN", text.encode())
    inner = Dataset()
    inner.PatientID = inner.PatientName = inner.RequestedProcedureDescription = text
    instance.RequestAttributesSequence = [inner]


def set_attributes(dataset: Dataset, attributes: Mapping[str, Any]) -> None:
    """Set each keyword, or remove it where the value is None; values that DICOM forbids are written as they are."""
    for keyword, value in attributes.items():
        if value is not None:
            tag = keyword_dict[keyword]
            dataset.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))
        elif keyword in dataset:
            delattr(dataset, keyword)


def counting(kind: str, count: int) -> list[int]:
    """The numbers 0 to ``count`` - 1: ``reversed``, ``shuffled`` (the same way each time) or else as they come."""
    if kind == "reversed":
        return list(range(count))[::-1]
    if kind == "shuffled":
        return [int(number) for number in np.random.default_rng(count).permutation(count)]
    return list(range(count))


def _numbers(values: Sequence[float] | NDArray[np.float64]) -> list[str]:
    return [format_number_as_ds(float(value)) for value in values]

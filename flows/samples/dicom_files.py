"""DICOM series computed from voxels: good ones, and ones with every trouble that archives are known for.

The same arguments give the same bytes: identifiers are derived from the names given to study, series and frame of
reference.
"""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import BasicTextSRStorage

from flows.samples.dicom_instance import bqml_per_suv, counting, make_instance, set_attributes, study_level
from flows.samples.dicom_scan import DicomScan, DicomTroubles, PatientFacts

__all__ = [
    "DicomScan",
    "DicomTroubles",
    "PatientFacts",
    "bqml_per_suv",
    "write_dicom_series",
    "write_enhanced",
    "write_report",
]


def write_dicom_series(
    folder: Path, voxels: NDArray[np.float32], affine: NDArray[np.float64], scan: DicomScan
) -> list[Path]:
    """Write one file for each slice into ``folder``, made if missing; their paths, by slice.

    Args:
        folder: several series may share one; their ``prefix`` should differ.
        voxels: [slice, row, column] in the modality's unit; see :class:`DicomScan`.
        affine: [4, 4], indices to RAS mm. Rows and columns must be perpendicular; the slices need not be.
        scan: how.
    """
    folder.mkdir(parents=True, exist_ok=True)
    troubles = scan.troubles
    paths = []
    order = counting(scan.names, len(voxels) * 3)
    for number, (index, instance) in enumerate(_instances_with_troubles(voxels, affine, scan)):
        path = folder / f"{scan.prefix}{order[number]:05d}"
        _write(path, instance, scan)
        if index in troubles.truncated:
            content = path.read_bytes()
            path.write_bytes(content[: -(min(len(instance.PixelData), len(content)) // 2)])
        if index in troubles.copied:
            path.with_name(f"{path.name}_copy").write_bytes(path.read_bytes())
            paths.append(path.with_name(f"{path.name}_copy"))
        paths.append(path)
    return paths


def write_enhanced(path: Path, voxels: NDArray[np.float32], affine: NDArray[np.float64], scan: DicomScan) -> Path:
    """Write the series as one multi-frame file: a Legacy Converted Enhanced object made by highdicom.

    Only native transfer syntaxes; troubles other than missing slices are left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    legacy = highdicom.legacy
    convert = {
        "CT": legacy.LegacyConvertedEnhancedCTImage,
        "MR": legacy.LegacyConvertedEnhancedMRImage,
        "PT": legacy.LegacyConvertedEnhancedPETImage,
    }[scan.modality]
    slices = [index for index in range(len(voxels)) if index not in scan.troubles.missing]
    image = convert(
        legacy_datasets=[make_instance(voxels, affine, scan, index) for index in slices],
        series_instance_uid=scan.series_uid,
        series_number=1,
        sop_instance_uid=scan.uid("enhanced", scan.study, scan.series, scan.part),
        instance_number=1,
        transfer_syntax_uid=scan.transfer_syntax,
    )
    # highdicom writes the moment of conversion and random identifiers; a sample is the same file each time.
    stamp = {"Date": scan.patient.study_date, "Time": "120000"}
    set_attributes(
        image, {event + part: value for event in ("Content", "InstanceCreation") for part, value in stamp.items()}
    )
    for equipment in image.ContributingEquipmentSequence:
        set_attributes(equipment, {"ContributionDateTime": f"{scan.patient.study_date}120000"})
    for item in (*image.DimensionOrganizationSequence, *image.DimensionIndexSequence):
        item.DimensionOrganizationUID = scan.uid("dimensions", scan.study, scan.series, scan.part)
    set_attributes(image, scan.attributes)
    dcmwrite(path, image, enforce_file_format=True)
    return path


def write_report(path: Path, scan: DicomScan) -> Path:
    """Write a structured report of the same study: an object of DICOM that is no image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = study_level(scan)
    report.SOPClassUID = BasicTextSRStorage
    report.SOPInstanceUID = scan.uid("report", scan.study)
    report.SeriesInstanceUID = scan.uid("report series", scan.study)
    report.Modality = "SR"
    report.SeriesNumber = report.InstanceNumber = 99
    report.ValueType = "CONTAINER"
    report.ContinuityOfContent = "SEPARATE"
    report.CompletionFlag = "COMPLETE"
    report.VerificationFlag = "UNVERIFIED"
    finding = Dataset()
    finding.RelationshipType = "CONTAINS"
    finding.ValueType = "TEXT"
    finding.TextValue = f"No finding. {scan.patient.text}".strip()
    report.ContentSequence = [finding]
    _write(path, report, DicomScan("CT", scan.patient))
    return path


def _instances_with_troubles(
    voxels: NDArray[np.float32], affine: NDArray[np.float64], scan: DicomScan
) -> list[tuple[int, Dataset]]:
    troubles = scan.troubles
    instances = []
    for index in range(len(voxels)):
        if index in troubles.missing:
            continue
        instances.append((index, make_instance(voxels, affine, scan, index)))
        if index in troubles.repeated:
            instances.append((-1, make_instance(voxels, affine, scan, index, again="repeated")))
        if index in troubles.conflicting:
            other = voxels.copy()
            other[index] = other[index, ::-1]
            instances.append((-1, make_instance(other, affine, scan, index, again="conflicting")))
    return instances


def _write(path: Path, dataset: Dataset, scan: DicomScan) -> None:
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = scan.transfer_syntax
    text = scan.patient.text.encode()
    if text:
        dataset.preamble = text.ljust(128, b"\0")
        dataset.file_meta.SourceApplicationEntityTitle = scan.patient.text[:16]
    dcmwrite(path, dataset, enforce_file_format=True)

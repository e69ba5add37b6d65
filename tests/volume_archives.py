"""Small archives of DICOM series and NIfTI files for the tests of their index."""

from __future__ import annotations

import io

import nibabel
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tasks.storage import join, write_atomic

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "PT": "1.2.840.10008.5.1.4.1.1.128",
    "SR": "1.2.840.10008.5.1.4.1.1.88.11",
    "ENHANCED MR": "1.2.840.10008.5.1.4.1.1.4.1",
}


def uid(*names: object) -> str:
    """The same UID for the same names."""
    return str(generate_uid(entropy_srcs=["volume_archives", *map(str, names)]))


def instance(
    kind: str = "CT",
    number: int = 0,
    *,
    patient: str = "P1",
    study: str = "study",
    series: str = "series",
    frame: str | None = "frame",
    **attributes: object,
) -> bytes:
    """One DICOM file of a series; ``study``, ``series`` and ``frame`` are names that UIDs are made of."""
    dataset = Dataset()
    dataset.SOPClassUID = CLASSES[kind]
    dataset.SOPInstanceUID = uid(study, series, kind, number)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(study), uid(study, series)
    dataset.PatientID, dataset.PatientName = patient, "Canary^Smith"
    dataset.Modality = kind[-2:]
    if frame is not None:
        dataset.FrameOfReferenceUID = uid("frame", frame)
    if kind != "SR":
        dataset.Rows = dataset.Columns = 4
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient, dataset.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 3 * number]
        dataset.PixelSpacing, dataset.InstanceNumber = [1, 1], number
        dataset.PixelData = np.full(16, number, np.uint16).tobytes()
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_series(root: str, folder: str, kind: str = "CT", slices: int = 3, **attributes: object) -> list[str]:
    """A series below ``root``/``folder``; its files' URIs along the normal. Names do not tell their order."""
    uris = [join(root, folder, f"IM{(7 * number + 3) % 1000:04}") for number in range(slices)]
    for number, uri in enumerate(uris):
        write_atomic(uri, instance(kind, number, **attributes))  # type: ignore[arg-type]
    return uris


def write_multi_frame(root: str, path: str, frames: int = 3, **attributes: object) -> str:
    """An enhanced MR file of several frames, as far as its header goes."""
    return write(root, path, instance("ENHANCED MR", NumberOfFrames=frames, **attributes))  # type: ignore[arg-type]


def write_nifti(root: str, path: str) -> str:
    """A NIfTI file, compressed if it ends so."""
    image = nibabel.Nifti1Image(np.zeros((4, 4, 3), np.float32), np.eye(4))
    content = image.to_bytes()
    if path.endswith(".gz"):
        import gzip

        content = gzip.compress(content, mtime=0)
    return write(root, path, content)


def write(root: str, path: str, content: bytes = b"text") -> str:
    """Any file."""
    uri = join(root, path)
    write_atomic(uri, content)
    return uri

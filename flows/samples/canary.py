"""An archive that names one person wherever a file can, to prove that nothing of it comes out again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML, UID

from flows.samples.dicom_files import DicomScan, DicomTroubles, PatientFacts, write_dicom_series, write_report
from flows.samples.grids import axes_grid, rigid_motion, slices_grid
from flows.samples.head import head_ct, head_mr, head_pet
from flows.samples.nifti_files import NiftiFile, write_nifti
from tasks.codes import Code

_BIRTH_DATE: Final = "19471103"
_STUDY_DATE: Final = "20130829"
_SHAPE: Final = (12, 48, 48)
_SPACING: Final = (11.0, 4.8, 4.8)
_NIFTI_SHAPE: Final = (44, 44, 28)
_NIFTI_SPACING: Final = (5.0, 5.0, 5.0)


@dataclass(frozen=True)
class CanaryArchive:
    """Where the archive lies and what must not be found outside of it.

    Attributes:
        dicom: the root of a DICOM archive, to be paired by patient and frame of reference.
        nifti_first, nifti_second: roots of PET and MR volumes, to be paired by stem.
        table: a CSV of pairs, first and second; it pairs the volumes of two different patients.
        secrets: the name, the identifiers, dates and UIDs of the files.
        expected: folder or stem below its root -> the code of its row; None: it can be fused.
    """

    dicom: Path
    nifti_first: Path
    nifti_second: Path
    table: Path
    secrets: tuple[str, ...]
    expected: dict[str, Code | None]


def make_canary_archive(folder: Path, name: str = "SMITHCANARY") -> CanaryArchive:
    """Write the archive below ``folder``, made if missing.

    ``name``, at most 12 capital letters, stands in every text attribute, private ones included, in preambles and in
    the names of all files and folders below the roots; in NIfTI files in descrip, aux_file, db_name, intent_name and
    an extension. Of one patient, ``odd``, it stands in attributes of dates and codes, too. There are sources that go
    through, and for each stage one that fails there: a link to nothing, a file that is not DICOM, one of a codec that
    is seldom installed, a truncated one, a missing slice, a partner that cannot be aligned, two patients in one row
    of the table, a header that contradicts itself.
    """
    archive = CanaryArchive(folder / "dicom", folder / "pet", folder / "mri", folder / "pairs.csv", (), {})
    expected = {
        **_write_patients(archive.dicom, name),
        **_write_niftis(archive.nifti_first, archive.nifti_second, name),
    }
    rows = [(f"{name}_whole/CT", f"{name}_other/MR")]
    lines = [f"{archive.dicom / first},{archive.dicom / second}" for first, second in rows]
    archive.table.write_text("\n".join(["first,second", *lines]) + "\n")
    secrets = tuple(sorted({name, _BIRTH_DATE, _STUDY_DATE, *_uids(archive.dicom)}))
    return replace(archive, secrets=secrets, expected=expected)


def _write_patients(root: Path, name: str) -> dict[str, Code | None]:
    cases: dict[str, tuple[Code | None, DicomTroubles]] = {
        "whole": (None, DicomTroubles()),
        "other": (None, DicomTroubles()),
        "odd": (None, DicomTroubles()),
        "gap": (Code.MISSING_SLICES, DicomTroubles(missing=(5,))),
        "cut": (Code.TRUNCATED, DicomTroubles(truncated=(5,))),
        "codec": (Code.CODEC_MISSING, DicomTroubles()),
        "noise": (Code.REGISTRATION_FAILED, DicomTroubles()),
    }
    expected: dict[str, Code | None] = {}
    grid = slices_grid(_SHAPE, _SPACING, (0, 5, 0))
    ct, mr = head_ct(_SHAPE, grid), head_mr(_SHAPE, grid)
    for case, (code, troubles) in cases.items():
        patient = PatientFacts(f"{name}^{case}", f"{name}-{case}", name, _BIRTH_DATE, _STUDY_DATE, text=name)
        # Without a shared frame of reference the pair has to be registered, which noise cannot be.
        frame = None if case == "noise" else name
        scan = DicomScan("CT", patient, name, "ct", frame, prefix=f"{name}_")
        if case == "odd":
            # Texts where only dates and codes may stand, and in codes that are free; libraries quote them in warnings.
            forbidden = ("PatientBirthDate", "AcquisitionDate", "AcquisitionTime", "PatientAge", "PatientSex")
            kind = ["ORIGINAL", "PRIMARY", "AXIAL", name]
            scan = replace(
                scan, attributes={**dict.fromkeys(forbidden, name), "BodyPartExamined": name, "ImageType": kind}
            )
        place = root / f"{name}_{case}"
        written = write_dicom_series(place / "CT", ct, grid, replace(scan, troubles=troubles))
        if case == "codec":
            _claim(written, MPEG2MPML)
        second = np.abs(_noise(_SHAPE)) * 400 if case == "noise" else mr
        mr_scan = replace(scan, modality="MR", series="mr", transfer_syntax=DicomScan("MR").transfer_syntax)
        write_dicom_series(place / "MR", second, grid, mr_scan)
        expected[place.name] = code
    write_report(root / f"{name}_whole" / f"{name}_report", DicomScan("CT", patient, name))
    expected[f"{name}_whole/{name}_report"] = Code.NON_IMAGE_SOP
    (root / f"{name}_letter").write_text(f"Dear {name}, born {_BIRTH_DATE},\n" * 40)
    expected[f"{name}_letter"] = Code.NOT_DICOM
    _link_to_nothing(root / f"{name}_lost")
    expected[f"{name}_lost"] = Code.MISSING_SOURCE
    return expected


def _write_niftis(first: Path, second: Path, name: str) -> dict[str, Code | None]:
    grid = axes_grid(_NIFTI_SHAPE, _NIFTI_SPACING, (0, 5, 0))
    turned = grid.copy()
    turned[:3] = rigid_motion((0, 0, 1), 20)[:3] @ grid
    pet, mr = head_pet(_NIFTI_SHAPE, grid), head_mr(_NIFTI_SHAPE, grid)
    plain = NiftiFile(text=name)
    cases: dict[str, tuple[Code | None, NiftiFile]] = {
        "whole": (None, plain),
        "cut": (Code.TRUNCATED, replace(plain, kept=0.6)),
        "forms": (Code.AFFINE_CONFLICT, replace(plain, qform=turned)),
        "flat": (Code.AFFINE_SINGULAR, replace(plain, sform=np.zeros((4, 4)))),
        "times": (Code.FOUR_D, plain),
        "noise": (Code.REGISTRATION_FAILED, plain),
        "alone": (Code.NO_PARTNER, plain),
        "letter": (Code.DECODE_FAILED, plain),
        "lost": (Code.MISSING_SOURCE, plain),
    }
    for case, (_, file) in cases.items():
        path = first / name / f"{name}_{case}.nii.gz"
        voxels = {"times": np.stack([pet, pet], -1), "noise": np.abs(_noise(_NIFTI_SHAPE))}.get(case, pet)
        write_nifti(path, voxels, grid, file)
        if case == "letter":
            path.write_text(f"Dear {name}, born {_BIRTH_DATE},\n" * 40)
        if case == "lost":
            _link_to_nothing(path)
        if case != "alone":
            write_nifti(second / name / path.name, mr, grid, plain)
    return {f"{name}/{name}_{case}": code for case, (code, _) in cases.items()}


def _claim(paths: list[Path], transfer_syntax: UID) -> None:
    """Say of files that they are compressed by a codec which nobody has; what their pixels are does not matter then."""
    for path in paths:
        instance = pydicom.dcmread(path)
        instance.file_meta.TransferSyntaxUID = transfer_syntax
        instance.PixelData = encapsulate([instance.PixelData])
        instance["PixelData"].is_undefined_length = True
        instance.save_as(path)


def _noise(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def _link_to_nothing(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.with_name(f"{path.name}_gone"))


def _uids(root: Path) -> set[str]:
    """All that the files are identified by."""
    found = set()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            header = pydicom.dcmread(path, stop_before_pixels=True)
            for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
                if keyword in header:
                    found.add(str(header[keyword].value))
    return found
